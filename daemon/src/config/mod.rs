//! The settings of `swelld`, read once, before anything is opened or bound.
//!
//! In two steps: [`File`] is what a person wrote, strict about keys, each value with its place;
//! [`Settings`] is what runs, complete and checked. Every default is in `default.toml`, which is
//! compiled in and shipped as the sample.

mod file;
mod value;

use std::{
    fs,
    io::Read,
    ops::RangeInclusive,
    path::{Path, PathBuf},
    time::Duration,
};

use groundswell_protocol::limits::ADDRESSES_MAX;
use groundswell_signer::seed::Seed;
use libp2p::Multiaddr;
use nix::unistd::Group;
use thiserror::Error;
use tracing::level_filters::LevelFilter;

pub use file::{File, Problem};

/// The annotated defaults; also the sample that is shipped.
pub const DEFAULT: &str = include_str!("default.toml");

/// Where the settings are if the command line does not say. It need not exist.
pub const PATH: &str = "/etc/groundswell/swelld.toml";

/// The exit code of a process whose settings are wrong. The unit file knows it: such a process is
/// not started again.
pub const EXIT_CODE: u8 = 64;

/// Less is a hiccup; after a day it is no silence but an absence.
const REPLACE_VOTER_SECONDS: RangeInclusive<u64> = 5..=86_400;

/// A file longer than this is not a settings file.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// What runs: every value there and checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The host's key, certificate, trust, state and store are below it.
    pub state_dir: PathBuf,
    /// The socket for `swell`.
    pub control_socket: PathBuf,
    /// The Unix group that may use it, besides root and the daemon's own user.
    pub control_group: Option<Group>,
    /// The executor's socket.
    pub executor_socket: PathBuf,
    /// Addresses to listen on; at least one.
    pub listen: Vec<Multiaddr>,
    /// Addresses to be reached under; empty means those that it listens on, with the real address
    /// of each interface in place of `0.0.0.0` or `::`.
    pub advertise: Vec<Multiaddr>,
    /// Places to look for the fleet, beside those that came with the join token.
    pub seeds: Vec<Seed>,
    /// Bytes that received revisions may take up.
    pub store_bytes_max: u64,
    /// Bytes a second of them that are read again, to find what has rotted; 0 for none.
    pub scrub_bytes_per_second: u64,
    /// After how much silence a voter is replaced.
    pub replace_voter_after: Duration,
    /// The least important messages that are logged.
    pub log: LevelFilter,
    /// Where they go.
    pub log_to: LogTo,
}

/// Where log messages go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogTo {
    /// The standard error output.
    Stderr,
    /// The systemd journal, with fields.
    Journal,
    /// The journal if standard error is connected to it, else standard error.
    Auto,
}

/// Why there are no settings. Nothing was opened or bound; the process ends with [`EXIT_CODE`].
#[derive(Debug, Error)]
pub enum ConfigError {
    /// There is no such file, or it may not be read.
    #[error("cannot read the settings {path}: {source}", path = .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// It is there, and something in it is wrong.
    #[error("{path}:{line}:{column}: {problem}", path = .path.display())]
    Wrong {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The character in the line, from 1.
        column: usize,
        /// The key that it is about, and what is wrong.
        problem: Problem,
    },
}

/// Reads the settings from `path`; without one, from [`PATH`] if that exists, else the defaults.
pub fn load(path: Option<&Path>) -> Result<Settings, ConfigError> {
    let text = match read(path.unwrap_or_else(|| Path::new(PATH))) {
        Err(error) if path.is_none() && error.kind() == std::io::ErrorKind::NotFound => {
            String::new()
        }
        text => text.map_err(|source| ConfigError::Unreadable {
            path: path.unwrap_or_else(|| Path::new(PATH)).into(),
            source,
        })?,
    };
    parse(&text).map_err(|problem| {
        let (line, column) = place(&text, problem.at);
        let path = path.unwrap_or_else(|| Path::new(PATH)).into();
        ConfigError::Wrong { path, line, column, problem }
    })
}

