//! What the scripts of a deployment write, from every host that it is for.
//!
//! Which host is asked for what, and when, is decided in `protocol::logs`; here the daemon of this host
//! is asked, and lines are printed.

use std::{cell::RefCell, pin::pin};

use clap::Args;
use data_encoding::HEXLOWER;
use futures::{StreamExt, stream::FuturesUnordered};
use groundswell_protocol::logs::{Answer, Line, Reading, Stage};

use super::{
    Ended, Failed, Output,
    deploy::{self, list},
    follow,
    text::{or_dash, plain, plain_bytes, short},
    view,
};
use crate::{
    clock::Clock,
    control::{
        api::{LogLine, Report, Target},
        client::{Client, ClientError},
    },
};

#[derive(Args)]
pub(super) struct LogsArguments {
    /// The deployment's id, such as d-4KX81ZQ0B.
    id: String,
    /// Only what this host has.
    #[arg(long, value_name = "NAME")]
    host: Option<String>,
    /// Go on with what is written, until the deployment is over.
    #[arg(long)]
    follow: bool,
}

pub(super) async fn logs(
    client: &Client,
    arguments: &LogsArguments,
    out: Output,
) -> Result<Ended, Failed> {
    let report = view::find(client, &arguments.id).await?;
    let named = |target: &&Target| arguments.host.as_ref().is_none_or(|host| target.host == *host);
    if let (None, Some(host)) = (report.targets.iter().find(named), &arguments.host) {
        let known: Vec<_> = report.targets.iter().map(|target| target.host.as_str()).collect();
        let (id, host) = (&report.summary.id, plain(host));
        let hint = format!("it is for: {}", list(&known));
        return Err(Failed::with_hint(format!("{id} has no host {host}"), hint));
    }
    let printer = Printer::new(&report, arguments.host.is_some(), out);
    tokio::select! {
        ended = read(client, report, arguments, printer) => ended,
        interrupted = tokio::signal::ctrl_c() => {
            interrupted.map_err(Failed::Output)?;
            Ok(Ended::Interrupted)
        }
    }
}

async fn read(
    client: &Client,
    report: Report,
    arguments: &LogsArguments,
    mut printer: Printer,
) -> Result<Ended, Failed> {
    let (id, clock, follows) = (report.summary.id.clone(), Clock::start(), arguments.follow);
    let host = arguments.host.as_deref();
    let reading = RefCell::new(Reading::new(follows));
    reading.borrow_mut().see(stages(&report, host));
    let seen = |report: &Report| reading.borrow_mut().see(stages(report, host));
    let mut watched = pin!(follow::to_the_end(client, &id, seen));
    let (mut last, mut asked) = ((!follows).then_some(report), FuturesUnordered::new());
    let mut look = tokio::time::interval(follow::LOOK_EVERY);
    let last = loop {
        while let Some(ask) = reading.borrow_mut().next(clock.mono()) {
            let id = &id;
            asked.push(async move {
                let answer = client.log(id, &ask.host, ask.offset).await;
                (ask.host, answer_of(answer))
            });
        }
        if let Some(last) = last.take_if(|_| reading.borrow().is_done()) {
            break last;
        }
        tokio::select! {
            Some((host, answer)) = asked.next() => {
                let lines = reading.borrow_mut().answered(clock.mono(), &host, answer);
                lines.iter().try_for_each(|line| printer.line(&host, line))?;
            }
            report = &mut watched, if last.is_none() => last = Some(report?),
            _ = look.tick() => {}
        }
    };
    printer.end()?;
    let is_whole = tell_troubles(&reading.borrow(), &id);
    if follows {
        eprintln!("swell: {}", short(&view::summary_text(&last.summary)));
        return Ok(deploy::ended(&last));
    }
    Ok(if is_whole { Ended::Well } else { Ended::Badly })
}

/// How far each of the hosts is that are wanted.
fn stages(report: &Report, host: Option<&str>) -> impl Iterator<Item = (String, Stage)> {
    let is_over = report.summary.is_over();
    let wanted = report.targets.iter().filter(move |target| host.is_none_or(|h| target.host == h));
    wanted.map(move |target| (target.host.clone(), stage(target, is_over)))
}

fn stage(target: &Target, is_over: bool) -> Stage {
    match target.status.as_str() {
        "pending" | "waiting" | "skipped" => Stage::Ahead,
        "in progress" if !is_over => Stage::AtWork,
        _ => Stage::Over,
    }
}

