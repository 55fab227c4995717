//! Where a new host looks for others first: an address or a name, and a TCP port.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use thiserror::Error;

/// A place to look for the fleet: `/ip4/192.0.2.10/tcp/7717`, `192.0.2.10:7717`, `web-1.example:7717`
/// or `/dns/web-1.example/tcp/7717`. A name is looked up anew at each attempt to connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seed {
    host: Host,
    port: u16,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Host {
    Ip(IpAddr),
    Name(Family, String),
}

/// Which addresses of a name are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    Any,
    Ip4,
    Ip6,
}

/// A text that names no place to connect to.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "'{}' is not an address or name with a port, such as 192.0.2.10:7717, host.example:7717 or \
     /ip4/192.0.2.10/tcp/7717",
    .0.escape_debug().take(120).collect::<String>()
)]
pub struct NoSeed(String);

impl Seed {
    /// The name to look up and the port, unless it is an address already.
    pub fn name(&self) -> Option<(&str, u16)> {
        match &self.host {
            Host::Ip(_) => None,
            Host::Name(_, name) => Some((name, self.port)),
        }
    }

    /// True if an address that the name stands for is of the kind that was asked for.
    pub fn accepts(&self, address: IpAddr) -> bool {
        match self.host {
            Host::Ip(ip) => ip == address,
            Host::Name(Family::Any, _) => true,
            Host::Name(Family::Ip4, _) => address.is_ipv4(),
            Host::Name(Family::Ip6, _) => address.is_ipv6(),
        }
    }

    /// The same port at an address, written as hosts write addresses.
    pub fn at(&self, address: IpAddr) -> String {
        Self { host: Host::Ip(address), port: self.port }.to_string()
    }
}

impl fmt::Display for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Ip(IpAddr::V4(ip)) => write!(f, "/ip4/{ip}"),
            Host::Ip(IpAddr::V6(ip)) => write!(f, "/ip6/{ip}"),
            Host::Name(Family::Any, name) => write!(f, "/dns/{name}"),
            Host::Name(Family::Ip4, name) => write!(f, "/dns4/{name}"),
            Host::Name(Family::Ip6, name) => write!(f, "/dns6/{name}"),
        }?;
        write!(f, "/tcp/{}", self.port)
    }
}

impl FromStr for Seed {
    type Err = NoSeed;

    fn from_str(text: &str) -> Result<Self, NoSeed> {
        let parts: Vec<&str> = text.split('/').collect();
        let read = match parts[..] {
            ["", kind, host, "tcp", port] => read_host(kind, host).zip(read_port(port)),
            [plain] => read_plain(plain),
            _ => None,
        };
        let (host, port) = read.ok_or_else(|| NoSeed(text.into()))?;
        Ok(Self { host, port })
    }
}

fn read_host(kind: &str, host: &str) -> Option<Host> {
    let name = |family| is_name(host).then(|| Host::Name(family, host.to_owned()));
    match kind {
        "ip4" => host.parse::<Ipv4Addr>().ok().map(|ip| Host::Ip(ip.into())),
        "ip6" => host.parse::<Ipv6Addr>().ok().map(|ip| Host::Ip(ip.into())),
        "dns" => name(Family::Any),
        "dns4" => name(Family::Ip4),
        "dns6" => name(Family::Ip6),
        _ => None,
    }
}

/// `192.0.2.10:7717`, `[2001:db8::1]:7717` or `host.example:7717`.
fn read_plain(text: &str) -> Option<(Host, u16)> {
    let (host, port) = text.rsplit_once(':')?;
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let host = match bare {
        Some(ip) => Host::Ip(ip.parse::<Ipv6Addr>().ok()?.into()),
        None => match host.parse::<Ipv4Addr>() {
            Ok(ip) => Host::Ip(ip.into()),
            Err(_) => is_name(host).then(|| Host::Name(Family::Any, host.to_owned()))?,
        },
    };
    Some((host, read_port(port)?))
}

fn read_port(text: &str) -> Option<u16> {
    text.parse().ok().filter(|port| *port != 0)
}

/// Letters, digits, hyphens and underscores between dots; not all digits, which would be a mistyped
/// address.
fn is_name(text: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let name = text.strip_suffix('.').unwrap_or(text);
    let last = name.rsplit('.').next().unwrap_or_default();
    name.len() <= NAME_BYTES_MAX
        && name.split('.').all(label)
        && !last.bytes().all(|b| b.is_ascii_digit())
}

/// The limit of DNS.
const NAME_BYTES_MAX: usize = 253;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_names_are_read_in_both_forms() {
        for (text, written) in [
            ("/ip4/10.0.0.1/tcp/7717", "/ip4/10.0.0.1/tcp/7717"),
            ("10.0.0.1:7717", "/ip4/10.0.0.1/tcp/7717"),
            ("/ip6/::1/tcp/1", "/ip6/::1/tcp/1"),
            ("[2001:db8::1]:7717", "/ip6/2001:db8::1/tcp/7717"),
            ("web-1.example:7600", "/dns/web-1.example/tcp/7600"),
            ("web_1:7600", "/dns/web_1/tcp/7600"),
            ("/dns/h1/tcp/7717", "/dns/h1/tcp/7717"),
            ("/dns4/h1.example./tcp/7717", "/dns4/h1.example./tcp/7717"),
            ("/dns6/h1/tcp/7717", "/dns6/h1/tcp/7717"),
        ] {
            let seed: Seed = text.parse().unwrap();
            assert_eq!(seed.to_string(), written);
            assert_eq!(written.parse(), Ok(seed));
        }
    }

    #[test]
    fn what_cannot_be_dialled_is_refused() {
        for bad in [
            "",
            "h1",
            ":7717",
            "h1:0",
            "h1:70000",
            "10.0.0.300:7717",
            "2001:db8::1:x",
            "-h:1",
            "a..b:1",
            "a b:1",
            "/ip4/h1/tcp/1",
            "/ip4/10.0.0.1/udp/1",
            "/dns4/h1/tcp/0",
            "/dns4/h1",
            "http://h1:7717",
        ] {
            assert!(bad.parse::<Seed>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_name_may_ask_for_one_kind_of_address() {
        let (four, six) = ("192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap());
        let accepts = |text: &str| {
            let seed: Seed = text.parse().unwrap();
            (seed.accepts(four), seed.accepts(six))
        };
        assert_eq!(accepts("h1:1"), (true, true));
        assert_eq!(accepts("/dns4/h1/tcp/1"), (true, false));
        assert_eq!(accepts("/dns6/h1/tcp/1"), (false, true));
        let seed: Seed = "h1:7717".parse().unwrap();
        assert_eq!(seed.at(six), "/ip6/2001:db8::1/tcp/7717");
    }
}
