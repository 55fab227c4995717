//! The log of a deployment's scripts, in the form of AWS's agent, and its tail for diagnosis.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use groundswell_protocol::limits::{HOOK_OUTPUT_BYTES_MAX, LOG_TAIL_BYTES_MAX};

use crate::judge::now;

/// An open log; several threads write lines to it.
#[derive(Clone)]
pub(crate) struct ScriptLog(Arc<Mutex<Inner>>);

struct Inner {
    file: File,
    written: u64,
    /// The last lines of the present event, without time stamps.
    tail: String,
}

impl ScriptLog {
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir)?;
        }
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        let written = file.metadata()?.len();
        Ok(Self(Arc::new(Mutex::new(Inner { file, written, tail: String::new() }))))
    }

    /// Begins an event: the tail starts anew.
    pub(crate) fn begin(&self, event: &str) {
        self.lock().tail.clear();
        self.line(&format!("LifecycleEvent - {event}"));
    }

    /// Writes a line. A log that cannot be written does not stop a deployment.
    pub(crate) fn line(&self, text: &str) {
        let mut inner = self.lock();
        let shown: String = text.chars().map(harmless).collect();
        inner.tail.push_str(&shown);
        inner.tail.push('\n');
        if inner.tail.len() > LOG_TAIL_BYTES_MAX * 4 {
            inner.tail = cut_front(&inner.tail, LOG_TAIL_BYTES_MAX);
        }
        if inner.written > HOOK_OUTPUT_BYTES_MAX {
            return;
        }
        let line = format!("{} {text}\n", clock_time(now().0));
        inner.written += u64::try_from(line.len()).unwrap_or(u64::MAX);
        if inner.written > HOOK_OUTPUT_BYTES_MAX {
            let end = format!("[the log is full at {HOOK_OUTPUT_BYTES_MAX} bytes]\n");
            drop(inner.file.write_all(end.as_bytes()));
            return;
        }
        drop(inner.file.write_all(line.as_bytes()));
    }

    /// The last lines of the present event, as many as an outcome may carry.
    pub(crate) fn tail(&self) -> String {
        cut_front(&self.lock().tail, LOG_TAIL_BYTES_MAX - 1)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        // Nothing that panics runs while it is held.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a script prints is shown to people elsewhere: nothing in it moves their cursor.
fn harmless(c: char) -> char {
    if c.is_control() && c != '\t' { '\u{fffd}' } else { c }
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
    let text = groundswell_protocol::time::UnixSeconds(seconds).to_string();
    text.replace('T', " ").trim_end_matches('Z').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_has_whole_lines_of_this_event_and_moves_no_cursor() {
        let dir = tempfile::tempdir().unwrap();
        let log = ScriptLog::open(&dir.path().join("logs/scripts.log")).unwrap();
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
    fn of_a_last_line_that_is_too_long_the_end_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let log = ScriptLog::open(&dir.path().join("scripts.log")).unwrap();
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