fn answer_of(answer: Result<Vec<u8>, ClientError>) -> Answer {
    match answer {
        Ok(part) => Answer::Part(part),
        Err(ClientError::Refused { unknown: true, .. }) => Answer::Absent,
        Err(error) => Answer::Trouble(error.to_string()),
    }
}

/// Names the hosts whose logs were not read to the end; true if there is none.
fn tell_troubles(reading: &Reading<String>, id: &str) -> bool {
    let mut troubles = reading.troubles().peekable();
    let first = troubles.peek().map(|(host, _)| plain(host));
    for (host, reason) in troubles {
        eprintln!("swell: {} was not read to the end: {}", plain(host), short(reason));
    }
    if let Some(host) = &first {
        eprintln!("swell: hint: read it with `swell logs {id} --host {host}` when it answers");
    }
    first.is_none()
}

/// Prints lines as they come, each with its host and event where there are several hosts.
struct Printer {
    deployment: String,
    /// The length of the longest name, if there is more than one.
    width: Option<usize>,
    /// The host whose line was not ended.
    open: Option<String>,
    out: Output,
}

impl Printer {
    fn new(report: &Report, is_one: bool, out: Output) -> Self {
        let width = report.targets.iter().map(|target| target.host.len()).max();
        let width = width.filter(|_| !is_one && report.targets.len() > 1);
        Self { deployment: report.summary.id.clone(), width, open: None, out }
    }

    fn line(&mut self, host: &str, line: &Line) -> Result<(), Failed> {
        if self.out.json {
            return self.out.json_line(&LogLine {
                deployment: self.deployment.clone(),
                host: host.to_owned(),
                event: line.event.map(|event| event.to_string()),
                text: String::from_utf8_lossy(&line.bytes).into_owned(),
                bytes: str::from_utf8(&line.bytes).err().map(|_| HEXLOWER.encode(&line.bytes)),
                ends: line.ends,
            });
        }
        let text = self.text(host, line);
        self.out.text(&text)
    }

    fn text(&mut self, host: &str, line: &Line) -> String {
        let goes_on = self.open.as_deref() == Some(host);
        let mut text = String::new();
        if self.open.is_some() && !goes_on {
            text.push('\n');
        }
        if let Some(width) = self.width.filter(|_| !goes_on) {
            let (host, event) = (plain(host), line.event.map(|event| event.to_string()));
            let event = or_dash(event.as_deref());
            text.push_str(&format!("{host:width$}  {event:EVENT_WIDTH$}  "));
        }
        text.push_str(&plain_bytes(&line.bytes));
        text.push_str(if line.ends { "\n" } else { "" });
        self.open = (!line.ends).then(|| host.to_owned());
        text
    }

    fn end(&mut self) -> Result<(), Failed> {
        self.out.text(if self.open.take().is_some() { "\n" } else { "" })
    }
}

/// The longest of the events that a deployment has as a rule.
const EVENT_WIDTH: usize = "ApplicationStart".len();

#[cfg(test)]
mod tests {
    use groundswell_protocol::execute::LifecycleEvent;

    use super::*;

    #[test]
    fn a_line_that_comes_in_pieces_is_one_line_unless_another_host_comes_between() {
        let out = Output { json: false };
        let (deployment, open) = ("d-AAAAAAAAA".to_owned(), None);
        let mut printer = Printer { deployment, width: Some(6), open, out };
        let mut said = |host: &str, bytes: &[u8], ends: bool| {
            let event = ends.then_some(LifecycleEvent::AfterInstall);
            printer.text(host, &Line { event, bytes: bytes.into(), ends })
        };
        assert_eq!(said("web-10", b"one ", false), "web-10  -                 one ");
        assert_eq!(said("web-10", b"two", true), "two\n");
        assert_eq!(said("web-1", b"\x1b[2J", true), "web-1   AfterInstall      \\u{1b}[2J\n");
        assert_eq!(said("web-1", b"a", false), "web-1   -                 a");
        assert_eq!(said("web-10", b"b", true), "\nweb-10  AfterInstall      b\n");
        printer.width = None;
        let alone = Line { event: None, bytes: b"as it is".into(), ends: true };
        assert_eq!(printer.text("web-1", &alone), "as it is\n");
    }
}
