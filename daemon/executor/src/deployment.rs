//! What a lifecycle carries out, whoever decided on it: an order of the fleet, or somebody on this host
//! alone. Nothing in here has to be believed any more.

use std::{collections::BTreeMap, fmt, str::FromStr, time::Duration};

use groundswell_protocol::{
    execute::{Lifecycle, LifecycleEvent, Source},
    ids::{DeploymentId, GroupName, Malformed},
    revision::{FileExistsBehavior, Manifest, Script},
};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::journal::{Installed, Standing};

/// One run of a revision's lifecycle on this host.
pub(crate) struct Deployment {
    /// Names its directory on this host.
    pub(crate) group: GroupName,
    /// What scripts are told that the group is called.
    pub(crate) group_name: String,
    /// What scripts are told that the application is called.
    pub(crate) application: String,
    pub(crate) manifest: Manifest,
    /// What is in place when Install has ended.
    pub(crate) installs: Installed,
    /// Of which revision events are that come before this one is on the host.
    pub(crate) lifecycle: Lifecycle,
    /// In their order, each once. Without Install among them nothing arrives: the events are of what is
    /// there.
    pub(crate) events: Vec<Event>,
    /// The scripts of events that only this deployment knows.
    pub(crate) custom: BTreeMap<String, Vec<Script>>,
    /// What to do with files in the way; the appspec's own setting wins.
    pub(crate) file_exists_behavior: Option<FileExistsBehavior>,
    pub(crate) ignore_application_stop_failures: bool,
    /// How long the scripts of one event may take together.
    pub(crate) event_deadline: Option<Duration>,
    /// Whether a failure leads back to the revision before.
    pub(crate) goes_back: bool,
}

impl Deployment {
    pub(crate) fn name(&self) -> DeploymentName {
        self.installs.deployment
    }

    /// The first event that has something to do, if there is one. Where nothing is installed, nothing is
    /// stopped.
    pub(crate) fn first(&self, before: &Standing) -> Option<Event> {
        let mut event = self.next_from(0);
        while let Some(first) = &event
            && self.source(first) != Source::Current
            && before.at(self.source(first)).is_none()
        {
            event = self.after(first);
        }
        event
    }

    /// True if the revision is put in place.
    pub(crate) fn installs_files(&self) -> bool {
        self.events.contains(&INSTALL)
    }

    /// The event that follows and has something to do: one without scripts is not worth a journal
    /// entry.
    pub(crate) fn after(&self, event: &Event) -> Option<Event> {
        self.next_from(self.position(event).map_or(0, |at| at + 1))
    }

    /// The events that come before its files are put in place.
    pub(crate) fn before_install(&self) -> impl Iterator<Item = &Event> {
        self.events.iter().take_while(|event| **event != INSTALL)
    }

    /// The event of the way back from a failed one that follows `after`, or the first. What has not been reached
    /// is not taken back: an application that still runs is not started over, and what the old revision does
    /// to be installed it does again only where the new one may have done something to it.
    pub(crate) fn way_back(&self, failed: &Event, after: Option<&Event>) -> Option<Event> {
        if !self.goes_back || !self.installs_files() {
            return None;
        }
        let stop = self.position(&LifecycleEvent::ApplicationStop.into());
        let has_begun = self.source(failed) == Source::Current;
        let has_stopped = has_begun || stop.is_some() && self.position(failed) >= stop;
        let is_due = |event: &Event| match event {
            Event::Known(LifecycleEvent::ApplicationStart | LifecycleEvent::ValidateService) => {
                has_stopped
            }
            Event::Known(
                LifecycleEvent::Install
                | LifecycleEvent::BeforeAllowTraffic
                | LifecycleEvent::AfterAllowTraffic,
            ) => true,
            _ => has_begun,
        };
        let all = WAY_BACK.into_iter().map(Event::Known);
        let past = all.skip_while(|event| after.is_some_and(|after| event != after));
        let mut due = past.filter(|event| self.events.contains(event) && is_due(event));
        due.find(|event| Some(event) != after)
    }

    /// The revision whose scripts an event runs: an older one as long as this one is not on this host yet, as
    /// far as AWS's agent would know.
    pub(crate) fn source(&self, event: &Event) -> Source {
        let Event::Known(known) = event else { return Source::Current };
        let arrives = [LifecycleEvent::DownloadBundle, LifecycleEvent::Install];
        let arrival = arrives.into_iter().filter_map(|event| self.position(&event.into())).min();
        let is_before = arrival.is_none_or(|arrival| self.position(event) < Some(arrival));
        if is_before { self.lifecycle.source(*known) } else { Source::Current }
    }

