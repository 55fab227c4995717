//! The options of `swell local`.

use std::{fs, path::Path};

use super::{Host, read};

#[test]
fn without_a_name_the_application_is_called_after_the_directory() {
    let host = Host::new();
    let hooks = "hooks:\n  AfterInstall:\n    - location: tell.sh\n";
    let tell = ("tell.sh", "#!/bin/sh\necho $APPLICATION_NAME >{live}/told\n");
    let bundle = host.bundle("one", hooks, &[tell]);
    let mut command = host.command(Path::new("."), &[]);
    assert!(command.current_dir(&bundle).output().unwrap().status.success());
    let told = fs::read_to_string(host.live("told")).unwrap();
    assert_eq!(Path::new(told.trim_end()), fs::canonicalize(&bundle).unwrap());
}

#[test]
fn c224_events_that_come_too_early_are_refused_with_those_that_may() {
    let host = Host::new();
    let bundle = host.tracing("one", &["ApplicationStart"]);
    for list in ["ApplicationStart,DownloadBundle", "Install,DownloadBundle"] {
        let text = host.refuses(&bundle, &["--events", list]);
        let may = "only BeforeBlockTraffic, AfterBlockTraffic, ApplicationStop can be";
        assert!(text.contains(may), "{text}");
    }
}

#[test]
fn c225_between_the_bundle_and_install_only_before_install_can_be() {
    let host = Host::new();
    let bundle = host.tracing("one", &["BeforeInstall"]);
    let text = host.refuses(&bundle, &["-e", "ApplicationStop,Install"]);
    assert!(text.contains("only BeforeInstall can be"), "{text}");
    host.succeeds(&bundle, &["-e", "BeforeInstall,Install"]);
    assert_eq!(host.trace(), "BeforeInstall one");
}

#[test]
fn c226_events_of_ones_own_run_in_their_order_after_install() {
    let host = Host::new();
    let events = ["HealthCheck", "Start", "Stop"];
    let bundle = host.tracing("one", &events);
    fs::write(bundle.join("data"), "new").unwrap();
    let appspec = read(bundle.join("appspec.yml"));
    let files = format!("files:\n  - source: data\n    destination: {}\n", host.live("").display());
    fs::write(bundle.join("appspec.yml"), appspec + &files).unwrap();
    host.succeeds(&bundle, &["--events", "Stop,Start,HealthCheck"]);
    assert_eq!(host.trace(), "Stop one, Start one, HealthCheck one");
    assert_eq!(read(host.live("data")), "new");
}

#[test]
fn c228_only_the_events_that_are_named_run() {
    let host = Host::new();
    let all = ["ApplicationStop", "BeforeInstall", "AfterInstall", "ApplicationStart"];
    host.succeeds(&host.tracing("one", &all), &["--events", "BeforeInstall,ApplicationStart"]);
    assert_eq!(host.trace(), "BeforeInstall one, ApplicationStart one");
    // The new revision is there by then: what stops is the new one.
    host.succeeds(&host.tracing("two", &all), &["--events", "ApplicationStop"]);
    assert_eq!(host.trace(), "ApplicationStop two");
}

#[test]
fn c229_an_event_of_ones_own_needs_scripts_in_the_appspec() {
    let host = Host::new();
    let bundle = host.tracing("one", &["Warm"]);
    host.succeeds(&bundle, &["--events", "Warm"]);
    assert_eq!(host.trace(), "Warm one");
    let text = host.refuses(&bundle, &["--events", "Warm,Cool"]);
    assert!(text.contains("no scripts for Cool"), "{text}");
    let hooks = "hooks:\n  Warm:\n    - location: fail.sh\n";
    let bundle = host.bundle("two", hooks, &[("fail.sh", "#!/bin/sh\nexit 7\n")]);
    let run = host.fails(&bundle, &["--events", "Warm"]);
    assert_eq!((run.failure("event"), run.failure("script")), ("Warm", "fail.sh"));
}

#[test]
fn c230_a_configuration_that_is_missing_is_named() {
    let host = Host::new();
    let bundle = host.bundle("one", "", &[]);
    fs::remove_file(host.path("agent.yml")).unwrap();
    let run = host.deploy(&bundle, &[]);
    assert_eq!(run.code, 1);
    assert_eq!(run.stderr.lines().filter(|line| line.contains("error:")).count(), 1);
    assert!(run.stderr.contains("agent.yml: No such file"), "{}", run.stderr);
}

#[test]
fn c232_another_appspec_is_taken_and_nothing_in_its_place() {
    let host = Host::new();
    let bundle = host.tracing("one", &["AfterInstall"]);
    fs::write(bundle.join("other.yml"), "version: 0.0\nos: linux\n").unwrap();
    host.succeeds(&bundle, &["--appspec-filename", "other.yml"]);
    assert_eq!(host.trace(), "");
    host.refuses(&bundle, &["-A", "none.yml"]);
}

