//! Who gets which rights. What needs another user is shown as root only.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
};

use rustix::fs::XattrFlags;

use super::{
    Host,
    lifecycle::after_mounting,
    shown::{shown, shown_by_root},
};

const FILES: &str = "files:\n  - source: app\n    destination: {live}/app\n";
/// What is in the bundle.
const APP: [(&str, &str); 5] = [
    ("app/a.sh", "#!/bin/sh\n"),
    ("app/b.txt", "b"),
    ("app/this.tmp", "t"),
    ("app/this_ReadMe", "r"),
    ("app/sub/x.tmp", "x"),
];

/// Deploys the bundle with these permissions.
fn deploy(host: &Host, permissions: &str) {
    let bundle = host.bundle("one", &format!("{FILES}permissions:\n{permissions}"), &APP);
    host.succeeds(&bundle, &[]);
}

/// The names below `app`, and it, that have the mode 0704.
fn with_mode(host: &Host) -> Vec<String> {
    let all = ["", "a.sh", "b.txt", "sub", "sub/x.tmp", "this.tmp", "this_ReadMe"];
    let is_704 = |name: &&str| mode(host.live("app").join(name)) == 0o704;
    all.into_iter().filter(is_704).map(ToOwned::to_owned).collect()
}

fn mode(path: impl AsRef<Path>) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

fn hit(permission: &str) -> Vec<String> {
    let host = Host::new();
    deploy(&host, &format!("  - mode: 704\n    {}\n", permission.replace('\n', "\n    ")));
    with_mode(&host)
}

/// A permission that its host refuses before anything is installed.
fn fails(permissions: &str) -> String {
    let host = Host::new();
    let appspec = format!("{FILES}permissions:\n{permissions}");
    let run = host.fails(&host.bundle("one", &appspec, &APP), &[]);
    assert_eq!((run.failure("event"), run.error_code()), ("Install", 5));
    assert!(!host.live("app").exists(), "something was installed");
    run.failure("message").to_owned()
}

const ALL_BELOW: [&str; 6] = ["a.sh", "b.txt", "sub", "sub/x.tmp", "this.tmp", "this_ReadMe"];

#[test]
fn c045_a_permission_is_about_all_that_is_below() {
    assert_eq!(hit("object: \"{live}/app\""), ALL_BELOW);
    assert_eq!(hit("object: \"{live}/app\"\npattern: \"**\""), ALL_BELOW);
}

#[test]
fn c048_all_bits_of_a_mode_are_set() {
    for (text, bits) in [("7777", 0o7777), ("777", 0o777)] {
        let host = Host::new();
        deploy(&host, &format!("  - object: \"{{live}}/app/b.txt\"\n    mode: {text}\n"));
        assert_eq!(mode(host.live("app/b.txt")), bits);
    }
}

#[test]
fn c049_a_short_mode_has_zeros_before_it() {
    let host = Host::new();
    deploy(&host, "  - object: \"{live}/app/b.txt\"\n    mode: 12\n");
    assert_eq!(mode(host.live("app/b.txt")), 0o012);
}

#[test]
fn c053_a_mode_with_a_zero_before_it_is_what_it_shows() {
    let host = Host::new();
    let permissions = "permissions:\n  - object: \"{live}/app/b.txt\"\n    mode: 0604\n";
    let run = host.succeeds(&host.bundle("one", &format!("{FILES}{permissions}"), &APP), &[]);
    assert_eq!(mode(host.live("app/b.txt")), 0o604);
    assert!(run.stderr.contains("taken digit by digit"), "{}", run.stderr);
}

#[test]
fn c076_exceptions_are_patterns() {
    let spared = "object: \"{live}/app\"\nexcept: [\"*ReadMe\", \"*.tmp\"]";
    assert_eq!(hit(spared), ["a.sh", "b.txt", "sub", "sub/x.tmp"]);
}

#[test]
fn c077_exceptions_are_about_what_is_directly_there() {
    assert!(hit("object: \"{live}/app\"\nexcept: [\"*.tmp\"]").contains(&"sub/x.tmp".into()));
}

