//! Reading what the scripts of a deployment write, from any host of the fleet.
//!
//! The log is a file of the executor on the host where they run, and the only buffer there is: whoever
//! wants more of it asks for the bytes from an offset on. Between two questions nobody keeps anything for
//! a reader, so one that is slow, or gone, costs nothing. [`Readers`] is the side of the host that is asked,
//! [`Reading`] that of whoever asks several of them.

use std::{collections::BTreeMap, str};

use crate::{
    execute::LifecycleEvent,
    ids::HostId,
    limits::{
        LOG_ASK_AGAIN_AFTER, LOG_ASKS_MAX, LOG_BYTES_MAX, LOG_FAILURES_MAX, LOG_LINE_BYTES_MAX,
        LOG_LOOK_EVERY, LOG_PART_BYTES_MAX, LOG_READS_MAX, LOG_READS_PER_PEER_MAX,
    },
    time::Mono,
};

/// Who reads a log of this host at the moment.
#[derive(Debug, Default)]
pub struct Readers(BTreeMap<HostId, usize>);

/// Why nothing is read for somebody. Nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    /// It is no member of the fleet, or not any more.
    Stranger,
    /// It reads enough already, or all together do. It may ask again.
    Busy,
}

impl Readers {
    /// Somebody asks for a part of a log. Unless it is denied, [`Readers::end`] follows.
    pub fn begin(&mut self, reader: HostId, is_member: bool) -> Result<(), Denied> {
        if !is_member {
            return Err(Denied::Stranger);
        }
        let own = self.0.get(&reader).copied().unwrap_or(0);
        if own >= LOG_READS_PER_PEER_MAX || self.0.values().sum::<usize>() >= LOG_READS_MAX {
            return Err(Denied::Busy);
        }
        self.0.insert(reader, own + 1);
        Ok(())
    }

    /// It was answered.
    pub fn end(&mut self, reader: HostId) {
        if let Some(own) = self.0.get_mut(&reader) {
            *own -= 1;
            self.0.retain(|_, own| *own > 0);
        }
    }
}

/// How far a host is with a deployment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// It has not begun: there is nothing to read.
    Ahead,
    /// More may be written.
    AtWork,
    /// Nothing more will be written.
    Over,
}

/// A question to a host: its log from this byte on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask<H> {
    /// The host.
    pub host: H,
    /// The first byte that is wanted.
    pub offset: u64,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// As much as one answer carries; less where the log ends for now.
    Part(Vec<u8>),
    /// The host has no such log.
    Absent,
    /// None could be had, for this reason.
    Trouble(String),
}

/// A line of a log, or a piece of one that is very long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// The lifecycle event in which it was written.
    pub event: Option<LifecycleEvent>,
    /// Its bytes, without the end of the line.
    pub bytes: Vec<u8>,
    /// False if the line goes on, or the log ends without an end of the line.
    pub ends: bool,
}

/// Reads the logs that a deployment has on its hosts, each to its end or for as long as it grows.
#[derive(Debug)]
pub struct Reading<H> {
    follows: bool,
    logs: BTreeMap<H, Log>,
}

/// The log of one host, as far as it was read.
#[derive(Debug)]
struct Log {
    stage: Stage,
    offset: u64,
    lines: Lines,
    /// How far the host was when it was asked what it has not answered yet.
    asked: Option<Stage>,
    next_at: Mono,
    failures: u32,
    /// Nothing more is read: all of it was, or why not.
    end: Option<Result<(), String>>,
}

impl<H: Clone + Ord> Reading<H> {
    /// Nothing was read. With `follows`, what hosts write while they are at work is waited for.
    pub fn new(follows: bool) -> Self {
        Self { follows, logs: BTreeMap::new() }
    }

    /// Takes in how far hosts are.
    pub fn see(&mut self, hosts: impl IntoIterator<Item = (H, Stage)>) {
        for (host, stage) in hosts {
            self.logs.entry(host).or_insert_with(Log::new).stage = stage;
        }
    }