#[test]
fn c156_an_appspec_that_is_missing_is_named_with_its_directory() {
    let host = Host::new();
    let bundle = host.bundle("one", "", &[]);
    let text = host.refuses(&bundle, &["--appspec-filename", "none.yml"]);
    assert!(text.contains(&format!("{} has no none.yml", bundle.display())), "{text}");
}

#[test]
fn c199_what_is_no_event_is_refused_before_anything_is_made() {
    let host = Host::new();
    let text = host.refuses(&host.bundle("one", "", &[]), &["--events", "no_such_command"]);
    assert!(text.contains("'no_such_command' is not the name of an event"), "{text}");
    assert!(!host.path("root").exists());
}

#[test]
fn c217_c218_without_options_files_in_the_way_fail_and_the_appspec_has_its_usual_name() {
    let host = Host::new();
    fs::write(host.live("data"), "mine").unwrap();
    let appspec = "files:\n  - source: data\n    destination: \"{live}\"\n";
    let run = host.fails(&host.bundle("one", appspec, &[("data", "new")]), &[]);
    assert_eq!(run.failure("event"), "Install");
    assert_eq!(read(host.live("data")), "mine");
}

#[test]
fn c233_an_appspec_with_the_long_ending_will_do() {
    let host = Host::new();
    let bundle = host.tracing("one", &["BeforeInstall"]);
    fs::rename(bundle.join("appspec.yml"), bundle.join("appspec.yaml")).unwrap();
    host.succeeds(&bundle, &[]);
    assert_eq!(host.trace(), "BeforeInstall one");
}

#[test]
fn c207_a_type_that_nobody_knows_is_refused_with_those_that_are() {
    let host = Host::new();
    let text = host.refuses(&host.bundle("one", "", &[]), &["--type", "bar"]);
    assert!(text.contains("[possible values: tgz, tar, zip, directory, swell]"), "{text}");
}

#[test]
fn a_bundle_that_cannot_be_one_is_refused_in_one_line() {
    let host = Host::new();
    let bundle = host.bundle("one", "", &[]);
    let file = bundle.join("appspec.yml");
    for (location, options, part) in [
        (host.path("none").as_path(), &[][..], "none: No such file"),
        (&file, &[], "appspec.yml is a file, not a directory"),
        (&bundle, &["--type", "tar"], "one is a directory, not an archive"),
        (host.path("live").as_path(), &[], "live has no appspec.yml"),
        (Path::new("s3://bucket/key"), &[], "fetch it first"),
    ] {
        let text = host.refuses(location, options);
        assert!(text.contains(part), "{text}");
        assert!(text.lines().count() <= 2, "{text}");
    }
}

#[test]
fn scripts_are_told_what_the_options_say() {
    let host = Host::new();
    let hooks = "hooks:\n  AfterInstall:\n    - location: env.sh\n";
    let script = "#!/bin/sh\nenv | grep -E '^(APPLICATION|DEPLOYMENT)' | sort >{live}/env\n";
    let bundle = host.bundle("one", hooks, &[("env.sh", script)]);
    let run = host.succeeds(&bundle, &[]);
    let id = run.deployment();
    assert!(id.len() == 17 && id.starts_with("d-") && id.ends_with("-local"), "{id}");
    let expected = format!(
        "APPLICATION_NAME={}\nDEPLOYMENT_GROUP_ID=default-local-deployment-group\n\
         DEPLOYMENT_GROUP_NAME=LocalFleet\nDEPLOYMENT_ID={id}\n",
        bundle.display()
    );
    assert_eq!(read(host.live("env")), expected);
    let options = ["-g", "g1", "-d", "the group", "-a", "an application"];
    let run = host.succeeds(&bundle, &options);
    let id = run.deployment();
    let expected = format!(
        "APPLICATION_NAME=an application\nDEPLOYMENT_GROUP_ID=g1\n\
         DEPLOYMENT_GROUP_NAME=the group\nDEPLOYMENT_ID={id}\n"
    );
    assert_eq!(read(host.live("env")), expected);
    assert_eq!(host.deployments("g1"), [run.dir()]);
}

#[test]
fn c214_a_name_that_is_empty_is_refused_and_says_which() {
    let host = Host::new();
    let bundle = host.tracing("one", &["ApplicationStart"]);
    for option in ["--deployment-group", "--deployment-group-name", "--application-name"] {
        let text = host.refuses(&bundle, &[option, ""]);
        assert!(text.contains(option), "{text}");
    }
}
