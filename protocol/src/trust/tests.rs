//! What the envelope and the documents promise, for every kind of document at once.

use std::num::{NonZeroU8, NonZeroU32};

use proptest::prelude::*;

use super::*;
use crate::{
    execute::LifecycleEvent,
    fleet::{Accusation, GroupStatus, HostState, Record},
    ids::{
        ApplicationName, ConfigurationName, Digest, FleetId, FleetName, GroupName, HostId,
        HostName, LabelText, Nonce, ReleaseLabel, ZoneName,
    },
    limits::{
        ADDRESSES_MAX, DOCUMENT_BYTES_MAX, ENVELOPE_BYTES_MAX, GROUPS_PER_HOST_MAX, LABELS_MAX,
        LOG_TAIL_BYTES_MAX, MINIMUM_HEALTHY_SECONDS_MAX, ROLE_KEYS_MAX, ROOT_CHAIN_MAX,
        SIGNATURES_MAX, TEXT_BYTES_MAX, VOTERS_MAX,
    },
    rollout::{
        Canary, CanaryHosts, DeploymentConfiguration, Entry, MinimumHealthy, Stamped, Zones,
    },
    time::UnixSeconds,
};

const FLEET: FleetId = FleetId([0xf1; 32]);

fn key(number: u8) -> SecretKey {
    SecretKey::from_seed(&[number; 32])
}

fn role(keys: &[u8], threshold: u8) -> Role {
    let mut keys: Vec<_> = keys.iter().map(|number| key(*number).public_key()).collect();
    keys.sort();
    Role { keys, threshold: NonZeroU8::new(threshold).unwrap() }
}

fn root(version: u64, keys: &[u8], threshold: u8) -> Root {
    Root {
        name: FleetName::new("prod").unwrap(),
        roles: Roles {
            root: role(keys, threshold),
            release: role(&[2], 1),
            operator: role(&[3], 1),
            enrolment: role(&[4], 1),
        },
        version,
        review_by: UnixSeconds(2_000_000_000),
    }
}

fn genesis() -> Genesis {
    let voter = |number: u8, name: &str| Voter {
        host: key(number).public_key().into(),
        name: HostName::new(name).unwrap(),
    };
    let mut voters = vec![voter(10, "a"), voter(11, "b"), voter(12, "c")];
    voters.sort();
    Genesis { voters, generation: 0 }
}

fn release() -> Release {
    Release {
        label: ReleaseLabel::new("1.4.2").unwrap(),
        parent: Some(Digest([7; 32])),
        manifest: Digest([8; 32]),
        created_at: UnixSeconds(1_800_000_000),
        application: ApplicationName::new("shop").unwrap(),
        architecture: Some(LabelText::new("x86_64").unwrap()),
        environments: vec![LabelText::new("prod").unwrap()],
        content_bytes: 1 << 33,
        manifest_bytes: 1234,
    }
}

/// With everything that a configuration can ask for.
fn configuration() -> DeploymentConfiguration {
    DeploymentConfiguration {
        name: Some(ConfigurationName::new("careful").unwrap()),
        waves: vec!["tier=back".parse().unwrap(), "role=web,tier=front".parse().unwrap()],
        zones: Some(Zones {
            bake_seconds: 60,
            minimum_healthy: MinimumHealthy::HostCount(1),
            first_bake_seconds: 600,
        }),
        canary: Some(Canary { hosts: CanaryHosts::Count(2), pause: true, bake_seconds: 0 }),
        minimum_healthy: MinimumHealthy::FleetPercent(66),
        event_deadline_seconds: Some(300),
        deployment_deadline_seconds: Some(7200),
    }
}

fn group() -> Group {
    Group {
        name: GroupName::new("web").unwrap(),
        filter: "role=web".parse().unwrap(),
        version: 1,
        catch_up: true,
        application: ApplicationName::new("shop").unwrap(),
        configuration: MinimumHealthy::OneAtATime.into(),
        failure_budget: Some(3),
        automatic_rollback: true,
        deploy_to_new_hosts: false,
        minimum_healthy_seconds: 10,
    }
}

