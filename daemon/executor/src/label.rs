//! SELinux contexts, as the kernel keeps them beside a file.
//!
//! AWS's agent adds a rule to the policy of the host and has the file labelled by it. Here the file is
//! labelled: its type, and user and range where they are given; the rest stays as the policy had it. The
//! policy is the administrator's.

use std::{fs::File, io, path::Path};

use groundswell_protocol::revision::SelinuxContext;
use rustix::fs::{XattrFlags, fgetxattr, fsetxattr};

/// True if this host runs SELinux.
pub(crate) fn is_possible() -> bool {
    Path::new("/sys/fs/selinux/enforce").exists()
}

/// Labels an open file or directory.
pub(crate) fn apply(context: &SelinuxContext, file: &File) -> io::Result<()> {
    let named = |error: io::Error| {
        let kind = &context.kind;
        io::Error::new(error.kind(), format!("the SELinux type {kind} cannot be set: {error}"))
    };
    let mut now = [0; LABEL_BYTES_MAX];
    let length = fgetxattr(file, LABEL, &mut now[..]).map_err(|error| named(error.into()))?;
    let now = String::from_utf8_lossy(&now[..length]);
    let next = label(context, now.trim_end_matches('\0'));
    let next = next.ok_or_else(|| named(io::Error::other(format!("its label is '{now}'"))))?;
    fsetxattr(file, LABEL, next.as_bytes(), XattrFlags::empty())
        .map_err(|error| named(error.into()))
}

/// The label that follows from the one that is there: user, role, type and range, which has colons of its
/// own.
fn label(context: &SelinuxContext, now: &str) -> Option<String> {
    let mut parts = now.splitn(4, ':');
    let (user, role) = (parts.next()?, parts.next()?);
    parts.next()?;
    let user = context.user.as_deref().unwrap_or(user);
    let label = format!("{user}:{role}:{}", context.kind);
    // A policy without levels has labels without ranges.
    Some(match context.range.as_deref().or_else(|| parts.next()) {
        Some(range) => format!("{label}:{range}"),
        None => label,
    })
}

const LABEL: &str = "security.selinux";
/// A context has at most as much; longer ones the kernel refuses.
const LABEL_BYTES_MAX: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_given_stays_as_the_policy_had_it() {
        let context = |user: Option<&str>, range: Option<&str>| SelinuxContext {
            kind: "httpd_sys_content_t".into(),
            user: user.map(Into::into),
            range: range.map(Into::into),
        };
        let now = "system_u:object_r:var_t:s0:c1,c2";
        for (context, expected) in [
            (context(None, None), "system_u:object_r:httpd_sys_content_t:s0:c1,c2"),
            (context(Some("web_u"), Some("s1")), "web_u:object_r:httpd_sys_content_t:s1"),
        ] {
            assert_eq!(label(&context, now).as_deref(), Some(expected));
        }
        let plain = label(&context(None, None), "system_u:object_r:var_t");
        assert_eq!(plain.as_deref(), Some("system_u:object_r:httpd_sys_content_t"));
        assert_eq!(label(&context(None, None), "unlabeled"), None);
    }
}
