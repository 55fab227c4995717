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
