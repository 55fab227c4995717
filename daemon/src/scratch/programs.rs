//! Where the other programs are: beside this one, or built by the cargo that runs this one.

use std::{
    path::PathBuf,
    process::{Command, Stdio},
};

use super::ScratchError;

/// The programs of the project.
#[derive(Clone, Debug)]
pub struct Programs {
    /// The daemon.
    pub swelld: PathBuf,
    /// The command.
    pub swell: PathBuf,
    /// The executor.
    pub swell_exec: PathBuf,
    /// The signer.
    pub swell_sign: PathBuf,
}

impl Programs {
    /// Those in the directory `dir`.
    pub fn in_dir(dir: &std::path::Path) -> Self {
        Self {
            swelld: dir.join("swelld"),
            swell: dir.join("swell"),
            swell_exec: dir.join("swell-exec"),
            swell_sign: dir.join("swell-sign"),
        }
    }

    /// Those beside the running program. Under `cargo run` the others may not be built yet: then
    /// that cargo builds them.
    pub fn beside_this() -> Result<Self, ScratchError> {
        let this = std::env::current_exe()?;
        let dir = this.parent().ok_or_else(|| ScratchError("no directory".into()))?;
        if let (Some(cargo), Some(manifest)) =
            (std::env::var_os("CARGO"), std::env::var_os("CARGO_MANIFEST_DIR"))
        {
            let mut build = Command::new(cargo);
            // By name: the whole workspace would bring the simulator's feature with it.
            let packages = ["groundswell-daemon", "groundswell-executor", "groundswell-signer"];
            build.args(["build", "--quiet", "--bins"]).current_dir(manifest);
            build.args(packages.iter().flat_map(|package| ["-p", package]));
            if !cfg!(debug_assertions) {
                build.arg("--release");
            }
            let status = build.stdin(Stdio::null()).status()?;
            if !status.success() {
                return Err(ScratchError("the other programs cannot be built; see above".into()));
            }
        }
        let programs = Self::in_dir(dir);
        for path in [&programs.swelld, &programs.swell_exec, &programs.swell_sign] {
            if !path.is_file() {
                let (path, dir) = (path.display(), dir.display());
                return Err(ScratchError(format!(
                    "{path} is missing: install the whole package, all programs in {dir}"
                )));
            }
        }
        Ok(programs)
    }
}