    /// Whom to ask now. What is only read to its end is read host by host, in their order.
    pub fn next(&mut self, now: Mono) -> Option<Ask<H>> {
        let most = if self.follows { LOG_ASKS_MAX } else { 1 };
        if self.logs.values().filter(|log| log.asked.is_some()).count() >= most {
            return None;
        }
        let due = self.logs.iter_mut().filter(|(_, log)| log.may_be_asked() && log.next_at <= now);
        let (host, log) = due.min_by_key(|(_, log)| log.next_at)?;
        log.asked = Some(log.stage);
        Some(Ask { host: host.clone(), offset: log.offset })
    }

    /// A host has answered. These are the lines that are complete by that.
    pub fn answered(&mut self, now: Mono, host: &H, answer: Answer) -> Vec<Line> {
        let follows = self.follows;
        let Some(log) = self.logs.get_mut(host) else { return Vec::new() };
        let Some(stage) = log.asked.take() else { return Vec::new() };
        // What was written until a host was at its end is in the answers to later questions.
        let is_last = !follows || stage == Stage::Over;
        match answer {
            Answer::Part(part) => log.take_in(now, &part, is_last),
            Answer::Absent if is_last => match stage {
                Stage::Over => log.end(Err("it keeps no log of this deployment".into())),
                Stage::Ahead | Stage::AtWork => log.end(Ok(())),
            },
            Answer::Absent => log.wait(now + LOG_LOOK_EVERY),
            Answer::Trouble(reason) => {
                log.failures += 1;
                if is_last && log.failures >= LOG_FAILURES_MAX {
                    return log.end(Err(reason));
                }
                log.wait(now + LOG_ASK_AGAIN_AFTER)
            }
        }
    }

    /// True if there is nothing more to ask of hosts that have begun.
    pub fn is_done(&self) -> bool {
        self.logs.values().all(|log| !log.may_be_asked() && log.asked.is_none())
    }

    /// Hosts whose logs were not read to the end, and why.
    pub fn troubles(&self) -> impl Iterator<Item = (&H, &str)> {
        self.logs.iter().filter_map(|(host, log)| match &log.end {
            Some(Err(reason)) => Some((host, reason.as_str())),
            _ => None,
        })
    }
}

impl Log {
    fn new() -> Self {
        Self {
            stage: Stage::Ahead,
            offset: 0,
            lines: Lines::default(),
            asked: None,
            next_at: Mono(0),
            failures: 0,
            end: None,
        }
    }

    fn may_be_asked(&self) -> bool {
        self.end.is_none() && self.asked.is_none() && self.stage != Stage::Ahead
    }

    fn take_in(&mut self, now: Mono, part: &[u8], is_last: bool) -> Vec<Line> {
        self.failures = 0;
        self.offset = self.offset.saturating_add(u64::try_from(part.len()).unwrap_or(u64::MAX));
        if part.len() > LOG_PART_BYTES_MAX || self.offset > LOG_BYTES_MAX {
            return self.end(Err("it sends more than a log can have".into()));
        }
        let mut lines = self.lines.push(part);
        // Where there is more, its turn is still the first.
        if part.len() < LOG_PART_BYTES_MAX {
            lines.extend(if is_last { self.end(Ok(())) } else { self.wait(now + LOG_LOOK_EVERY) });
        }
        lines
    }

    fn wait(&mut self, until: Mono) -> Vec<Line> {
        self.next_at = until;
        Vec::new()
    }

    fn end(&mut self, how: Result<(), String>) -> Vec<Line> {
        self.end = Some(how);
        Vec::from_iter(self.lines.finish())
    }
}

/// Finds the lines in what comes in parts.
#[derive(Debug, Default)]
struct Lines {
    event: Option<LifecycleEvent>,
    /// A line, or the rest of one, whose end has not come.
    rest: Vec<u8>,
    /// Its beginning was handed on already.
    goes_on: bool,
}

impl Lines {
    fn push(&mut self, part: &[u8]) -> Vec<Line> {
        let mut bytes = std::mem::take(&mut self.rest);
        bytes.extend_from_slice(part);
        let (mut left, mut lines) = (&bytes[..], Vec::new());
        while let Some((piece, ends, after)) = cut(left) {
            lines.push(self.line(piece, ends));
            left = after;
        }
        self.rest = left.to_vec();
        lines
    }