fn deploy() -> Order {
    Order {
        group: GroupName::new("web").unwrap(),
        action: Action::Deploy(Deploy {
            queue: true,
            release: Digest([1; 32]),
            fallback: Some(Digest([2; 32])),
            configuration: Some(configuration()),
            group_version: 3,
            only_outdated: true,
            file_exists_behavior: Some(crate::revision::FileExistsBehavior::Overwrite),
            ignore_application_stop_failures: true,
        }),
        parent: Digest([3; 32]),
        reason: "größer".into(),
        sequence: 2,
        issued_at: UnixSeconds(1_800_000_001),
        not_after: Some(UnixSeconds(1_800_000_002)),
    }
}

fn failed() -> Outcome {
    Outcome::Failed {
        log: "a\nb".into(),
        code: 4,
        event: LifecycleEvent::ValidateService,
        script: "scripts/check.sh".into(),
        message: "exit code 1".into(),
        restored: true,
    }
}

fn receipt(subject: Subject) -> Receipt {
    Receipt {
        entry: Digest([4; 32]),
        index: 77,
        voter: key(10).public_key().into(),
        subject,
        generation: 0,
    }
}

fn record() -> Record {
    let host: HostId = key(10).public_key().into();
    Record {
        host,
        epoch: 5,
        groups: vec![GroupStatus {
            group: GroupName::new("web").unwrap(),
            order: Some(Digest([1; 32])),
            state: HostState::Running { event: LifecycleEvent::Install, restoring: false },
            token: Some(9),
            release: Some((Digest([2; 32]), ReleaseLabel::new("1").unwrap())),
        }],
        accused: vec![Accusation { host: HostId([1; 32]), epoch: 1, sequence: 2 }],
        version: "0.1.0".into(),
        sequence: 6,
        unsteady: false,
        doubled: false,
        leaving: false,
        addresses: vec!["/ip4/192.0.2.1/tcp/7717".into()],
        signed_at: UnixSeconds(1_800_000_003),
    }
}

fn voter_list() -> VoterList {
    let voters =
        vec![Voter { host: key(11).public_key().into(), name: HostName::new("v").unwrap() }];
    VoterList { base: None, seats: 3, parent: Digest([7; 32]), voters, generation: 1 }
}

fn recovery() -> VoterList {
    let base = Some(Base { index: 77, state: Digest([8; 32]) });
    VoterList { base, generation: 1 << 32, ..voter_list() }
}

/// One of each kind, signed by the keys that it needs: its context and its bytes.
fn every_kind() -> Vec<(&'static str, Vec<u8>)> {
    fn sign<T: Document>(content: &T, by: u8) -> (&'static str, Vec<u8>) {
        (T::CONTEXT, Signed::new(content, FLEET, &[&key(by)]).unwrap().to_bytes())
    }
    let host: HostId = key(10).public_key().into();
    let token = Token {
        key: key(20).public_key(),
        uses: NonZeroU32::new(3),
        zone: Some(ZoneName::new("z1").unwrap()),
        labels: "role=web".parse().unwrap(),
        not_after: UnixSeconds(1_900_000_000),
        name_pattern: "web-*".into(),
        member_seconds: 86_400,
    };
    let member = Member {
        host,
        name: HostName::new("web-1").unwrap(),
        zone: None,
        labels: "role=web,tier=front".parse().unwrap(),
        not_after: UnixSeconds(1_900_000_000),
        incarnation: 0,
    };
    let removal = Removal {
        host,
        name: HostName::new("web-1").unwrap(),
        reason: "sold".into(),
        issued_at: UnixSeconds(1_800_000_004),
    };
    let drain = Drain {
        host,
        name: HostName::new("web-1").unwrap(),
        drained: true,
        sequence: 1 << 32,
        reason: "a new disk".into(),
        issued_at: UnixSeconds(1_800_000_005),
        not_after: Some(UnixSeconds(1_800_000_105)),
    };
    let shop = || GroupName::new("shop").unwrap();
    let counted = Counted {
        host,
        runs: [(shop(), Digest([7; 32]))].into(),
        broken: [shop()].into(),
        generation: 1 << 32,
    };
    let labels = Canary {
        hosts: CanaryHosts::Labels("canary=yes".parse().unwrap()),
        pause: false,
        bake_seconds: 900,
    };
    let by_label = DeploymentConfiguration { canary: Some(labels), ..configuration() };
    let back = Deploy {
        configuration: Some(by_label.clone()),
        only_outdated: true,
        ..Deploy::plain(Digest([2; 32]), 3)
    };
    let order = |action| sign(&Order { action, ..deploy() }, 3);
    let slot = Subject::Slot {
        host,
        nonce: Nonce([5; 16]),
        order: Digest([1; 32]),
        release: Digest([2; 32]),
    };
    vec![
        sign(&root(1, &[1], 1), 1),
        sign(&genesis(), 1),
        sign(&release(), 2),
        sign(&group(), 3),
        sign(&deploy(), 3),
        sign(&token, 4),
        sign(&member, 4),
        sign(&Want { host, order: Digest([1; 32]), release: Digest([2; 32]) }, 10),
        sign(&Done { host, token: 9, outcome: failed() }, 10),
        sign(&receipt(slot), 10),
        sign(&record(), 10),
        sign(&removal, 3),
        // The other shapes that some of them can have.
        sign(&Group { configuration: by_label, failure_budget: None, ..group() }, 3),
        order(Action::Rollback(back)),
        order(Action::Stop { order: Digest([1; 32]), rollback: true }),
        order(Action::Pause { order: Digest([1; 32]) }),
        order(Action::Resume { order: Digest([1; 32]) }),
        order(Action::ReleaseSlot { host, token: 77 }),
        sign(&Done { host, token: 9, outcome: Outcome::Succeeded }, 10),
        sign(&Done { host, token: 9, outcome: Outcome::Declined { reason: "x".into() } }, 10),
        sign(&receipt(Subject::Admission { member: Digest([6; 32]) }), 10),
        sign(&voter_list(), 10),
        sign(&recovery(), 10),
        sign(&counted, 10),
        order(Action::Waive { host, generation: 1 << 32 }),
        sign(&drain, 3),
        order(Action::Freeze),
        order(Action::Unfreeze),
    ]
}

