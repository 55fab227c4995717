//! In which order the hosts of a deployment go: canary, then wave, then zone, then hash.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::configuration::{Canary, CanaryHosts, DeploymentConfiguration};
use crate::ids::{DeploymentId, Digest, HashDomain, HostId, Labels, ZoneName};

/// Hosts that may go at the same time, and what happens before the next ones follow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stage {
    /// What people call it: `canary`, `wave 1`, `zone a`.
    pub name: String,
    /// Its hosts are the canary: none of them may fail.
    pub is_canary: bool,
    /// Wait for an operator after it.
    pub pause: bool,
    /// Wait this long after it.
    pub bake_seconds: u32,
}

/// A host that is to be given its place.
#[derive(Clone, Copy)]
pub(super) struct Candidate<'a> {
    pub(super) host: HostId,
    pub(super) labels: &'a Labels,
    pub(super) zone: Option<&'a ZoneName>,
    /// It cannot be reached just now, so it is no canary that tells anything.
    pub(super) away: bool,
}

/// Where a host's stage is among all: the wave, 0 being the canary, and the zone. Hosts without a
/// zone go after those with one.
type Place<'a> = (usize, (bool, Option<&'a ZoneName>));

/// Stages in their order, and each host's number among them.
pub(super) fn plan(
    configuration: &DeploymentConfiguration,
    id: DeploymentId,
    candidates: &[Candidate<'_>],
) -> (Vec<Stage>, BTreeMap<HostId, u32>) {
    let canary = canary(configuration.canary.as_ref(), id, candidates);
    let of: Vec<Place<'_>> =
        candidates.iter().map(|one| place(configuration, &canary, *one)).collect();
    let places: BTreeSet<_> = of.iter().copied().collect();
    let places: Vec<_> = places.into_iter().collect();
    let stages = (0..places.len()).map(|number| stage(configuration, &places, number)).collect();
    let number = |place| {
        let found = places.binary_search(place).unwrap_or(0);
        u32::try_from(found).unwrap_or(u32::MAX)
    };
    let hosts = candidates.iter().map(|candidate| candidate.host);
    (stages, hosts.zip(of.iter().map(number)).collect())
}

/// A draw that is the same on every host and does not favour the same hosts each time.
pub(super) fn draw(id: DeploymentId, host: HostId) -> Digest {
    Digest::of(HashDomain::Entry, &[id.to_string().as_bytes(), &host.0])
}

fn canary(
    canary: Option<&Canary>,
    id: DeploymentId,
    candidates: &[Candidate<'_>],
) -> BTreeSet<HostId> {
    match canary.map(|canary| &canary.hosts) {
        None => BTreeSet::new(),
        Some(CanaryHosts::Labels(labels)) => {
            let chosen = candidates.iter().filter(|candidate| labels.matches(candidate.labels));
            chosen.map(|candidate| candidate.host).collect()
        }
        Some(CanaryHosts::Count(count)) => {
            let mut drawn: Vec<_> = candidates.iter().collect();
            drawn.sort_by_key(|candidate| (candidate.away, draw(id, candidate.host)));
            let count = usize::try_from(*count).unwrap_or(usize::MAX);
            drawn.into_iter().take(count).map(|candidate| candidate.host).collect()
        }
    }
}

fn place<'a>(
    configuration: &DeploymentConfiguration,
    canary: &BTreeSet<HostId>,
    candidate: Candidate<'a>,
) -> Place<'a> {
    let waves = &configuration.waves;
    let wave = if canary.contains(&candidate.host) {
        0
    } else {
        let matching = waves.iter().position(|wave| wave.matches(candidate.labels));
        matching.unwrap_or(waves.len()) + 1
    };
    let zone = candidate.zone.filter(|_| configuration.zones.is_some());
    (wave, (zone.is_none(), zone))
}