#[test]
fn c079_the_parent_of_a_directory_changes_it_too() {
    assert_eq!(hit("object: \"{live}\"").len(), ALL_BELOW.len() + 1);
}

#[test]
fn c080_a_type_spares_the_other() {
    let files = ["a.sh", "b.txt", "sub/x.tmp", "this.tmp", "this_ReadMe"];
    assert_eq!(hit("object: \"{live}/app\"\ntype: [file]"), files);
    assert_eq!(hit("object: \"{live}/app\"\ntype: [directory]"), ["sub"]);
}

#[test]
fn c081_a_star_is_about_what_is_directly_there() {
    let files = ["a.sh", "b.txt", "this.tmp", "this_ReadMe"];
    assert_eq!(hit("object: \"{live}/app\"\npattern: \"*\"\ntype: [file]"), files);
}

#[test]
fn c082_nothing_but_a_star_is_special() {
    for pattern in ["sub/*", "[ab].txt", ""] {
        let none: [&str; 0] = [];
        assert_eq!(hit(&format!("object: \"{{live}}/app\"\npattern: \"{pattern}\"")), none);
    }
}

#[test]
fn c084_a_file_takes_no_pattern() {
    let message = fails("  - object: \"{live}/app/b.txt\"\n    pattern: \"glob\"\n");
    assert!(message.contains("takes no pattern"), "{message}");
}

#[test]
fn c087_what_is_not_there_is_passed_over() {
    let none: [&str; 0] = [];
    assert_eq!(hit("object: \"{live}/elsewhere\""), none);
}

#[test]
fn c088_what_was_there_before_is_left_alone() {
    let host = Host::new();
    fs::create_dir(host.live("app")).unwrap();
    fs::write(host.live("app/mine"), "m").unwrap();
    let before = mode(host.live("app/mine"));
    deploy(&host, "  - object: \"{live}/app\"\n    mode: 704\n");
    assert_eq!(mode(host.live("app/mine")), before);
    assert_eq!(with_mode(&host), ALL_BELOW);
}

#[test]
fn c089_nothing_is_set_twice() {
    let message = fails(
        "  - object: \"{live}/app\"\n    mode: 704\n  - object: \"{live}/app/b.txt\"\n    mode: 600\n",
    );
    assert!(message.contains("app/b.txt is set twice"), "{message}");
}

#[test]
fn c090_what_is_spared_may_have_its_own() {
    let host = Host::new();
    deploy(
        &host,
        "  - object: \"{live}/app\"\n    mode: 704\n    except: [b.txt]\n  \
         - object: \"{live}/app/b.txt\"\n    mode: 640\n",
    );
    assert_eq!(mode(host.live("app/b.txt")), 0o640);
    assert_eq!(mode(host.live("app/a.sh")), 0o704);
}

/// The entries of a list as the kernel has them: what about, rights, id.
fn acl(path: impl AsRef<Path>, name: &str) -> Option<Vec<(u16, u16, u32)>> {
    let mut bytes = [0; 1024];
    let length = rustix::fs::getxattr(path.as_ref(), name, &mut bytes[..]).ok()?;
    let entries = bytes[4..length].chunks(8).map(|entry| {
        let short = |at: usize| u16::from_le_bytes([entry[at], entry[at + 1]]);
        (short(0), short(2), u32::from_le_bytes(entry[4..].try_into().unwrap()))
    });
    Some(entries.collect())
}

const ACCESS: &str = "system.posix_acl_access";
const DEFAULT: &str = "system.posix_acl_default";
const OWNER: u16 = 0x01;
const USER: u16 = 0x02;
const OWNING_GROUP: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;
const ANY: u32 = u32::MAX;
/// The user and the group `daemon` have this number on every Linux.
const DAEMON: u32 = 1;

