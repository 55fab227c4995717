//! What a revision comes in, and what stays of it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use groundswell_protocol::{
    ids::{ApplicationName, FleetId, ReleaseLabel},
    time::UnixSeconds,
    trust::SecretKey,
};
use groundswell_signer::release::{self, ReleaseTerms};

use super::{Host, read};

const FILES: &str = "files:\n  - source: app\n    destination: {live}/app\n";

/// A bundle as a directory, and what packs it.
fn sample(host: &Host) -> PathBuf {
    host.bundle("sample", FILES, &[("app/run.sh", "#!/bin/sh\n"), ("app/sub/.hidden", "x")])
}

fn pack(dir: &Path, command: &[&str]) {
    let mut packing = Command::new(command[0]);
    let done = packing.args(&command[1..]).current_dir(dir).status().unwrap();
    assert!(done.success(), "{command:?}");
}

fn installed(host: &Host) -> (String, String, u32) {
    use std::os::unix::fs::PermissionsExt;
    let (script, hidden) = (host.live("app/run.sh"), host.live("app/sub/.hidden"));
    let mode = fs::metadata(&script).unwrap().permissions().mode();
    (read(script), read(hidden), mode & 0o7777)
}

#[test]
fn c201_a_bundle_is_the_same_in_whatever_it_comes() {
    let host = Host::new();
    let dir = sample(&host);
    pack(&dir, &["tar", "-cf", "../sample.tar", "."]);
    pack(&dir, &["tar", "-czf", "../sample.tgz", "appspec.yml", "app"]);
    let zip = "import os, sys, zipfile\n\
        with zipfile.ZipFile('../sample.zip', 'w', zipfile.ZIP_DEFLATED) as zip:\n    \
        for at, _, names in os.walk('.'):\n        \
        for name in names: zip.write(os.path.join(at, name))\n";
    pack(&dir, &["python3", "-c", zip]);
    let expected = ("#!/bin/sh\n".to_owned(), "x".to_owned(), 0o755);
    for (name, kind) in [
        ("sample", "directory"),
        ("sample.tar", "tar"),
        ("sample.tgz", "tgz"),
        ("sample.zip", "zip"),
    ] {
        host.succeeds(&host.path(name), &["--type", kind, "--deployment-group", kind]);
        assert_eq!(installed(&host), expected, "{kind}");
        fs::remove_dir_all(host.live("app")).unwrap();
    }
    let mut command = host.command(Path::new("sample"), &["-g", "relative"]);
    assert!(command.current_dir(host.path("")).output().unwrap().status.success());
    assert_eq!(installed(&host), expected);
}

#[test]
fn a_release_can_be_tried_before_it_is_pushed() {
    let host = Host::new();
    let dir = sample(&host);
    let out = host.path("shop.swell");
    let terms = ReleaseTerms {
        application: ApplicationName::new("shop").unwrap(),
        label: ReleaseLabel::new("1").unwrap(),
        architecture: None,
        environments: Vec::new(),
    };
    let (key, fleet) = (SecretKey::from_seed(&[7; 32]), FleetId([1; 32]));
    release::make(&dir, &out, fleet, &key, terms, UnixSeconds(0)).unwrap();
    host.succeeds(&out, &[]);
    assert_eq!(installed(&host).2, 0o755);
    let mut bytes = fs::read(&out).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&out, bytes).unwrap();
    let text = host.refuses(&out, &[]);
    assert!(text.contains("damaged or altered"), "{text}");
}

#[test]
fn c202_a_wrapper_round_the_appspec_is_taken_off() {
    let host = Host::new();
    sample(&host);
    let zip = "import os, zipfile\n\
        with zipfile.ZipFile('sample.zip', 'w') as zip:\n    \
        for at, _, names in os.walk('sample'):\n        \
        for name in names: zip.write(os.path.join(at, name))\n";
    pack(&host.path(""), &["python3", "-c", zip]);
    host.succeeds(&host.path("sample.zip"), &["--type", "zip"]);
    assert_eq!(installed(&host).1, "x");
}