    fn finish(&mut self) -> Option<Line> {
        let rest = std::mem::take(&mut self.rest);
        (!rest.is_empty()).then(|| self.line(&rest, false))
    }

    fn line(&mut self, piece: &[u8], ends: bool) -> Line {
        if !std::mem::replace(&mut self.goes_on, !ends) {
            self.event = begun(piece).or(self.event);
        }
        Line { event: self.event, bytes: piece.to_vec(), ends }
    }
}

/// The event that a line tells of. What scripts print has a mark of its own where this one has its words.
fn begun(line: &[u8]) -> Option<LifecycleEvent> {
    let event = line.get(STAMP_BYTES..)?.strip_prefix(b"LifecycleEvent - ")?;
    str::from_utf8(event).ok()?.parse().ok()
}

/// The first line, or as much of it as is handed on at once, whether it ends there, and what follows.
fn cut(bytes: &[u8]) -> Option<(&[u8], bool, &[u8])> {
    let within = bytes.get(..=LOG_LINE_BYTES_MAX).unwrap_or(bytes);
    if let Some(end) = within.iter().position(|byte| *byte == b'\n') {
        return Some((&bytes[..end], true, &bytes[end + 1..]));
    }
    // No character is torn apart, if these are characters.
    let goes_on = |at: &usize| bytes.get(*at).is_some_and(|byte| byte & 0xc0 == 0x80);
    let mut ends = (LOG_LINE_BYTES_MAX - 3..=LOG_LINE_BYTES_MAX).rev();
    let end = ends.find(|at| !goes_on(at)).unwrap_or(LOG_LINE_BYTES_MAX);
    let (piece, rest) = bytes.split_at_checked(end)?;
    (bytes.len() > LOG_LINE_BYTES_MAX).then_some((piece, false, rest))
}

