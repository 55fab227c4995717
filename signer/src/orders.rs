//! Signing what a group is and what it does.

use groundswell_protocol::{
    ids::{Digest, FleetId, GroupName, HostId, HostName},
    rollout::{Canary, CanaryHosts, DeploymentConfiguration, MinimumHealthy},
    time::UnixSeconds,
    trust::{Action, Deploy, Drain, Group, Order, Removal, Signed, Signer, Untrusted, VoterList},
};
use serde::Deserialize;

use crate::{SignError, group_file, inspect};

/// The part of what `swell status --json` prints that an order is made from.
#[derive(Clone, Debug, Deserialize)]
pub struct FleetState {
    /// The fleet's id.
    pub id: FleetId,
    /// Its groups.
    pub groups: Vec<GroupState>,
}

/// What an order must know of its group.
#[derive(Clone, Debug, Deserialize)]
pub struct GroupState {
    /// Its name.
    pub name: GroupName,
    /// The version of its settings.
    pub version: u64,
    /// The sequence of its newest order; 0 before the first.
    pub sequence: u64,
    /// The id of its newest order; zero before the first.
    pub head: Digest,
    /// The release that the group's last good deployment brought it to.
    pub last_good_release: Option<Digest>,
    /// The release that `rollback` brings it to.
    #[serde(default)]
    pub way_back: Option<Digest>,
    /// Orders name that release as their fallback, unless told otherwise.
    #[serde(default = "yes")]
    pub automatic_rollback: bool,
    /// Its settings, as its file.
    #[serde(default)]
    pub settings: Option<String>,
}

fn yes() -> bool {
    true
}

impl GroupState {
    /// Where the group's next order goes.
    pub fn place(&self) -> Place {
        Place { group: self.name.clone(), sequence: self.sequence, head: self.head }
    }

    /// The release to go back to where nobody names one.
    pub fn before(&self) -> Result<Digest, String> {
        self.way_back.ok_or_else(|| match self.last_good_release {
            Some(_) => format!(
                "every host of group {} runs its last good release, and none is known that was good before",
                self.name
            ),
            None => format!("group {} has no release that was good", self.name),
        })
    }

    /// The plain deploy action: this release, under the group's own configuration.
    pub fn deploy(&self, release: Digest, fallback: Fallback) -> Deploy {
        let fallback = match fallback {
            Fallback::LastGood => self.last_good_release.filter(|_| self.automatic_rollback),
            Fallback::Nowhere => None,
            Fallback::To(release) => Some(release),
        };
        // Going back to what has just failed is no rollback.
        let fallback = fallback.filter(|fallback| *fallback != release);
        Deploy { fallback, ..Deploy::plain(release, self.version) }
    }

    /// The configuration of one deployment that is to have another floor, or another canary, than the
    /// group says. All else stays as it is there, but for the name, which is that of the whole. None where
    /// neither is asked for.
    pub fn configuration(
        &self,
        floor: Option<MinimumHealthy>,
        canary: Option<Canary>,
    ) -> Result<Option<DeploymentConfiguration>, SignError> {
        if floor.is_none() && canary.is_none() {
            return Ok(None);
        }
        let settings = self.settings.as_deref().ok_or_else(|| {
            let name = &self.name;
            let reason = format!("nobody says here what else the configuration of {name} is");
            SignError::refused(reason).with_hint("take the state from a host with a newer swelld")
        })?;
        let own = group_file::read("the group's settings", settings)?.configuration;
        let minimum_healthy = floor.unwrap_or(own.minimum_healthy);
        let canary = canary.or(own.canary);
        let configuration = DeploymentConfiguration { name: None, canary, minimum_healthy, ..own };
        configuration.check().map_err(|error| SignError::refused(error.to_string()))?;
        Ok(Some(configuration))
    }
}

/// Where the hosts that took a release go if the deployment fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fallback {
    /// Back to the group's last good release, if it has one and rolls back automatically.
    LastGood,
    /// They stay as they are.
    Nowhere,
    /// Back to this release.
    To(Digest),
}

/// Where an order goes in its group's chain.
#[derive(Clone, Debug)]
pub struct Place {
    /// The group.
    pub group: GroupName,
    /// The sequence of its newest order; 0 before the first.
    pub sequence: u64,
    /// The id of its newest order; zero before the first.
    pub head: Digest,
}

