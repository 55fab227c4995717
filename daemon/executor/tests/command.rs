//! The program itself: what it says about settings that are wrong.

use std::process::Command;

#[test]
fn bad_settings_end_it_with_64_and_the_place() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("swell-exec.toml");
    std::fs::write(&path, "state_dir = \"/tmp/x\"\nroot = 3\n").unwrap();
    let output =
        Command::new(env!("CARGO_BIN_EXE_swell-exec")).arg("--config").arg(&path).output().unwrap();
    assert_eq!(output.status.code(), Some(64));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("swell-exec.toml:2:1: root: unknown field"), "{text}");
}

#[test]
fn where_the_logs_cannot_be_it_names_that_place_and_no_journal() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).display().to_string();
    let settings = format!(
        "state_dir = \"{}\"\nroot_dir = \"{}\"\nsocket = \"{}\"\n",
        at("state"),
        at("root"),
        at("exec.sock"),
    );
    std::fs::write(at("swell-exec.toml"), settings).unwrap();
    std::fs::create_dir(at("root")).unwrap();
    std::fs::write(at("root/deployment-logs"), "in the way").unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_swell-exec"));
    let output = command.arg("--config").arg(at("swell-exec.toml")).output().unwrap();
    assert_eq!(output.status.code(), Some(74));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains(&at("root/deployment-logs")) && !text.contains("journal"), "{text}");
}
