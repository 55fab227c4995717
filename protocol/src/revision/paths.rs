//! Which paths are clean: one spelling per path, and none that leads out of where it starts.

use crate::limits::{PATH_BYTES_MAX, PATH_COMPONENT_BYTES_MAX, PATH_DEPTH_MAX};

/// Checks a path inside the revision; says what is wrong with it.
pub(super) fn check_relative(path: &str) -> Result<(), String> {
    check_length(path)?;
    let depth = path.split('/').count();
    if depth > PATH_DEPTH_MAX {
        return Err(format!("has {depth} components; at most {PATH_DEPTH_MAX} are allowed"));
    }
    path.split('/').try_for_each(check_component)
}

/// Checks an absolute path on the host.
pub(super) fn check_absolute(path: &str) -> Result<(), String> {
    check_length(path)?;
    match path.strip_prefix('/') {
        None => Err("is not absolute; start it with '/'".into()),
        Some("") => Ok(()),
        Some(rest) => rest.split('/').try_for_each(check_component),
    }
}

/// Checks what a symbolic link says, as far as that can be told without the tree.
pub(super) fn check_target(target: &str) -> Result<(), String> {
    check_length(target)?;
    if target.is_empty() {
        return Err("is empty".into());
    }
    if target.starts_with('/') {
        return Err("is absolute; make it relative to the link's directory".into());
    }
    if target.split('/').count() > 2 * PATH_DEPTH_MAX {
        return Err(format!("has more than {} components", 2 * PATH_DEPTH_MAX));
    }
    target.split('/').try_for_each(check_name)
}

/// The path without empty components and `.`; refuses `..`. A leading slash does not survive.
#[cfg(feature = "publish")]
pub(super) fn normalise(path: &str) -> Result<String, String> {
    let parts: Vec<&str> = path.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
    if parts.contains(&"..") {
        return Err("contains '..'; name the place itself".into());
    }
    Ok(parts.join("/"))
}

/// The path of the directory that holds `path`; none for a path of one component.
pub(super) fn parent(path: &str) -> Option<&str> {
    path.rsplit_once('/').map(|(parent, _)| parent)
}

/// A path as it may be shown: nothing in it can move a cursor or fill a screen.
pub(super) fn shown(path: &str) -> String {
    const SHOWN_CHARS_MAX: usize = 200;
    let mut text: String = path.escape_debug().take(SHOWN_CHARS_MAX).collect();
    if path.escape_debug().nth(SHOWN_CHARS_MAX).is_some() {
        text.push_str("...");
    }
    text
}

fn check_length(path: &str) -> Result<(), String> {
    if path.len() > PATH_BYTES_MAX {
        return Err(format!("has {} bytes; at most {PATH_BYTES_MAX} are allowed", path.len()));
    }
    Ok(())
}

fn check_component(name: &str) -> Result<(), String> {
    match name {
        "" => Err("is empty or has an empty component; write single slashes between names".into()),
        "." | ".." => Err(format!("contains '{name}'; name the place itself")),
        _ => check_name(name),
    }
}

fn check_name(name: &str) -> Result<(), String> {
    if name.len() > PATH_COMPONENT_BYTES_MAX {
        return Err(format!(
            "has a component of {} bytes; at most {PATH_COMPONENT_BYTES_MAX} are allowed",
            name.len()
        ));
    }
    if name.chars().any(char::is_control) {
        return Err("contains a control character; rename the file".into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_clean_paths_pass() {
        for good in ["a", "a/b c/ü.txt", ".hidden", "...", "a\\b", "-rf"] {
            assert_eq!(check_relative(good), Ok(()), "{good}");
        }
        for bad in
            ["", "/", "/a", "a/", "a//b", ".", "..", "a/./b", "a/../b", "a\0", "a\nb", "\u{9b}"]
        {
            assert!(check_relative(bad).is_err(), "{bad:?}");
        }
        for (path, good) in [("/", true), ("/srv/a", true), ("srv", false), ("", false)] {
            assert_eq!(check_absolute(path).is_ok(), good, "{path}");
        }
        for bad in ["/srv/", "/srv/../etc", "//", "/./a", "~/a", "/a\u{7f}"] {
            assert!(check_absolute(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn lengths_are_checked_at_the_limit_and_one_past_it() {
        assert!(check_relative(&"a".repeat(PATH_COMPONENT_BYTES_MAX)).is_ok());
        assert!(check_relative(&"a".repeat(PATH_COMPONENT_BYTES_MAX + 1)).is_err());
        let deep = |depth: usize| vec!["a"; depth].join("/");
        assert!(check_relative(&deep(PATH_DEPTH_MAX)).is_ok());
        assert!(check_relative(&deep(PATH_DEPTH_MAX + 1)).is_err());
        let long = |bytes: usize| "/a".repeat(bytes / 2 + 1)[..bytes].to_string();
        assert!(check_absolute(&long(PATH_BYTES_MAX)).is_ok());
        assert!(check_absolute(&long(PATH_BYTES_MAX + 2)).is_err());
        assert!(check_target(&deep(2 * PATH_DEPTH_MAX)).is_ok());
        assert!(check_target(&deep(2 * PATH_DEPTH_MAX + 1)).is_err());
    }

    #[test]
    fn a_shown_path_is_harmless() {
        assert_eq!(shown("a\x1b[2J"), "a\\u{1b}[2J");
        assert!(shown(&"x".repeat(5000)).len() < 210);
    }
}