#[test]
fn c062_acl_entries_say_whom_they_are_about() {
    let host = Host::new();
    deploy(
        &host,
        "  - object: \"{live}/app\"\n    type: [directory]\n    mode: 750\n    \
         acls: [\"d:daemon:rwx\", \"default::rw\", \"m::7\", \"g:daemon:7\"]\n",
    );
    let sub = host.live("app/sub");
    let access = vec![
        (OWNER, 7, ANY),
        (OWNING_GROUP, 5, ANY),
        (GROUP, 7, DAEMON),
        (MASK, 7, ANY),
        (OTHER, 0, ANY),
    ];
    assert_eq!(acl(&sub, ACCESS), Some(access));
    let default = vec![
        (OWNER, 6, ANY),
        (USER, 7, DAEMON),
        (OWNING_GROUP, 5, ANY),
        (MASK, 5, ANY),
        (OTHER, 0, ANY),
    ];
    assert_eq!(acl(&sub, DEFAULT), Some(default));
    // A user who is called so, and not the mask.
    let message = fails("  - object: \"{live}/app\"\n    acls: [\"u:mask:7\"]\n");
    assert!(message.contains("no user mask"), "{message}");
}

#[test]
fn c091_default_entries_are_for_directories() {
    let message = fails("  - object: \"{live}/app\"\n    acls: [\"d:daemon:rwx\"]\n");
    assert!(message.contains("default ACL entries are for directories"), "{message}");
}

#[test]
fn c092_mode_acl_and_owner_come_together() {
    if !shown_by_root() {
        return;
    }
    let host = Host::new();
    deploy(
        &host,
        "  - object: \"{live}/app/a.sh\"\n    mode: 4750\n    acls: [\"u:daemon:rwx\"]\n    \
         owner: daemon\n    group: daemon\n",
    );
    let there = fs::metadata(host.live("app/a.sh")).unwrap();
    assert_eq!((there.uid(), there.gid(), there.mode() & 0o7777), (DAEMON, DAEMON, 0o750));
    let expected = vec![
        (OWNER, 7, ANY),
        (USER, 7, DAEMON),
        (OWNING_GROUP, 5, ANY),
        (MASK, 5, ANY),
        (OTHER, 0, ANY),
    ];
    assert_eq!(acl(host.live("app/a.sh"), ACCESS), Some(expected));
}

#[test]
fn c093_owner_and_group_are_set_by_themselves() {
    if !shown_by_root() {
        return;
    }
    let host = Host::new();
    deploy(
        &host,
        "  - object: \"{live}/app/a.sh\"\n    owner: daemon\n  \
         - object: \"{live}/app/b.txt\"\n    group: daemon\n",
    );
    let ids = |name: &str| {
        let there = fs::metadata(host.live("app").join(name)).unwrap();
        (there.uid(), there.gid())
    };
    assert_eq!((ids("a.sh"), ids("b.txt")), ((DAEMON, 0), (0, DAEMON)));
}

#[test]
fn c094_a_permission_that_says_nothing_does_nothing() {
    let host = Host::new();
    deploy(&host, "  - object: \"{live}/app\"\n");
    assert_eq!(mode(host.live("app/b.txt")), 0o644);
    assert_eq!(acl(host.live("app/b.txt"), ACCESS), None);
}

#[test]
fn c095_a_list_has_the_rest_from_the_mode_and_so_has_its_default() {
    let host = Host::new();
    deploy(
        &host,
        "  - object: \"{live}/app\"\n    type: [directory]\n    mode: 0421\n    \
         acls: [\"u:daemon:rwx\", \"d:u:daemon:rwx\"]\n",
    );
    let expected = vec![
        (OWNER, 4, ANY),
        (USER, 7, DAEMON),
        (OWNING_GROUP, 2, ANY),
        (MASK, 2, ANY),
        (OTHER, 1, ANY),
    ];
    assert_eq!(acl(host.live("app/sub"), ACCESS).as_ref(), Some(&expected));
    assert_eq!(acl(host.live("app/sub"), DEFAULT), Some(expected));
}

