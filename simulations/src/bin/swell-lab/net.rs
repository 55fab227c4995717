//! A network for the hosts: a namespace each, wired to one of two switches.
//!
//! All of it lives in a network namespace that goes away with this process. Whoever is wired to the
//! other switch is cut off as by a broken cable: nothing is answered, and connections stay open.

use std::{
    env,
    os::unix::process::CommandExt,
    path::Path,
    process::{Command, Stdio},
};

use groundswell_daemon::scratch::{Place, ScratchError};

/// The network.
pub(crate) struct Net {
    hosts: usize,
}

/// Starts this program anew in namespaces of its own, unless it is in them. Returns only if that
/// fails, or is not needed.
pub(crate) fn enter() -> Result<(), ScratchError> {
    if env::var_os(INSIDE).is_some() {
        return Ok(());
    }
    let mut command = Command::new("unshare");
    command.args(["--net", "--mount", "--propagation", "private"]);
    if !nobody_is_above() {
        command.args(["--user", "--map-root-user"]);
    }
    let error = command
        .arg("--")
        .arg(env::current_exe()?)
        .args(env::args_os().skip(1))
        .env(INSIDE, "1")
        .exec();
    Err(ScratchError(format!("unshare: {error}: util-linux is needed")))
}

fn nobody_is_above() -> bool {
    let id = Command::new("id").arg("-u").output();
    id.is_ok_and(|output| output.stdout == b"0\n")
}

impl Net {
    /// Builds the network of `hosts` hosts.
    pub(crate) fn build(hosts: usize) -> Result<Self, ScratchError> {
        let hint = |error: ScratchError| {
            ScratchError(format!(
                "{error}\nthe lab needs network namespaces: iproute2, and root or user namespaces"
            ))
        };
        // Where `ip` keeps its namespaces, for this process and its children alone.
        run("mount", &["-t", "tmpfs", "tmpfs", "/run"]).map_err(hint)?;
        for switch in SWITCHES {
            run("ip", &["link", "add", switch, "type", "bridge"]).map_err(hint)?;
            run("ip", &["link", "set", switch, "up"])?;
        }
        for host in 0..hosts {
            let (name, wire) = (name(host), wire(host));
            let address = format!("{}/24", ip(host));
            run("ip", &["netns", "add", &name]).map_err(hint)?;
            run(
                "ip",
                &["link", "add", &wire, "type", "veth", "peer", "name", "eth0", "netns", &name],
            )?;
            run("ip", &["link", "set", &wire, "master", SWITCHES[0], "up"])?;
            run("ip", &["-n", &name, "address", "add", &address, "dev", "eth0"])?;
            run("ip", &["-n", &name, "link", "set", "eth0", "up"])?;
            run("ip", &["-n", &name, "link", "set", "lo", "up"])?;
        }
        Ok(Self { hosts })
    }

    /// Where a host is.
    pub(crate) fn place(host: usize, environment: Vec<(String, String)>) -> Place {
        let namespace = format!("--net=/run/netns/{}", name(host));
        Place {
            address: format!("/ip4/{}/tcp/7717", ip(host)),
            launcher: vec!["nsenter".into(), namespace, "--".into()],
            environment,
        }
    }

    /// Wires these hosts to the other switch, and all others to the first.
    pub(crate) fn island(&self, island: &[usize]) -> Result<(), ScratchError> {
        for host in 0..self.hosts {
            let switch = SWITCHES[usize::from(island.contains(&host))];
            run("ip", &["link", "set", &wire(host), "master", switch])?;
        }
        Ok(())
    }

    /// True if a connection between two hosts can be opened.
    pub(crate) fn connects(from: usize, to: usize) -> Result<bool, ScratchError> {
        let attempt = format!("exec 3<>/dev/tcp/{}/7717", ip(to));
        let status = Command::new("nsenter")
            .arg(format!("--net=/run/netns/{}", name(from)))
            .args(["--", "timeout", "1", "bash", "-c", &attempt])
            .stderr(Stdio::null())
            .status()?;
        Ok(status.success())
    }
}

fn name(host: usize) -> String {
    format!("web-{}", host + 1)
}

fn wire(host: usize) -> String {
    format!("wire-{}", host + 1)
}

fn ip(host: usize) -> String {
    format!("10.77.0.{}", host + 1)
}

/// Runs a program to its end; its output.
pub(crate) fn run(program: &str, arguments: &[&str]) -> Result<String, ScratchError> {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output();
    let output = output.map_err(|error| ScratchError(format!("{program}: {error}")))?;
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() {
        return Ok(said(&output.stdout));
    }
    let (words, errors) = (arguments.join(" "), said(&output.stderr));
    Err(ScratchError(format!("{program} {words}: {}: {errors}", output.status)))
}

/// Where libfaketime is.
pub(crate) fn faketime() -> Result<String, ScratchError> {
    let found = std::fs::read_dir("/usr/lib")?.flatten().map(|dir| dir.path());
    let libraries = found.chain([Path::new("/usr/lib").to_path_buf()]);
    let library = libraries
        .map(|dir| dir.join("faketime/libfaketimeMT.so.1"))
        .find(|library| library.is_file());
    let library = library.ok_or_else(|| {
        ScratchError(
            "libfaketime is missing, by which clocks are set: install `libfaketime`".into(),
        )
    })?;
    Ok(library.display().to_string())
}

const INSIDE: &str = "SWELL_LAB_INSIDE";
const SWITCHES: [&str; 2] = ["switch", "island"];