/// The trust of a fleet that was founded with these keys.
fn founded() -> (FleetId, TrustBundle) {
    TrustBundle::found(&root(1, &[1], 1), &genesis(), &[&key(1)]).unwrap()
}

#[test]
fn signed_formats_are_pinned() {
    let mut text = String::new();
    for (context, bytes) in every_kind() {
        text.push_str(&format!("{context} {}\n", data_encoding::HEXLOWER.encode(&bytes)));
    }
    // Unsigned themselves, and carried between versions.
    let (fleet, bundle) = founded();
    text.push_str(&format!("bundle {}\n", data_encoding::HEXLOWER.encode(&bundle.to_bytes())));
    let token = Token {
        key: token_key(&[20; 32]),
        uses: None,
        zone: None,
        labels: Default::default(),
        not_after: UnixSeconds(1_900_000_000),
        name_pattern: "*".into(),
        member_seconds: 86_400,
    };
    let invitation = Invitation {
        seeds: vec!["/ip4/192.0.2.1/tcp/7717".into()],
        bundle,
        enrolment: Enrolment::Token {
            seed: [20; 32],
            token: Signed::new(&token, fleet, &[&key(4)]).unwrap(),
        },
    };
    text.push_str(&format!("invitation {}\n", invitation.to_text()));
    insta::assert_snapshot!(text);
}

