//! Bad input of every kind against real processes: each gets a clear error, and nothing is changed.

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    os::unix::{
        fs::{MetadataExt, PermissionsExt, chown, symlink},
        process::CommandExt,
    },
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use groundswell_daemon::{
    control::api,
    scratch::{Fleet, Programs, Shop},
};
use groundswell_protocol::{
    ids::{ApplicationName, ReleaseLabel},
    revision::{AppSpec, Entry, EntryKind, Manifest, Publisher, bundle_header},
    time::UnixSeconds,
    trust::{Release, Signed},
};
use groundswell_signer::keyfile::{self, KeyRole, Passphrase};

static ONE_FLEET: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

const PATIENCE: Duration = Duration::from_secs(90);

fn programs() -> Programs {
    Programs::in_dir(Path::new(env!("CARGO_BIN_EXE_swelld")).parent().unwrap())
}

async fn running(dir: &Path, hosts: usize) -> Fleet {
    let mut fleet = Fleet::new(dir, hosts, programs()).unwrap();
    fleet.start().unwrap();
    fleet.wait_complete(PATIENCE).await.unwrap();
    fleet.apply_group("OneAtATime", 0).unwrap();
    fleet
}

fn shop(fleet: &Fleet, version: &str) -> String {
    let dir = fleet.dir().join(format!("shop-{version}"));
    Shop::new(version).write(&dir).unwrap();
    fleet.sign(&dir, version).unwrap().display().to_string()
}

/// Runs `swell` and returns its exit code and what it says.
fn refused(fleet: &Fleet, arguments: &[&str]) -> (i32, String) {
    let output = fleet.swell_command(0, arguments).stdin(Stdio::null()).output().unwrap();
    assert!(!output.status.success(), "{arguments:?} was not refused");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code().unwrap(), text)
}