    /// True if an event comes when the application may have been started.
    pub(crate) fn has_started_by(&self, event: &Event) -> bool {
        let start = self.position(&LifecycleEvent::ApplicationStart.into());
        start.is_some() && self.position(event) >= start
    }

    /// The scripts of this revision in an event.
    pub(crate) fn scripts(&self, event: &Event) -> &[Script] {
        match event {
            Event::Known(event) => self.manifest.spec.scripts(*event),
            Event::Custom(name) => self.custom.get(name).map_or(&[], Vec::as_slice),
        }
    }

    fn position(&self, event: &Event) -> Option<usize> {
        self.events.iter().position(|other| other == event)
    }

    fn next_from(&self, at: usize) -> Option<Event> {
        let rest = self.events.get(at..).unwrap_or_default();
        rest.iter().find(|event| self.has_something_to_do(event)).cloned()
    }

    fn has_something_to_do(&self, event: &Event) -> bool {
        *event == INSTALL
            || self.source(event) != Source::Current && event.is_scriptable()
            || event.is_scriptable() && !self.scripts(event).is_empty()
    }
}

const INSTALL: Event = Event::Known(LifecycleEvent::Install);

/// Install puts the files back. Nothing was routed away that is not routed back: where traffic is blocked, it
/// is allowed again.
const WAY_BACK: [LifecycleEvent; 8] = [
    LifecycleEvent::ApplicationStop,
    LifecycleEvent::BeforeInstall,
    LifecycleEvent::Install,
    LifecycleEvent::AfterInstall,
    LifecycleEvent::ApplicationStart,
    LifecycleEvent::ValidateService,
    LifecycleEvent::BeforeAllowTraffic,
    LifecycleEvent::AfterAllowTraffic,
];

/// A lifecycle event: one of CodeDeploy's, or one that only a local deployment has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    Known(LifecycleEvent),
    Custom(String),
}

impl Event {
    /// The event as a fleet calls it. No order of a fleet leads to any other.
    pub(crate) fn of_fleet(&self) -> LifecycleEvent {
        match self {
            Self::Known(event) => *event,
            Self::Custom(name) => panic!("the journal of a fleet's group has the event {name}"),
        }
    }

    fn is_scriptable(&self) -> bool {
        match self {
            Self::Known(event) => event.is_scriptable(),
            Self::Custom(_) => true,
        }
    }
}

impl From<LifecycleEvent> for Event {
    fn from(event: LifecycleEvent) -> Self {
        Self::Known(event)
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Known(event) => event.fmt(f),
            Self::Custom(name) => f.pad(name),
        }
    }
}

impl From<String> for Event {
    fn from(name: String) -> Self {
        name.parse().map_or(Self::Custom(name), Self::Known)
    }
}

// As its name, which is how the protocol writes its own events.
impl Serialize for Event {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Event {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(String::deserialize(deserializer)?.into())
    }
}

/// What a deployment is called on this host: its id in the fleet, or one that says that no fleet knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DeploymentName {
    id: DeploymentId,
    is_local: bool,
}

impl DeploymentName {
    /// A name for a deployment of this host alone, with the ending that AWS's agent gives it.
    pub(crate) fn local(id: DeploymentId) -> Self {
        Self { id, is_local: true }
    }

    /// True of a deployment of this host alone.
    pub(crate) fn is_local(self) -> bool {
        self.is_local
    }
}

impl From<DeploymentId> for DeploymentName {
    fn from(id: DeploymentId) -> Self {
        Self { id, is_local: false }
    }
}

impl fmt::Display for DeploymentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.id, if self.is_local { LOCAL } else { "" })
    }
}

impl FromStr for DeploymentName {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let id = text.strip_suffix(LOCAL);
        Ok(Self { id: id.unwrap_or(text).parse()?, is_local: id.is_some() })
    }
}

impl Serialize for DeploymentName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for DeploymentName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

const LOCAL: &str = "-local";

#[cfg(test)]
mod tests {
    use groundswell_protocol::{
        cbor,
        ids::{Digest, ReleaseLabel},
        revision::{AppSpec, EventHooks},
    };

    use super::*;

