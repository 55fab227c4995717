//! Deployment configurations: how many hosts of a group must stay healthy, and in which order they go.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{
    ids::{ConfigurationName, Labels, Malformed},
    limits::{
        BAKE_SECONDS_MAX, DEPLOYMENT_DEADLINE_SECONDS_MAX, EVENT_DEADLINE_SECONDS_MAX, WAVES_MAX,
    },
    trust::Invalid,
};

/// How carefully the hosts of a group are brought to a release.
///
/// Hosts go in stages: the canary, then wave by wave, each of them zone by zone where zones are asked
/// for. A stage begins when every host of the one before it is done. Part of `group/1` and `order/1`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeploymentConfiguration {
    /// What people call it. None where it is one of the built-in ones or has no name.
    pub name: Option<ConfigurationName>,
    /// Labels of the hosts that go after the canary, one wave after the other. A host goes with the
    /// first wave that it matches; hosts that match none go last.
    pub waves: Vec<Labels>,
    /// One zone at a time. None takes no notice of zones.
    pub zones: Option<Zones>,
    /// Hosts that go before all others.
    pub canary: Option<Canary>,
    /// The floor under the number of healthy hosts.
    pub minimum_healthy: MinimumHealthy,
    /// How long one lifecycle event may take on a host, whatever its scripts allow themselves.
    pub event_deadline_seconds: Option<u32>,
    /// How long the whole deployment may take, pauses included. Then it fails.
    pub deployment_deadline_seconds: Option<u32>,
}

/// Hosts that go first, and what happens before the others follow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Canary {
    /// Which hosts.
    pub hosts: CanaryHosts,
    /// The deployment waits after them until an operator lets it go on.
    pub pause: bool,
    /// Seconds for which the deployment waits after them and then goes on by itself.
    pub bake_seconds: u32,
}

/// Which hosts are the canary.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CanaryHosts {
    /// This many of the group, drawn by hash.
    Count(u32),
    /// Those with all of these labels.
    Labels(Labels),
}

/// One zone at a time: hosts that fail together are changed together, and no others with them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Zones {
    /// Seconds for which the deployment waits after each zone but the last.
    pub bake_seconds: u32,
    /// A floor for each zone by itself, beside that of the group.
    pub minimum_healthy: MinimumHealthy,
    /// The same wait after the first zone that comes behind the canary, if any. Usually it is longer.
    pub first_bake_seconds: u32,
}

/// The floor under the number of healthy hosts of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MinimumHealthy {
    /// No floor: every host at once.
    AllAtOnce,
    /// Half of the hosts, rounded up.
    HalfAtATime,
    /// All but one; none for a group of one.
    OneAtATime,
    /// This many hosts.
    HostCount(u32),
    /// This many of a hundred hosts, rounded up.
    FleetPercent(u8),
}

impl From<MinimumHealthy> for DeploymentConfiguration {
    /// The plain configuration: no stages, no deadlines.
    fn from(minimum_healthy: MinimumHealthy) -> Self {
        Self {
            name: None,
            waves: Vec::new(),
            zones: None,
            canary: None,
            minimum_healthy,
            event_deadline_seconds: None,
            deployment_deadline_seconds: None,
        }
    }
}

impl DeploymentConfiguration {
    /// Judges the configuration by itself.
    pub fn check(&self) -> Result<(), Invalid> {
        self.minimum_healthy.check()?;
        let name = self.name.as_ref().map_or("", ConfigurationName::as_str);
        Invalid::unless(name.parse::<MinimumHealthy>().is_err(), || {
            format!("a configuration cannot be called {name}: that is a built-in one")
        })?;
        Invalid::unless(self.waves.len() <= WAVES_MAX, || {
            format!("at most {WAVES_MAX} waves, not {}", self.waves.len())
        })?;
        Invalid::unless(self.waves.iter().all(|wave| wave.iter().next().is_some()), || {
            "a wave without labels would be every host: leave it out, the rest goes last".into()
        })?;
        if let Some(canary) = &self.canary {
            canary.check()?;
        }
        if let Some(zones) = &self.zones {
            zones.minimum_healthy.check()?;
            check_seconds("bake_seconds", zones.bake_seconds, 0, BAKE_SECONDS_MAX)?;
            check_seconds("first_bake_seconds", zones.first_bake_seconds, 0, BAKE_SECONDS_MAX)?;
        }
        if let Some(seconds) = self.event_deadline_seconds {
            check_seconds("event_deadline_seconds", seconds, 1, EVENT_DEADLINE_SECONDS_MAX)?;
        }
        if let Some(seconds) = self.deployment_deadline_seconds {
            let max = DEPLOYMENT_DEADLINE_SECONDS_MAX;
            check_seconds("deployment_deadline_seconds", seconds, 1, max)?;
        }
        Ok(())
    }
}