#[tokio::test]
async fn what_is_not_good_changes_nothing() {
    let _one = ONE_FLEET.lock().await;
    let dir = tempfile::tempdir().unwrap();
    let fleet = running(dir.path(), 3).await;
    let key = fleet.operator_key();
    let good = shop(&fleet, "1.0.0");

    // One bit of the last frame.
    let mut bytes = fs::read(&good).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    let flipped = format!("{good}.flipped");
    fs::write(&flipped, &bytes).unwrap();
    let (code, text) = refused(&fleet, &["push", &flipped]);
    assert!(code == 1 && text.contains("the file was damaged or altered; copy it again"), "{text}");
    // Cut short.
    fs::write(&flipped, &bytes[..last]).unwrap();
    let (_, text) = refused(&fleet, &["push", &flipped]);
    assert!(text.contains("1 bytes are missing; copy it again"), "{text}");
    // Something else.
    let (_, text) = refused(&fleet, &["push", &key]);
    assert!(text.contains("is not a bundle"), "{text}");
    let (_, text) = refused(&fleet, &["push", "/no/such/file"]);
    assert!(text.contains("No such file"), "{text}");

    // Signed by the operator's key in place of the release key, and for another fleet.
    let other_dir = dir.path().join("other");
    let other = Fleet::new(&other_dir, 3, programs()).unwrap();
    other.found().unwrap();
    let foreign = shop(&other, "1.0.0");
    let (_, text) = refused(&fleet, &["push", &foreign]);
    assert!(text.contains("made for another fleet, by a key without this role"), "{text}");
    let wrong_role = dir.path().join("wrong-role");
    fs::create_dir(&wrong_role).unwrap();
    fs::copy(fleet.keys().join("fleet.trust"), wrong_role.join("fleet.trust")).unwrap();
    let operator = fs::read_to_string(fleet.keys().join("operator.key")).unwrap();
    let forged = operator.replace("\"operator\"", "\"release\"");
    fs::write(wrong_role.join("release.key"), forged).unwrap();
    let private = fs::Permissions::from_mode(0o600);
    fs::set_permissions(wrong_role.join("release.key"), private).unwrap();
    let (app, keys) = (fleet.dir().join("shop-1.0.0"), wrong_role.display().to_string());
    let out = wrong_role.join("x.swell").display().to_string();
    let arguments = [
        "release",
        &app.display().to_string(),
        "--keys",
        &keys,
        "--application",
        "shop",
        "--label",
        "1.0.0",
        "--out",
        &out,
    ];
    fleet.run(&fleet.programs().swell_sign, &arguments).unwrap();
    let (_, text) = refused(&fleet, &["push", &out]);
    assert!(text.contains("is signed by 0 of the 1 keys it needs"), "{text}");

    let seen = fleet.client(0).fleet().await.unwrap();
    assert!(seen.releases.is_empty(), "nothing was released: {:?}", seen.releases);
    for name in ["manifests", "temporary"] {
        let left = fs::read_dir(fleet.hosts()[0].dir().join("state/store").join(name)).unwrap();
        assert_eq!(left.count(), 0, "nothing is left in {name}");
    }
    let frames = fs::read_dir(fleet.hosts()[0].dir().join("state/store/frames")).unwrap();
    let left: usize = frames.flatten().map(|dir| fs::read_dir(dir.path()).unwrap().count()).sum();
    assert_eq!(left, 0, "no frame is left");

    // Unknown names.
    fleet.swell(0, &["push", &good]).unwrap();
    let (code, text) = refused(&fleet, &["deploy", "nowhere", "1.0.0", "--key", &key]);
    assert!(code == 1 && text.contains("there is no deployment group nowhere"), "{text}");
    assert!(text.contains("known are: web"), "{text}");
    let (_, text) = refused(&fleet, &["deploy", "web", "9.9.9", "--key", &key]);
    assert!(text.contains("shop has no release 9.9.9") && text.contains("1.0.0"), "{text}");
    let (_, text) = refused(&fleet, &["show", "d-AAAAAAAAA"]);
    assert!(text.contains("there is no deployment d-AAAAAAAAA"), "{text}");
    let (_, text) = refused(&fleet, &["show", "../../etc"]);
    assert!(text.contains("d- and nine capital letters or digits"), "{text}");
    let (_, text) = refused(&fleet, &["stop", "--key", &key]);
    assert!(text.contains("no deployment is running"), "{text}");

    // A group's file.
    let group = dir.path().join("group.toml");
    for (text, message) in [
        ("name = \"db\"\nhosts = 3\n", "group.toml:2: unknown field `hosts`"),
        (
            "name = \"db\"\napplication = \"a\"\nconfiguration = \"Slowly\"\n",
            "group.toml:3: configuration: deployment configuration 'Slowly' is not valid",
        ),
    ] {
        fs::write(&group, text).unwrap();
        let (_, said) = refused(&fleet, &["group", "apply", &group.display().to_string()]);
        assert!(said.contains(message), "{said}");
    }
    fs::write(&group, "name = \"db\"\napplication = \"a\"\nconfiguration = \"count:3\"\n").unwrap();
    let path = group.display().to_string();
    fleet.swell(0, &["group", "apply", &path, "--key", &key]).unwrap();
    // The settings in force are a file that changes nothing.
    let settings = fleet.swell(0, &["group", "show", "db", "--toml"]).unwrap();
    assert!(settings.contains("configuration = \"count:3\"\n"), "{settings}");
    fs::write(&group, &settings).unwrap();
    let said = fleet.swell(0, &["group", "apply", &path, "--key", &key]).unwrap();
    assert!(said.contains("group db is unchanged, at version 1"), "{said}");
    let shown = fleet.swell(0, &["group", "show", "db"]).unwrap();
    assert!(shown.contains("  version: 1\n  application: a\n"), "{shown}");
    let json = fleet.swell(0, &["group", "show", "db", "--json"]).unwrap();
    let read: api::Group = serde_json::from_str(&json).unwrap();
    assert_eq!(read.settings.as_deref().map(str::trim_end), Some(settings.trim_end()));
    let listed = fleet.swell(0, &["group", "list"]).unwrap();
    assert!(listed.contains("db     a ") && listed.contains("web    shop "), "{listed}");
    let (_, text) = refused(&fleet, &["group", "show", "nowhere"]);
    assert!(text.contains("there is no deployment group nowhere"), "{text}");
    // The wrong key for the job, where there is one.
    fs::write(&group, "name = \"db\"\napplication = \"a\"\nconfiguration = \"count:2\"\n").unwrap();
    let release_key = fleet.keys().join("release.key").display().to_string();
    let (_, text) = refused(&fleet, &["group", "apply", &path, "--key", &release_key]);
    assert!(text.contains("is the release key where the operator key is needed"), "{text}");
    // A label that is taken by other content.
    fs::write(fleet.dir().join("shop-1.0.0/shop/extra"), "more").unwrap();
    fs::remove_file(&good).unwrap();
    let other = fleet.sign(&fleet.dir().join("shop-1.0.0"), "1.0.0").unwrap();
    let (_, text) = refused(&fleet, &["push", &other.display().to_string()]);
    assert!(text.contains("choose another label"), "{text}");
    fleet.wait_complete(PATIENCE).await.unwrap();
}

