//! The two small languages inside `permissions`: ACL entries and SELinux ranges.

use std::collections::BTreeSet;

use super::paths::shown;
use crate::limits::{ACCOUNT_BYTES_MAX, TEXT_BYTES_MAX};

/// The highest category of an SELinux range, and the highest sensitivity.
const CATEGORY_MAX: u16 = 1023;

/// One element of `acls`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AclEntry {
    /// About what will be made in a directory, and not about the directory itself.
    pub is_default: bool,
    /// Whom it is about.
    pub subject: AclSubject,
    /// What they may do.
    pub rights: AclRights,
}

/// Whom an ACL entry is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AclSubject {
    /// A group of the host, by its name.
    Group(String),
    /// The most that anybody but the owner and others may do.
    Mask,
    /// Everybody else.
    Other,
    /// Whoever owns it.
    Owner,
    /// The group that owns it.
    OwningGroup,
    /// A user of the host, by the name.
    User(String),
}

/// Three bits: 4 to read, 2 to write, 1 to execute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AclRights(pub u8);

impl AclEntry {
    /// Reads one element of `acls`; says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let invalid = || {
            let text = shown(text);
            format!(
                "'{text}' is no ACL entry; write [default:][user|group|mask|other:][NAME:]RIGHTS"
            )
        };
        let parts: Vec<&str> = text.split(':').collect();
        let (is_default, kind, name, rights) = match *parts {
            _ if text.len() > TEXT_BYTES_MAX => return Err(invalid()),
            [name, rights] => (false, None, name, rights),
            ["d" | "default", name, rights] => (true, None, name, rights),
            [kind, name, rights] => (false, Some(kind), name, rights),
            ["d" | "default", kind, name, rights] => (true, Some(kind), name, rights),
            _ => return Err(invalid()),
        };
        let rights = AclRights::parse(rights)?;
        let refused = |problem: &str| Err(format!("'{}' {problem}", shown(text)));
        // Without a type, `mask` and `other` are types and anything else is a user.
        let subject = match (kind, name) {
            (None, "m" | "mask") | (Some("m" | "mask"), "") => AclSubject::Mask,
            (None, "o" | "other") | (Some("o" | "other"), "") => AclSubject::Other,
            (None | Some("u" | "user"), "") => AclSubject::Owner,
            (Some("g" | "group"), "") => AclSubject::OwningGroup,
            (None | Some("u" | "user"), name) => AclSubject::User(name.to_owned()),
            (Some("g" | "group"), name) => AclSubject::Group(name.to_owned()),
            (Some("m" | "mask" | "o" | "other"), _) => {
                return refused("names someone, which mask and other cannot");
            }
            (Some(_), _) => return Err(invalid()),
        };
        match &subject {
            AclSubject::User(name) | AclSubject::Group(name) => check_account(name)?,
            AclSubject::Owner | AclSubject::OwningGroup | AclSubject::Other if !is_default => {
                return refused("is about the owner, group or others; use 'mode' instead");
            }
            _ => {}
        }
        Ok(Self { is_default, subject, rights })
    }
}

impl AclRights {
    fn parse(text: &str) -> Result<Self, String> {
        if let [digit @ b'0'..=b'7'] = text.as_bytes() {
            return Ok(Self(digit - b'0'));
        }
        let mut bits = 0;
        for c in text.chars() {
            bits |= match c {
                'r' => 4,
                'w' => 2,
                'x' => 1,
                '-' => 0,
                _ => {
                    return Err(format!(
                        "has the invalid character '{}' in its rights; use r, w, x and -, or one \
                         digit 0-7",
                        c.escape_debug()
                    ));
                }
            };
        }
        Ok(Self(bits))
    }
}

/// Checks the name of a user or group of the host.
pub(super) fn check_account(name: &str) -> Result<(), String> {
    let good = (1..=ACCOUNT_BYTES_MAX).contains(&name.len())
        && !name.starts_with(['-', ' '])
        && !name.ends_with(' ')
        && !name.chars().any(|c| c.is_control() || matches!(c, ':' | '/' | ','));
    if good {
        return Ok(());
    }
    Err(format!("'{}' is not the name of a user or group", shown(name)))
}

/// Checks a type or a user of an SELinux context.
pub(super) fn check_label(label: &str) -> Result<(), String> {
    let good = (1..=ACCOUNT_BYTES_MAX).contains(&label.len())
        && !label.starts_with('-')
        && label.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b));
    if good { Ok(()) } else { Err(format!("'{}' is not an SELinux name", shown(label))) }
}

/// Reads `sN[-sM][:cA[.cB][,cC...]]` and writes it in one form: sorted, runs as `cA.cB`.
pub(super) fn normalise_range(text: &str) -> Result<String, String> {
    if text.len() > TEXT_BYTES_MAX {
        return Err(format!("has {} bytes; at most {TEXT_BYTES_MAX} are allowed", text.len()));
    }
    let (levels, categories) = match text.split_once(':') {
        Some((levels, categories)) => (levels, Some(categories)),
        None => (text, None),
    };
    let (low, high) = levels.split_once('-').unwrap_or((levels, levels));
    let (low, high) = (sensitivity(low)?, sensitivity(high)?);
    if high < low {
        return Err(format!("ends at s{high}, below its start s{low}"));
    }
    let mut range = format!("s{low}");
    if high > low {
        range.push_str(&format!("-s{high}"));
    }
    if let Some(categories) = categories {
        range.push(':');
        range.push_str(&fold(&category_set(categories)?));
    }
    Ok(range)
}

fn sensitivity(text: &str) -> Result<u16, String> {
    numbered(text, 's')
        .ok_or_else(|| format!("has the invalid sensitivity '{}'; write s0 or s0-s3", shown(text)))
}