#[test]
fn c204_an_archive_that_is_none_is_refused() {
    let host = Host::new();
    let dir = sample(&host);
    pack(&dir, &["tar", "-cf", "../sample.tar", "."]);
    fs::write(host.path("text"), "no archive at all").unwrap();
    fs::write(host.path("empty"), "").unwrap();
    for (name, kind) in [
        ("text", "tar"),
        ("text", "tgz"),
        ("text", "zip"),
        ("empty", "tar"),
        ("sample.tar", "zip"),
        ("sample.tar", "tgz"),
    ] {
        let text = host.refuses(&host.path(name), &["--type", kind]);
        assert!(text.contains("cannot be unpacked"), "{name} as {kind}: {text}");
    }
}

#[test]
fn an_archive_that_leads_out_of_its_directory_is_refused() {
    let host = Host::new();
    let python = "import io, tarfile\n\
        with tarfile.open('bad.tar', 'w') as tar:\n    \
        info = tarfile.TarInfo('../outside'); info.size = 1\n    \
        tar.addfile(info, io.BytesIO(b'x'))\n";
    pack(&host.path(""), &["python3", "-c", python]);
    let text = host.refuses(&host.path("bad.tar"), &["--type", "tar"]);
    assert!(text.contains("leads out of it"), "{text}");
}

#[test]
fn c211_as_many_revisions_stay_as_the_settings_say() {
    let host = Host::new();
    host.configure(":max_revisions: 2\n");
    let bundle = host.bundle("one", "", &[]);
    for expected in [1, 2, 2, 2] {
        let run = host.succeeds(&bundle, &[]);
        let there = host.deployments("default-local-deployment-group");
        assert_eq!(there.len(), expected);
        assert!(there.contains(&run.dir()));
    }
    host.configure(":max_revisions: 0\n");
    let text = host.refuses(&bundle, &[]);
    assert!(text.contains("max_revisions"), "{text}");
}

#[test]
fn nothing_is_left_beside_the_deployments() {
    let host = Host::new();
    let bundle = sample(&host);
    host.succeeds(&bundle, &[]);
    fs::remove_file(bundle.join("appspec.yml")).unwrap();
    host.refuses(&bundle, &[]);
    let list = fs::read_dir(host.path("root")).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<_> = list.map(|name| name.into_string().unwrap()).collect();
    names.sort();
    let expected = ["default-local-deployment-group", "deployment-instructions", "deployment-logs"];
    assert_eq!(names, expected);
}

#[test]
fn c205_what_an_earlier_attempt_has_left_is_removed() {
    let host = Host::new();
    let bundle = sample(&host);
    let run = host.succeeds(&bundle, &[]);
    // As by a process that was killed while it laid the revision out.
    let half = run.dir().with_file_name("d-AAAAAAAAA-local/deployment-archive.part");
    fs::create_dir_all(half.join("sub")).unwrap();
    host.succeeds(&bundle, &[]);
    assert!(!half.exists());
}

#[test]
fn c209_markers_name_the_directories_of_deployments() {
    let host = Host::new();
    let marker = |name: &str| {
        let name = format!("default-local-deployment-group_{name}_install");
        read(host.path("root/deployment-instructions").join(name))
    };
    let bundle = sample(&host);
    let one = host.succeeds(&bundle, &[]);
    let both = [marker("most_recent"), marker("last_successful")];
    assert_eq!(both, [(); 2].map(|()| one.dir().display().to_string()));
    let hooks = "hooks:\n  AfterInstall:\n    - location: fail.sh\n";
    let two = host.bundle("two", hooks, &[("fail.sh", "#!/bin/sh\nexit 1\n")]);
    let two = host.fails(&two, &[]);
    assert_eq!(marker("most_recent"), two.dir().display().to_string());
    assert_eq!(marker("last_successful"), one.dir().display().to_string());
}
