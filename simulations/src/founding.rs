//! The fleet before its first event: keys, trust, certificates.

use std::{num::NonZeroU8, sync::Arc};

use groundswell_protocol::{
    ids::{FleetName, HostId, HostName, LabelText, Labels, ZoneName},
    time::UnixSeconds,
    trust::{
        Genesis, Member, MemberCert, Role, Roles, Root, SecretKey, Signed, Signer, Trust,
        TrustBundle, Voter,
    },
};

use crate::{host::Host, plan::Plan};

/// The key of a role or a host.
pub(crate) fn seed_of(number: usize) -> [u8; 32] {
    let mut seed = [0x5e; 32];
    seed[..8].copy_from_slice(&(number as u64).to_le_bytes());
    seed
}

/// The keys of people, which are no host's.
pub(crate) fn person(number: usize) -> SecretKey {
    SecretKey::from_seed(&seed_of(1_000_000 + number))
}

/// Founds the fleet of a plan.
pub(crate) fn found(plan: &Plan) -> (Arc<Trust>, SecretKey) {
    let (root, enrolment) = (person(0), person(3));
    let role = |key: &SecretKey| Role { keys: vec![key.public_key()], threshold: NonZeroU8::MIN };
    let roles = Roles {
        root: role(&root),
        release: role(&person(1)),
        operator: role(&person(2)),
        enrolment: role(&enrolment),
    };
    let name = FleetName::new("simulated").expect("a good name");
    let document = Root { name, roles, version: 1, review_by: UnixSeconds(u64::MAX) };
    let mut voters: Vec<_> = (0..plan.voters)
        .map(|number| Voter {
            host: SecretKey::from_seed(&seed_of(number)).public_key().into(),
            name: HostName::new(format!("h{number}")).expect("a good name"),
        })
        .collect();
    voters.sort();
    let genesis = Genesis { voters, generation: 0 };
    let (fleet, bundle) =
        TrustBundle::found(&document, &genesis, &[&root]).expect("the fleet is well formed");
    let trust = Trust::new(bundle, Some(fleet)).expect("the fleet is well formed");
    (Arc::new(trust), enrolment)
}

/// Makes a host with its certificate.
pub(crate) fn enrol(plan: &Plan, trust: &Trust, enrolment: &SecretKey, index: usize) -> Host {
    let seed = seed_of(index);
    let id = HostId::from(SecretKey::from_seed(&seed).public_key());
    let host = &plan.hosts[index];
    let incarnation = u64::from(host.replaces.is_some());
    let labels = labels_of(&[("a", host.a), ("b", host.b)]);
    let cert = certificate(plan, trust, enrolment, index, labels, incarnation);
    Host::new(id, seed, host.clone(), cert)
}

/// What enrolment signs for a host with these labels.
pub(crate) fn certificate(
    plan: &Plan,
    trust: &Trust,
    enrolment: &SecretKey,
    index: usize,
    labels: Labels,
    incarnation: u64,
) -> MemberCert {
    let host = &plan.hosts[index];
    let zone = plan.zoned.then(|| ZoneName::new(format!("zone-{}", host.zone)));
    let name = host.replaces.unwrap_or(index);
    let member = Member {
        host: HostId::from(SecretKey::from_seed(&seed_of(index)).public_key()),
        name: HostName::new(format!("h{name}")).expect("a good name"),
        zone: zone.map(|zone| zone.expect("a good name")),
        labels,
        not_after: UnixSeconds(u64::MAX),
        incarnation,
    };
    let member = Signed::new(&member, trust.fleet(), &[enrolment]).expect("a key in memory signs");
    MemberCert { token: None, member, receipts: Vec::new() }
}

/// Labels as the protocol has them.
pub(crate) fn labels_of(pairs: &[(&str, u8)]) -> Labels {
    let text = |text: String| LabelText::new(text).expect("a good label");
    let pairs = pairs.iter().map(|(key, value)| (text((*key).into()), text(value.to_string())));
    Labels::new(pairs.collect()).expect("good labels")
}
