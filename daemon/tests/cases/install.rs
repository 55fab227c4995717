//! Which files are where afterwards, and what becomes of those that were there.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
};

use nix::{sys::stat::Mode, unistd::mkfifo};

use super::{Host, Run, read};

fn map(source: &str, destination: &str) -> String {
    format!("  - source: \"{source}\"\n    destination: \"{destination}\"\n")
}

fn files(mappings: &[(&str, &str)]) -> String {
    let mappings = mappings.iter().map(|(source, destination)| map(source, destination));
    format!("files:\n{}", mappings.collect::<String>())
}

/// Deploys a revision with these mappings of these files.
fn installed(mappings: &[(&str, &str)], all: &[(&str, &str)]) -> Host {
    let host = Host::new();
    host.succeeds(&host.bundle("one", &files(mappings), all), &[]);
    host
}

/// Everything below the live directory: files with their content, directories with a slash.
fn tree(host: &Host) -> BTreeMap<String, String> {
    let (mut tree, mut open) = (BTreeMap::new(), vec![host.path("live")]);
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(host.path("live")).unwrap().display().to_string();
            if path.is_symlink() {
                let target = fs::read_link(&path).unwrap().display().to_string();
                tree.insert(name, format!("-> {target}"));
            } else if path.is_dir() {
                tree.insert(format!("{name}/"), String::new());
                open.push(path);
            } else {
                tree.insert(name, read(path));
            }
        }
    }
    tree
}

fn names(host: &Host) -> Vec<String> {
    tree(host).into_keys().collect()
}

/// A deployment that fails in Install, and touches nothing.
fn fails(host: &Host, bundle: &Path, options: &[&str]) -> Run {
    let before = tree(host);
    let run = host.fails(bundle, options);
    assert_eq!((run.failure("event"), run.error_code()), ("Install", 5));
    assert_eq!(tree(host), before);
    run
}

#[test]
fn c105_a_destination_is_always_a_directory() {
    let host = installed(&[("src1", "{live}/dst1")], &[("src1", "x")]);
    assert_eq!(names(&host), ["dst1/", "dst1/src1"]);
}

#[test]
fn c106_what_is_missing_above_is_made() {
    let host = Host::new();
    fs::create_dir(host.live("a")).unwrap();
    host.succeeds(&host.bundle("one", &files(&[("f", "{live}/a/b/c")]), &[("f", "x")]), &[]);
    assert_eq!(names(&host), ["a/", "a/b/", "a/b/c/", "a/b/c/f"]);
}

#[test]
fn c107_of_a_directory_its_content_is_installed() {
    let host = installed(&[("src", "{live}/dst")], &[("src/a", "1"), ("src/b/c", "2")]);
    assert_eq!(names(&host), ["dst/", "dst/a", "dst/b/", "dst/b/c"]);
}

#[test]
fn c110_a_slash_is_the_whole_revision() {
    let host = installed(&[("/", "{live}/all")], &[("scripts/run.sh", "#!/bin/sh\n")]);
    assert_eq!(names(&host), ["all/", "all/appspec.yml", "all/scripts/", "all/scripts/run.sh"]);
}

#[test]
fn c111_a_source_begins_in_the_revision() {
    let host = installed(&[("/conf/a.conf", "{live}/etc")], &[("conf/a.conf", "x")]);
    assert_eq!(names(&host), ["etc/", "etc/a.conf"]);
}

#[test]
fn c112_a_slash_at_the_end_of_a_directory_means_nothing() {
    let all = [("src/a", "1"), ("src/b/c", "2")];
    let [with, without] = ["src/", "src"].map(|source| installed(&[(source, "{live}/x")], &all));
    assert_eq!(tree(&with), tree(&without));
    assert_eq!(names(&with), ["x/", "x/a", "x/b/", "x/b/c"]);
}

#[test]
fn c113_what_is_hidden_and_what_is_empty_is_installed() {
    let host = Host::new();
    let bundle = host.bundle("one", &files(&[("src", "{live}/x")]), &[("src/.hidden", "1")]);
    fs::create_dir_all(bundle.join("src/empty")).unwrap();
    host.succeeds(&bundle, &[]);
    assert_eq!(names(&host), ["x/", "x/.hidden", "x/empty/"]);
}