fn category_set(text: &str) -> Result<BTreeSet<u16>, String> {
    let category = |text: &str| {
        numbered(text, 'c').ok_or_else(|| {
            format!("has the invalid category '{}'; write c0 to c{CATEGORY_MAX}", shown(text))
        })
    };
    let mut set = BTreeSet::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('.').unwrap_or((part, part));
        let (first, last) = (category(first)?, category(last)?);
        if part.contains('.') && last <= first {
            return Err(format!("has the invalid category range '{part}'; write the lower first"));
        }
        for number in first..=last {
            if !set.insert(number) {
                return Err(format!("names category c{number} twice"));
            }
        }
    }
    Ok(set)
}

fn numbered(text: &str, letter: char) -> Option<u16> {
    let digits = text.strip_prefix(letter)?;
    let plain = (1..=4).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
    digits.parse().ok().filter(|number| plain && *number <= CATEGORY_MAX)
}

fn fold(set: &BTreeSet<u16>) -> String {
    let mut runs: Vec<(u16, u16)> = Vec::new();
    for &number in set {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == number => *last = number,
            _ => runs.push((number, number)),
        }
    }
    let runs = runs.into_iter().map(|(first, last)| match last - first {
        0 => format!("c{first}"),
        1 => format!("c{first},c{last}"),
        _ => format!("c{first}.c{last}"),
    });
    runs.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn acl_entries_are_those_of_the_agent() {
        for good in [
            "bob:7",
            "bob:rwx",
            "bob:",
            "u:bob:r-x",
            "user:mask:7",
            "g:dev:7",
            "group:dev:rw",
            "m::7",
            "mask:rwx",
            "m:r",
            "d:bob:rwx",
            "default::rw",
            "d:u::7",
            "default:group:dev:0",
            "d:o::r",
            "d:other:r",
            "d:mask:rwx",
            "bob:xrrw",
        ] {
            assert!(AclEntry::parse(good).is_ok(), "{good}");
        }
        for (bad, part) in [
            ("7", "no ACL entry"),
            ("d:u:bob:7:rwx", "no ACL entry"),
            ("d:d:bob:7", "no ACL entry"),
            ("x:bob:7", "no ACL entry"),
            ("x:u:bob:7", "no ACL entry"),
            ("mask:name:rwx", "names someone"),
            ("d:other:name:rwx", "names someone"),
            ("user:bob:rwxd", "invalid character 'd'"),
            ("bob:8", "invalid character '8'"),
            ("bob:77", "invalid character '7'"),
            ("u::7", "use 'mode'"),
            ("g::7", "use 'mode'"),
            ("o:7", "use 'mode'"),
            (":7", "use 'mode'"),
            ("u:-x:7", "not the name"),
            ("u:a,g:7", "not the name"),
        ] {
            let problem = AclEntry::parse(bad).unwrap_err();
            assert!(problem.contains(part), "{bad}: {problem}");
        }
    }

    #[test]
    fn acl_entries_say_whom_they_are_about() {
        let user = |name: &str| AclSubject::User(name.into());
        let group = |name: &str| AclSubject::Group(name.into());
        for (text, is_default, subject, rights) in [
            ("d:bob:rwx", true, user("bob"), 7),
            ("default::rw", true, AclSubject::Owner, 6),
            ("m::7", false, AclSubject::Mask, 7),
            ("g:dev:x-r", false, group("dev"), 5),
            ("d:g::5", true, AclSubject::OwningGroup, 5),
            ("u:mask:7", false, user("mask"), 7),
            ("d:other:", true, AclSubject::Other, 0),
        ] {
            let entry = AclEntry { is_default, subject, rights: AclRights(rights) };
            assert_eq!(AclEntry::parse(text), Ok(entry), "{text}");
        }
    }

    #[test]
    fn ranges_are_read_and_put_in_one_form() {
        for (text, form) in [
            ("s5", "s5"),
            ("s5-s5", "s5"),
            ("s0-s3:c1023", "s0-s3:c1023"),
            ("s0:c0.c1,c15,c7.c9", "s0:c0,c1,c7.c9,c15"),
            ("s0:c3,c2,c1", "s0:c1.c3"),
        ] {
            assert_eq!(normalise_range(text).unwrap(), form);
            assert_eq!(normalise_range(form).unwrap(), form);
        }
        for (text, part) in [
            ("s3-s2:c0", "below its start"),
            ("s", "sensitivity"),
            ("s0-s-1", "sensitivity"),
            ("sd3", "sensitivity"),
            ("d3", "sensitivity"),
            ("", "sensitivity"),
            ("s0:", "category"),
            ("s0:c", "category"),
            ("s0:c-1", "category"),
            ("s0:c+1", "category"),
            ("s0:c1024", "category"),
            ("s0:cd3", "category"),
            ("s0:d3", "category"),
            ("s0:c2.c1", "category range"),
            ("s0:c1.c1", "category range"),
            ("s0:c0.c2,c1", "twice"),
        ] {
            let problem = normalise_range(text).unwrap_err();
            assert!(problem.contains(part), "{text}: {problem}");
        }
    }

    #[test]
    fn account_names_are_checked_at_the_limit_and_one_past_it() {
        assert!(check_account(&"a".repeat(ACCOUNT_BYTES_MAX)).is_ok());
        assert!(check_account(&"a".repeat(ACCOUNT_BYTES_MAX + 1)).is_err());
        assert!(check_account("CORP\\domain users").is_ok());
        for bad in ["", "-R", "a:b", "a/b", "a\n", " a"] {
            assert!(check_account(bad).is_err(), "{bad:?}");
        }
    }
}