#[test]
fn a_list_of_voters_is_believed_by_a_majority_of_those_before_and_by_nobody_else() {
    let host = |n: u8| HostId::from(key(n).public_key());
    let voters = |numbers: &[u8]| {
        let name = |n: &u8| HostName::new(format!("v{n}")).unwrap();
        let mut list: Vec<_> =
            numbers.iter().map(|n| Voter { host: host(*n), name: name(n) }).collect();
        list.sort();
        list
    };
    let genesis = Genesis { voters: voters(&[11, 12, 13]), generation: 4 };
    let (fleet, bundle) = TrustBundle::found(&root(1, &[1], 1), &genesis, &[&key(1)]).unwrap();
    let trust = Trust::new(bundle, Some(fleet)).unwrap();
    let first = Electorate::of(&trust);
    let list =
        |parent, voters, generation| VoterList { base: None, seats: 3, parent, voters, generation };
    let second = list(first.newest().id(), voters(&[11, 12, 14]), 5);
    let sign = |list: &VoterList, by: &[u8]| {
        let keys: Vec<_> = by.iter().map(|n| key(*n)).collect();
        let signers: Vec<&dyn Signer> = keys.iter().map(|key| key as &dyn Signer).collect();
        Signed::new(list, fleet, &signers).unwrap()
    };
    let mut known = first.clone();
    for too_few in [&[11][..], &[11, 14], &[14, 15], &[]] {
        let refused = known.extend(&trust, &sign(&second, too_few));
        assert!(matches!(refused, Err(VotersRefused::Untrusted(_))), "{too_few:?}");
    }
    for fork in [
        list(Digest([9; 32]), second.voters.clone(), 5),
        VoterList { generation: 6, ..second.clone() },
    ] {
        let refused = known.extend(&trust, &sign(&fork, &[11, 12]));
        assert_eq!(refused, Err(VotersRefused::DoesNotFollow(4)));
    }
    assert_eq!(known, first, "nothing of it was believed");
    let second = sign(&second, &[12, 13]);
    assert_eq!(known.extend(&trust, &second), Ok(true));
    assert_eq!(known.extend(&trust, &second), Ok(false), "a replay is no news");
    // The next one is for those of the second list to sign, and no more for those of the first.
    let third = list(known.newest().id(), voters(&[12, 14, 15]), 6);
    assert!(known.clone().extend(&trust, &sign(&third, &[11, 13])).is_err());
    let third = sign(&third, &[11, 14]);
    assert_eq!(known.extend(&trust, &third), Ok(true));
    // Whoever was away believes both, in order, and tells which voters a receipt is of.
    let mut late = first;
    assert!(!late.extend_by(&trust, std::slice::from_ref(&third)));
    assert!(late.extend_by(&trust, known.after(4)));
    assert_eq!(late, known);
    assert_eq!((late.after(5).len(), late.after(6).len()), (1, 0));
    // Operators name others when too many are gone, whatever the last list was; nobody else does.
    let base = Some(Base { index: 9, state: Digest([8; 32]) });
    let recovery = VoterList { base, generation: 1 << 32, ..list(Digest::ZERO, voters(&[15]), 0) };
    for nobody in [&[11, 12, 13][..], &[12, 14, 15], &[1], &[4]] {
        assert!(late.clone().extend(&trust, &sign(&recovery, nobody)).is_err(), "{nobody:?}");
    }
    let mut saved = late.clone();
    assert_eq!(saved.extend(&trust, &sign(&recovery, &[3])), Ok(true));
    assert_eq!((saved.newest().majority(), saved.was_recovered()), (1, true));
    let of_the_lost = sign(&list(late.newest().id(), voters(&[12, 14, 11]), 7), &[12, 14]);
    assert_eq!(late.clone().extend(&trust, &of_the_lost), Ok(true));
    assert!(saved.extend(&trust, &of_the_lost).is_err(), "they have no say any more");
    assert!(late.of_generation(5).unwrap().is_voter(host(11)));
    assert!(!late.newest().is_voter(host(11)) && late.of_generation(7).is_none());
}

#[test]
fn the_chain_of_lists_is_as_long_as_it_may_be_and_no_longer() {
    let voter = Voter { host: key(11).public_key().into(), name: HostName::new("v").unwrap() };
    let genesis = Genesis { voters: vec![voter.clone()], generation: 0 };
    let (fleet, bundle) = TrustBundle::found(&root(1, &[1], 1), &genesis, &[&key(1)]).unwrap();
    let trust = Trust::new(bundle, Some(fleet)).unwrap();
    let mut known = Electorate::of(&trust);
    let follow = |known: &mut Electorate| {
        let (parent, generation) = (known.newest().id(), known.newest().generation() + 1);
        let list =
            VoterList { base: None, seats: 1, parent, voters: vec![voter.clone()], generation };
        known.extend(&trust, &Signed::new(&list, fleet, &[&key(11)]).unwrap())
    };
    for _ in 0..crate::limits::VOTER_LISTS_MAX {
        assert_eq!(follow(&mut known), Ok(true));
    }
    assert_eq!(follow(&mut known), Err(VotersRefused::TooMany));
}