fn stage(configuration: &DeploymentConfiguration, places: &[Place<'_>], number: usize) -> Stage {
    let (wave, (_, zone)) = places[number];
    let next = places.get(number + 1);
    let mut words = Vec::new();
    match wave {
        0 => words.push("canary".into()),
        _ if configuration.waves.is_empty() => {}
        wave if wave > configuration.waves.len() => words.push("the rest".into()),
        wave => words.push(format!("wave {wave}")),
    }
    match (zone, &configuration.zones) {
        (Some(zone), _) => words.push(format!("zone {zone}")),
        (None, Some(_)) => words.push("no zone".into()),
        (None, None) => {}
    }
    let mut stage =
        Stage { name: words.join(", "), is_canary: wave == 0, pause: false, bake_seconds: 0 };
    // After the last stage nothing is waited for: the deployment is over.
    let Some((next_wave, _)) = next else { return stage };
    if let Some(zones) = &configuration.zones {
        // A canary is a few hosts of a zone, and not yet the first one to take the release.
        let first = wave > 0 && places[..number].iter().all(|(before, _)| *before == 0);
        stage.bake_seconds = if first { zones.first_bake_seconds } else { zones.bake_seconds };
    }
    if wave == 0
        && *next_wave > 0
        && let Some(canary) = &configuration.canary
    {
        // Whoever has looked need not wait any more.
        stage.pause = canary.pause;
        let bake_seconds = stage.bake_seconds.max(canary.bake_seconds);
        stage.bake_seconds = if canary.pause { 0 } else { bake_seconds };
    }
    stage
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rollout::MinimumHealthy;

    /// Configurations and hosts, and the stages that follow: a person who reads no Rust can check it.
    const TABLE: &str = include_str!("../../testdata/stages.txt");

    #[test]
    fn hosts_go_in_the_stages_of_the_table() {
        let mut cases = 0;
        for case in TABLE.split("\n\n").filter(|case| case.contains("configuration")) {
            check(case);
            cases += 1;
        }
        assert!(cases >= 5, "the table was read");
    }

    fn check(case: &str) {
        let mut configuration = DeploymentConfiguration::from(MinimumHealthy::OneAtATime);
        let (mut hosts, mut expected) = (Vec::new(), Vec::new());
        for line in case.lines().filter(|line| !line.starts_with('#')) {
            let words: Vec<_> = line.split_whitespace().collect();
            match words.as_slice() {
                ["configuration", asks @ ..] => {
                    asks.iter().for_each(|ask| self::ask(&mut configuration, ask));
                }
                ["host", name, zone, labels @ ..] => {
                    let zone = (*zone != "-").then(|| ZoneName::new(*zone).unwrap());
                    hosts.push((*name, zone, labels.join(",").parse::<Labels>().unwrap()));
                }
                ["stage", rest @ ..] => expected.push(rest.join(" ")),
                _ => {}
            }
        }
        let id = |name: &str| HostId(Digest::of_content(name.as_bytes()).0);
        let candidates: Vec<_> = hosts
            .iter()
            .map(|(name, zone, labels)| Candidate {
                host: id(name),
                labels,
                zone: zone.as_ref(),
                away: false,
            })
            .collect();
        let deployment = DeploymentId::of(Digest::ZERO, false);
        let (stages, numbers) = plan(&configuration, deployment, &candidates);
        let mut shown = Vec::new();
        for (number, stage) in (0u32..).zip(&stages) {
            let mut names: Vec<_> =
                hosts.iter().filter(|(n, ..)| numbers[&id(n)] == number).map(|h| h.0).collect();
            names.sort_unstable();
            let mut text = format!("{} : {}", stage.name, names.join(" "));
            if stage.pause {
                text.push_str(" ; pause");
            }
            if stage.bake_seconds > 0 {
                text.push_str(&format!(" ; bake {}", stage.bake_seconds));
            }
            shown.push(text.trim().to_owned());
        }
        assert_eq!(shown, expected, "{case}");
    }

    fn ask(configuration: &mut DeploymentConfiguration, ask: &str) {
        let (what, value) = ask.split_once(':').unwrap();
        match what {
            "wave" => configuration.waves.push(value.parse().unwrap()),
            "canary" | "canary-pause" => {
                let hosts = match value.parse() {
                    Ok(count) => CanaryHosts::Count(count),
                    Err(_) => CanaryHosts::Labels(value.parse().unwrap()),
                };
                let (pause, bake_seconds) = (what == "canary-pause", 0);
                configuration.canary = Some(Canary { hosts, pause, bake_seconds });
            }
            "bake" => {
                let (first, others) = value.split_once('/').unwrap();
                configuration.zones = Some(crate::rollout::Zones {
                    bake_seconds: others.parse().unwrap(),
                    minimum_healthy: MinimumHealthy::AllAtOnce,
                    first_bake_seconds: first.parse().unwrap(),
                });
            }
            _ => panic!("{ask}"),
        }
    }

    #[test]
    fn a_canary_is_drawn_among_hosts_that_can_be_reached() {
        let configuration = DeploymentConfiguration {
            canary: Some(Canary { hosts: CanaryHosts::Count(1), pause: true, bake_seconds: 0 }),
            ..MinimumHealthy::OneAtATime.into()
        };
        let labels = Labels::default();
        let candidate =
            |n: u8| Candidate { host: HostId([n; 32]), labels: &labels, zone: None, away: n != 7 };
        let candidates: Vec<_> = (0..20).map(candidate).collect();
        let id = DeploymentId::of(Digest::ZERO, false);
        let (_, numbers) = plan(&configuration, id, &candidates);
        let first: Vec<_> = numbers.iter().filter(|(_, stage)| **stage == 0).collect();
        assert_eq!(first, [(&HostId([7; 32]), &0)]);
    }
}
