//! Checks of single values: text with a place in, something usable or a problem at that place out.

use std::{
    ops::RangeInclusive,
    path::{Component, PathBuf},
    time::Duration,
};

use groundswell_signer::seed::Seed;
use libp2p::{Multiaddr, multiaddr::Protocol};
use nix::unistd::Group;
use toml::Spanned;

use super::file::{Problem, Size, nearest};

/// Linux takes 108 bytes with the final zero.
const SOCKET_PATH_BYTES_MAX: usize = 107;
/// Less than this holds no revision worth distributing.
const STORE_BYTES_MIN: u64 = 64 << 20;
/// A group's name; the limit of shadow-utils.
const UNIX_NAME_BYTES_MAX: usize = 32;

/// A path that means the same wherever the process stands.
pub(super) fn path(key: &str, text: &Spanned<String>) -> Result<PathBuf, Problem> {
    let path = PathBuf::from(text.get_ref());
    if !path.is_absolute() {
        return Err(wrong(key, text, "is not an absolute path"));
    }
    if path.components().any(|part| part == Component::ParentDir) {
        return Err(wrong(key, text, "contains '..'; write the path that is meant"));
    }
    Ok(path)
}

/// The path of a Unix socket.
pub(super) fn socket(key: &str, text: &Spanned<String>) -> Result<PathBuf, Problem> {
    let path = path(key, text)?;
    if text.get_ref().len() > SOCKET_PATH_BYTES_MAX {
        let rule =
            format!("is too long: a socket's path has at most {SOCKET_PATH_BYTES_MAX} bytes");
        return Err(wrong(key, text, &rule));
    }
    Ok(path)
}

/// The Unix group of a name.
pub(super) fn group(text: &Spanned<String>) -> Result<Group, Problem> {
    let name = text.get_ref();
    let good = (1..=UNIX_NAME_BYTES_MAX).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b))
        && !name.starts_with(['-', '.']);
    if !good {
        return Err(wrong("control_group", text, "is not a group's name"));
    }
    let found = Group::from_name(name)
        .map_err(|error| wrong("control_group", text, &format!("cannot be looked up: {error}")))?;
    let rule = "is no group of this machine; make it with `groupadd --system`";
    found.ok_or_else(|| wrong("control_group", text, rule))
}

/// Checks every element of a list.
pub(super) fn each<T>(
    list: Spanned<Vec<Spanned<String>>>,
    one: fn(&Spanned<String>) -> Result<T, Problem>,
) -> Result<Vec<T>, Problem> {
    list.into_inner().iter().map(one).collect()
}

/// An address to listen on; port 0 takes a free one.
pub(super) fn listen(text: &Spanned<String>) -> Result<Multiaddr, Problem> {
    tcp(text).map(|(address, _, _)| address).ok_or_else(|| {
        wrong("listen", text, "is not an address to listen on, such as /ip4/0.0.0.0/tcp/7717")
    })
}

/// An address that others can dial.
pub(super) fn advertise(text: &Spanned<String>) -> Result<Multiaddr, Problem> {
    match tcp(text) {
        Some((address, unspecified, port)) if !unspecified && port != 0 => Ok(address),
        _ => Err(wrong(
            "advertise",
            text,
            "is not an address that others can dial, such as /ip4/192.0.2.10/tcp/7717",
        )),
    }
}

/// A place to look for the fleet.
pub(super) fn seed(text: &Spanned<String>) -> Result<Seed, Problem> {
    let rule =
        "is not an address or name with a port, such as 192.0.2.10:7717 or host.example:7717";
    text.get_ref().parse().map_err(|_| wrong("seeds", text, rule))
}

/// An IP address and a TCP port, nothing more; with whether the address is unspecified, and the port.
fn tcp(text: &Spanned<String>) -> Option<(Multiaddr, bool, u16)> {
    let address: Multiaddr = text.get_ref().parse().ok()?;
    let parts: Vec<_> = address.iter().collect();
    let [host, Protocol::Tcp(port)] = parts.as_slice() else { return None };
    let unspecified = match host {
        Protocol::Ip4(ip) => ip.is_unspecified(),
        Protocol::Ip6(ip) => ip.is_unspecified(),
        _ => return None,
    };
    let port = *port;
    Some((address.clone(), unspecified, port))
}