/// Reads `bytes` as a document of the context, verifies it with the keys of that context.
fn believe(context: &str, bytes: &[u8], fleet: FleetId) -> Result<(), Untrusted> {
    fn by<T: Document>(bytes: &[u8], fleet: FleetId, number: u8) -> Result<(), Untrusted> {
        let public = key(number).public_key();
        Signed::<T>::from_bytes(bytes)?.verify(fleet, KeySet::one(&public)).map(drop)
    }
    match context {
        Root::CONTEXT => by::<Root>(bytes, fleet, 1),
        Genesis::CONTEXT => by::<Genesis>(bytes, fleet, 1),
        Release::CONTEXT => by::<Release>(bytes, fleet, 2),
        Group::CONTEXT => by::<Group>(bytes, fleet, 3),
        Order::CONTEXT => by::<Order>(bytes, fleet, 3),
        Removal::CONTEXT => by::<Removal>(bytes, fleet, 3),
        Drain::CONTEXT => by::<Drain>(bytes, fleet, 3),
        Token::CONTEXT => by::<Token>(bytes, fleet, 4),
        Member::CONTEXT => by::<Member>(bytes, fleet, 4),
        Want::CONTEXT => by::<Want>(bytes, fleet, 10),
        Done::CONTEXT => by::<Done>(bytes, fleet, 10),
        Receipt::CONTEXT => by::<Receipt>(bytes, fleet, 10),
        Record::CONTEXT => by::<Record>(bytes, fleet, 10),
        Counted::CONTEXT => by::<Counted>(bytes, fleet, 10),
        VoterList::CONTEXT => by::<VoterList>(bytes, fleet, 10),
        other => panic!("{other}"),
    }
}

#[test]
fn each_kind_is_believed_as_itself_and_as_nothing_else() {
    let all = every_kind();
    for (context, bytes) in &all {
        assert_eq!(believe(context, bytes, FLEET), Ok(()), "{context}");
        for (other, _) in all.iter().filter(|(other, _)| other != context) {
            let refused = believe(other, bytes, FLEET).unwrap_err();
            assert!(matches!(refused, Untrusted::OtherContext { .. }), "{context} as {other}");
        }
    }
}

#[test]
fn nothing_signed_for_one_fleet_means_anything_in_another() {
    for (context, bytes) in every_kind() {
        let refused = believe(context, &bytes, FleetId([0xf2; 32])).unwrap_err();
        assert!(matches!(refused, Untrusted::BadSignature { .. }), "{context}: {refused}");
    }
}

#[test]
fn no_bit_can_be_flipped() {
    for (context, bytes) in every_kind() {
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 1 << (at % 8);
            assert!(believe(context, &bad, FLEET).is_err(), "{context}, byte {at}");
        }
        assert!(believe(context, &bytes[..bytes.len() - 1], FLEET).is_err());
        assert!(believe(context, &[&bytes[..], &[0]].concat(), FLEET).is_err());
    }
}

#[test]
fn certificates_end_with_their_time_and_their_tokens_limits() {
    let (fleet, bundle) = founded();
    let trust = Trust::new(bundle, Some(fleet)).unwrap();
    let member = Member {
        host: key(10).public_key().into(),
        name: HostName::new("web-1").unwrap(),
        zone: None,
        labels: "role=web".parse().unwrap(),
        not_after: UnixSeconds(1000),
        incarnation: 0,
    };
    let token = Token {
        key: key(20).public_key(),
        uses: None,
        zone: None,
        labels: "role=web".parse().unwrap(),
        not_after: UnixSeconds(900),
        name_pattern: "web-*".into(),
        member_seconds: 100,
    };
    let token = Signed::new(&token, fleet, &[&key(4)]).unwrap();
    let by = |member: &Member, token: Option<&Signed<Token>>| MemberCert {
        member: Signed::new(member, fleet, &[&key(if token.is_some() { 20 } else { 4 })]).unwrap(),
        token: token.cloned(),
        receipts: Vec::new(),
    };
    for cert in [by(&member, None), by(&member, Some(&token))] {
        assert!(cert.verify(&trust, &Electorate::of(&trust), UnixSeconds(1000)).is_ok());
        let late = cert.verify(&trust, &Electorate::of(&trust), UnixSeconds(1001)).unwrap_err();
        assert!(matches!(late, MemberRefused::Expired { until: UnixSeconds(1000), .. }));
        assert!(
            cert.verify_though_expired(&trust, &Electorate::of(&trust)).is_ok(),
            "for what makes a host safe"
        );
    }
    for beyond in [
        Member { name: HostName::new("db-1").unwrap(), ..member.clone() },
        Member { labels: "role=db".parse().unwrap(), ..member.clone() },
        Member { zone: Some(ZoneName::new("z").unwrap()), ..member.clone() },
        Member { not_after: UnixSeconds(1001), ..member.clone() },
        // Whoever has a token would take names over from other hosts.
        Member { incarnation: 1, ..member },
    ] {
        let refused = by(&beyond, Some(&token))
            .verify(&trust, &Electorate::of(&trust), UnixSeconds(1))
            .unwrap_err();
        assert!(matches!(refused, MemberRefused::BeyondToken(_)), "{refused}");
        assert!(by(&beyond, None).verify(&trust, &Electorate::of(&trust), UnixSeconds(1)).is_ok());
    }
}

