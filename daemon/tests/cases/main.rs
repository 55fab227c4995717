//! The cases of compatibility with AWS's agent: each test has the id of its row, goes through the real
//! `swell local`, and is judged by what is on disk afterwards. Where the agent has a defect, the test is of
//! what is wanted instead.

mod appspec;
mod bundles;
mod command_line;
mod hooks;
mod install;
mod lifecycle;
mod permissions;
#[path = "../shown/mod.rs"]
mod shown;

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use serde_json::Value;
use tempfile::TempDir;

/// A host with its own places for deployments and for what they install. `{live}` in an appspec or in a
/// script stands for the latter.
struct Host {
    dir: TempDir,
}

/// What became of a deployment.
struct Run {
    code: i32,
    stderr: String,
    /// What `--json` printed, if it came to that.
    json: Value,
}

impl Host {
    fn new() -> Self {
        // In memory where possible: what is deployed is made durable.
        let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        // Scripts of other users must get through.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::create_dir(dir.path().join("live")).unwrap();
        let host = Self { dir };
        host.configure("");
        host
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn live(&self, name: &str) -> PathBuf {
        self.path("live").join(name)
    }

    /// Writes the agent's settings, with these beside the root directory.
    fn configure(&self, settings: &str) {
        let root = self.path("root");
        let text = format!("---\n:root_dir: {}\n{settings}", root.display());
        fs::write(self.path("agent.yml"), text).unwrap();
    }

    /// A directory with an appspec whose head is given, and these files beside it. Scripts are executable.
    fn bundle(&self, name: &str, appspec: &str, files: &[(&str, &str)]) -> PathBuf {
        let dir = self.path(name);
        let live = self.path("live").display().to_string();
        fs::create_dir_all(&dir).unwrap();
        let appspec = format!("version: 0.0\nos: linux\n{appspec}");
        let all = files.iter().copied().chain([("appspec.yml", appspec.as_str())]);
        for (path, text) in all {
            let path = dir.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, text.replace("{live}", &live)).unwrap();
            let mode = if text.starts_with("#!") { 0o755 } else { 0o644 };
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        }
        dir
    }

    /// A bundle in which each of these events writes its name, its deployment and `name` to a trace.
    fn tracing(&self, name: &str, events: &[&str]) -> PathBuf {
        let hooks: Vec<String> = (events.iter())
            .map(|event| format!("  {event}:\n    - location: trace.sh\n"))
            .collect();
        let script =
            format!("#!/bin/sh\necho $LIFECYCLE_EVENT {name} $DEPLOYMENT_ID >>{{live}}/trace\n");
        self.bundle(name, &format!("hooks:\n{}", hooks.concat()), &[("trace.sh", &script)])
    }

    /// The trace of all scripts so far, without the names of deployments, and an empty one for those to
    /// come.
    fn trace(&self) -> String {
        let trace = fs::read_to_string(self.live("trace")).unwrap_or_default();
        fs::remove_file(self.live("trace")).ok();
        let words = trace.lines().map(|line| line.rsplit_once(' ').unwrap().0);
        words.collect::<Vec<_>>().join(", ")
    }

    fn command(&self, bundle: &Path, options: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_swell"));
        command.args(["local", "--json", "--bundle-location"]).arg(bundle);
        command.arg("--agent-configuration-file").arg(self.path("agent.yml"));
        command.args(options).stdin(Stdio::null());
        command
    }

    fn deploy(&self, bundle: &Path, options: &[&str]) -> Run {
        Run::of(self.command(bundle, options))
    }

    fn succeeds(&self, bundle: &Path, options: &[&str]) -> Run {
        let run = self.deploy(bundle, options);
        assert_eq!(run.code, 0, "{} {}", run.stderr, run.json);
        run
    }

    /// The deployment was begun, and has failed.
    fn fails(&self, bundle: &Path, options: &[&str]) -> Run {
        let run = self.deploy(bundle, options);
        assert_eq!(run.code, 1, "{}", run.stderr);
        assert!(run.json["failure"].is_object(), "{} {}", run.stderr, run.json);
        run
    }

    /// Nothing was begun. What is said on standard error.
    fn refuses(&self, bundle: &Path, options: &[&str]) -> String {
        let before = self.deployments("default-local-deployment-group");
        let run = self.deploy(bundle, options);
        assert!(matches!(run.code, 1 | 2), "{} {}", run.code, run.stderr);
        assert_eq!(run.json, Value::Null, "it was begun");
        assert_eq!(self.deployments("default-local-deployment-group"), before);
        run.stderr
    }

    /// The directories of a group's deployments.
    fn deployments(&self, group: &str) -> Vec<PathBuf> {
        let list = fs::read_dir(self.path("root").join(group)).into_iter().flatten();
        let mut all: Vec<_> = list.map(|entry| entry.unwrap().path()).collect();
        all.sort();
        all
    }
}

impl Run {
    fn of(mut command: Command) -> Self {
        let Output { status, stdout, stderr } = command.output().unwrap();
        Self {
            code: status.code().unwrap(),
            stderr: String::from_utf8(stderr).unwrap(),
            json: serde_json::from_slice(&stdout).unwrap_or_default(),
        }
    }

    fn failure(&self, key: &str) -> &str {
        self.json["failure"][key].as_str().unwrap()
    }

    fn error_code(&self) -> u64 {
        self.json["failure"]["code"].as_u64().unwrap()
    }

    fn deployment(&self) -> &str {
        self.json["deployment"].as_str().unwrap()
    }

    fn dir(&self) -> PathBuf {
        self.json["dir"].as_str().unwrap().into()
    }

    fn log(&self) -> String {
        let bytes = fs::read(self.json["log"].as_str().unwrap()).unwrap();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

fn read(path: impl AsRef<Path>) -> String {
    let path = path.as_ref();
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// What the executor's README says is held by the tests that it names, so they must be there.
#[test]
fn the_tests_that_the_list_of_quirks_names_are_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut sources = String::new();
    let mut open: Vec<_> =
        ["tests", "src/cli/local", "executor/src", "executor/tests", "../protocol/src/revision"]
            .map(|dir| root.join(dir))
            .into();
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                sources.push_str(&read(path));
            }
        }
    }
    let text = read(root.join("executor/README.md"));
    let quoted = text.split('`').skip(1).step_by(2);
    let is_test = |name: &&str| name.matches('_').count() > 2 && !name.contains([' ', '/', '-']);
    let tests: Vec<_> = quoted.filter(is_test).collect();
    assert!(tests.len() > 40, "{tests:?}");
    for test in tests {
        assert!(sources.contains(&format!("fn {test}()")), "there is no test {test}");
    }
}