/// A number of bytes that is enough for a store.
pub(super) fn store_size(key: &str, given: &Spanned<Size>) -> Result<u64, Problem> {
    let bytes = size(key, given)?;
    if bytes < STORE_BYTES_MIN {
        return Err(Problem::new(key, given.span().start, "is less than 64 MiB"));
    }
    Ok(bytes)
}

/// A number of bytes.
pub(super) fn size(key: &str, size: &Spanned<Size>) -> Result<u64, Problem> {
    let at = size.span().start;
    match size.get_ref() {
        Size::Number(number) => u64::try_from(*number)
            .map_err(|_| Problem::new(key, at, format!("{number} is not a size"))),
        Size::Text(text) => bytes_of(text).map_err(|rule| {
            let shown: String = text.escape_debug().take(80).collect();
            Problem::new(key, at, format!("'{shown}' {rule}"))
        }),
    }
}

/// Reads `20 GiB`, `512MB` or `1000000`.
fn bytes_of(text: &str) -> Result<u64, &'static str> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor: u64 = match unit.trim() {
        "" | "B" => 1,
        "kB" => 1000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        _ => return Err(SIZE_RULE),
    };
    if number.is_empty() {
        return Err(SIZE_RULE);
    }
    number.parse::<u64>().ok().and_then(|n| n.checked_mul(factor)).ok_or("is too large")
}

const SIZE_RULE: &str = "is not a size; write a whole number and a unit, such as \"20 GiB\"";

/// A span of whole seconds between two bounds.
pub(super) fn seconds(
    key: &str,
    number: &Spanned<i64>,
    bounds: RangeInclusive<u64>,
) -> Result<Duration, Problem> {
    let given = u64::try_from(*number.get_ref()).ok().filter(|given| bounds.contains(given));
    given.map(Duration::from_secs).ok_or_else(|| Problem {
        key: Some(key.into()),
        at: number.span().start,
        text: format!(
            "{key}: {} is not a number of seconds from {} to {}",
            number.get_ref(),
            bounds.start(),
            bounds.end()
        ),
    })
}

/// One of a few words.
pub(super) fn one_of<T: Copy>(
    key: &str,
    text: &Spanned<String>,
    words: &[(&str, T)],
) -> Result<T, Problem> {
    let known = words.iter().find(|(word, _)| word == text.get_ref());
    known.map(|(_, value)| *value).ok_or_else(|| {
        let names: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        let mut rule = format!("is not one of {}", names.join(", "));
        if let Some(nearest) = nearest(text.get_ref(), names.into_iter()) {
            rule.push_str(&format!("; did you mean '{nearest}'?"));
        }
        wrong(key, text, &rule)
    })
}

fn wrong(key: &str, text: &Spanned<String>, rule: &str) -> Problem {
    let shown: String = text.get_ref().escape_debug().take(80).collect();
    Problem::new(key, text.span().start, format!("'{shown}' {rule}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_in_both_kinds_of_units() {
        for (text, bytes) in [
            ("0", 0),
            ("1000000", 1_000_000),
            ("20 GiB", 20 << 30),
            ("20GiB", 20 << 30),
            (" 3 kB ", 3000),
            ("2 TB", 2_000_000_000_000),
            ("16777215 TiB", 16_777_215 << 40),
        ] {
            assert_eq!(bytes_of(text), Ok(bytes), "{text}");
        }
        for text in ["", "GiB", "1.5 GiB", "-1", "1 gib", "1 GiB x", "0x10", "+5"] {
            assert_eq!(bytes_of(text), Err(SIZE_RULE), "{text}");
        }
        assert!(bytes_of("16777216 TiB").is_err());
        assert!(bytes_of("18446744073709551616").is_err());
    }
}