#[test]
fn counts_in_documents_are_checked_at_the_limit_and_one_past_it() {
    let keys = |count: usize| {
        let mut keys: Vec<_> = (0..count)
            .map(|n| SecretKey::from_seed(&[u8::try_from(n).unwrap(); 32]).public_key())
            .collect();
        keys.sort();
        let mut root = root(1, &[1], 1);
        root.roles.release = Role { keys, threshold: NonZeroU8::MIN };
        root.check()
    };
    assert!(keys(ROLE_KEYS_MAX).is_ok() && keys(ROLE_KEYS_MAX + 1).is_err());

    let voters = |count: usize| {
        let voter = |n| Voter {
            host: key(u8::try_from(n).unwrap()).public_key().into(),
            name: HostName::new(format!("h{n}")).unwrap(),
        };
        let mut voters: Vec<_> = (0..count).map(voter).collect();
        voters.sort();
        Genesis { voters, generation: 0 }.check()
    };
    assert!(voters(VOTERS_MAX).is_ok() && voters(VOTERS_MAX + 1).is_err() && voters(0).is_err());

    let environments = |count: usize| {
        let names = (0..count).map(|n| LabelText::new(format!("e{n:02}")).unwrap());
        Release { environments: names.collect(), ..release() }.check()
    };
    assert!(environments(LABELS_MAX).is_ok() && environments(LABELS_MAX + 1).is_err());

    let reason = |length: usize| Order { reason: "x".repeat(length), ..deploy() }.check();
    assert!(reason(TEXT_BYTES_MAX).is_ok() && reason(TEXT_BYTES_MAX + 1).is_err());

    let host: HostId = key(10).public_key().into();
    let log = |length: usize| {
        let mut outcome = failed();
        if let Outcome::Failed { log, .. } = &mut outcome {
            *log = "x".repeat(length);
        }
        Done { host, token: 9, outcome }.check()
    };
    assert!(log(LOG_TAIL_BYTES_MAX).is_ok() && log(LOG_TAIL_BYTES_MAX + 1).is_err());

    let addresses = |count: usize| Record { addresses: vec!["x".into(); count], ..record() };
    assert!(addresses(ADDRESSES_MAX).check().is_ok());
    assert!(addresses(ADDRESSES_MAX + 1).check().is_err());
    let status = record().groups.remove(0);
    let groups = |count: usize| Record { groups: vec![status.clone(); count], ..record() };
    assert!(groups(GROUPS_PER_HOST_MAX).check().is_ok());
    assert!(groups(GROUPS_PER_HOST_MAX + 1).check().is_err());

    let seconds = |seconds| {
        let group = Group { minimum_healthy_seconds: seconds, ..group() };
        group.check()
    };
    assert!(seconds(MINIMUM_HEALTHY_SECONDS_MAX).is_ok());
    assert!(seconds(MINIMUM_HEALTHY_SECONDS_MAX + 1).is_err());
}

