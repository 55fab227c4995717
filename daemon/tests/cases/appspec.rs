//! What an appspec may say, and how it is refused.

use std::fs;

use super::{Host, read};

/// What is said of a bundle with this text for its appspec.
fn refused(text: &str) -> String {
    let host = Host::new();
    let bundle = host.bundle("one", "", &[("run.sh", "#!/bin/sh\n")]);
    fs::write(bundle.join("appspec.yml"), text).unwrap();
    host.refuses(&bundle, &[])
}

/// The same with a good head above the text.
fn body_refused(text: &str) -> String {
    refused(&format!("version: 0.0\nos: linux\n{text}"))
}

/// Deploys a bundle with this text for its appspec; the trace of `run.sh`, and what was said.
fn taken(text: &str) -> (String, String) {
    let host = Host::new();
    let bundle = host.tracing("one", &[]);
    let live = host.path("live").display().to_string();
    fs::write(bundle.join("appspec.yml"), text.replace("{live}", &live)).unwrap();
    let run = host.succeeds(&bundle, &[]);
    (host.trace(), run.stderr)
}

const HOOK: &str = "hooks:\n  AfterInstall:\n    - location: trace.sh\n";

fn has(text: &str, part: &str) {
    assert!(text.contains(part), "{text}");
}

#[test]
fn c001_an_empty_file_is_refused() {
    let text = refused("");
    has(&text, "the file is empty");
    has(&text, "`version: 0.0` and `os: linux`");
}

#[test]
fn c002_a_file_of_blanks_is_refused_as_an_empty_one() {
    has(&refused("  \n"), "the file is empty");
}

#[test]
fn c003_a_file_of_comments_is_refused_as_an_empty_one() {
    has(&refused("# version: 0.0\n"), "the file is empty");
}

#[test]
fn c004_a_version_is_needed() {
    let text = refused("os: linux\n");
    has(&text, "version: is missing");
    has(&text, "`version: 0.0`");
}

#[test]
fn c005_a_version_is_a_number() {
    has(&refused("version: invalid\nos: linux\n"), "version: is 'invalid'");
}

#[test]
fn c007_text_is_no_version() {
    has(&refused("version: \"0.0\"\nos: linux\n"), "version: is '0.0'; write the number");
}

#[test]
fn c009_an_os_is_needed() {
    has(&refused("version: 0.0\n"), "os: is missing");
}

#[test]
fn c010_only_linux_is_taken_in_small_letters() {
    for os in ["unsupported", "Linux", "windows"] {
        has(&refused(&format!("version: 0.0\nos: {os}\n")), &format!("os: is '{os}'"));
    }
}

#[test]
fn c011_version_and_os_will_do() {
    assert_eq!(taken("version: 0.0\nos: linux\n").0, "");
}

#[test]
fn c013_keys_that_nobody_knows_are_passed_over_and_warned_of() {
    let text = "version: 0.0\nos: linux\nowner: me\nfiles:\n  - source: trace.sh\n    \
        destination: \"{live}/x\"\n    note: x\nhooks:\n  AfterInstall:\n    \
        - location: trace.sh\n      args: x\npermissions:\n  - object: /nowhere\n    comment: x\n";
    let (trace, said) = taken(text);
    assert_eq!(trace, "AfterInstall one");
    for key in ["owner", "files[0].note", "hooks.AfterInstall[0].args", "permissions[0].comment"] {
        has(&said, &format!("{key} means nothing"));
    }
}

#[test]
fn c014_a_behavior_that_nobody_knows_is_refused() {
    let text = body_refused("file_exists_behavior: invalid\n");
    has(&text, "is 'invalid'; write DISALLOW, OVERWRITE or RETAIN");
}

#[test]
fn c017_of_a_key_that_is_there_twice_the_last_counts() {
    let (trace, said) = taken(&format!("version: 1.0\nos: linux\nversion: 0.0\n{HOOK}"));
    assert_eq!(trace, "AfterInstall one");
    has(&said, "version is there more than once");
}

#[test]
fn c018_json_is_taken() {
    let json = "{\"version\": 0.0, \"os\": \"linux\",\n \"hooks\": {\"AfterInstall\": \
        [{\"location\": \"trace.sh\"}]}}\n";
    assert_eq!(taken(json).0, "AfterInstall one");
}

#[test]
fn c019_lines_may_end_as_on_windows() {
    let text = format!("version: 0.0\nos: linux\n{HOOK}").replace('\n', "\r\n");
    assert_eq!(taken(&text).0, "AfterInstall one");
}

#[test]
fn c020_of_two_documents_the_first_counts() {
    let text = format!("version: 0.0\nos: linux\n{HOOK}---\nversion: 7\n");
    assert_eq!(taken(&text).0, "AfterInstall one");
}

