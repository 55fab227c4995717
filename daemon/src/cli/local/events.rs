//! Which events a deployment of one host alone has, and in which order.

use groundswell_protocol::execute::{
    Lifecycle,
    LifecycleEvent::{
        self, AfterBlockTraffic, ApplicationStop, BeforeBlockTraffic, BeforeInstall,
        DownloadBundle, Install,
    },
};

use super::Failed;

/// The events of a deployment.
#[derive(Debug, PartialEq)]
pub(super) struct Events {
    /// In their order, each once; with DownloadBundle and Install, unless a lifecycle has neither.
    pub(super) all: Vec<String>,
    /// Those that CodeDeploy does not know.
    pub(super) custom: Vec<String>,
}

/// What may come before the new revision is there.
const OF_THE_ONE_BEFORE: [LifecycleEvent; 3] =
    [BeforeBlockTraffic, AfterBlockTraffic, ApplicationStop];

impl Events {
    /// All events of a lifecycle in which something is done on a host.
    pub(super) fn of(lifecycle: Lifecycle) -> Self {
        let events = lifecycle.events().iter().filter(|event| is_done_here(**event));
        Self { all: events.map(ToString::to_string).collect(), custom: Vec::new() }
    }

    /// Reads the list of a command line.
    pub(super) fn parse(list: &str) -> Result<Self, Failed> {
        let mut all: Vec<String> = Vec::new();
        for name in list.split(',') {
            check_name(name)?;
            if all.iter().any(|other| other == name) {
                return Err(refused(format!("the event {name} is named twice")));
            }
            all.push(name.to_owned());
        }
        let is_known = |name: &String| name.parse::<LifecycleEvent>().is_ok();
        let custom = all.iter().filter(|name| !is_known(name)).cloned().collect();
        add_what_is_always_done(&mut all);
        check_order(&all)?;
        Ok(Self { all, custom })
    }
}

fn is_done_here(event: LifecycleEvent) -> bool {
    event.is_scriptable() || matches!(event, DownloadBundle | Install)
}

fn check_name(name: &str) -> Result<(), Failed> {
    let good = name.starts_with(|c: char| c.is_ascii_uppercase())
        && name.chars().all(|c| c.is_ascii_alphanumeric());
    if !good {
        let shown = name.escape_debug();
        return Err(Failed::with_hint(
            format!("'{shown}' is not the name of an event"),
            "write names such as BeforeInstall, joined by commas and without spaces",
        ));
    }
    match name.parse::<LifecycleEvent>() {
        Ok(event) if !is_done_here(event) => {
            Err(refused(format!("nothing is done on a host in {name}")))
        }
        _ => Ok(()),
    }
}

fn at(all: &[String], event: LifecycleEvent) -> Option<usize> {
    all.iter().position(|name| *name == event.to_string())
}

fn add_what_is_always_done(all: &mut Vec<String>) {
    if at(all, DownloadBundle).is_none() {
        all.insert(0, DownloadBundle.to_string());
    }
    if at(all, Install).is_none() {
        let download = at(all, DownloadBundle).unwrap_or_default();
        all.insert(download + 1, Install.to_string());
    }
}

/// What comes before the revision is there can only be about the one before, and what comes between its
/// arrival and its installation can only prepare that.
fn check_order(all: &[String]) -> Result<(), Failed> {
    let (download, install) = (at(all, DownloadBundle), at(all, Install));
    let (Some(download), Some(install)) = (download, install) else { return Ok(()) };
    let may = OF_THE_ONE_BEFORE.map(|event| event.to_string());
    if let Some(early) = all[..download].iter().find(|name| !may.contains(name)) {
        let may = may.join(", ");
        return Err(refused(format!("{early} is before DownloadBundle, where only {may} can be")));
    }
    let prepares = BeforeInstall.to_string();
    match all[download + 1..install].iter().find(|name| **name != prepares) {
        Some(early) => Err(refused(format!(
            "{early} is between DownloadBundle and Install, where only {prepares} can be; before \
             both, {} can",
            may.join(", ")
        ))),
        None => Ok(()),
    }
}

fn refused(text: String) -> Failed {
    Failed::with_hint(text, "correct the list of --events")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(list: &str) -> Result<String, String> {
        let events = Events::parse(list).map_err(|failed| failed.to_string())?;
        Ok(events.all.join(" "))
    }

    #[test]
    fn what_is_not_named_is_done_first() {
        for (list, all) in [
            ("ValidateService,AfterInstall", "DownloadBundle Install ValidateService AfterInstall"),
            ("BeforeInstall,Install", "DownloadBundle BeforeInstall Install"),
            ("ApplicationStop,DownloadBundle", "ApplicationStop DownloadBundle Install"),
            ("Stop,Start", "DownloadBundle Install Stop Start"),
        ] {
            assert_eq!(parse(list).as_deref(), Ok(all), "{list}");
        }
        assert_eq!(Events::parse("Stop,AfterInstall,X").unwrap().custom, ["Stop", "X"]);
    }

    #[test]
    fn unasked_all_is_run_but_what_is_done_elsewhere() {
        assert_eq!(
            Events::of(Lifecycle::LoadBalancer).all.join(" "),
            "BeforeBlockTraffic AfterBlockTraffic ApplicationStop DownloadBundle BeforeInstall \
             Install AfterInstall ApplicationStart ValidateService BeforeAllowTraffic \
             AfterAllowTraffic"
        );
    }

    #[test]
    fn lists_that_cannot_be_done_are_refused() {
        for (list, text) in [
            ("ApplicationStart,DownloadBundle", "ApplicationStart is before DownloadBundle"),
            ("Install,DownloadBundle", "BeforeBlockTraffic, AfterBlockTraffic, ApplicationStop"),
            ("ApplicationStop,Install", "only BeforeInstall can be"),
            ("AfterInstall,AfterInstall", "named twice"),
            ("AfterInstall, Start", "' Start' is not the name"),
            ("start", "'start' is not the name"),
            ("", "'' is not the name"),
            ("AllowTraffic", "nothing is done"),
        ] {
            let refused = parse(list).unwrap_err();
            assert!(refused.contains(text), "{list}: {refused}");
        }
    }
}