impl Canary {
    fn check(&self) -> Result<(), Invalid> {
        let some = match &self.hosts {
            CanaryHosts::Count(count) => *count > 0,
            CanaryHosts::Labels(labels) => labels.iter().next().is_some(),
        };
        Invalid::unless(some, || "a canary is at least one host, by count or by label".into())?;
        check_seconds("the canary's bake_seconds", self.bake_seconds, 0, BAKE_SECONDS_MAX)?;
        Invalid::unless(!self.pause || self.bake_seconds == 0, || {
            "after the canary a deployment either waits for an operator or bakes, not both".into()
        })
    }
}

fn check_seconds(what: &str, got: u32, min: u32, max: u32) -> Result<(), Invalid> {
    Invalid::unless((min..=max).contains(&got), || {
        format!("{what} is {min} to {max} seconds, not {got}")
    })
}

impl MinimumHealthy {
    fn check(self) -> Result<(), Invalid> {
        match self {
            Self::FleetPercent(percent) if percent > 99 => {
                Err(Invalid(format!("minimum healthy hosts is 0 to 99 percent, not {percent}")))
            }
            _ => Ok(()),
        }
    }

    /// How many of `hosts` must stay healthy. Percentages round up, as CodeDeploy's do.
    pub fn minimum(self, hosts: usize) -> usize {
        match self {
            Self::AllAtOnce => 0,
            // CodeDeploy's half of one host is that host; a group of one would never move.
            Self::HalfAtATime | Self::OneAtATime if hosts <= 1 => 0,
            Self::HalfAtATime => hosts.div_ceil(2),
            Self::OneAtATime => hosts - 1,
            Self::HostCount(count) => usize::try_from(count).unwrap_or(usize::MAX),
            Self::FleetPercent(percent) => hosts.saturating_mul(percent.into()).div_ceil(100),
        }
    }

    /// How many of `hosts` may be down at once; none if the floor is as high as the group.
    pub fn quota(self, hosts: usize) -> usize {
        hosts.saturating_sub(self.minimum(hosts))
    }
}

impl fmt::Display for DeploymentConfiguration {
    /// Its name, or the floor and whatever else is asked for.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(name) = &self.name {
            return f.pad(name.as_str());
        }
        let mut text = self.minimum_healthy.to_string();
        if self.canary.is_some() {
            text.push_str(", canary");
        }
        match self.waves.len() {
            0 => {}
            count => text.push_str(&format!(", {count} waves")),
        }
        if self.zones.is_some() {
            text.push_str(", by zone");
        }
        f.pad(&text)
    }
}

impl fmt::Display for MinimumHealthy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AllAtOnce => f.pad("AllAtOnce"),
            Self::HalfAtATime => f.pad("HalfAtATime"),
            Self::OneAtATime => f.pad("OneAtATime"),
            Self::HostCount(count) => f.pad(&format!("count:{count}")),
            Self::FleetPercent(percent) => f.pad(&format!("percent:{percent}")),
        }
    }
}