fn read(path: &Path) -> Result<String, std::io::Error> {
    let mut text = String::new();
    fs::File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
    match u64::try_from(text.len()) {
        Ok(length) if length <= FILE_BYTES_MAX => Ok(text),
        _ => Err(std::io::Error::other("it is longer than 1 MiB; is it the right file?")),
    }
}

fn parse(text: &str) -> Result<Settings, Problem> {
    Settings::resolve(File::parse(text)?)
}

/// Line and column of a byte of `text`, both from 1.
fn place(text: &str, at: usize) -> (usize, usize) {
    let before = text.get(..at).unwrap_or(text);
    let line = before.rsplit('\n').next().unwrap_or_default();
    (before.matches('\n').count() + 1, line.chars().count() + 1)
}

impl Settings {
    /// Fills in the defaults and checks every value.
    pub fn resolve(file: File) -> Result<Self, Problem> {
        let default = File::parse(DEFAULT).expect("the built-in defaults are tested");
        let listen = or(file.listen, default.listen);
        if listen.get_ref().is_empty() {
            let text = "is empty; name at least one address, such as /ip4/0.0.0.0/tcp/7717";
            return Err(Problem::new("listen", listen.span().start, text));
        }
        let advertise = or(file.advertise, default.advertise);
        if advertise.get_ref().len() > ADDRESSES_MAX {
            let text = format!("has more than {ADDRESSES_MAX} addresses");
            return Err(Problem::new("advertise", advertise.span().start, text));
        }
        Ok(Self {
            state_dir: value::path("state_dir", &or(file.state_dir, default.state_dir))?,
            control_socket: value::socket(
                "control_socket",
                &or(file.control_socket, default.control_socket),
            )?,
            control_group: file.control_group.as_ref().map(value::group).transpose()?,
            executor_socket: value::socket(
                "executor_socket",
                &or(file.executor_socket, default.executor_socket),
            )?,
            listen: value::each(listen, value::listen)?,
            advertise: value::each(advertise, value::advertise)?,
            seeds: value::each(or(file.seeds, default.seeds), value::seed)?,
            store_bytes_max: value::store_size(
                "store_bytes_max",
                &or(file.store_bytes_max, default.store_bytes_max),
            )?,
            scrub_bytes_per_second: value::size(
                "scrub_bytes_per_second",
                &or(file.scrub_bytes_per_second, default.scrub_bytes_per_second),
            )?,
            replace_voter_after: value::seconds(
                "replace_voter_seconds",
                &or(file.replace_voter_seconds, default.replace_voter_seconds),
                REPLACE_VOTER_SECONDS,
            )?,
            log: value::one_of("log", &or(file.log, default.log), &LEVELS)?,
            log_to: value::one_of("log_to", &or(file.log_to, default.log_to), &LOG_TARGETS)?,
        })
    }
}

/// What the file says, else the default.
fn or<T>(value: Option<T>, default: Option<T>) -> T {
    value.or(default).expect("every key but control_group has a default")
}

const LEVELS: [(&str, LevelFilter); 6] = [
    ("off", LevelFilter::OFF),
    ("error", LevelFilter::ERROR),
    ("warn", LevelFilter::WARN),
    ("info", LevelFilter::INFO),
    ("debug", LevelFilter::DEBUG),
    ("trace", LevelFilter::TRACE),
];

