//! The program itself: from a directory to a bundle, and what it refuses on the way.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use groundswell_protocol::{
    ids::Digest,
    time::UnixSeconds,
    trust::{Enrolment, Invitation, SecretKey, Signed, Signer, Token, token_key},
};
use groundswell_signer::{fleet, keyfile};
use tempfile::TempDir;

/// A directory with the keys of a fleet and a good revision.
struct Desk(TempDir);

impl Desk {
    fn new() -> Self {
        let desk = Self(tempfile::tempdir().unwrap());
        let voter = format!("a={}", SecretKey::from_seed(&[1; 32]).public_key());
        let keys = desk.path("keys").display().to_string();
        desk.run(&["init", &keys, "--name", "f", "--voter", &voter, "--no-passphrase"]).unwrap();
        fs::create_dir_all(desk.path("app/scripts")).unwrap();
        fs::write(desk.path("app/index.html"), "hello").unwrap();
        fs::write(desk.path("app/scripts/go.sh"), "#!/bin/sh\n").unwrap();
        desk.appspec("hooks:\n  AfterInstall:\n    - location: scripts/go.sh\n");
        desk
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn appspec(&self, body: &str) {
        let text = format!("version: 0.0\nos: linux\n{body}");
        fs::write(self.path("app/appspec.yml"), text).unwrap();
    }

    fn run(&self, arguments: &[&str]) -> Result<String, String> {
        let output =
            Command::new(env!("CARGO_BIN_EXE_swell-sign")).args(arguments).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }

    fn text_of(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// A join token in the file `name`.
    fn token(&self, name: &str) -> Invitation {
        let (keys, out) = (self.text_of("keys"), self.text_of(name));
        let arguments = [
            "token",
            "--keys",
            &keys,
            "--seed",
            "/ip4/192.0.2.1/tcp/7717",
            "--names",
            "web-*",
            "--labels",
            "role=web",
            "--uses",
            "20",
            "--out",
            &out,
        ];
        self.run(&arguments).unwrap();
        Invitation::from_text(&fs::read_to_string(out).unwrap()).unwrap()
    }

    /// Writes what `swell status --json` would print of a group that runs a good release.
    fn fleet_state(&self, last_good: Option<Digest>) -> String {
        let trust = fleet::load_trust(&self.path("keys/fleet.trust")).unwrap();
        let group = serde_json::json!({
            "name": "web", "version": 1, "sequence": 4, "head": Digest([4; 32]),
            "last_good_release": last_good, "way_back": last_good, "hosts": ["a"],
            "settings": SETTINGS,
        });
        let state = serde_json::json!({"version": 1, "id": trust.fleet(), "groups": [group]});
        fs::write(self.path("state.json"), state.to_string()).unwrap();
        self.text_of("state.json")
    }

    fn order(&self, arguments: &[&str]) -> Result<String, String> {
        let (keys, out) = (self.text_of("keys"), self.text_of("order"));
        fs::remove_file(&out).ok();
        let (kind, rest) = arguments.split_first().unwrap();
        let places = ["order", kind, "--keys", &keys, "--group", "web", "--out", &out];
        self.run(&[&places, rest].concat())
    }

    fn release(&self, out: &str) -> Result<String, String> {
        let [keys, app, out] =
            ["keys", "app", out].map(|name| self.path(name).display().to_string());
        self.run(&[
            "release",
            &app,
            "--keys",
            &keys,
            "--application",
            "shop",
            "--label",
            "1",
            "--out",
            &out,
        ])
    }

    fn verify(&self, file: &Path) -> Result<String, String> {
        let trust = self.path("keys/fleet.trust").display().to_string();
        self.run(&["verify", &file.display().to_string(), "--trust", &trust])
    }
}

#[test]
fn what_is_released_verifies_and_every_flipped_byte_is_found() {
    let desk = Desk::new();
    desk.release("a.swell").unwrap();
    let path = desk.path("a.swell");
    assert!(desk.verify(&path).unwrap().contains("good; release"), "it verifies");
    let shown = desk.run(&["inspect", &path.display().to_string()]).unwrap();
    assert!(shown.starts_with("NOT VERIFIED"), "{shown}");
    let lines = ["  application: shop", "  label: 1", "  architecture: any"];
    assert!(lines.iter().all(|line| shown.lines().any(|shown| shown == *line)), "{shown}");
    let signed = shown.lines().find_map(|line| line.strip_prefix("  signed: ")).unwrap();
    assert!(signed.starts_with("20") && signed.ends_with('Z'), "{shown}");
    let bytes = fs::read(&path).unwrap();
    for at in (0..bytes.len()).step_by(bytes.len() / 40) {
        let mut bad = bytes.clone();
        bad[at] ^= 1;
        let bad_path = desk.path("bad.swell");
        fs::write(&bad_path, bad).unwrap();
        assert!(desk.verify(&bad_path).is_err(), "byte {at}");
    }
    fs::write(desk.path("cut.swell"), &bytes[..bytes.len() - 1]).unwrap();
    assert!(desk.verify(&desk.path("cut.swell")).unwrap_err().contains("copy it again"));
}

#[test]
fn a_release_of_another_fleet_is_refused() {
    let (desk, other) = (Desk::new(), Desk::new());
    other.release("a.swell").unwrap();
    let refused = desk.verify(&other.path("a.swell")).unwrap_err();
    assert!(refused.contains("made for another fleet"), "{refused}");
}

#[test]
fn the_same_directory_makes_the_same_revision() {
    let desk = Desk::new();
    let first = desk.release("a.swell").unwrap();
    let second = desk.release("b.swell").unwrap();
    let revision =
        |text: &str| text.lines().find(|line| line.starts_with("revision")).unwrap().to_owned();
    assert_eq!(revision(&first), revision(&second));
}

#[test]
fn bad_appspecs_are_refused_with_their_place() {
    let desk = Desk::new();
    for (body, message) in [
        ("files: 7\n", "appspec.yml:3:8: files: is a number; a list is needed"),
        ("hooks:\n  AfterInstall:\n    - location: gone.sh\n", "'gone.sh' is not in the revision"),
        (
            "hooks:\n  AfterInstall:\n    - location: scripts/go.sh\n      timeout: 0\n",
            "is 1 to 43200 seconds, not 0",
        ),
        ("files:\n  - source: ../etc\n    destination: /x\n", "contains '..'"),
    ] {
        desk.appspec(body);
        let refused = desk.release("bad.swell").unwrap_err();
        assert!(refused.contains(message), "{refused}");
        assert!(!desk.path("bad.swell").exists() && !desk.path("bad.swell.part").exists());
    }
    fs::remove_file(desk.path("app/appspec.yml")).unwrap();
    assert!(desk.release("bad.swell").unwrap_err().contains("has no appspec.yml"));
}

/// What `lint` prints of the revision: warnings, or the refusal.
fn lint(desk: &Desk) -> (bool, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_swell-sign"))
        .args(["lint", &desk.text_of("app")])
        .output()
        .unwrap();
    (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn lint_refuses_what_release_refuses() {
    let desk = Desk::new();
    desk.appspec("hooks:\n  AfterInstall:\n    - location: gone.sh\n");
    let (good, text) = lint(&desk);
    assert!(!good && text.contains("appspec.yml:5:17: hooks.AfterInstall[0].location"), "{text}");
    desk.appspec("files: []\n");
    std::os::unix::fs::symlink("/etc/passwd", desk.path("app/link")).unwrap();
    let (good, text) = lint(&desk);
    assert!(!good && text.contains("'link'"), "{text}");
}

#[test]
fn lint_warns_of_what_works_and_hurts() {
    let desk = Desk::new();
    fs::write(desk.path("app/scripts/go.sh"), "#!/bin/sh\nset -eu\n").unwrap();
    fs::set_permissions(desk.path("app/scripts/go.sh"), fs::Permissions::from_mode(0o755)).unwrap();
    desk.appspec(
        "files: [{source: /, destination: /srv/app}]\npermissions:\n\
         - {object: /srv, pattern: app, mode: 755}\n- {object: /srv/app/index.html, mode: 644}\n\
         hooks: {AfterInstall: [{location: scripts/go.sh, timeout: 60}]}\n",
    );
    assert_eq!(lint(&desk), (true, String::new()));

    fs::write(desk.path("app/scripts/dos.sh"), "#!/bin/bash\r\nset -e\r\n").unwrap();
    fs::write(desk.path("app/scripts/lax"), "systemctl start app\ntrue\n").unwrap();
    desk.appspec(
        "files: [{source: index.html, destination: /srv/app}]\npermissions:\n\
         - {object: /srv/app, pattern: '[ab].txt', mode: 644}\n\
         - {object: /srv/app, type: [directory], mode: 755}\n\
         - {object: /srv/app/index.html, pattern: '*', mode: 644}\n\
         - {object: /srv/app, acls: ['bob:7', 'd:bob:7']}\n\
         - {object: /srv/app, context: {type: etc_t}}\n\
         hooks:\n  ApplicationStop: [{location: scripts/dos.sh}]\n  \
         ApplicationStart: [{location: scripts/lax}, {location: scripts/go.sh}]\n",
    );
    let (good, text) = lint(&desk);
    assert!(good, "{text}");
    for part in [
        "appspec.yml: hooks.ApplicationStop[0].location: scripts/dos.sh has lines that end in CR LF: its",
        "scripts/dos.sh is not executable",
        "hooks.ApplicationStop does not run in the first deployment",
        "scripts/lax does not begin with #!",
        "scripts/lax goes on after a command that fails",
        "hooks.ApplicationStart: the timeouts add up to 7200 s",
        "permissions[0]: nothing that is installed matches '[ab].txt' in /srv/app",
        "permissions[1]: nothing that is installed matches '**'",
        "permissions[2]: /srv/app/index.html is a file",
        "permissions[3]: hosts refuse default ACL entries for the files in /srv/app",
        "permissions[4]: hosts that do not run SELinux refuse the context",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert_eq!(text.lines().count(), 12, "{text}");
}

#[test]
fn lint_warns_of_what_a_host_will_not_do() {
    let desk = Desk::new();
    fs::create_dir_all(desk.path("app/web/css")).unwrap();
    fs::write(desk.path("app/web/index.html"), "").unwrap();
    fs::create_dir(desk.path("app/shared")).unwrap();
    for (target, at) in [
        ("index.html", "app/web/good"),
        ("css", "app/web/also"),
        ("also/deep", "app/web/through"),
        ("../shared", "app/web/bad"),
    ] {
        std::os::unix::fs::symlink(target, desk.path(at)).unwrap();
    }
    fs::create_dir(desk.path("app/web/css/deep")).unwrap();
    desk.appspec(
        "files:\n- {source: web, destination: /srv/app}\n- {source: index.html, destination: /srv/app}\n\
         - {source: index.html, destination: /srv/app/index.html}\n\
         hooks: {BeforeBlockTraffic: [{location: scripts/go.sh, timeout: 60}]}\n",
    );
    fs::write(desk.path("app/scripts/go.sh"), "#!/bin/sh\nset -eu\n").unwrap();
    fs::set_permissions(desk.path("app/scripts/go.sh"), fs::Permissions::from_mode(0o755)).unwrap();
    let (good, text) = lint(&desk);
    assert!(good, "{text}");
    for part in [
        "hooks.BeforeBlockTraffic runs in no deployment of a fleet",
        "files: hosts refuse that two files would become /srv/app/index.html",
        "files: hosts refuse that /srv/app/index.html would be file and directory",
        "files: web/bad would be a link to nothing at /srv/app/bad: /srv/shared is not installed",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert_eq!(text.lines().count(), 4, "{text}");
}

#[test]
fn links_that_leave_the_tree_are_refused() {
    for target in ["/etc/passwd", "../../etc/passwd"] {
        let desk = Desk::new();
        std::os::unix::fs::symlink(target, desk.path("app/link")).unwrap();
        let refused = desk.release("bad.swell").unwrap_err();
        assert!(refused.contains("'link'"), "{refused}");
    }
}

#[test]
fn nothing_that_exists_is_overwritten() {
    let desk = Desk::new();
    desk.release("a.swell").unwrap();
    let refused = desk.release("a.swell").unwrap_err();
    assert!(refused.contains("is not overwritten"), "{refused}");
}

#[test]
fn what_init_refuses_is_said_before_anything_is_asked_or_written() {
    let desk = Desk::new();
    let keys = desk.text_of("other");
    let voter = |name: &str| format!("{name}={}", SecretKey::from_seed(&[1; 32]).public_key());
    let [a, b] = ["a", "b"].map(voter);
    // No terminal and no passphrase: the voters are judged first.
    let both = ["init", &keys, "--name", "f", "--voter", &a, "--voter", &b];
    let refused = desk.run(&both).unwrap_err();
    assert!(refused.contains("error: the voters a and b have the same key"), "{refused}");
    assert!(refused.contains("\nswell-sign: hint: each host has its own"), "{refused}");
    assert!(!desk.path("other").exists(), "nothing was written");
    let one = ["init", &keys, "--name", "f", "--voter", &a, "--no-passphrase"];
    desk.run(&one).unwrap();
}

#[test]
fn a_token_is_good_only_if_the_fleet_signed_it_and_says_what_it_allows() {
    let desk = Desk::new();
    let good = desk.token("good.token");
    let said = desk.verify(&desk.path("good.token")).unwrap();
    for line in [
        "names   web-*",
        "labels  role=web",
        "zone    none",
        "hosts   20",
        "join    until 2",
        "member  until 2",
        "seed    /ip4/192.0.2.1/tcp/7717",
    ] {
        assert!(said.lines().any(|said| said.starts_with(line)), "{line}: {said}");
    }

    let refused = |invitation: &Invitation| {
        fs::write(desk.path("bad.token"), invitation.to_text()).unwrap();
        desk.verify(&desk.path("bad.token")).unwrap_err()
    };
    let trust = fleet::load_trust(&desk.path("keys/fleet.trust")).unwrap();
    let key = |role, name: &str| {
        keyfile::load(&desk.path("keys").join(name), role, &keyfile::Passphrase::None).unwrap()
    };
    let with = |signer: &SecretKey, secret: [u8; 32], not_after: u64| {
        let token = Token {
            key: token_key(&[7; 32]),
            uses: None,
            zone: None,
            labels: "role=db".parse().unwrap(),
            not_after: UnixSeconds(not_after),
            name_pattern: "*".into(),
            member_seconds: 60,
        };
        let token = Signed::new(&token, trust.fleet(), &[signer]).unwrap();
        Invitation { enrolment: Enrolment::Token { seed: secret, token }, ..good.clone() }
    };
    let enrolment = key(keyfile::KeyRole::Enrolment, "enrolment.key");
    let operator = key(keyfile::KeyRole::Operator, "operator.key");
    let later = 1 << 40;
    let forged = refused(&with(&operator, [7; 32], later));
    assert!(forged.contains("the join token is signed by 0 of the 1 keys it needs"), "{forged}");
    let swapped = refused(&with(&enrolment, [8; 32], later));
    assert!(swapped.contains("its secret is not that of its join token"), "{swapped}");
    let expired = refused(&with(&enrolment, [7; 32], 0));
    assert!(expired.contains("it let hosts join until 1970-01-01"), "{expired}");
    let foreign = refused(&Desk::new().token("t"));
    assert!(foreign.contains("is for fleet"), "{foreign}");
}

#[test]
fn an_approved_host_is_verified_with_its_signature() {
    let desk = Desk::new();
    let (keys, out) = (desk.text_of("keys"), desk.text_of("host"));
    let host = SecretKey::from_seed(&[9; 32]).public_key().to_string();
    let approve = |valid: &str| {
        fs::remove_file(&out).ok();
        let seed = "/ip4/192.0.2.1/tcp/7717";
        let rest = ["--seed", seed, "--member-valid", valid, "--out", &out];
        desk.run(&[&["host", "--keys", &keys, &host, "web-1"], &rest[..]].concat()).unwrap();
        desk.verify(Path::new(&out))
    };
    let said = approve("1h").unwrap();
    assert!(said.contains("good; host web-1") && said.contains(&host), "{said}");
    let mut old = Invitation::from_text(&fs::read_to_string(&out).unwrap()).unwrap();
    let other = Desk::new();
    let foreign = other.token("t");
    old.enrolment = foreign.enrolment;
    fs::write(&out, old.to_text()).unwrap();
    assert!(desk.verify(Path::new(&out)).is_err(), "a token of another fleet in this one's dress");
}

#[test]
fn an_order_names_the_command_that_takes_it_and_where_the_group_goes_back_to() {
    let desk = Desk::new();
    let [old, new, other] = [1, 2, 3].map(|byte| Digest([byte; 32]).to_string());
    let state = desk.fleet_state(Some(Digest([1; 32])));
    let said = desk.order(&["stop", "--fleet-state", &state, "--order", &old]).unwrap();
    assert!(said.contains("swell stop --order"), "{said}");
    let deploy = ["deploy", "--fleet-state", &state, "--release", &new];
    let with = |more: &[&str]| desk.order(&[&deploy, more].concat()).unwrap();
    assert!(with(&[]).contains(&format!("back to release {old}")));
    assert!(with(&["--fallback", &other]).contains(&format!("back to release {other}")));
    assert!(with(&["--no-rollback"]).contains("hosts stay as they are"));
    assert!(with(&[]).contains("swell deploy --order"));
    // Another floor is another floor, and the hosts go in the same order.
    with(&["--configuration", "HalfAtATime"]);
    let shown = desk.run(&["inspect", &desk.text_of("order")]).unwrap();
    for line in ["minimum healthy: HalfAtATime", "wave: tier=back", "deployment deadline: 7200 s"] {
        assert!(shown.contains(&format!("  {line}\n")), "{line}: {shown}");
    }
    with(&["--canary", "2", "--bake", "60"]);
    let shown = desk.run(&["inspect", &desk.text_of("order")]).unwrap();
    assert!(shown.contains("canary: 2"), "{shown}");
    // The state of another fleet would give the order a wrong place.
    let other = Desk::new();
    fs::copy(other.fleet_state(None), &state).unwrap();
    let refused = desk.order(&deploy).unwrap_err();
    assert!(refused.contains("it is the state of another fleet"), "{refused}");
    assert!(refused.contains("hint: write it with `swell status --json`"), "{refused}");
}

#[test]
fn everything_that_is_signed_is_shown_in_words() {
    let desk = Desk::new();
    let inspect = |file: &str| {
        let shown = desk.run(&["inspect", &desk.text_of(file)]).unwrap();
        assert!(!shown.contains('{') && !shown.contains("Some("), "{shown}");
        shown
    };
    desk.token("t");
    let shown = inspect("t");
    for line in ["  names: web-*", "  hosts: 20", "  seed: /ip4/192.0.2.1/tcp/7717"] {
        assert!(shown.lines().any(|shown| shown == line), "{line}: {shown}");
    }
    let shown = inspect("keys/fleet.trust");
    assert!(shown.contains("  fleet: f\n") && shown.contains("  voter: a "), "{shown}");
    let state = desk.fleet_state(None);
    let release = Digest([1; 32]).to_string();
    let deploy = ["deploy", "--fleet-state", &state, "--release", &release];
    desk.order(&[&deploy[..], &["--file-exists-behavior", "retain"]].concat()).unwrap();
    let shown = inspect("order");
    for line in ["  action: Deploy", "  sequence: 5", "  files in the way: RETAIN"] {
        assert!(shown.lines().any(|shown| shown == line), "{line}: {shown}");
    }
    let refused = desk.order(&[&deploy[..], &["--file-exists-behavior", "keep"]].concat());
    assert!(refused.unwrap_err().contains("is not DISALLOW, OVERWRITE or RETAIN"));
}

#[test]
fn a_group_is_signed_from_its_file_and_follows_the_fleets_version() {
    let desk = Desk::new();
    let [keys, toml, out] = ["keys", "web.toml", "web.group"].map(|name| desk.text_of(name));
    let state = desk.fleet_state(None);
    let sign = |more: &[&str]| {
        fs::remove_file(&out).ok();
        desk.run(&[&["group", &toml, "--keys", &keys, "--out", &out], more].concat())
    };
    let text = "name = \"web\"\napplication = \"shop\"\nconfiguration = \"OneAtATime\"\n";
    fs::write(&toml, text).unwrap();
    let said = sign(&["--fleet-state", &state]).unwrap();
    assert!(said.contains("group web version 2") && said.contains("swell group apply"), "{said}");
    assert!(desk.verify(Path::new(&out)).unwrap().contains("group web version 2"));
    let shown = desk.run(&["inspect", &out]).unwrap();
    assert!(shown.contains("  minimum healthy: OneAtATime\n"), "{shown}");
    assert!(sign(&["--version", "1"]).unwrap().contains("group web version 1"));
    assert!(sign(&[]).unwrap_err().contains("--fleet-state"), "one of the two is needed");
    fs::write(&toml, text.to_owned() + "hosts = 3\n").unwrap();
    let refused = sign(&["--version", "1"]).unwrap_err();
    assert!(refused.contains("web.toml:4: unknown field `hosts`"), "{refused}");
    assert!(refused.contains("hint: a group's file has"), "{refused}");
}

#[test]
fn slips_are_told_for_what_they_are() {
    let desk = Desk::new();
    let state = desk.fleet_state(None);
    let label = desk.order(&["deploy", "--fleet-state", &state, "--release", "1.4.2"]).unwrap_err();
    assert!(label.contains("'1.4.2' is neither the id of a release nor a file"), "{label}");
    assert!(label.contains("a label such as 1.4.2 is not enough"), "{label}");
    let [keys, out, phrase] = ["sealed", "t2", "phrase"].map(|name| desk.text_of(name));
    let voter = format!("a={}", SecretKey::from_seed(&[1; 32]).public_key());
    fs::write(&phrase, "open\n").unwrap();
    let init = ["init", &keys, "--name", "f", "--voter", &voter, "--passphrase-file", &phrase];
    desk.run(&init).unwrap();
    let token = |phrase: &str, seed: &str| {
        let place = ["token", "--keys", &keys, "--out", &out, "--passphrase-file", phrase];
        desk.run(&[&place[..], &["--seed", seed]].concat())
    };
    let gone = token(&desk.text_of("gone"), "h1.example:7717").unwrap_err();
    assert!(gone.contains("cannot read the passphrase file") && gone.contains("/gone: "), "{gone}");
    assert!(gone.contains("hint: --passphrase-file names a file"), "{gone}");
    let nowhere = token(&phrase, "h1.example").unwrap_err();
    assert!(nowhere.contains("'h1.example' is not an address or name with a port"), "{nowhere}");
    token(&phrase, "h1.example:7717").unwrap();
    let shown = desk.run(&["inspect", &out]).unwrap();
    assert!(shown.contains("  seed: /dns/h1.example/tcp/7717"), "{shown}");
}

#[test]
fn only_the_start_of_a_long_bundle_is_read_to_show_it() {
    let desk = Desk::new();
    desk.release("a.swell").unwrap();
    let path = desk.path("a.swell");
    // A terabyte, with a hole in it: reading it whole would take longer than any test.
    fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(1 << 40).unwrap();
    let shown = desk.run(&["inspect", &path.display().to_string()]).unwrap();
    assert!(shown.contains("a bundle with") && shown.contains("application: shop"), "{shown}");
}

/// What `swell group show --toml` prints of the group.
const SETTINGS: &str = "name = \"web\"\napplication = \"shop\"\n[configuration]\n\
    minimum_healthy = \"OneAtATime\"\ndeployment_deadline_seconds = 7200\n\
    waves = [{ tier = \"back\" }]\n";
