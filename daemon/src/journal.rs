//! Where messages go, and which: those of our own programs as the settings say, those of libraries
//! only when something is wrong.

use std::io::{self, IsTerminal};

use log::{Log, Metadata, Record};
use systemd_journal_logger::JournalLog;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::{filter::Targets, layer::SubscriberExt, util::SubscriberInitExt};

use crate::config::{LogTo, Settings};

/// Starts logging, to the journal or to standard error.
pub fn start(settings: &Settings) -> io::Result<()> {
    let to_journal = match settings.log_to {
        LogTo::Journal => true,
        LogTo::Stderr => false,
        LogTo::Auto => systemd_journal_logger::connected_to_journal(),
    };
    if to_journal {
        // tracing passes its events on to `log` where no subscriber is set.
        let level = settings.log;
        let journal = Heard { journal: JournalLog::new()?, level };
        log::set_boxed_logger(Box::new(journal)).map_err(io::Error::other)?;
        log::set_max_level(log_level(level));
        return Ok(());
    }
    let mut filter = Targets::new().with_default(of_libraries(settings.log));
    for own in OWN {
        filter = filter.with_target(own, settings.log);
    }
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .with_target(false);
    tracing_subscriber::registry().with(lines).with(filter).init();
    Ok(())
}

/// What of libraries is heard: at `debug` they would drown out everything else.
fn of_libraries(level: LevelFilter) -> LevelFilter {
    if level == LevelFilter::TRACE { level } else { level.min(LevelFilter::WARN) }
}

/// The journal, without what is not to be heard.
struct Heard<T> {
    journal: T,
    level: LevelFilter,
}

impl<T: Log> Log for Heard<T> {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let own = OWN.iter().any(|own| metadata.target().starts_with(own));
        let level = if own { self.level } else { of_libraries(self.level) };
        metadata.level() <= log_level(level) && self.journal.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            self.journal.log(record);
        }
    }

    fn flush(&self) {
        self.journal.flush();
    }
}

fn log_level(level: LevelFilter) -> log::LevelFilter {
    // Both are ordered alike, and both write their names alike.
    level.to_string().parse().unwrap_or(log::LevelFilter::Info)
}

/// What the names of our own programs and crates begin with.
const OWN: [&str; 2] = ["groundswell", "swell"];

#[cfg(test)]
mod tests {
    use super::*;

    struct All;

    impl Log for All {
        fn enabled(&self, _: &Metadata<'_>) -> bool {
            true
        }

        fn log(&self, _: &Record<'_>) {}

        fn flush(&self) {}
    }

    #[test]
    fn libraries_are_heard_when_something_is_wrong() {
        let heard = |setting, target, level| {
            let metadata = Metadata::builder().target(target).level(level).build();
            Heard { journal: All, level: setting }.enabled(&metadata)
        };
        use log::Level::{Debug, Error, Info, Trace, Warn};
        let (own, library) = ("groundswell_daemon::engine", "libp2p_swarm::connection");
        assert!(heard(LevelFilter::DEBUG, own, Debug) && !heard(LevelFilter::INFO, own, Debug));
        assert!(heard(LevelFilter::INFO, "swelld", Info));
        for setting in [LevelFilter::DEBUG, LevelFilter::INFO] {
            assert!(!heard(setting, library, Info) && !heard(setting, "yamux", Debug));
            assert!(heard(setting, library, Warn) && heard(setting, library, Error));
        }
        assert!(heard(LevelFilter::TRACE, library, Trace));
        assert!(!heard(LevelFilter::ERROR, library, Warn));
        assert!(!heard(LevelFilter::OFF, own, Error));
    }
}
