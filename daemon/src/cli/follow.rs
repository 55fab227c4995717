//! Watching a deployment to its end, with a bar for each batch where there is a terminal.

use std::{collections::BTreeMap, io::IsTerminal, time::Duration};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{Failed, Output, text::short};
use crate::control::{
    api::{Change, Report, Target},
    client::{Client, ClientError},
};

/// Watches until the deployment is over. `seen` is called with each new state of it.
pub(super) async fn to_the_end(
    client: &Client,
    id: &str,
    mut seen: impl FnMut(&Report),
) -> Result<Report, Failed> {
    let mut away = 0;
    loop {
        match client.report(id).await {
            Ok(report) => {
                away = 0;
                seen(&report);
                if report.summary.is_over() {
                    return Ok(report);
                }
            }
            // The deployment does not need whoever watches it; a daemon that restarts comes back.
            Err(ClientError::NoDaemon { .. } | ClientError::Broken { .. }) if away < AWAY_MAX => {
                away += 1;
            }
            Err(error) => return Err(error.into()),
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Shows a deployment: bars on a terminal, else a line for each change.
pub(super) struct Progress {
    bars: Option<(MultiProgress, Vec<ProgressBar>)>,
    said: BTreeMap<String, String>,
    out: Output,
    quiet: bool,
}

impl Progress {
    pub(super) fn new(out: Output, quiet: bool) -> Self {
        let terminal = std::io::stderr().is_terminal() && !out.json && !quiet;
        let bars = terminal.then(|| (MultiProgress::new(), Vec::new()));
        Self { bars, said: BTreeMap::new(), out, quiet }
    }

    pub(super) fn show(&mut self, report: &Report) {
        if self.quiet {
            return;
        }
        match &mut self.bars {
            Some((all, bars)) => show_bars(all, bars, report),
            None => self.say(report),
        }
    }

    pub(super) fn end(&mut self) {
        if let Some((all, bars)) = self.bars.take() {
            bars.iter().for_each(ProgressBar::finish);
            drop(all);
        }
    }

    fn say(&mut self, report: &Report) {
        for target in &report.targets {
            let state = state_of(target).to_owned();
            if self.said.insert(target.host.clone(), state.clone()).as_ref() == Some(&state) {
                continue;
            }
            let (host, deployment) = (target.host.clone(), report.summary.id.clone());
            let line = short(&format!("{deployment}  {host}  {state}"));
            self.out.tell(&Change { deployment, host, state }, line);
        }
    }
}

/// Hosts in the order in which they get their turn, in batches as large as the quota.
pub(super) fn batches(report: &Report) -> Vec<Vec<&Target>> {
    let quota = report.batch.max(1);
    let mut targets: Vec<_> = report.targets.iter().collect();
    targets.sort_by_key(|target| (target.started_at.unwrap_or(u64::MAX), &target.host));
    targets.chunks(quota).map(<[_]>::to_vec).collect()
}

fn show_bars(all: &MultiProgress, bars: &mut Vec<ProgressBar>, report: &Report) {
    let batches = batches(report);
    while bars.len() < batches.len() {
        // Added first: a bar that draws itself by itself leaves a line behind.
        let bar = all.add(ProgressBar::new(100));
        bar.set_style(style("{prefix:>12} {bar:30} {wide_msg}"));
        bar.set_prefix(format!("batch {} of {}", bars.len() + 1, batches.len()));
        bars.push(bar);
    }
    for (bar, batch) in bars.iter().zip(&batches) {
        let sum: u64 = batch.iter().map(|target| u64::from(target.percent)).sum();
        bar.set_position(sum / u64::try_from(batch.len().max(1)).unwrap_or(1));
        let states = batch.iter().map(|target| format!("{} {}", target.host, state_of(target)));
        bar.set_message(short(&states.collect::<Vec<_>>().join(", ")));
    }
}

/// What a host does while it has its turn, and what keeps it from getting one where that goes on.
fn state_of(target: &Target) -> &str {
    let tells = target.status == "in progress" || (target.status == "pending" && target.stalled);
    target.doing.as_deref().filter(|_| tells).unwrap_or(&target.status)
}

/// A bar for bytes that are read.
pub(super) fn bytes_bar(length: u64, out: Output) -> ProgressBar {
    if out.json || !std::io::stderr().is_terminal() {
        return ProgressBar::with_draw_target(Some(length), ProgressDrawTarget::hidden());
    }
    ProgressBar::new(length).with_style(style("{bar:40} {bytes} of {total_bytes}, {bytes_per_sec}"))
}

fn style(template: &str) -> ProgressStyle {
    // The templates are constants; a bad one would show the default bar.
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("=> ")
}

/// Time between two looks at what is waited for.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Half a minute.
const AWAY_MAX: u32 = 300;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_host_does_is_shown_in_its_turn_and_where_it_keeps_it_from_one() {
        for (status, stalled, shown) in [
            ("in progress", false, "AfterInstall"),
            ("pending", true, "AfterInstall"),
            ("pending", false, "pending"),
            ("waiting", true, "waiting"),
        ] {
            let target = Target {
                host: "a".into(),
                status: status.into(),
                doing: Some("AfterInstall".into()),
                // In a large fleet that may be too soon to call it stalled.
                doing_seconds: Some(15),
                stalled,
                percent: 0,
                started_at: None,
                ended_at: None,
                reason: None,
                failure: None,
            };
            assert_eq!(state_of(&target), shown, "{status}, {stalled}");
        }
    }
}
