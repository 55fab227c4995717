//! The logs of a deployment's scripts, in the form of AWS's agent, and their tail for diagnosis.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use groundswell_protocol::{
    limits::{HOOK_OUTPUT_BYTES_MAX, LOG_BYTES_MAX, LOG_PART_BYTES_MAX, LOG_TAIL_BYTES_MAX},
    time::UnixSeconds,
};
use serde::{Deserialize, Serialize};

use crate::{
    deployment::DeploymentName,
    layout::make_dir,
    lock::{self, Hold},
    regular,
};

/// An open log; several threads write lines to it, and other processes to the same files.
#[derive(Clone)]
pub(crate) struct ScriptLog(Arc<Mutex<Inner>>);

/// Where the lines of a deployment's scripts go.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Places {
    /// The deployment's own log.
    pub(crate) own: PathBuf,
    /// The log of all deployments on this host.
    pub(crate) all: PathBuf,
    pub(crate) deployment: DeploymentName,
}

struct Inner {
    places: Places,
    file: File,
    /// What scripts print ends here until the next event; what is said of them has [`LOG_BYTES_MAX`].
    output_ends_at: u64,
    is_full: bool,
    /// None where it cannot be written; a host deploys without.
    all: Option<File>,
    /// The end of what the present event wrote, without time stamps, as it was written.
    tail: Vec<u8>,
    /// The prefix of a line that is not finished.
    unfinished: Option<&'static str>,
}

impl ScriptLog {
    pub(crate) fn open(places: Places) -> io::Result<Self> {
        for dir in [&places.own, &places.all].into_iter().filter_map(|path| path.parent()) {
            make_dir(dir)?;
        }
        let (file, all) = (append(&places.own)?, append(&places.all).ok());
        let output_ends_at = share_of(file.metadata()?.len());
        let (tail, unfinished) = (Vec::new(), None);
        let inner = Inner { places, file, output_ends_at, is_full: false, all, tail, unfinished };
        Ok(Self(Arc::new(Mutex::new(inner))))
    }

    /// Where it is, for another process that writes to it.
    pub(crate) fn places(&self) -> Places {
        self.lock().places.clone()
    }

    /// Begins an event: the tail starts anew.
    pub(crate) fn begin(&self, event: &str) {
        {
            let mut inner = self.lock();
            inner.tail.clear();
            inner.output_ends_at = share_of(inner.file.metadata().map_or(0, |file| file.len()));
            inner.is_full = false;
        }
        self.line(&format!("LifecycleEvent - {event}"));
    }

    /// Writes a line. A log that cannot be written does not stop a deployment.
    pub(crate) fn line(&self, text: &str) {
        self.lock().write("", text.as_bytes(), true);
    }

    /// Writes what a script printed, as it is: a line, or a piece of one that is too long to be held.
    pub(crate) fn output(&self, prefix: &'static str, piece: &[u8]) {
        match piece.strip_suffix(b"\n") {
            Some(line) => self.lock().write(prefix, line, true),
            None => self.lock().write(prefix, piece, false),
        }
    }

    /// The output with this prefix is over.
    pub(crate) fn output_ends(&self, prefix: &'static str) {
        let mut inner = self.lock();
        if inner.unfinished == Some(prefix) {
            inner.write(prefix, b"", true);
        }
    }

    /// Adds to the tail what another process has written.
    pub(crate) fn written_elsewhere(&self, tail: &[u8]) {
        self.lock().keep(tail);
    }

    /// The end of what the present event wrote, as it was written.
    pub(crate) fn raw_tail(&self) -> Vec<u8> {
        self.lock().tail.clone()
    }