/// Whose a file was where it was packed is not part of a revision: it is whoever deploys it that owns it.
#[test]
fn c114_mode_and_time_of_a_packed_file_are_kept() {
    let host = Host::new();
    let bundle = host.bundle("one", &files(&[("f", "{live}/x")]), &[("f", "1")]);
    let file = fs::File::options().write(true).open(bundle.join("f")).unwrap();
    let at = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
    file.set_modified(at).unwrap();
    file.set_permissions(fs::Permissions::from_mode(0o640)).unwrap();
    let mut packing = std::process::Command::new("tar");
    packing.args(["-cf", "../one.tar", "."]).current_dir(&bundle);
    assert!(packing.status().unwrap().success());
    host.succeeds(&host.path("one.tar"), &["--type", "tar"]);
    let there = fs::metadata(host.live("x/f")).unwrap();
    assert_eq!((there.mode() & 0o7777, there.mtime()), (0o640, 1_000_000_000));
}

#[test]
fn c118_without_files_nothing_is_installed_and_nothing_to_be_removed() {
    let host = installed(&[], &[]);
    assert!(names(&host).is_empty());
    fs::write(host.live("mine"), "m").unwrap();
    host.succeeds(&host.bundle("two", "", &[]), &[]);
    assert_eq!(names(&host), ["mine"]);
}

#[test]
fn c119_a_source_that_is_missing_is_refused_before_anything_is_installed() {
    let host = Host::new();
    let mappings = files(&[("a", "{live}/x"), ("gone", "{live}/x")]);
    let text = host.refuses(&host.bundle("one", &mappings, &[("a", "1")]), &[]);
    assert!(text.contains("files[1].source: 'gone' is not in the revision"), "{text}");
    assert!(names(&host).is_empty());
}

#[test]
fn c120_two_sources_of_one_file_are_named() {
    let host = Host::new();
    let mappings = files(&[("a/f", "{live}/x"), ("b/f", "{live}/x")]);
    let run = fails(&host, &host.bundle("one", &mappings, &[("a/f", "1"), ("b/f", "2")]), &[]);
    let message = run.failure("message");
    assert!(message.contains("a/f") && message.contains("b/f"), "{message}");
    assert!(message.contains(&host.live("x/f").display().to_string()), "{message}");
    let links = host.bundle("two", &mappings, &[("a/g", "1"), ("b/g", "2")]);
    for dir in ["a", "b"] {
        symlink("g", links.join(dir).join("f")).unwrap();
    }
    let run = fails(&host, &links, &[]);
    assert!(run.failure("message").contains("both a/f and b/f would become"), "{}", run.stderr);
}

#[test]
fn c121_a_file_is_no_directory() {
    let all = [("a/f", "1"), ("b/f/g", "2")];
    let mut mappings = [("a", "{live}/x"), ("b", "{live}/x")];
    for _ in 0..2 {
        let host = Host::new();
        let run = fails(&host, &host.bundle("one", &files(&mappings), &all), &[]);
        let message = run.failure("message");
        assert!(message.contains("x/f would be file and directory"), "{message}");
        mappings.reverse();
    }
}

#[test]
fn c122_a_directory_may_be_asked_for_twice() {
    let host = installed(&[("a", "{live}/x"), ("b", "{live}/x/")], &[("a", "1"), ("b", "2")]);
    assert_eq!(names(&host), ["x/", "x/a", "x/b"]);
}

#[test]
fn c124_a_source_does_not_lead_out_of_the_revision() {
    let host = Host::new();
    fs::write(host.path("secret"), "s").unwrap();
    let mappings = files(&[("../secret", "{live}/x")]);
    let text = host.refuses(&host.bundle("one", &mappings, &[]), &[]);
    assert!(text.contains("'../secret' contains '..'"), "{text}");
}

