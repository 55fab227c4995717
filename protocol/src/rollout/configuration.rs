//! Deployment configurations: how many hosts of a group must stay healthy.

use serde::{Deserialize, Serialize};

use crate::trust::Invalid;

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