    /// The last lines of the present event, as many as an outcome may carry.
    pub(crate) fn tail(&self) -> String {
        let inner = self.lock();
        let text = String::from_utf8_lossy(&inner.tail).replace("\r\n", "\n");
        let shown: String = text.chars().map(harmless).collect();
        cut_front(&shown, LOG_TAIL_BYTES_MAX - 1)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        // Nothing that panics runs while it is held.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn write(&mut self, prefix: &'static str, text: &[u8], ends: bool) {
        let goes_on = self.unfinished == Some(prefix);
        // Another line came in between: what is unfinished ends here.
        let cut: &[u8] = if self.unfinished.is_some() && !goes_on { b"\n" } else { b"" };
        let prefix_now = if goes_on { "" } else { prefix };
        let end: &[u8] = if ends { b"\n" } else { b"" };
        self.unfinished = (!ends).then_some(prefix);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let clock = clock_time(now.as_secs());
        self.keep(&[cut, prefix_now.as_bytes(), text, end].concat());
        let stamp = if goes_on { String::new() } else { format!("{clock} ") };
        let entry = [cut, stamp.as_bytes(), prefix_now.as_bytes(), text, end].concat();
        if self.append(&entry, prefix.is_empty()) {
            let deployment = self.places.deployment;
            let stamp = format!("[{clock}.{:03}] [{deployment}]{prefix}", now.subsec_millis());
            self.append_to_all(&[stamp.as_bytes(), text.trim_ascii(), b"\n"].concat());
        }
    }

    /// False if there is no room for it.
    fn append(&mut self, entry: &[u8], is_said_of_scripts: bool) -> bool {
        if self.is_full && !is_said_of_scripts {
            return false;
        }
        // Asked for each time: what a script left running is logged by another process.
        let before = self.file.metadata().map_or(0, |file| file.len());
        let after = before.saturating_add(u64::try_from(entry.len()).unwrap_or(u64::MAX));
        let ends_at = if is_said_of_scripts { LOG_BYTES_MAX } else { self.output_ends_at };
        if after <= ends_at {
            drop(self.file.write_all(entry));
            return true;
        }
        if !is_said_of_scripts {
            self.is_full = true;
            if before < LOG_BYTES_MAX - FULL_BYTES_MAX {
                let end = format!("[the log is full at {} bytes]\n", self.output_ends_at);
                drop(self.file.write_all(end.as_bytes()));
            }
        }
        false
    }

    /// What a script left running may print as long as the host is up: whoever writes sets the log aside.
    fn append_to_all(&mut self, entry: &[u8]) {
        let is_long = |file: &File| file.metadata().is_ok_and(|it| it.len() >= ALL_BYTES_MAX);
        if self.all.as_ref().is_some_and(is_long) {
            drop(rotate(&self.places.all));
            self.all = append(&self.places.all).ok();
        }
        if let Some(all) = &mut self.all {
            drop(all.write_all(entry));
        }
    }

    fn keep(&mut self, text: &[u8]) {
        self.tail.extend_from_slice(text);
        let surplus = self.tail.len().saturating_sub(RAW_TAIL_BYTES);
        // Seldom, since it moves what stays.
        if surplus > RAW_TAIL_BYTES {
            self.tail.drain(..surplus);
        }
    }
}

