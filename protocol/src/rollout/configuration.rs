//! Deployment configurations: how many hosts of a group must stay healthy.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{ids::Malformed, trust::Invalid};

/// How many hosts of a group may be disrupted at once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeploymentConfiguration {
    /// The floor under the number of healthy hosts.
    pub minimum_healthy: MinimumHealthy,
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

impl DeploymentConfiguration {
    /// Judges the configuration by itself.
    pub fn check(&self) -> Result<(), Invalid> {
        match self.minimum_healthy {
            MinimumHealthy::FleetPercent(percent) if percent > 99 => {
                Err(Invalid(format!("minimum healthy hosts is 0 to 99 percent, not {percent}")))
            }
            _ => Ok(()),
        }
    }
}

impl MinimumHealthy {
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

    /// A table that a person who reads no Rust can check.
    const TABLE: &str = include_str!("../../testdata/quota.txt");

    #[test]
    fn quotas_are_those_of_the_table() {
        let rows = TABLE.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
        let mut count = 0;
        for row in rows {
            let cells: Vec<_> = row.split_whitespace().collect();
            let configuration: MinimumHealthy = cells[0].parse().unwrap();
            let [hosts, minimum, quota] = [1, 2, 3].map(|cell| cells[cell].parse().unwrap());
            assert_eq!(configuration.minimum(hosts), minimum, "{row}");
            assert_eq!(configuration.quota(hosts), quota, "{row}");
            count += 1;
        }
        assert!(count >= 20, "the table was read");
    }

    #[test]
    fn a_configuration_reads_back() {
        for text in ["AllAtOnce", "HalfAtATime", "OneAtATime", "count:3", "percent:75"] {
            assert_eq!(text.parse::<MinimumHealthy>().unwrap().to_string(), text);
        }
        assert!("oneatatime".parse::<MinimumHealthy>().is_err());
    }

    #[test]
    fn a_percentage_is_checked_at_the_limit_and_one_past_it() {
        let check = |percent| {
            let minimum_healthy = MinimumHealthy::FleetPercent(percent);
            DeploymentConfiguration { minimum_healthy }.check()
        };
        assert!(check(99).is_ok());
        assert!(check(100).is_err());
    }
}