/// A bundle that is signed well and whose manifest was written by another hand.
fn reaching_bundle(fleet: &Fleet, change: impl Fn(&mut Manifest)) -> Vec<u8> {
    let mut publisher = Publisher::new(AppSpec::default()).unwrap();
    let mut frames = Vec::new();
    publisher.begin_file("a", 0o644, UnixSeconds(1)).unwrap();
    frames.extend(publisher.write(b"reach").unwrap());
    frames.extend(publisher.end_file().unwrap());
    let mut published = publisher.finish().unwrap();
    frames.append(&mut published.frames);
    change(&mut published.manifest);
    let manifest = published.manifest.to_bytes();
    let release = Release {
        label: ReleaseLabel::new("1.0.0").unwrap(),
        parent: None,
        manifest: Manifest::id_of(&manifest),
        created_at: UnixSeconds(1),
        application: ApplicationName::new("shop").unwrap(),
        architecture: None,
        environments: Vec::new(),
        content_bytes: published.manifest.total_bytes(),
        manifest_bytes: u64::try_from(manifest.len()).unwrap(),
    };
    let trust = groundswell_signer::fleet::load_trust(&fleet.keys().join("fleet.trust")).unwrap();
    let path = fleet.keys().join("release.key");
    let key = keyfile::load(&path, KeyRole::Release, &Passphrase::None).unwrap();
    let signed = Signed::new(&release, trust.fleet(), &[&key]).unwrap();
    let mut bundle = bundle_header(&signed, &manifest);
    frames.iter().for_each(|(_, bytes)| bundle.extend_from_slice(bytes));
    bundle
}