const LOG_TARGETS: [(&str, LogTo); 3] =
    [("stderr", LogTo::Stderr), ("journal", LogTo::Journal), ("auto", LogTo::Auto)];

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes `text` to a file, loads it, and gives the message without the directory.
    fn refusal(text: impl AsRef<[u8]>) -> String {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("swelld.toml");
        fs::write(&path, text).unwrap();
        let error = load(Some(&path)).unwrap_err().to_string();
        error.replace(&format!("{}/", dir.path().display()), "")
    }

    #[test]
    fn the_defaults_are_complete_and_valid() {
        let settings = parse("").unwrap();
        assert_eq!(settings.state_dir, Path::new("/var/lib/swelld"));
        assert_eq!(settings.control_socket, Path::new("/run/swelld/control.sock"));
        assert_eq!(settings.executor_socket, Path::new("/run/swell-exec/exec.sock"));
        assert_eq!(settings.listen, ["/ip4/0.0.0.0/tcp/7717".parse().unwrap()]);
        assert_eq!(settings.advertise, []);
        assert_eq!(settings.seeds, []);
        assert_eq!(settings.store_bytes_max, 20 << 30);
        assert_eq!(settings.scrub_bytes_per_second, 1 << 20);
        assert_eq!(settings.replace_voter_after, Duration::from_secs(600));
        assert_eq!(settings.control_group, None);
        assert_eq!((settings.log, settings.log_to), (LevelFilter::INFO, LogTo::Auto));
        assert_eq!(parse(DEFAULT).unwrap(), settings);
    }

    #[test]
    fn the_sample_names_every_key() {
        for key in file::KEYS {
            let (set, shown) = (format!("\n{key} = "), format!("\n# {key} = "));
            assert!(DEFAULT.contains(&set) || DEFAULT.contains(&shown), "{key} is missing");
        }
    }

    #[test]
    fn what_a_file_says_wins() {
        let text = r#"
            state_dir = "/srv/swell"
            control_group = "root"
            listen = ["/ip4/127.0.0.1/tcp/0", "/ip6/::1/tcp/7717"]
            advertise = ["/ip4/198.51.100.7/tcp/17717"]
            store_bytes_max = 1_000_000_000
            log = "debug"
            log_to = "stderr"
        "#;
        let settings = parse(text).unwrap();
        assert_eq!(settings.state_dir, Path::new("/srv/swell"));
        assert_eq!(settings.control_group.unwrap().gid.as_raw(), 0);
        assert_eq!(settings.listen.len(), 2);
        assert_eq!(settings.advertise.len(), 1);
        assert_eq!(settings.store_bytes_max, 1_000_000_000);
        assert_eq!((settings.log, settings.log_to), (LevelFilter::DEBUG, LogTo::Stderr));
        assert_eq!(settings.executor_socket, Path::new("/run/swell-exec/exec.sock"));
    }

    #[test]
    fn a_file_that_is_named_must_be_there() {
        let error = load(Some(Path::new("/nonexistent/swelld.toml"))).unwrap_err();
        assert!(
            error.to_string().starts_with("cannot read the settings /nonexistent/swelld.toml:")
        );
    }

    #[test]
    fn an_unknown_key_is_refused_with_its_place_and_the_nearest_one() {
        assert_eq!(
            refusal("# first\n  state_dri = \"/x\"\n"),
            "swelld.toml:2:3: unknown key 'state_dri'; did you mean 'state_dir'?"
        );
        assert_eq!(
            refusal("log = \"info\"\n[storage]\nx = 1\n"),
            "swelld.toml:2:2: unknown key 'storage'; the keys are state_dir, control_socket, \
             control_group, executor_socket, listen, advertise, seeds, store_bytes_max, \
             scrub_bytes_per_second, replace_voter_seconds, log, log_to"
        );
        assert!(refusal("\"a\\u001b[2J\" = 1").contains("unknown key 'a\\u{1b}[2J'"));
    }

    #[test]
    fn a_value_of_another_type_is_refused_with_its_place() {
        assert_eq!(
            refusal("\nstate_dir = 3\n"),
            "swelld.toml:2:13: state_dir: invalid type: integer `3`, expected a string"
        );
        assert_eq!(
            refusal("listen = [\"/ip4/0.0.0.0/tcp/1\", 7]"),
            "swelld.toml:1:33: listen: invalid type: integer `7`, expected a string"
        );
        assert!(refusal("store_bytes_max = 1.5").contains("store_bytes_max: invalid type: float"));
    }

    #[test]
    fn what_is_not_toml_is_refused_with_its_place() {
        let message = refusal("log = \"info\"\nlisten = [\n");
        assert!(message.starts_with("swelld.toml:"), "{message}");
        let message = refusal("log = \"info\"\nlog = \"warn\"\n");
        assert!(message.starts_with("swelld.toml:2:1: duplicate key"), "{message}");
        assert!(refusal([0xff, 0xfe]).starts_with("cannot read the settings swelld.toml:"));
        assert!(refusal(vec![b' '; (1 << 20) + 1]).contains("longer than 1 MiB"));
        let (dir, longest) = (tempfile::tempdir().unwrap(), vec![b' '; 1 << 20]);
        fs::write(dir.path().join("x"), longest).unwrap();
        assert!(load(Some(&dir.path().join("x"))).is_ok());
    }

    #[test]
    fn each_kind_of_value_is_checked() {
        for (text, message) in [
            ("state_dir = \"var\"", "1:13: state_dir: 'var' is not an absolute path"),
            ("state_dir = \"/a/../b\"", "1:13: state_dir: '/a/../b' contains '..'"),
            ("state_dir = \"\"", "1:13: state_dir: '' is not an absolute path"),
            ("executor_socket = \"x.sock\"", "1:19: executor_socket: 'x.sock' is not an absolute"),
            ("control_group = \"a b\"", "1:17: control_group: 'a b' is not a group's name"),
            (
                "control_group = \"no-such.group\"",
                "1:17: control_group: 'no-such.group' is no group",
            ),
            ("listen = []", "1:10: listen: is empty; name at least one address"),
            ("listen = [\"0.0.0.0:7717\"]", "1:11: listen: '0.0.0.0:7717' is not an address"),
            ("listen = [\"/ip4/1.2.3.4/udp/1\"]", "1:11: listen: '/ip4/1.2.3.4/udp/1' is not an"),
            ("listen = [\n  \"/ip4/::/tcp/1\"]", "2:3: listen: '/ip4/::/tcp/1' is not an address"),
            ("advertise = [\"/ip4/0.0.0.0/tcp/1\"]", "1:14: advertise: '/ip4/0.0.0.0/tcp/1' is"),
            ("advertise = [\"/ip4/1.2.3.4/tcp/0\"]", "1:14: advertise: '/ip4/1.2.3.4/tcp/0' is"),
            ("seeds = [\"h1\"]", "1:10: seeds: 'h1' is not an address or name with a port"),
            ("store_bytes_max = \"20 GB?\"", "1:19: store_bytes_max: '20 GB?' is not a size"),
            ("store_bytes_max = -1", "1:19: store_bytes_max: -1 is not a size"),
            ("store_bytes_max = \"99999999 TiB\"", "1:19: store_bytes_max: '99999999 TiB' is too"),
            (
                "replace_voter_seconds = 4",
                "1:25: replace_voter_seconds: 4 is not a number of seconds from 5 to 86400",
            ),
            ("scrub_bytes_per_second = -1", "1:26: scrub_bytes_per_second: -1 is not a size"),
            ("store_bytes_max = 67108863", "1:19: store_bytes_max: is less than 64 MiB"),
            (
                "log = \"inof\"",
                "1:7: log: 'inof' is not one of off, error, warn, info, debug, trace",
            ),
            ("log_to = \"syslog\"", "1:10: log_to: 'syslog' is not one of stderr, journal, auto"),
        ] {
            let refusal = refusal(text);
            assert!(refusal.starts_with(&format!("swelld.toml:{message}")), "{text}: {refusal}");
        }
        assert!(refusal("log = \"inof\"").ends_with("; did you mean 'info'?"));
        assert_eq!(parse("store_bytes_max = 67108864").unwrap().store_bytes_max, 64 << 20);
        assert_eq!(parse("scrub_bytes_per_second = 0").unwrap().scrub_bytes_per_second, 0);
    }

    #[test]
    fn paths_of_sockets_and_lists_are_bounded() {
        let socket = |length: usize| format!("control_socket = \"/{}\"", "s".repeat(length - 1));
        assert!(parse(&socket(107)).is_ok());
        assert!(parse(&socket(108)).unwrap_err().to_string().contains("at most 107 bytes"));
        let advertise = |count| {
            let list = vec!["\"/ip4/192.0.2.1/tcp/1\""; count].join(",");
            parse(&format!("advertise = [{list}]"))
        };
        assert!(advertise(ADDRESSES_MAX).is_ok());
        assert!(advertise(ADDRESSES_MAX + 1).is_err());
    }

    #[test]
    fn columns_count_characters() {
        assert_eq!(place("a = \"é\"; x", 9), (1, 9));
        assert_eq!(place("\n\nab", 3), (3, 2));
        assert_eq!(place("ab", 99), (1, 3));
    }
}