#[test]
fn envelopes_are_checked_at_the_limit_and_one_past_it() {
    let signed_by = |count: usize| {
        let keys: Vec<_> = (0..count).map(|n| key(u8::try_from(n).unwrap())).collect();
        let signers: Vec<&dyn Signer> = keys.iter().map(|key| key as &dyn Signer).collect();
        let signed = Signed::new(&release(), FLEET, &signers).unwrap();
        let bytes = signed.to_bytes();
        assert!(signed.size().abs_diff(bytes.len()) < 16 * signers.len() + 16);
        Signed::<Release>::from_bytes(&bytes)
    };
    assert!(signed_by(SIGNATURES_MAX).is_ok() && signed_by(SIGNATURES_MAX + 1).is_err());

    // A payload of any length in an envelope of another hand.
    let with_payload = |length: usize| {
        #[derive(serde::Serialize)]
        struct Envelope {
            context: &'static str,
            payload: serde_bytes::ByteBuf,
            signatures: Vec<u8>,
        }
        let payload = serde_bytes::ByteBuf::from(vec![0; length]);
        let envelope = Envelope { context: "order/1", payload, signatures: Vec::new() };
        Signed::<Order>::from_bytes(&crate::cbor::encode(&envelope)).map(drop)
    };
    assert_eq!(with_payload(DOCUMENT_BYTES_MAX), Ok(()));
    assert!(with_payload(DOCUMENT_BYTES_MAX + 1).is_err());
    assert!(with_payload(ENVELOPE_BYTES_MAX).is_err());
}

#[test]
fn a_chain_of_roots_is_walked_as_far_as_the_limit() {
    let (fleet, bundle) = founded();
    let mut roots = bundle.roots.clone();
    for version in 2..=u64::try_from(ROOT_CHAIN_MAX).unwrap() {
        roots.push(Signed::new(&root(version, &[1], 1), fleet, &[&key(1)]).unwrap());
    }
    let longest = TrustBundle { roots: roots.clone(), genesis: bundle.genesis.clone() };
    assert!(Trust::new(longest, Some(fleet)).is_ok());
    roots.push(roots[0].clone());
    let longer = TrustBundle { roots, genesis: bundle.genesis };
    assert_eq!(
        Trust::new(longer, Some(fleet)).unwrap_err(),
        RootRefused::Length(ROOT_CHAIN_MAX + 1)
    );
}

#[test]
fn a_threshold_counts_different_keys() {
    let role = role(&[1, 2, 3], 2);
    let release = release();
    let by = |signers: &[&dyn Signer]| {
        Signed::new(&release, FLEET, signers).unwrap().verify(FLEET, role.key_set())
    };
    let (one, two, stranger) = (key(1), key(2), key(9));
    assert_eq!(by(&[&one]).unwrap_err(), Untrusted::Unauthorised { have: 1, need: 2 });
    assert_eq!(by(&[&one, &one]).unwrap_err(), Untrusted::Unauthorised { have: 1, need: 2 });
    assert_eq!(by(&[&one, &stranger]).unwrap_err(), Untrusted::Unauthorised { have: 1, need: 2 });
    assert_eq!(by(&[&one, &two]).unwrap().signers().len(), 2);
    assert_eq!(by(&[&one, &two, &stranger]).unwrap().signers().len(), 2);
}

#[test]
fn the_chain_of_roots_is_walked_step_by_step() {
    let sign = |document: &Root, fleet, by: &[u8]| {
        let keys: Vec<_> = by.iter().map(|number| key(*number)).collect();
        let signers: Vec<&dyn Signer> = keys.iter().map(|key| key as &dyn Signer).collect();
        Signed::new(document, fleet, &signers).unwrap()
    };
    let (fleet, bundle) = TrustBundle::found(&root(1, &[1], 1), &genesis(), &[&key(1)]).unwrap();
    let with = |roots: Vec<Signed<Root>>, genesis_by: u8| {
        let genesis = Signed::new(&genesis(), fleet, &[&key(genesis_by)]).unwrap();
        let roots = bundle.roots.iter().cloned().chain(roots).collect();
        Trust::new(TrustBundle { roots, genesis }, Some(fleet))
    };
    assert_eq!(with(Vec::new(), 1).unwrap().root().version, 1);
    // Rotation: the old keys and the new ones sign, here with a threshold of two.
    let second = root(2, &[5, 6], 2);
    let trust = with(vec![sign(&second, fleet, &[1, 5, 6])], 5);
    assert!(matches!(trust, Err(RootRefused::Genesis(_))), "two must sign the genesis now");
    assert!(with(vec![sign(&second, fleet, &[5, 6])], 5).is_err(), "the old key is missing");
    assert!(with(vec![sign(&second, fleet, &[1, 5])], 5).is_err(), "a new key is missing");
    let skipped = with(vec![sign(&root(3, &[1], 1), fleet, &[1])], 1);
    assert!(matches!(skipped, Err(RootRefused::Gap { expected: 2, got: 3 })));
    let third = sign(&root(2, &[1, 7], 1), fleet, &[1]);
    assert_eq!(with(vec![third], 7).unwrap().root().version, 2);
    let other = Trust::new(bundle, Some(FLEET));
    assert!(matches!(other, Err(RootRefused::OtherFleet { .. })));
}

