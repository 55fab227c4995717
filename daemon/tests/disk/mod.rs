//! A disk of a test's own, with the file system that it is about.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
};

use crate::shown::{shown, shown_by_root};

/// A file system in a file, mounted until it is dropped.
#[derive(Debug)]
pub(crate) struct Disk {
    at: PathBuf,
}

impl Disk {
    /// Makes a file system of this kind in a new file and mounts it at `at`, with these options beside. None
    /// where the test cannot show what it is about, which people are told.
    pub(crate) fn make(
        kind: &str,
        image: &Path,
        bytes: usize,
        at: &Path,
        options: &str,
    ) -> Option<Self> {
        if !shown_by_root() {
            return None;
        }
        File::create(image).unwrap().set_len(u64::try_from(bytes).unwrap()).unwrap();
        let made = Command::new(format!("mkfs.{kind}"))
            .arg("-q")
            .arg(image)
            .stderr(Stdio::null())
            .status();
        let is_made = made.is_ok_and(|status| status.success());
        shown(is_made, &format!("mkfs.{kind} is not there")).then_some(())?;
        Self::mount(image, at, options)
    }

    /// Mounts what is in a file.
    pub(crate) fn mount(image: &Path, at: &Path, options: &str) -> Option<Self> {
        let mut command = Command::new("mount");
        let status = command.args(["-o", "loop", "-o", options]).args([image, at]).status();
        let is_mounted = status.is_ok_and(|status| status.success());
        shown(is_mounted, "this machine mounts no files").then(|| Self { at: at.to_owned() })
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Of a test that has failed a process may still be there.
        let options = if thread::panicking() { &["--lazy"][..] } else { &[] };
        let status = Command::new("umount").args(options).arg(&self.at).status();
        assert!(status.is_ok_and(|status| status.success()) || thread::panicking());
    }
}