#[test]
fn c096_without_a_mask_the_rights_of_the_group_are_the_mask() {
    let host = Host::new();
    deploy(&host, "  - object: \"{live}/app/b.txt\"\n    mode: 644\n    acls: [\"daemon:rwx\"]\n");
    let list = acl(host.live("app/b.txt"), ACCESS).unwrap();
    assert!(list.contains(&(MASK, 4, ANY)), "{list:?}");
    assert_eq!(mode(host.live("app/b.txt")), 0o644);
}

#[test]
fn a_mask_is_that_of_its_own_file() {
    let host = Host::new();
    deploy(&host, "  - object: \"{live}/app\"\n    type: [file]\n    acls: [\"daemon:rwx\"]\n");
    for (name, mask) in [("app/a.sh", 5), ("app/b.txt", 4)] {
        let list = acl(host.live(name), ACCESS).unwrap();
        assert!(list.contains(&(MASK, mask, ANY)), "{name}: {list:?}");
    }
}

#[test]
fn c097_an_entry_about_nobody_fails_and_is_named() {
    let message = fails("  - object: \"{live}/app\"\n    acls: [\"u:no-such-user-here:7\"]\n");
    assert!(message.contains("live/app: 'u:no-such-user-here:7': there is no user"), "{message}");
}

#[test]
fn an_acl_that_was_there_comes_back_with_its_file() {
    let host = Host::new();
    let permissions = "permissions:\n  - object: \"{live}/app\"\n    mode: 640\n    \
        type: [file]\n    acls: [\"daemon:r\"]\n";
    host.succeeds(&host.bundle("one", &format!("{FILES}{permissions}"), &APP), &[]);
    let before = acl(host.live("app/b.txt"), ACCESS);
    assert!(before.is_some());
    let hooks = "hooks:\n  AfterInstall:\n    - location: fail.sh\n";
    let files = [APP[1], ("fail.sh", "#!/bin/sh\nexit 1\n")];
    host.fails(&host.bundle("two", &format!("{FILES}{hooks}"), &files), &[]);
    assert_eq!(acl(host.live("app/b.txt"), ACCESS), before);
}

#[test]
fn c098_an_owner_takes_the_set_uid_bit_away() {
    if !shown_by_root() {
        return;
    }
    let host = Host::new();
    deploy(&host, "  - object: \"{live}/app/a.sh\"\n    mode: 4755\n    owner: daemon\n");
    assert_eq!(mode(host.live("app/a.sh")), 0o755);
}

#[test]
fn c099_without_an_owner_the_set_uid_bit_stays() {
    let host = Host::new();
    deploy(&host, "  - object: \"{live}/app/a.sh\"\n    mode: 4755\n");
    assert_eq!(mode(host.live("app/a.sh")), 0o4755);
}

#[test]
fn c100_an_owner_whom_nobody_knows_fails_before_anything_is_installed() {
    let message = fails("  - object: \"{live}/app\"\n    owner: no-such-user-here\n");
    assert!(message.contains("there is no user no-such-user-here"), "{message}");
}