/// Where output must end that begins at `bytes`: at half of the room that is left, so that nothing that
/// prints without end takes it from the events to come.
fn share_of(bytes: u64) -> u64 {
    bytes.saturating_add(HOOK_OUTPUT_BYTES_MAX.saturating_sub(bytes) / 2)
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

/// What a log has from `offset` on, as much as one answer carries. Whoever writes to it is not held up.
pub(crate) fn read(path: &Path, offset: u64) -> io::Result<Vec<u8>> {
    let mut file = regular::open(path)?;
    let offset = offset.min(file.metadata()?.len());
    file.seek(SeekFrom::Start(offset))?;
    let (mut part, bytes_max) = (Vec::new(), u64::try_from(LOG_PART_BYTES_MAX).unwrap_or(u64::MAX));
    file.take(bytes_max).read_to_end(&mut part)?;
    Ok(part)
}

/// Makes room in the log of all deployments: one that is long enough is set aside, and the oldest of
/// those that were set aside goes.
pub(crate) fn rotate(all: &Path) -> io::Result<()> {
    let dir = all.parent().ok_or(io::ErrorKind::InvalidInput)?;
    make_dir(dir)?;
    let beside = |end: &str| PathBuf::from([all.as_os_str(), end.as_ref()].join("".as_ref()));
    let aside = |number: u32| beside(&format!(".{number}"));
    let is_long = || fs::metadata(all).is_ok_and(|file| file.len() >= ALL_BYTES_MAX);
    if !is_long() {
        return Ok(());
    }
    // Deployments of several groups write to it, and what keeps their scripts. Whoever may read the logs
    // cannot open this file; and who has it does the same, so nobody waits for it.
    let Ok(_one) = lock::try_take(&beside(".lock"), Hold::Alone, "")? else { return Ok(()) };
    if !is_long() {
        return Ok(());
    }
    for number in (1..ALL_KEPT - 1).rev() {
        match fs::rename(aside(number), aside(number + 1)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    fs::rename(all, aside(1))
}

/// The log of all deployments on this host is set aside at this size, as AWS's agent does it.
const ALL_BYTES_MAX: u64 = 64 << 20;
/// So many files hold it, the one that is written to included.
const ALL_KEPT: u32 = 8;
/// What says that a log is full is shorter, and so is how often: once an event and script.
const FULL_BYTES_MAX: u64 = 64;
/// Enough for [`LOG_TAIL_BYTES_MAX`], whatever becomes longer when it is shown.
const RAW_TAIL_BYTES: usize = LOG_TAIL_BYTES_MAX * 4;

/// What a script prints is shown to people elsewhere: nothing in it moves their cursor.
fn harmless(c: char) -> char {
    if c.is_control() && !matches!(c, '\t' | '\n') { '\u{fffd}' } else { c }
}

/// The last whole lines of `text` that have at most `bytes_max` bytes. Of a last line that is longer
/// than that, its end: it is mostly the end that says what went wrong.
fn cut_front(text: &str, bytes_max: usize) -> String {
    if text.len() <= bytes_max {
        return text.to_owned();
    }
    let end = last_bytes(text, bytes_max);
    match end.split_once('\n') {
        Some((_, lines)) if !lines.is_empty() => lines.to_owned(),
        _ => format!("{CUT}{}", last_bytes(text, bytes_max.saturating_sub(CUT.len()))),
    }
}

/// The longest end of `text` that has at most `bytes_max` bytes.
fn last_bytes(text: &str, bytes_max: usize) -> &str {
    let mut start = text.len().saturating_sub(bytes_max);
    while !text.is_char_boundary(start) {
        start += 1;
    }
    &text[start..]
}

/// Stands for the beginning of a line.
const CUT: &str = "...";

/// `2026-11-23 22:10:05`, in UTC: the hosts of a fleet are compared with each other.
fn clock_time(seconds: u64) -> String {
    let text = UnixSeconds(seconds).to_string();
    text.replace('T', " ").trim_end_matches('Z').to_owned()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use groundswell_protocol::ids::{DeploymentId, Digest};
    use nix::fcntl::{Flock, FlockArg};

    use super::*;

    fn places(dir: &Path) -> Places {
        let deployment = DeploymentId::of(Digest::ZERO, false).into();
        Places { own: dir.join("scripts.log"), all: dir.join("all.log"), deployment }
    }

    #[test]
    fn the_tail_has_whole_lines_of_this_event_and_moves_no_cursor() {
        let dir = tempfile::tempdir().unwrap();
        let log = ScriptLog::open(places(&dir.path().join("logs"))).unwrap();
        log.begin("BeforeInstall");
        log.line("[stdout]old");
        log.begin("ValidateService");
        for i in 0..500 {
            log.line(&format!("[stdout]line {i}"));
        }
        log.line("[stderr]\u{1b}[2Jbad");
        let tail = log.tail();
        assert!(tail.len() < LOG_TAIL_BYTES_MAX && tail.starts_with("[stdout]line "));
        assert!(tail.ends_with("line 499\n[stderr]\u{fffd}[2Jbad\n"), "{tail}");
        assert!(!tail.contains("old"));
    }

    #[test]
    fn what_a_script_prints_is_kept_byte_for_byte() {
        let dir = tempfile::tempdir().unwrap();
        let Places { own: path, all, deployment: id } = places(dir.path());
        let log = ScriptLog::open(places(dir.path())).unwrap();
        log.begin("AfterInstall");
        log.output("[stdout]", b"\xff\x1b[1mbold\r\n");
        // A line in three pieces, a line of the other pipe within it, and a last line without an end.
        log.output("[stdout]", b"one ");
        log.output("[stdout]", b"two ");
        log.output("[stderr]", b"no\n");
        log.output("[stdout]", b"three\n");
        log.output("[stderr]", b"last");
        log.output_ends("[stdout]");
        log.output_ends("[stderr]");
        log.line("end");
        let text = fs::read(&path).unwrap();
        // Every line has a stamp of the same length.
        let lines: Vec<&[u8]> =
            text.strip_suffix(b"\n").unwrap().split(|b| *b == b'\n').map(|l| &l[20..]).collect();
        let expected: [&[u8]; 7] = [
            b"LifecycleEvent - AfterInstall",
            b"[stdout]\xff\x1b[1mbold\r",
            b"[stdout]one two ",
            b"[stderr]no",
            b"[stdout]three",
            b"[stderr]last",
            b"end",
        ];
        assert_eq!(lines, expected);
        assert!(log.tail().contains("[stdout]\u{fffd}\u{fffd}[1mbold\n"), "{}", log.tail());
        let all = String::from_utf8_lossy(&fs::read(&all).unwrap()).into_owned();
        let line = all.lines().nth(3).unwrap();
        assert_eq!((&line[..1], &line[24..]), ("[", &*format!("] [{id}][stdout]two")));
    }

    #[test]
    fn a_log_is_read_in_parts_and_through_no_link() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("scripts.log");
        let whole: Vec<u8> = (0..=u8::MAX).cycle().take(LOG_PART_BYTES_MAX + 1).collect();
        fs::write(&path, &whole).unwrap();
        let (first, rest) = whole.split_at(LOG_PART_BYTES_MAX);
        let end = u64::try_from(whole.len()).unwrap();
        assert_eq!(read(&path, 0).unwrap(), first);
        assert_eq!(read(&path, end - 1).unwrap(), rest);
        for offset in [end, end + 1, u64::MAX] {
            assert!(read(&path, offset).unwrap().is_empty(), "{offset}");
        }
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(read(&link, 0).unwrap_err().to_string().contains("symbolic link"));
    }

    #[test]
    fn a_full_log_says_so_and_has_room_for_the_events_to_come() {
        let dir = tempfile::tempdir().unwrap();
        let Places { own: path, all, .. } = places(dir.path());
        File::create(&path).unwrap().set_len(HOOK_OUTPUT_BYTES_MAX - 100).unwrap();
        let log = ScriptLog::open(places(dir.path())).unwrap();
        for number in 0..3 {
            log.output("[stdout]", format!("line {number}\n").as_bytes());
        }
        let bytes = fs::read(&path).unwrap();
        let text =
            String::from_utf8_lossy(&bytes[bytes.iter().rposition(|b| *b == 0).unwrap() + 1..]);
        let end = format!("[the log is full at {} bytes]\n", HOOK_OUTPUT_BYTES_MAX - 50);
        assert!(text.contains("line 0\n") && text.ends_with(&end), "{text}");
        assert_eq!(log.tail(), "[stdout]line 0\n[stdout]line 1\n[stdout]line 2\n");
        let read_all = || fs::read_to_string(&all).unwrap();
        assert!(read_all().ends_with("[stdout]line 0\n"), "{}", read_all());
        // An event is told of, whatever was printed.
        log.begin("ValidateService");
        log.line("it has failed");
        let text = String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned();
        assert!(text.ends_with("it has failed\n") && text.contains("LifecycleEvent - Validate"));
        assert!(read_all().ends_with("it has failed\n"), "{}", read_all());
        for _ in 0..12 {
            log.line(&"x".repeat(100_000));
            log.begin("ValidateService");
            log.output("[stdout]", b"line\n");
        }
        assert!(fs::metadata(&path).unwrap().len() <= LOG_BYTES_MAX);
    }

    #[test]
    fn half_of_a_log_is_for_the_events_to_come() {
        let dir = tempfile::tempdir().unwrap();
        let log = ScriptLog::open(places(dir.path())).unwrap();
        let last = |text: &str| fs::read_to_string(places(dir.path()).own).unwrap().ends_with(text);
        for event in ["AfterInstall", "ApplicationStart"] {
            log.begin(event);
            log.output("[stdout]", b"it is told\n");
            assert!(last("it is told\n"), "{event}");
            for _ in 0..20 {
                log.output("[stdout]", &[b'x'; 1 << 20]);
                log.output("[stdout]", b"\n");
            }
            assert!(last(" bytes]\n"), "{event}");
        }
    }

    #[test]
    fn whoever_writes_to_the_log_of_all_deployments_sets_it_aside() {
        let dir = tempfile::tempdir().unwrap();
        let all = places(dir.path()).all;
        let [one, other] = [(); 2].map(|()| ScriptLog::open(places(dir.path())).unwrap());
        for round in 1..=2 {
            File::options().write(true).open(&all).unwrap().set_len(ALL_BYTES_MAX).unwrap();
            one.line("one");
            other.line("other");
            let text = fs::read_to_string(&all).unwrap();
            assert_eq!(text.lines().count(), 2, "{text}");
            let aside = fs::metadata(dir.path().join(format!("all.log.{round}"))).unwrap().len();
            assert_eq!(aside, ALL_BYTES_MAX);
        }
    }

    #[test]
    fn the_log_of_all_deployments_is_set_aside_and_the_oldest_goes() {
        let dir = tempfile::tempdir().unwrap();
        let all = dir.path().join("deployment-logs/all.log");
        for round in 0..ALL_KEPT + 2 {
            rotate(&all).unwrap();
            let file = File::create(&all).unwrap();
            // One byte less is not enough.
            file.set_len(ALL_BYTES_MAX - 1).unwrap();
            rotate(&all).unwrap();
            assert!(all.exists(), "{round}");
            file.set_len(ALL_BYTES_MAX).unwrap();
        }
        // And the lock.
        let there = fs::read_dir(all.parent().unwrap()).unwrap().count();
        assert_eq!(there, usize::try_from(ALL_KEPT).unwrap() + 1);
    }

    #[test]
    fn whoever_may_read_the_logs_holds_nobody_up() {
        let dir = tempfile::tempdir().unwrap();
        let all = dir.path().join("all.log");
        let fill = || File::create(&all).unwrap().set_len(ALL_BYTES_MAX).unwrap();
        fill();
        // All that others can open.
        let lock =
            |path: &Path| Flock::lock(File::open(path).unwrap(), FlockArg::LockExclusive).unwrap();
        let locks = [dir.path(), &all].map(lock);
        rotate(&all).unwrap();
        assert!(!all.exists());
        drop(locks);
        let ours = dir.path().join("all.log.lock");
        assert_eq!(fs::metadata(&ours).unwrap().permissions().mode() & 0o777, 0o600);
        // Whoever has that one is at it.
        let _held = lock(&ours);
        fill();
        rotate(&all).unwrap();
        assert!(all.exists());
    }

    #[test]
    fn of_a_last_line_that_is_too_long_the_end_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let log = ScriptLog::open(places(dir.path())).unwrap();
        // Four bytes each, at every offset to the cut; one, and enough that the tail is cut while
        // it is written, too.
        for (padding, crabs) in (0..4).flat_map(|padding| [(padding, 512), (padding, 4000)]) {
            log.begin("AfterInstall");
            log.line("[stdout]before");
            let line = format!("{}{}", "x".repeat(padding), "\u{1f980}".repeat(crabs));
            log.line(&format!("{line} no space left on device"));
            let tail = log.tail();
            assert!(tail.len() < LOG_TAIL_BYTES_MAX, "{}", tail.len());
            assert!(tail.len() > LOG_TAIL_BYTES_MAX - 10, "{}", tail.len());
            assert!(tail.starts_with("...\u{1f980}"), "{tail}");
            assert!(tail.ends_with("\u{1f980} no space left on device\n"), "{tail}");
        }
    }
}