#[test]
fn documents_that_say_what_they_must_not_are_not_signed() {
    let refused = |order: Order| Signed::new(&order, FLEET, &[&key(3)]).is_err();
    assert!(!refused(deploy()));
    assert!(refused(Order { sequence: 0, ..deploy() }));
    assert!(refused(Order { sequence: 1, ..deploy() }), "the first order has no parent");
    assert!(refused(Order { parent: Digest::ZERO, ..deploy() }));
    assert!(!refused(Order { reason: "x".repeat(1024), ..deploy() }));
    assert!(refused(Order { reason: "x".repeat(1025), ..deploy() }));
    let back = |deploy| refused(Order { action: Action::Rollback(deploy), ..self::deploy() });
    let plain = Deploy::plain(Digest([1; 32]), 1);
    assert!(!back(plain.clone()));
    assert!(back(Deploy { fallback: Some(Digest([2; 32])), ..plain.clone() }));
    assert!(back(Deploy { queue: true, ..plain }), "the way back waits for nothing");
    let removes = |reason: String| {
        let host = key(10).public_key().into();
        let name = HostName::new("web-1").unwrap();
        let removal = Removal { host, name, reason, issued_at: UnixSeconds(0) };
        Signed::new(&removal, FLEET, &[&key(3)]).is_ok()
    };
    assert!(removes("x".repeat(TEXT_BYTES_MAX)) && !removes("x".repeat(TEXT_BYTES_MAX + 1)));
    let releases = |content_bytes| {
        let limit = Release { content_bytes, ..release() };
        Signed::new(&limit, FLEET, &[&key(2)]).is_ok()
    };
    assert!(releases(crate::limits::REVISION_BYTES_MAX));
    assert!(!releases(crate::limits::REVISION_BYTES_MAX + 1));
}

proptest! {
    #[test]
    fn no_bytes_make_a_decoder_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        drop(Signed::<Order>::from_bytes(&bytes));
        drop(TrustBundle::from_bytes(&bytes));
        drop(Stamped::from_bytes(&bytes));
        drop(crate::cbor::decode::<Entry>(&bytes, 1 << 20));
        drop(crate::cbor::decode::<crate::wire::Message>(&bytes, 1 << 20));
        drop(crate::cbor::decode::<crate::wire::Hello>(&bytes, 1 << 20));
        drop(crate::cbor::decode::<crate::wire::Call>(&bytes, 1 << 20));
        drop(crate::cbor::decode::<crate::wire::Reply>(&bytes, 1 << 20));
        drop(crate::cbor::decode::<crate::execute::Request>(&bytes, 1 << 20));
        drop(crate::cbor::decode::<crate::execute::Response>(&bytes, 1 << 20));
        drop(Invitation::from_text(&String::from_utf8_lossy(&bytes)));
        let text = format!("swell-join-1:{}", data_encoding::BASE64URL_NOPAD.encode(&bytes));
        drop(Invitation::from_text(&text));
    }

    /// Bytes that are nearly right reach deeper than random ones.
    #[test]
    fn no_change_of_a_good_document_makes_a_decoder_panic(
        which in 0usize..21,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let (context, mut bytes) = every_kind().swap_remove(which);
        for (at, byte) in &changes {
            let at = at.index(bytes.len());
            bytes[at] = *byte;
        }
        drop(believe(context, &bytes, FLEET));
    }
}