#[test]
fn c125_an_empty_destination_is_refused() {
    let host = Host::new();
    let text = host.refuses(&host.bundle("one", &files(&[("a", "")]), &[("a", "1")]), &[]);
    assert!(text.contains("files[0].destination: '' is empty"), "{text}");
}

#[test]
fn c126_a_pipe_is_refused() {
    let host = Host::new();
    let bundle = host.bundle("one", &files(&[("src", "{live}/x")]), &[("src/a", "1")]);
    mkfifo(&bundle.join("src/pipe"), Mode::S_IRWXU).unwrap();
    let text = host.refuses(&bundle, &[]);
    assert!(text.contains("src/pipe is no file, directory or link"), "{text}");
}

#[test]
fn a_source_that_is_a_link_to_a_directory_is_the_directory() {
    let host = Host::new();
    let mappings = files(&[("current", "{live}/x"), ("current/sub", "{live}/y")]);
    let all = [("releases/7/a", "1"), ("releases/7/sub/b", "2")];
    let bundle = host.bundle("one", &mappings, &all);
    symlink("releases/7", bundle.join("current")).unwrap();
    host.succeeds(&bundle, &[]);
    assert_eq!(names(&host), ["x/", "x/a", "x/sub/", "x/sub/b", "y/", "y/b"]);
}

#[test]
fn a_link_to_a_directory_stays_a_link() {
    let host = Host::new();
    let bundle = host.bundle("one", &files(&[("src", "{live}/x")]), &[("src/7/a", "1")]);
    symlink("7", bundle.join("src/current")).unwrap();
    host.succeeds(&bundle, &[]);
    assert_eq!(tree(&host)["x/current"], "-> 7");
}

#[test]
fn the_rights_of_a_packed_directory_mean_nothing() {
    let host = Host::new();
    let bundle = host.bundle("one", &files(&[("src", "{live}/x")]), &[("src/sub/a", "1")]);
    fs::set_permissions(bundle.join("src/sub"), fs::Permissions::from_mode(0o711)).unwrap();
    host.succeeds(&bundle, &[]);
    let mode = |name: &str| fs::metadata(host.live(name)).unwrap().mode() & 0o7777;
    // The host made the other one by the umask of this process.
    assert_eq!(mode("x/sub"), fs::metadata(host.path("live")).unwrap().mode() & 0o7777);
}

#[test]
fn a_name_with_blanks_round_it_goes_with_its_revision() {
    let host = installed(&[("src", "{live}/x")], &[("src/ a ", "1"), ("src/ d /b", "2")]);
    assert_eq!(names(&host), ["x/", "x/ a ", "x/ d /", "x/ d /b"]);
    host.succeeds(&host.path("one"), &[]);
    host.succeeds(&host.bundle("two", "", &[]), &[]);
    assert!(names(&host).is_empty(), "{:?}", names(&host));
}

#[test]
fn a_program_that_runs_is_replaced() {
    let (host, bundle) = in_the_way("");
    fs::copy("/bin/sleep", host.live("x/f")).unwrap();
    let mut running = std::process::Command::new(host.live("x/f")).arg("60").spawn().unwrap();
    let run = host.deploy(&bundle, &["-b", "OVERWRITE"]);
    running.kill().unwrap();
    running.wait().unwrap();
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert_eq!(read(host.live("x/f")), "new");
}

/// A host with a file in the way of the revision that comes with it.
fn in_the_way(appspec: &str) -> (Host, PathBuf) {
    let host = Host::new();
    fs::create_dir(host.live("x")).unwrap();
    fs::write(host.live("x/f"), "mine").unwrap();
    let appspec = format!("{}{appspec}", files(&[("f", "{live}/x")]));
    let bundle = host.bundle("one", &appspec, &[("f", "new")]);
    (host, bundle)
}

#[test]
fn c127_a_file_in_the_way_fails_and_is_named() {
    for options in [&[][..], &["--file-exists-behavior", "DISALLOW"]] {
        let (host, bundle) = in_the_way("");
        let run = fails(&host, &bundle, options);
        let path = host.live("x/f").display().to_string();
        assert!(run.failure("message").contains(&path), "{}", run.failure("message"));
    }
}