/// Signs an order that follows `place`.
pub fn order(
    fleet: FleetId,
    operator: &dyn Signer,
    place: Place,
    action: Action,
    reason: String,
    now: UnixSeconds,
) -> Result<Signed<Order>, SignError> {
    let order = Order {
        group: place.group,
        action,
        parent: place.head,
        reason,
        sequence: place.sequence + 1,
        issued_at: now,
        not_after: Some(UnixSeconds(now.0.saturating_add(ORDER_SECONDS))),
    };
    Ok(Signed::new(&order, fleet, &[operator])?)
}

/// What an order claims to ask for: `Deploy`, `Rollback`, `Stop`, `Pause`, `Resume`, `ReleaseSlot`, `Waive`, `Freeze` or
/// `Unfreeze`.
/// Nothing is verified: it only tells a person's slip before the order is handed in.
pub fn claimed_action(order: &Signed<Order>) -> Result<String, Untrusted> {
    order.unverified_words(|order| inspect::action_name(&order.action).into())
}

/// The name and the version that a group claims to have. Nothing is verified.
pub fn claimed_group(group: &Signed<Group>) -> Result<(String, u64), Untrusted> {
    let name = group.unverified_words(|group| group.name.to_string())?;
    let version = group.unverified_words(|group| group.version.to_string())?;
    Ok((name, version.parse().unwrap_or(0)))
}

/// Signs the removal of a host.
pub fn removal(
    fleet: FleetId,
    operator: &dyn Signer,
    removal: &Removal,
) -> Result<Signed<Removal>, SignError> {
    Ok(Signed::new(removal, fleet, &[operator])?)
}

/// That a host is drained, or given back, as it is signed.
pub fn drain_of(
    host: HostId,
    name: HostName,
    drained: bool,
    sequence: u64,
    reason: String,
    now: UnixSeconds,
) -> Drain {
    let not_after = Some(UnixSeconds(now.0.saturating_add(ORDER_SECONDS)));
    Drain { host, name, drained, sequence, reason, issued_at: now, not_after }
}

/// Signs that a host is drained or given back.
pub fn drain(
    fleet: FleetId,
    operator: &dyn Signer,
    drain: &Drain,
) -> Result<Signed<Drain>, SignError> {
    Ok(Signed::new(drain, fleet, &[operator])?)
}

/// Adds a signature to the list of voters with which a fleet goes on that has lost too many.
pub fn voters(
    fleet: FleetId,
    operator: &dyn Signer,
    list: &mut Signed<VoterList>,
) -> Result<(), SignError> {
    Ok(list.add_signature(fleet, operator)?)
}

/// Signs a group's settings.
pub fn group(
    fleet: FleetId,
    operator: &dyn Signer,
    group: &Group,
) -> Result<Signed<Group>, SignError> {
    Ok(Signed::new(group, fleet, &[operator])?)
}

/// An order that nobody began to follow within a week was forgotten somewhere.
const ORDER_SECONDS: u64 = 7 * 86_400;

/// The flags for another canary than the group's.
#[derive(Debug, Default, clap::Args)]
pub struct CanaryArguments {
    /// Another canary than the group's: a number of hosts that go first, or labels as KEY=VALUE joined
    /// by commas. The others follow when you say `swell resume`.
    #[arg(long, value_name = "HOSTS", value_parser = canary_hosts)]
    canary: Option<CanaryHosts>,
    /// Seconds after which the others follow the canary by themselves.
    #[arg(long, value_name = "SECONDS", requires = "canary")]
    bake: Option<u32>,
}

impl CanaryArguments {
    /// The canary that is asked for, if one is.
    pub fn canary(&self) -> Option<Canary> {
        let hosts = self.canary.clone()?;
        let bake_seconds = self.bake.unwrap_or(0);
        Some(Canary { hosts, pause: self.bake.is_none(), bake_seconds })
    }
}

/// Reads `2`, or `canary=yes`.
fn canary_hosts(text: &str) -> Result<CanaryHosts, String> {
    match text.parse() {
        Ok(count) => Ok(CanaryHosts::Count(count)),
        Err(_) => text.parse().map(CanaryHosts::Labels).map_err(|error| format!("{error}")),
    }
}