    fn deployment(events: &str, with_scripts: &[LifecycleEvent]) -> Deployment {
        let script =
            Script { sudo: false, runas: None, location: "run".into(), timeout_seconds: 1 };
        let hooks =
            |event: &LifecycleEvent| EventHooks { event: *event, scripts: vec![script.clone()] };
        let hooks = with_scripts.iter().map(hooks).collect();
        let spec = AppSpec { hooks, ..AppSpec::default() };
        Deployment {
            group: GroupName::new("web").unwrap(),
            group_name: "web".into(),
            application: "shop".into(),
            manifest: Manifest { spec, ..Manifest::default() },
            installs: Installed {
                release: Digest::ZERO,
                label: ReleaseLabel::new("1").unwrap(),
                manifest: Digest::ZERO,
                deployment: DeploymentId::of(Digest::ZERO, false).into(),
            },
            lifecycle: Lifecycle::LoadBalancer,
            events: events.split(' ').map(|event| event.to_owned().into()).collect(),
            custom: [("Warm".to_owned(), vec![script.clone()])].into(),
            file_exists_behavior: None,
            ignore_application_stop_failures: false,
            event_deadline: None,
            goes_back: true,
        }
    }

    fn walk(deployment: &Deployment) -> String {
        let installed = Some(deployment.installs.clone());
        let before = Standing { installed, ..Standing::default() };
        let first = deployment.first(&before);
        let events = std::iter::successors(first, |event| deployment.after(event));
        events.map(|event| event.to_string()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn events_without_anything_to_do_are_passed_over() {
        let all =
            "ApplicationStop DownloadBundle BeforeInstall Install AfterInstall ValidateService";
        let with = [LifecycleEvent::ValidateService];
        assert_eq!(walk(&deployment(all, &with)), "ApplicationStop Install ValidateService");
        let own = "DownloadBundle Install Warm ApplicationStop";
        assert_eq!(walk(&deployment(own, &with)), "Install Warm");
        // A first deployment finds nothing to stop.
        let first = deployment(all, &with).first(&Standing::default());
        assert_eq!(first, Some(LifecycleEvent::Install.into()));
        // The new revision is there: what stops is the new one.
        let with = [LifecycleEvent::ApplicationStop];
        assert_eq!(walk(&deployment(own, &with)), "Install Warm ApplicationStop");
    }

    #[test]
    fn the_way_back_takes_back_what_was_reached() {
        let all = "BeforeBlockTraffic ApplicationStop DownloadBundle BeforeInstall Install AfterInstall \
            ApplicationStart ValidateService AfterAllowTraffic";
        let deployment = deployment(all, &[LifecycleEvent::ValidateService]);
        let from = |failed: LifecycleEvent| {
            let (mut way, mut last) = (Vec::new(), None);
            while let Some(event) = deployment.way_back(&failed.into(), last.as_ref()) {
                way.push(event.to_string());
                last = Some(event);
            }
            way.join(" ")
        };
        assert_eq!(from(LifecycleEvent::BeforeBlockTraffic), "Install AfterAllowTraffic");
        let started = "Install ApplicationStart ValidateService AfterAllowTraffic";
        assert_eq!(from(LifecycleEvent::ApplicationStop), started);
        let whole = "ApplicationStop BeforeInstall Install AfterInstall ApplicationStart ValidateService \
            AfterAllowTraffic";
        for failed in [LifecycleEvent::BeforeInstall, LifecycleEvent::AfterAllowTraffic] {
            assert_eq!(from(failed), whole, "{failed}");
        }
        // Only an older process goes back by an event that this one would pass over.
        let next = deployment.way_back(
            &LifecycleEvent::ApplicationStop.into(),
            Some(&LifecycleEvent::BeforeInstall.into()),
        );
        assert_eq!(next, Some(LifecycleEvent::Install.into()));
    }

    #[test]
    fn events_before_the_new_revision_is_there_are_of_the_one_before() {
        for (events, source) in [
            ("ApplicationStop DownloadBundle BeforeInstall Install", Source::LastSuccessful),
            ("ApplicationStop BeforeInstall Install", Source::LastSuccessful),
            ("DownloadBundle ApplicationStop Install", Source::Current),
        ] {
            let stop = LifecycleEvent::ApplicationStop.into();
            assert_eq!(deployment(events, &[]).source(&stop), source, "{events}");
        }
    }

    #[test]
    fn events_and_names_are_written_as_the_protocol_writes_its_own() {
        for event in LifecycleEvent::ALL {
            assert_eq!(cbor::encode(&Event::Known(event)), cbor::encode(&event));
        }
        let warm: Event = cbor::decode(&cbor::encode(&"Warm"), 100).unwrap();
        assert_eq!(warm, Event::Custom("Warm".into()));
        let id = DeploymentId::of(Digest::ZERO, false);
        assert_eq!(cbor::encode(&DeploymentName::from(id)), cbor::encode(&id));
        let local = DeploymentName::local(id);
        assert_eq!(local.to_string(), format!("{id}-local"));
        assert_eq!(local.to_string().parse::<DeploymentName>().unwrap(), local);
        assert!("d-ABC-local".parse::<DeploymentName>().is_err());
        assert!("../../etc".parse::<DeploymentName>().is_err());
    }
}