#[test]
fn c128_a_file_in_the_way_is_replaced_if_so_wanted_and_goes_with_the_revision() {
    let (host, bundle) = in_the_way("");
    host.succeeds(&bundle, &["--file-exists-behavior", "overwrite"]);
    assert_eq!(read(host.live("x/f")), "new");
    host.succeeds(&host.bundle("two", "", &[]), &[]);
    assert!(!host.live("x/f").exists());
}

#[test]
fn c129_a_file_in_the_way_is_kept_if_so_wanted_and_stays_whoevers_it_was() {
    let (host, bundle) = in_the_way("");
    host.succeeds(&bundle, &["-b", "RETAIN"]);
    host.succeeds(&host.bundle("two", "", &[]), &[]);
    assert_eq!(read(host.live("x/f")), "mine");
}

#[test]
fn c016_a_behavior_of_nothing_leaves_it_to_the_deployment() {
    let (host, bundle) = in_the_way("file_exists_behavior:\n");
    host.succeeds(&bundle, &["-b", "OVERWRITE"]);
    assert_eq!(read(host.live("x/f")), "new");
}

#[test]
fn c130_the_behavior_of_the_appspec_wins_to_overwrite() {
    let (host, bundle) = in_the_way("file_exists_behavior: OVERWRITE\n");
    host.succeeds(&bundle, &["-b", "DISALLOW"]);
    assert_eq!(read(host.live("x/f")), "new");
}

#[test]
fn c131_the_behavior_of_the_appspec_wins_to_disallow() {
    let (host, bundle) = in_the_way("file_exists_behavior: DISALLOW\n");
    fails(&host, &bundle, &["-b", "OVERWRITE"]);
}

#[test]
fn c134_c135_a_behavior_that_nobody_knows_is_refused_whatever_is_there() {
    let (host, bundle) = in_the_way("");
    for _ in 0..2 {
        let text = host.refuses(&bundle, &["-b", "bogus"]);
        assert!(text.contains("'bogus' is not DISALLOW, OVERWRITE or RETAIN"), "{text}");
        fs::remove_file(host.live("x/f")).ok();
    }
}

#[test]
fn c137_the_files_of_the_revision_before_are_in_nobodys_way() {
    let host = installed(&[("f", "{live}/x")], &[("f", "1"), ("g", "1")]);
    let two = files(&[("f", "{live}/x"), ("g", "{live}/x")]);
    host.succeeds(&host.bundle("two", &two, &[("f", "2"), ("g", "2")]), &[]);
    assert_eq!(read(host.live("x/f")), "2");
    host.succeeds(&host.bundle("three", &files(&[("g", "{live}/x")]), &[("g", "3")]), &[]);
    assert_eq!(names(&host), ["x/", "x/g"]);
}

#[test]
fn c138_the_files_of_another_group_are_in_the_way() {
    let host = installed(&[("f", "{live}/x")], &[("f", "1")]);
    fails(&host, &host.path("one"), &["--deployment-group", "other"]);
}

#[test]
fn c139_a_file_that_was_kept_is_in_the_way_again() {
    let (host, bundle) = in_the_way("");
    host.succeeds(&bundle, &["-b", "RETAIN"]);
    fails(&host, &bundle, &[]);
}

#[test]
fn what_may_replace_files_is_installed_where_there_are_none() {
    let host = Host::new();
    let mapping = "files:\n  - source: app\n    destination: {live}/new\n";
    let bundle = host.bundle("one", mapping, &[("app/sub/data", "1")]);
    host.succeeds(&bundle, &["-b", "OVERWRITE"]);
    assert_eq!(read(host.live("new/sub/data")), "1");
}