impl FromStr for MinimumHealthy {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let named = match text {
            "AllAtOnce" => Some(Self::AllAtOnce),
            "HalfAtATime" => Some(Self::HalfAtATime),
            "OneAtATime" => Some(Self::OneAtATime),
            _ => None,
        };
        let count = || text.strip_prefix("count:")?.parse().ok().map(Self::HostCount);
        let percent = || text.strip_prefix("percent:")?.parse().ok().map(Self::FleetPercent);
        named.or_else(count).or_else(percent).ok_or_else(|| Malformed {
            what: "deployment configuration",
            text: text.escape_debug().take(80).collect(),
            rule: "AllAtOnce, HalfAtATime, OneAtATime, count:N or percent:N",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testdata;

    const TABLE: &str = include_str!("../../testdata/quota.txt");

    #[test]
    fn quotas_are_those_of_the_table() {
        let rows = testdata::rows(TABLE);
        assert!(rows.len() >= 20, "the table was read");
        for (row, [configuration, hosts, minimum, quota]) in rows {
            let configuration: MinimumHealthy = configuration.parse().unwrap();
            let [hosts, minimum, quota] = [hosts, minimum, quota].map(|cell| cell.parse().unwrap());
            assert_eq!(configuration.minimum(hosts), minimum, "{row}");
            assert_eq!(configuration.quota(hosts), quota, "{row}");
        }
    }

    #[test]
    fn a_configuration_reads_back() {
        for text in ["AllAtOnce", "HalfAtATime", "OneAtATime", "count:3", "percent:75"] {
            assert_eq!(text.parse::<MinimumHealthy>().unwrap().to_string(), text);
        }
        assert!("oneatatime".parse::<MinimumHealthy>().is_err());
    }

    fn plain() -> DeploymentConfiguration {
        MinimumHealthy::OneAtATime.into()
    }

    #[test]
    fn a_percentage_is_checked_at_the_limit_and_one_past_it() {
        let check = |percent| {
            let minimum = MinimumHealthy::FleetPercent(percent);
            let zones = Zones { bake_seconds: 0, minimum_healthy: minimum, first_bake_seconds: 0 };
            let zonal = DeploymentConfiguration { zones: Some(zones), ..plain() };
            (DeploymentConfiguration::from(minimum).check(), zonal.check())
        };
        assert!(matches!(check(99), (Ok(()), Ok(()))));
        assert!(matches!(check(100), (Err(_), Err(_))));
    }

    #[test]
    fn waits_and_deadlines_are_checked_at_the_limit_and_one_past_it() {
        let zones = |bake_seconds, first_bake_seconds| {
            let minimum_healthy = MinimumHealthy::AllAtOnce;
            let zones = Zones { bake_seconds, minimum_healthy, first_bake_seconds };
            DeploymentConfiguration { zones: Some(zones), ..plain() }.check()
        };
        let max = BAKE_SECONDS_MAX;
        assert!(
            zones(max, max).is_ok() && zones(max + 1, 0).is_err() && zones(0, max + 1).is_err()
        );
        let canary = |hosts, pause, bake_seconds| {
            let canary = Some(Canary { hosts, pause, bake_seconds });
            DeploymentConfiguration { canary, ..plain() }.check()
        };
        let one = || CanaryHosts::Count(1);
        assert!(canary(one(), false, max).is_ok() && canary(one(), false, max + 1).is_err());
        assert!(
            canary(one(), true, 0).is_ok() && canary(one(), true, 1).is_err(),
            "one or the other"
        );
        assert!(canary(CanaryHosts::Count(0), true, 0).is_err());
        assert!(canary(CanaryHosts::Labels(Labels::default()), true, 0).is_err());
        let event = |seconds| {
            DeploymentConfiguration { event_deadline_seconds: Some(seconds), ..plain() }.check()
        };
        let max = EVENT_DEADLINE_SECONDS_MAX;
        assert!(event(1).is_ok() && event(0).is_err());
        assert!(event(max).is_ok() && event(max + 1).is_err());
        let whole = |seconds| {
            DeploymentConfiguration { deployment_deadline_seconds: Some(seconds), ..plain() }
                .check()
        };
        let max = DEPLOYMENT_DEADLINE_SECONDS_MAX;
        assert!(whole(1).is_ok() && whole(0).is_err());
        assert!(whole(max).is_ok() && whole(max + 1).is_err());
    }

    #[test]
    fn waves_and_names_are_checked() {
        let waves = |count| {
            let wave: Labels = "tier=front".parse().unwrap();
            DeploymentConfiguration { waves: vec![wave; count], ..plain() }.check()
        };
        assert!(waves(WAVES_MAX).is_ok() && waves(WAVES_MAX + 1).is_err());
        let empty = DeploymentConfiguration { waves: vec![Labels::default()], ..plain() };
        assert!(empty.check().is_err());
        let named = |name: &str| {
            let name = Some(ConfigurationName::new(name).unwrap());
            DeploymentConfiguration { name, ..plain() }.check()
        };
        assert!(named("careful").is_ok() && named("AllAtOnce").is_err());
    }
}