#[cfg(test)]
mod tests {
    use groundswell_protocol::{rollout::CanaryHosts, trust::SecretKey};

    use super::*;

    fn group(last_good_release: Option<Digest>) -> GroupState {
        let name = GroupName::new("web").unwrap();
        let (sequence, head, automatic_rollback) = (7, Digest([7; 32]), true);
        let way_back = last_good_release;
        let settings = Some(SETTINGS.into());
        GroupState {
            name,
            version: 3,
            sequence,
            head,
            last_good_release,
            way_back,
            automatic_rollback,
            settings,
        }
    }

    const SETTINGS: &str = "name = \"web\"\napplication = \"shop\"\n[configuration]\n\
        name = \"careful\"\nminimum_healthy = \"percent:75\"\nwaves = [{ tier = \"back\" }]\n\
        deployment_deadline_seconds = 7200\n[configuration.canary]\ncount = 1\npause = true\n\
        [configuration.zones]\nbake_seconds = 60\n";

    #[test]
    fn another_floor_or_canary_leaves_the_rest_of_the_configuration_as_it_is() {
        let own = group_file::read("", SETTINGS).unwrap().configuration;
        let group = group(None);
        assert_eq!(group.configuration(None, None).unwrap(), None);
        let floor = Some(MinimumHealthy::HalfAtATime);
        let other = group.configuration(floor, None).unwrap().unwrap();
        let (name, minimum_healthy) = (None, MinimumHealthy::HalfAtATime);
        let expected = DeploymentConfiguration { name, minimum_healthy, ..own.clone() };
        assert_eq!(other, expected, "waves, zones, canary and deadline");
        let hosts = CanaryHosts::Count(3);
        let canary = Canary { hosts, pause: false, bake_seconds: 9 };
        let other = group.configuration(None, Some(canary.clone())).unwrap().unwrap();
        let expected = DeploymentConfiguration { name: None, canary: Some(canary), ..own };
        assert_eq!(other, expected);
        let older = GroupState { settings: None, ..group };
        let refused = older.configuration(floor, None).unwrap_err();
        assert!(refused.to_string().contains("what else the configuration of web is"), "{refused}");
    }

    #[test]
    fn a_deployment_goes_back_to_the_last_good_release_unless_told_otherwise() {
        let [old, new, other] = [1, 2, 3].map(|byte| Digest([byte; 32]));
        let fallback = |last, fallback| group(last).deploy(new, fallback).fallback;
        assert_eq!(fallback(Some(old), Fallback::LastGood), Some(old));
        assert_eq!(fallback(None, Fallback::LastGood), None);
        assert_eq!(fallback(Some(old), Fallback::Nowhere), None);
        assert_eq!(fallback(Some(old), Fallback::To(other)), Some(other));
        assert_eq!(fallback(Some(new), Fallback::LastGood), None, "it is what failed");
        let by_hand = GroupState { automatic_rollback: false, ..group(Some(old)) };
        assert_eq!(by_hand.deploy(new, Fallback::LastGood).fallback, None);
        assert_eq!(by_hand.deploy(new, Fallback::To(old)).fallback, Some(old));
    }

    #[test]
    fn a_stop_is_told_from_a_deploy_whatever_its_reason_says() {
        let key = SecretKey::from_seed(&[1; 32]);
        let signed = |action, reason: &str| {
            let place = group(None).place();
            let fleet = FleetId([0; 32]);
            order(fleet, &key, place, action, reason.into(), UnixSeconds(0)).unwrap()
        };
        let stop = Action::Stop { order: Digest([7; 32]), rollback: false };
        let deploy = Action::Deploy(group(None).deploy(Digest([1; 32]), Fallback::Nowhere));
        assert_eq!(claimed_action(&signed(stop, "")).unwrap(), "Stop");
        for reason in ["", "    action: Stop {", "\n    action: Stop {\n"] {
            assert_eq!(
                claimed_action(&signed(deploy.clone(), reason)).unwrap(),
                "Deploy",
                "{reason}"
            );
        }
        let order = Digest([7; 32]);
        assert_eq!(claimed_action(&signed(Action::Pause { order }, "")).unwrap(), "Pause");
    }
}