#[test]
fn c140_what_a_link_leads_to_is_replaced_and_the_link_stays() {
    let (host, bundle) = in_the_way("");
    fs::rename(host.live("x/f"), host.live("real")).unwrap();
    symlink("../real", host.live("x/f")).unwrap();
    host.succeeds(&bundle, &["-b", "OVERWRITE"]);
    assert_eq!(tree(&host)["x/f"], "-> ../real");
    assert_eq!(read(host.live("real")), "new");
    let hooks = "hooks:\n  AfterInstall:\n    - location: fail.sh\n";
    let fail = ("fail.sh", "#!/bin/sh\nexit 1\n");
    let appspec = format!("{}{hooks}", files(&[("f", "{live}/x")]));
    host.fails(&host.bundle("two", &appspec, &[("f", "newer"), fail]), &["-b", "OVERWRITE"]);
    assert_eq!(read(host.live("real")), "new");
}

#[test]
fn a_link_to_nothing_is_written_through_whatever_is_asked_for() {
    for behavior in ["DISALLOW", "OVERWRITE", "RETAIN"] {
        let (host, bundle) = in_the_way("");
        fs::remove_file(host.live("x/f")).unwrap();
        symlink("../real", host.live("x/f")).unwrap();
        host.succeeds(&bundle, &["-b", behavior]);
        assert_eq!(
            (tree(&host)["x/f"].as_str(), read(host.live("real"))),
            ("-> ../real", "new".into())
        );
        // What is behind it is the group's by then.
        host.succeeds(&bundle, &[]);
        host.succeeds(&host.bundle("two", "", &[]), &[]);
        assert_eq!(names(&host), ["x/", "x/f"], "{behavior}");
    }
}

#[test]
fn a_directory_that_has_the_name_of_a_file_is_kept_if_so_wanted() {
    let (host, bundle) = in_the_way("");
    fs::remove_file(host.live("x/f")).unwrap();
    fs::create_dir(host.live("x/f")).unwrap();
    for behavior in ["DISALLOW", "OVERWRITE"] {
        let run = fails(&host, &bundle, &["-b", behavior]);
        assert!(run.failure("message").contains("a directory is in the way"), "{}", run.stderr);
    }
    host.succeeds(&bundle, &["-b", "RETAIN"]);
    assert!(host.live("x/f").is_dir());
}

#[test]
fn c141_a_link_replaces_a_file_if_so_wanted() {
    let (host, bundle) = in_the_way("");
    fs::remove_file(bundle.join("f")).unwrap();
    fs::write(bundle.join("target"), "t").unwrap();
    symlink("target", bundle.join("f")).unwrap();
    host.succeeds(&bundle, &["-b", "OVERWRITE"]);
    assert_eq!(tree(&host)["x/f"], "-> target");
}

#[test]
fn c145_c148_what_a_revision_put_there_goes_children_first_and_may_be_gone() {
    let host =
        installed(&[("src", "{live}/x")], &[("src/a", "1"), ("src/b/c", "2"), ("src/d/e", "3")]);
    fs::remove_file(host.live("x/a")).unwrap();
    fs::remove_dir_all(host.live("x/d")).unwrap();
    host.succeeds(&host.bundle("two", "", &[]), &[]);
    assert!(names(&host).is_empty(), "{:?}", names(&host));
}

#[test]
fn c146_a_directory_with_something_else_in_it_stays() {
    let host = installed(&[("f", "{live}/x/y")], &[("f", "1")]);
    fs::write(host.live("x/y/mine"), "m").unwrap();
    host.succeeds(&host.bundle("two", "", &[]), &[]);
    assert_eq!(names(&host), ["x/", "x/y/", "x/y/mine"]);
}

#[test]
fn c149_a_file_that_was_edited_goes_all_the_same() {
    let host = installed(&[("f", "{live}/x")], &[("f", "1")]);
    fs::write(host.live("x/f"), "edited").unwrap();
    host.succeeds(&host.bundle("two", "", &[]), &[]);
    assert!(!host.live("x/f").exists());
}

#[test]
fn c150_a_file_of_somebody_else_survives_in_a_directory_of_the_revision() {
    let host = installed(&[("f", "{live}/x")], &[("f", "1")]);
    fs::write(host.live("x/mine"), "m").unwrap();
    host.succeeds(&host.path("one"), &[]);
    assert_eq!(names(&host), ["x/", "x/f", "x/mine"]);
    assert_eq!(read(host.live("x/mine")), "m");
}