#[tokio::test]
async fn a_signed_bundle_that_reaches_out_of_its_tree_is_refused() {
    let _one = ONE_FLEET.lock().await;
    let dir = tempfile::tempdir().unwrap();
    let fleet = running(dir.path(), 3).await;
    let file = dir.path().join("reaching.swell");
    let push = |change: &dyn Fn(&mut Manifest)| {
        fs::write(&file, reaching_bundle(&fleet, change)).unwrap();
        refused(&fleet, &["push", &file.display().to_string()])
    };
    let link = |target: &str| Entry {
        kind: EntryKind::Symlink { target: target.into() },
        path: "z".into(),
    };
    type Change<'a> = &'a dyn Fn(&mut Manifest);
    let changes: [(Change<'_>, &str); 4] = [
        (&|m| m.entries[0].path = "../a".into(), "'../a'"),
        (&|m| m.entries[0].path = "/etc/passwd".into(), "'/etc/passwd'"),
        (&|m| m.entries.push(link("/etc")), "'z'"),
        (&|m| m.entries.push(link("../x")), "'z'"),
    ];
    for (change, message) in changes {
        let (code, text) = push(change);
        assert!(code == 1 && text.contains(message), "{text}");
    }
    let seen = fleet.client(0).fleet().await.unwrap();
    assert!(seen.releases.is_empty(), "{:?}", seen.releases);
    // The same hand without the change is believed: it was the path that was refused.
    fs::write(&file, reaching_bundle(&fleet, |_| {})).unwrap();
    fleet.swell(0, &["push", &file.display().to_string()]).unwrap();
}

#[tokio::test]
async fn a_token_for_one_host_lets_one_host_in() {
    let _one = ONE_FLEET.lock().await;
    let dir = tempfile::tempdir().unwrap();
    let mut fleet = Fleet::new(dir.path(), 5, programs()).unwrap();
    fleet.found().unwrap();
    for index in 0..3 {
        fleet.join(index, "token").unwrap();
    }
    fleet.token("one", "web-*", "role=web", 1).unwrap();
    for index in 3..5 {
        fleet.join(index, "one").unwrap();
    }
    // A name that the token does not allow never leaves the host.
    let (token, settings) = (
        dir.path().join("one").display().to_string(),
        fleet.hosts()[4].settings("swelld.toml").display().to_string(),
    );
    let arguments = ["join", &token, "--name", "db-1", "--config", &settings];
    let refused = fleet.run(&fleet.programs().swell, &arguments).unwrap_err().to_string();
    assert!(refused.contains("it is for names like 'web-*', not db-1"), "{refused}");
    for index in 0..4 {
        fleet.start_executor(index).unwrap();
        fleet.start_daemon(index).unwrap();
    }
    fleet.wait_for(3, "the first one is in", PATIENCE, |fleet| fleet.joined).await.unwrap();
    fleet.start_executor(4).unwrap();
    fleet.start_daemon(4).unwrap();
    let seen = fleet
        .wait_for(4, "the second one is told why not", PATIENCE, |fleet| {
            let why = fleet.turned_away.as_deref().unwrap_or_default();
            why.contains("has been used 1 times")
        })
        .await
        .unwrap();
    assert!(!seen.joined && seen.hosts.is_empty(), "it learns nothing of the fleet: {seen:?}");
    let said = fleet.swell(4, &["status"]).unwrap();
    assert!(said.contains("this host has not joined: this join token has been used"), "{said}");
    let others = fleet.client(0).fleet().await.unwrap();
    assert_eq!(others.hosts.len(), 4);
}

#[tokio::test]
async fn garbage_on_the_port_hurts_nobody() {
    let _one = ONE_FLEET.lock().await;
    let dir = tempfile::tempdir().unwrap();
    let fleet = running(dir.path(), 3).await;
    let address = fleet.hosts()[0].address();
    let port = address.rsplit('/').next().unwrap();
    let mut noise = vec![0; 200_000];
    blake3::Hasher::new().finalize_xof().fill(&mut noise);
    for garbage in [
        &noise[..],
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x13/multistream/1.0.0\n\x19/groundswell/admission/1\n\xff\xff\xff\xff\xff\xff",
        b"",
    ] {
        let mut stream = TcpStream::connect(format!("127.0.0.1:{port}")).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        // The other side may hang up in the middle, and must hang up in the end.
        stream.write_all(garbage).ok();
        stream.shutdown(std::net::Shutdown::Write).ok();
        let mut answer = Vec::new();
        match stream.read_to_end(&mut answer) {
            Ok(_) => {}
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
        }
    }
    fleet.wait_complete(PATIENCE).await.unwrap();
}

/// A process that ends with the test, however that ends.
struct Ended(std::process::Child);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[tokio::test]
async fn a_full_disk_is_named_and_nothing_is_kept() {
    let _one = ONE_FLEET.lock().await;
    let dir = tempfile::tempdir().unwrap();
    let mut fleet = Fleet::new(dir.path(), 3, programs()).unwrap();
    fleet.start().unwrap();
    fleet.wait_complete(PATIENCE).await.unwrap();
    fleet.kill_daemon(2);
    // The same daemon, with a small file system of its own where the store is.
    let store = fleet.hosts()[2].dir().join("state/store");
    let settings = fleet.hosts()[2].settings("swelld.toml");
    let script = format!(
        "mount -t tmpfs -o size=2m none '{}' && exec '{}' --config '{}'",
        store.display(),
        fleet.programs().swelld.display(),
        settings.display()
    );
    let mut unshare = Command::new("unshare");
    unshare.args(if nix::unistd::geteuid().is_root() { &["-m"][..] } else { &["-r", "-m"] });
    let daemon = unshare.args(["sh", "-c", &script]).stderr(Stdio::null()).spawn().unwrap();
    let _daemon = Ended(daemon);
    fleet.wait_for(2, "it is back", PATIENCE, |fleet| fleet.joined).await.unwrap();
    let app = dir.path().join("shop-big");
    Shop { data_bytes: 8_000_000, ..Shop::new("big") }.write(&app).unwrap();
    let big = fleet.sign(&app, "big").unwrap().display().to_string();
    let output = fleet.swell_command(2, &["push", &big]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(text.contains("no space left for") && text.contains("free some space"), "{text}");
    let seen = fleet.client(2).fleet().await.unwrap();
    assert!(seen.releases.is_empty());
    // What was there of it is gone: a small one fits.
    let small = shop(&fleet, "small");
    fleet.swell(2, &["push", &small]).unwrap();
}

#[test]
fn without_a_daemon_the_command_says_so_and_how_to_start_it() {
    let output = Command::new(env!("CARGO_BIN_EXE_swell"))
        .args(["--socket", "/no/such/control.sock", "status"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(3));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("no swelld answers at /no/such/control.sock"), "{text}");
    assert!(text.contains("hint: start it with `systemctl start swelld`"), "{text}");
}

/// Runs `swelld` on settings; its exit code and what it says.
fn swelld(settings: &Path) -> (Option<i32>, String) {
    let output =
        Command::new(env!("CARGO_BIN_EXE_swelld")).arg("--config").arg(settings).output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn bad_settings_end_the_daemon_with_64_before_anything_is_opened() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("swelld.toml");
    let socket = dir.path().join("control.sock");
    let text = format!("control_socket = \"{}\"\nlisten = [\"0.0.0.0:7717\"]\n", socket.display());
    fs::write(&path, text).unwrap();
    let (code, said) = swelld(&path);
    assert_eq!(code, Some(64), "{said}");
    assert!(said.contains("swelld.toml:2:11: listen: '0.0.0.0:7717' is not an address"), "{said}");
    assert!(!socket.exists(), "nothing was opened");
    let text = format!("control_socket = \"{}\"\ncontrol_group = \"no-such\"\n", socket.display());
    fs::write(&path, text).unwrap();
    let (code, said) = swelld(&path);
    assert_eq!(code, Some(64), "{said}");
    assert!(said.contains("swelld.toml:2:17: control_group: 'no-such' is no group"), "{said}");
    assert!(!socket.exists(), "nothing was opened");
}

#[test]
fn what_watches_ends_when_nobody_reads() {
    // Without a daemon it says so twice a second, until one is there.
    let mut watch = Command::new(env!("CARGO_BIN_EXE_swell"))
        .args(["--socket", "/no/such/control.sock", "status", "--watch"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = [0; 17];
    watch.stdout.take().unwrap().read_exact(&mut first).unwrap();
    assert_eq!(&first, b"no swelld answers");
    let until = Instant::now() + Duration::from_secs(20);
    let ended = loop {
        match watch.try_wait().unwrap() {
            None if Instant::now() < until => std::thread::sleep(Duration::from_millis(50)),
            ended => break ended,
        }
    };
    watch.kill().ok();
    assert_eq!(ended.and_then(|ended| ended.code()), Some(0), "it ends, and well");
}

#[test]
fn root_is_led_nowhere_by_links_in_the_daemons_directory() {
    let dir = tempfile::tempdir().unwrap();
    let fleet = Fleet::new(dir.path(), 1, programs()).unwrap();
    let (state, victim) = (fleet.hosts()[0].dir().join("state"), dir.path().join("victim"));
    fs::create_dir(&state).unwrap();
    fs::write(&victim, "root's own").unwrap();
    symlink(&victim, state.join("x")).unwrap();
    symlink(&victim, state.join(".fleet.trust.new")).unwrap();
    let root = nix::unistd::geteuid().is_root();
    let owner = if root { 65_534 } else { nix::unistd::geteuid().as_raw() };
    chown(&state, Some(owner), None).unwrap();
    fleet.found().unwrap();
    fleet.join(0, "token").unwrap();
    assert_eq!(fs::read_to_string(&victim).unwrap(), "root's own");
    let of_victim = fs::metadata(&victim).unwrap();
    assert_eq!(of_victim.uid(), nix::unistd::geteuid().as_raw());
    for name in ["host.key", "fleet.trust", "member.cert", "seeds"] {
        assert_eq!(fs::symlink_metadata(state.join(name)).unwrap().uid(), owner, "{name}");
    }
}

#[test]
fn a_host_that_has_not_joined_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let fleet = Fleet::new(dir.path(), 1, programs()).unwrap();
    let (code, said) = swelld(&fleet.hosts()[0].settings("swelld.toml"));
    assert_eq!(code, Some(4), "{said}");
    assert!(
        said.contains("this host has not joined a fleet") && said.contains("swell join"),
        "{said}"
    );
}

#[test]
fn a_port_in_use_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let fleet = Fleet::new(dir.path(), 1, programs()).unwrap();
    fleet.found().unwrap();
    fleet.join(0, "token").unwrap();
    let address = fleet.hosts()[0].address();
    let port = address.rsplit('/').next().unwrap();
    let _taken = std::net::TcpListener::bind(format!("127.0.0.1:{port}")).unwrap();
    let (code, said) = swelld(&fleet.hosts()[0].settings("swelld.toml"));
    assert_eq!(code, Some(69), "{said}");
    assert!(said.contains(&format!("cannot listen on {address}")), "{said}");
}

/// Copies `swell` to where anybody may run it, and makes it run as somebody without rights.
fn as_nobody(dir: &Path) -> Command {
    let program = dir.join("swell");
    fs::copy(env!("CARGO_BIN_EXE_swell"), &program).unwrap();
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = Command::new(program);
    if nix::unistd::geteuid().is_root() {
        command.uid(65_534).gid(65_534);
    }
    command
}

#[test]
fn who_forgot_sudo_is_told_so() {
    let (open, locked) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let settings = open.path().join("swelld.toml");
    let state = locked.path().join("state").display().to_string();
    fs::write(&settings, format!("state_dir = \"{state}\"\n")).unwrap();
    fs::set_permissions(locked.path(), fs::Permissions::from_mode(0o000)).unwrap();
    let settings = settings.display().to_string();
    let token = locked.path().join("token").display().to_string();
    for arguments in
        [&["identity", "--config", &settings][..], &["join", &token, "--config", &settings]]
    {
        let output = as_nobody(open.path()).args(arguments).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains("Permission denied"), "{said}");
        assert!(said.contains("hint: run it as root, with sudo"), "{said}");
    }
}

#[test]
fn the_name_in_a_certificate_counts() {
    let dir = tempfile::tempdir().unwrap();
    let fleet = Fleet::new(dir.path(), 1, programs()).unwrap();
    fleet.found().unwrap();
    let [settings, executor] =
        [fleet.hosts()[0].settings("swelld.toml"), fleet.hosts()[0].dir().join("exec")];
    let (settings, executor) = (settings.display().to_string(), executor.display().to_string());
    let [keys, file] = ["keys", "approved"].map(|name| dir.path().join(name).display().to_string());
    let key = fleet.run(&fleet.programs().swell, &["identity", "--config", &settings]).unwrap();
    let arguments =
        ["host", "--keys", &keys, key.trim(), "web-1", "--seed", "h1:7717", "--out", &file];
    fleet.run(&fleet.programs().swell_sign, &arguments).unwrap();
    let join = |name: &str| {
        let place = ["--config", &settings, "--executor-state", &executor];
        fleet.run(&fleet.programs().swell, &[&["join", &file, "--name", name], &place[..]].concat())
    };
    let refused = join("web-7").unwrap_err().to_string();
    assert!(refused.contains("approves this host as web-1, not as web-7: its name"), "{refused}");
    assert!(refused.contains("hint: leave --name out"), "{refused}");
    join("web-1").unwrap();
}

#[test]
fn what_is_no_token_is_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let fleet = Fleet::new(dir.path(), 1, programs()).unwrap();
    fleet.found().unwrap();
    let token = fs::read_to_string(dir.path().join("token")).unwrap();
    let settings = fleet.hosts()[0].settings("swelld.toml").display().to_string();
    for (text, message) in [
        ("hello", "this is no join token"),
        (&token[..token.len() / 2], "the join token is damaged"),
    ] {
        let path = dir.path().join("bad-token");
        fs::write(&path, text).unwrap();
        let output = Command::new(env!("CARGO_BIN_EXE_swell"))
            .args(["join", "--name", "web-1", "--config", &settings])
            .arg(&path)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(4));
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains(message), "{said}");
    }
    assert!(!fleet.hosts()[0].dir().join("state/fleet.trust").exists(), "nothing was written");
}