/// This machine is made to look as if it ran SELinux: its labels are kept by the file system, and heeded by nobody.
#[test]
fn c102_a_context_is_the_label_of_what_is_installed() {
    if !shown_by_root() || !shown(!runs_selinux(), "this machine runs SELinux") {
        return;
    }
    let host = Host::new();
    let label = || {
        let mut bytes = [0; 256];
        let length = rustix::fs::getxattr(host.live("app"), LABEL, &mut bytes[..]).unwrap();
        String::from_utf8(bytes[..length].to_vec()).unwrap()
    };
    let with = |name: &str, context: &str, hooks: &str| {
        let object = "  - object: \"{live}\"\n    type: [directory]\n    context: ";
        let appspec = format!("{FILES}permissions:\n{object}{context}\n{hooks}");
        let bundle = host.bundle(name, &appspec, &[APP[0], ("fail.sh", "#!/bin/sh\nexit 1\n")]);
        let selinux =
            "mount -t tmpfs none /sys/fs && mkdir /sys/fs/selinux && : >/sys/fs/selinux/enforce";
        after_mounting(&host, selinux, &bundle, &[])
    };
    host.succeeds(&host.bundle("one", FILES, &[APP[0]]), &[]);
    let now = "system_u:object_r:var_t:s0:c1";
    rustix::fs::setxattr(host.live("app"), LABEL, now.as_bytes(), XattrFlags::empty()).unwrap();
    let run = with("two", "{type: httpd_sys_content_t, range: s0}", "");
    assert_eq!((run.code, label().as_str()), (0, "system_u:object_r:httpd_sys_content_t:s0"));
    // It is undone with all the rest.
    let fails = "hooks:\n  AfterInstall:\n    - location: fail.sh\n";
    let run = with("three", "{name: web_u, type: etc_t, range: s5}", fails);
    assert_eq!(run.failure("event"), "AfterInstall");
    assert_eq!(label(), "system_u:object_r:httpd_sys_content_t:s0");
}

const LABEL: &str = "security.selinux";

fn runs_selinux() -> bool {
    Path::new("/sys/fs/selinux/enforce").exists()
}

#[test]
fn c103_a_context_fails_where_nothing_heeds_it() {
    if !shown(!runs_selinux(), "this machine runs SELinux") {
        return;
    }
    let message = fails("  - object: \"{live}/app\"\n    context: {type: etc_t, range: s0}\n");
    assert!(message.contains("does not run SELinux: remove the context"), "{message}");
}

#[test]
fn c065_c073_c104_ranges_are_taken_and_may_be_missing() {
    if !shown(!runs_selinux(), "this machine runs SELinux") {
        return;
    }
    for context in [
        "{type: etc_t}",
        "{type: etc_t, range: s5}",
        "{type: etc_t, range: \"s0:c0.c1,c15,c7.c9\"}",
    ] {
        let message = fails(&format!("  - object: \"{{live}}/app\"\n    context: {context}\n"));
        assert!(message.contains("does not run SELinux"), "{message}");
    }
}

/// AWS's agent removes what the revision before put there and makes it again.
#[test]
fn directories_of_the_revision_before_have_the_rights_that_this_one_gives() {
    let host = Host::new();
    let of = |name: &str, permissions: &str| {
        let files = "files:\n  - source: app\n    destination: {live}/srv/app\n";
        let appspec = format!("{files}permissions:\n{permissions}");
        host.bundle(name, &appspec, &[("app/sub/x", "1"), ("app/shared/x", "1")])
    };
    let only_root = "  - object: \"{live}/srv\"\n    mode: 700\n    type: [directory]\n";
    let modes =
        || ["srv", "srv/app", "srv/app/sub", "srv/app/shared"].map(|at| mode(host.live(at)));
    assert_eq!(mode(host.path("live")), 0o755, "this test is of an umask of 022");
    host.succeeds(&of("one", "  []\n"), &[]);
    assert_eq!(modes(), [0o755; 4]);
    // What is not only the revision's is not made again.
    fs::write(host.live("srv/app/shared/theirs"), "").unwrap();
    host.succeeds(&of("two", only_root), &[]);
    assert_eq!(modes(), [0o755, 0o755, 0o700, 0o755]);
    fs::remove_file(host.live("srv/app/shared/theirs")).unwrap();
    host.succeeds(&of("three", only_root), &[]);
    assert_eq!(modes(), [0o755, 0o700, 0o700, 0o700]);
    // Nor does what nobody asks for any more stay; if the revision fails, it comes back.
    let hooks = "  []\nhooks:\n  AfterInstall:\n    - location: app/sub/x\n";
    host.fails(&of("four", hooks), &[]);
    assert_eq!(modes(), [0o755, 0o700, 0o700, 0o700]);
    host.succeeds(&of("five", "  []\n"), &[]);
    assert_eq!(modes(), [0o755; 4]);
}