/// `2026-11-23 22:10:05 `
const STAMP_BYTES: usize = 20;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn members_read_as_much_at_a_time_as_they_may_and_no_more() {
        let host = |number| HostId([number; 32]);
        let mut readers = Readers::default();
        assert_eq!(readers.begin(host(1), false), Err(Denied::Stranger));
        for _ in 0..LOG_READS_PER_PEER_MAX {
            assert_eq!(readers.begin(host(1), true), Ok(()));
        }
        assert_eq!(readers.begin(host(1), true), Err(Denied::Busy));
        let others = u8::try_from(LOG_READS_MAX - LOG_READS_PER_PEER_MAX).unwrap();
        for number in 2..2 + others {
            assert_eq!(readers.begin(host(number), true), Ok(()), "{number}");
        }
        assert_eq!(readers.begin(host(100), true), Err(Denied::Busy));
        readers.end(host(1));
        assert_eq!(readers.begin(host(1), false), Err(Denied::Stranger));
        assert_eq!(readers.begin(host(100), true), Ok(()));
        assert_eq!(readers.begin(host(1), true), Err(Denied::Busy), "all together read enough");
        readers.end(host(200));
        assert_eq!(readers.begin(host(101), true), Err(Denied::Busy), "nobody has ended");
    }

    const NOW: Mono = Mono(1);

    fn reading(follows: bool, hosts: &[(&'static str, Stage)]) -> Reading<&'static str> {
        let mut reading = Reading::new(follows);
        reading.see(hosts.iter().copied());
        reading
    }

    fn asks(reading: &mut Reading<&'static str>, now: Mono) -> Vec<(&'static str, u64)> {
        std::iter::from_fn(|| reading.next(now)).map(|ask| (ask.host, ask.offset)).collect()
    }

    fn part(text: &str) -> Answer {
        Answer::Part(text.into())
    }

    fn texts(lines: &[Line]) -> Vec<String> {
        let text = |line: &Line| String::from_utf8(line.bytes.clone()).unwrap();
        lines.iter().map(text).collect()
    }

    #[test]
    fn what_is_not_followed_is_read_host_by_host_to_its_end() {
        let hosts =
            [("a", Stage::Over), ("b", Stage::Ahead), ("c", Stage::AtWork), ("d", Stage::AtWork)];
        let mut reading = reading(false, &hosts);
        assert_eq!(asks(&mut reading, NOW), [("a", 0)]);
        let long = "x\n".repeat(LOG_PART_BYTES_MAX / 2);
        assert_eq!(reading.answered(NOW, &"a", part(&long)).len(), LOG_PART_BYTES_MAX / 2);
        assert_eq!(asks(&mut reading, NOW), [("a", u64::try_from(long.len()).unwrap())]);
        // A log of a few full parts ends with an empty one.
        assert!(reading.answered(NOW, &"a", part("")).is_empty() && !reading.is_done());
        assert_eq!(asks(&mut reading, NOW), [("c", 0)]);
        assert_eq!(texts(&reading.answered(NOW, &"c", part("one\ntwo"))), ["one", "two"]);
        assert_eq!(asks(&mut reading, NOW), [("d", 0)]);
        reading.answered(NOW, &"d", Answer::Absent);
        assert!(reading.is_done() && reading.troubles().next().is_none());
        assert!(reading.answered(NOW, &"d", part("unasked\n")).is_empty());
    }

    #[test]
    fn what_is_followed_is_asked_again_until_it_was_asked_at_its_end() {
        let mut reading = reading(true, &[("a", Stage::AtWork), ("b", Stage::Ahead)]);
        assert_eq!(asks(&mut reading, NOW), [("a", 0)]);
        assert_eq!(texts(&reading.answered(NOW, &"a", part("one\ntw"))), ["one"]);
        assert!(asks(&mut reading, NOW).is_empty() && !reading.is_done());
        let later = NOW + LOG_LOOK_EVERY;
        reading.see([("b", Stage::AtWork)]);
        assert_eq!(asks(&mut reading, later), [("b", 0), ("a", 6)]);
        // It ends while the question is under way: that answer may be too old.
        reading.see([("a", Stage::Over), ("b", Stage::Over)]);
        assert_eq!(texts(&reading.answered(later, &"a", part("o\n"))), ["two"]);
        reading.answered(later, &"b", Answer::Absent);
        let last = later + LOG_LOOK_EVERY;
        assert_eq!(asks(&mut reading, last), [("a", 8), ("b", 0)]);
        assert_eq!(texts(&reading.answered(last, &"a", part("three"))), ["three"]);
        assert!(!reading.is_done());
        reading.answered(last, &"b", Answer::Absent);
        assert!(reading.is_done() && asks(&mut reading, last + LOG_LOOK_EVERY).is_empty());
        let troubles: Vec<_> = reading.troubles().collect();
        assert_eq!(troubles, [(&"b", "it keeps no log of this deployment")]);
    }

    #[test]
    fn a_host_that_does_not_answer_is_given_up_when_it_writes_no_more() {
        let gone = || Answer::Trouble("it is gone".into());
        for (follows, stage, is_given_up) in [
            (false, Stage::AtWork, true),
            (false, Stage::Over, true),
            (true, Stage::AtWork, false),
            (true, Stage::Over, true),
        ] {
            let mut reading = reading(follows, &[("a", stage)]);
            let mut now = NOW;
            for _ in 0..LOG_FAILURES_MAX - 1 {
                assert_eq!(asks(&mut reading, now), [("a", 0)]);
                reading.answered(now, &"a", gone());
                assert!(asks(&mut reading, now).is_empty() && !reading.is_done());
                now = now + LOG_ASK_AGAIN_AFTER;
            }
            assert_eq!(asks(&mut reading, now), [("a", 0)]);
            reading.answered(now, &"a", gone());
            assert_eq!(reading.is_done(), is_given_up, "{follows} {stage:?}");
            let trouble = reading.troubles().next();
            assert_eq!(trouble.is_some(), is_given_up, "{trouble:?}");
        }
    }

    #[test]
    fn few_hosts_are_asked_at_a_time_and_none_is_left_out() {
        let names: Vec<String> = (10..30).map(|number| number.to_string()).collect();
        let mut reading = Reading::new(true);
        reading.see(names.iter().map(|name| (name.clone(), Stage::AtWork)));
        let mut asked = Vec::new();
        for round in 0..4 {
            let now = NOW + LOG_LOOK_EVERY * round;
            let some: Vec<_> = std::iter::from_fn(|| reading.next(now)).collect();
            assert!(some.len() <= LOG_ASKS_MAX);
            for ask in some {
                reading.answered(now, &ask.host, part(""));
                asked.push(ask.host);
            }
        }
        asked.truncate(names.len());
        assert_eq!(asked, names);
    }

    #[test]
    fn a_host_that_sends_without_end_is_given_up() {
        let says = |reading: &Reading<_>| reading.troubles().next().is_some();
        for (bytes, is_too_long) in [(LOG_PART_BYTES_MAX, false), (LOG_PART_BYTES_MAX + 1, true)] {
            let mut reading = reading(true, &[("a", Stage::AtWork)]);
            reading.next(NOW).unwrap();
            reading.answered(NOW, &"a", Answer::Part(vec![b'\n'; bytes]));
            assert_eq!(says(&reading), is_too_long, "{bytes}");
        }
        let mut reading = reading(true, &[("a", Stage::AtWork)]);
        let parts = LOG_BYTES_MAX / u64::try_from(LOG_PART_BYTES_MAX).unwrap();
        for number in 0..=parts {
            assert!(!says(&reading), "{number}");
            reading.next(NOW).unwrap();
            reading.answered(NOW, &"a", Answer::Part(vec![b'\n'; LOG_PART_BYTES_MAX]));
        }
        assert!(says(&reading) && reading.is_done());
    }

    #[test]
    fn lines_are_of_their_event_and_no_script_can_forge_one() {
        let stamp = "2026-11-23 22:10:05 ";
        let log = format!(
            "{stamp}odd\n{stamp}LifecycleEvent - BeforeInstall\n\
             {stamp}[stdout]LifecycleEvent - AfterInstall\n{stamp}LifecycleEvent - Nonsense\n\
             {stamp}LifecycleEvent - ApplicationStart\n{stamp}[stderr]x\n"
        );
        let events: Vec<_> = Lines::default().push(log.as_bytes());
        let events: Vec<_> = events.iter().map(|line| line.event).collect();
        let (before, start) =
            (Some(LifecycleEvent::BeforeInstall), Some(LifecycleEvent::ApplicationStart));
        assert_eq!(events, [None, before, before, before, start, start]);
        // Nor in the middle of a line that is cut.
        let mut lines = Lines::default();
        let filler = "y".repeat(LOG_LINE_BYTES_MAX);
        let said = lines.push(format!("{filler}{stamp}LifecycleEvent - Install\n").as_bytes());
        assert_eq!(
            said.iter().map(|line| (line.event, line.ends)).collect::<Vec<_>>(),
            [(None, false), (None, true)]
        );
    }

    #[test]
    fn a_line_is_handed_on_in_one_piece_up_to_its_limit() {
        for (bytes, pieces) in [(LOG_LINE_BYTES_MAX, 1), (LOG_LINE_BYTES_MAX + 1, 2)] {
            let line = format!("{}\n", "x".repeat(bytes));
            assert_eq!(Lines::default().push(line.as_bytes()).len(), pieces, "{bytes}");
        }
        // At whatever byte of a character the limit is, it stays whole.
        for padding in 0..4 {
            let line = format!("{}{}\n", "x".repeat(padding), "\u{1f980}".repeat(20_000));
            let pieces = Lines::default().push(line.as_bytes());
            assert!(pieces.iter().all(|line| str::from_utf8(&line.bytes).is_ok()), "{padding}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn no_byte_is_lost_however_it_comes(
            log in prop::collection::vec(prop_oneof![Just(b'\n'), any::<u8>()], 0..300),
            repeat in 1usize..900,
            parts in 100usize..100_000,
        ) {
            let log = log.repeat(repeat);
            let mut lines = Lines::default();
            let mut read = Vec::new();
            let pieces = log.chunks(parts).flat_map(|part| lines.push(part)).collect::<Vec<_>>();
            for line in pieces.into_iter().chain(lines.finish()) {
                prop_assert!(line.bytes.len() <= LOG_LINE_BYTES_MAX);
                read.extend(line.bytes);
                read.extend(line.ends.then_some(b'\n'));
            }
            prop_assert_eq!(read, log);
        }
    }
}