#[test]
fn c029_an_event_without_a_list_is_passed_over() {
    let text = format!("version: 0.0\nos: linux\n{HOOK}  BeforeInstall:\n");
    assert_eq!(taken(&text).0, "AfterInstall one");
}

#[test]
fn c030_an_event_with_an_empty_list_does_nothing() {
    assert_eq!(taken("version: 0.0\nos: linux\nhooks:\n  AfterInstall: []\n").0, "");
}

#[test]
fn c031_a_script_needs_a_location() {
    let text = body_refused("hooks:\n  AfterInstall:\n    - timeout: 30\n");
    has(&text, "hooks.AfterInstall[0].location: is missing");
}

#[test]
fn c038_hooks_of_another_shape_are_refused() {
    for (hooks, part) in [
        ("hooks:\n  - AfterInstall\n", "hooks: is a list"),
        ("hooks:\n  AfterInstall:\n    location: run.sh\n", "hooks.AfterInstall: is a map"),
        ("hooks:\n  AfterInstall: run.sh\n", "hooks.AfterInstall: is text"),
    ] {
        has(&body_refused(hooks), part);
    }
}

#[test]
fn c042_a_mapping_needs_a_source() {
    has(&body_refused("files:\n  - destination: /srv\n"), "files[0].source: is missing");
}

fn permission_refused(body: &str) -> String {
    body_refused(&format!("permissions:\n  - object: /srv\n    {body}\n"))
}

#[test]
fn c043_a_permission_needs_an_object() {
    has(&body_refused("permissions:\n  - mode: 644\n"), "permissions[0].object: is missing");
}

#[test]
fn c047_only_files_and_directories_have_permissions() {
    has(&permission_refused("type: [symlink]"), "'symlink' is not supported");
}

#[test]
fn c050_a_mode_has_four_digits_at_most() {
    has(&permission_refused("mode: 12345"), "'12345' is not a mode: up to four digits");
}

#[test]
fn c051_a_mode_has_octal_digits() {
    has(&permission_refused("mode: 12a"), "'12a' is not a mode: up to four digits 0 to 7");
}

fn acl_refused(acl: &str) -> String {
    permission_refused(&format!("acls: [\"{acl}\"]"))
}

#[test]
fn c055_an_acl_entry_has_two_parts_at_least() {
    has(&acl_refused("7"), "'7' is no ACL entry");
}

#[test]
fn c056_an_acl_entry_has_four_parts_at_most() {
    has(&acl_refused("d:u:bob:7:rwx"), "'d:u:bob:7:rwx' is no ACL entry");
}

#[test]
fn c057_an_acl_entry_is_a_default_once() {
    has(&acl_refused("d:d:bob:7"), "'d:d:bob:7' is no ACL entry");
}

#[test]
fn c058_mask_and_other_are_nobody() {
    for acl in ["mask:name:rwx", "d:other:name:rwx"] {
        has(&acl_refused(acl), "names someone, which mask and other cannot");
    }
}

#[test]
fn c059_rights_are_read_write_and_execute() {
    has(&acl_refused("user:bob:rwxd"), "invalid character 'd'");
}

#[test]
fn c060_owner_group_and_others_have_a_mode() {
    for acl in ["u::7", "g::7", "o:7"] {
        has(&acl_refused(acl), "use 'mode' instead");
    }
}

fn range_refused(range: &str) -> String {
    permission_refused(&format!("context: {{type: etc_t, range: \"{range}\"}}"))
}

#[test]
fn c066_a_range_goes_up() {
    has(&range_refused("s3-s2:c0"), "ends at s2, below its start s3");
}

#[test]
fn c068_a_sensitivity_is_a_number() {
    for range in ["s", "s0-s-1", "sd3", "d3"] {
        has(&range_refused(range), "invalid sensitivity");
    }
}

#[test]
fn c069_a_category_is_a_number_within_bounds() {
    for range in ["s0:c", "s0:c-1", "s0:c1024", "s0:cd3", "s0:d3"] {
        has(&range_refused(range), "invalid category");
    }
}

#[test]
fn c070_a_range_of_categories_goes_up() {
    has(&range_refused("s0:c2.c1"), "invalid category range");
}

#[test]
fn c071_a_category_is_named_once() {
    has(&range_refused("s0:c0.c2,c1"), "twice");
}

#[test]
fn relative_places_are_taken_from_the_root_with_a_warning() {
    let host = Host::new();
    let live = host.path("live").display().to_string();
    let appspec = format!("files:\n  - source: data\n    destination: {}\n", &live[1..]);
    let run = host.succeeds(&host.bundle("one", &appspec, &[("data", "x")]), &[]);
    assert_eq!(read(host.live("data")), "x");
    has(&run.stderr, "is relative and taken as /");
    let text = body_refused("files:\n  - source: run.sh\n    destination: ~/x\n");
    has(&text, "is no home directory");
}
