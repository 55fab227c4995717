//! Hosts that operators keep for themselves.

use super::*;

impl Desk {
    fn drain(&mut self, number: u8) -> Result<bool, Refusal> {
        let sequence = self.ledger.drain_sequence(host(number)) + 1;
        self.apply(self.drained(number, true, sequence))
    }

    fn undrain(&mut self, number: u8) -> Result<bool, Refusal> {
        let sequence = self.ledger.drain_sequence(host(number)) + 1;
        self.apply(self.drained(number, false, sequence))
    }

    /// Gives a host back that is well.
    fn give_back(&mut self, number: u8) {
        self.undrain(number).unwrap();
        self.health(number, true);
    }

    fn drained(&self, number: u8, drained: bool, sequence: u64) -> Entry {
        let name = HostName::new(format!("h{number}")).unwrap();
        let drain = Drain {
            host: host(number),
            name,
            drained,
            sequence,
            reason: String::new(),
            issued_at: NOW,
            not_after: Some(UnixSeconds(NOW.0 + 60)),
        };
        Entry::Drain(self.sign(&drain, 3))
    }
}

/// Four hosts of a group that catches up, two of which may be down; the last of them is drained.
fn one_drained() -> Desk {
    let mut desk = served(4);
    desk.group_with("web", |group| {
        (group.catch_up, group.configuration) = (true, MinimumHealthy::HalfAtATime.into());
    })
    .unwrap();
    desk.drain(3).unwrap();
    desk
}

#[test]
fn an_old_word_drains_nobody_and_gives_nobody_back() {
    let mut desk = served(4);
    for (sequence, drained) in [(1, true), (2, false), (3, true)] {
        let entry = desk.drained(1, drained, sequence);
        assert_eq!(desk.apply(entry.clone()), Ok(true));
        assert_eq!(desk.apply(entry), Ok(false), "it is so already");
    }
    for (sequence, drained) in [(1, true), (2, false), (3, false), (5, false)] {
        let refused = desk.apply(desk.drained(1, drained, sequence));
        assert!(matches!(refused, Err(Refusal::DrainOutOfOrder { expected: 4, .. })));
    }
    let forged = Entry::Drain(match desk.drained(1, false, 4) {
        Entry::Drain(signed) => signed.without_signatures(),
        _ => unreachable!(),
    });
    assert!(matches!(desk.apply(forged), Err(Refusal::Untrusted { .. })));
    assert!(desk.ledger.is_drained(host(1)));
}

fn served(hosts: u8) -> Desk {
    let mut desk = Desk::new(hosts);
    desk.group_with("web", |group| group.catch_up = true).unwrap();
    desk.deploy("web");
    desk.roll();
    desk
}

#[test]
fn a_host_is_drained_under_the_quotas_of_all_its_groups() {
    let mut desk = served(4);
    desk.group("db", "role=db", MinimumHealthy::OneAtATime, 1).unwrap();
    desk.drain(1).unwrap();
    assert_eq!(desk.down("web"), (1, 1));
    assert!(matches!(desk.drain(0), Err(Refusal::QuotaFull { down: 1, quota: 1, .. })));
    assert!(matches!(desk.drain(1), Err(Refusal::NothingToDrain { drained: true, .. })));
    desk.deploy("web");
    desk.want_all();
    assert!(desk.ledger.next_grants().is_empty(), "no release goes on beside it");
    let why = desk.ledger.why_waiting(desk.ledger.deployments()[0].id).to_string();
    assert!(why.contains("drained: h1 (`swell hosts undrain`)"), "{why}");
    desk.undrain(1).unwrap();
    assert!(matches!(desk.undrain(1), Err(Refusal::NothingToDrain { drained: false, .. })));
    assert!(desk.ledger.next_grants().is_empty(), "it has not said yet that it is well");
    desk.health(1, true);
    assert_eq!(desk.roll().len(), 4);
}

#[test]
fn a_host_that_holds_a_slot_is_not_drained_and_one_that_is_drained_gets_none() {
    let mut desk = one_drained();
    desk.deploy("web");
    desk.want_all();
    let holder = desk.grant_next();
    assert!(matches!(desk.drain(holder), Err(Refusal::HoldsSlot(_))));
    let drained = desk.ledger.assignments(host(3)).remove(0).deployment.unwrap();
    let grant = Grant { host: host(3), order: drained.order, release: drained.release };
    assert!(matches!(desk.apply(Entry::Grant(grant)), Err(Refusal::Drained(_))));
}

#[test]
fn no_deployment_waits_for_a_drained_host_and_it_catches_up() {
    let mut desk = one_drained();
    let release = desk.release("web");
    let order = desk.deploy_with("web", release, |_| {}).unwrap();
    assert_eq!(desk.roll().len(), 3);
    assert_eq!(desk.status(order, false), DeploymentStatus::Succeeded);
    // It was switched off meanwhile, and is not there yet when it is given back.
    desk.undrain(3).unwrap();
    assert_eq!((desk.down("web").0, desk.roll().len()), (1, 0));
    desk.health(3, true);
    assert_eq!(desk.roll(), [3]);
}

#[test]
fn a_majority_of_the_voters_is_not_drained() {
    let mut desk = Desk::founded(5, 3, &[]);
    desk.group("web", "", MinimumHealthy::AllAtOnce, 1).unwrap();
    desk.drain(0).unwrap();
    assert!(matches!(desk.drain(1), Err(Refusal::VotersNeeded { .. })));
    desk.drain(4).unwrap();
    desk.remove(4, 3).unwrap();
    assert!(!desk.ledger.is_drained(host(4)));
}

#[test]
fn nobody_is_drained_by_what_a_deployment_alone_allows() {
    let mut desk = served(4);
    let release = desk.release("web");
    let all = MinimumHealthy::AllAtOnce;
    desk.deploy_with("web", release, |deploy| deploy.configuration = Some(all.into())).unwrap();
    desk.drain(1).unwrap();
    assert!(matches!(desk.drain(2), Err(Refusal::QuotaFull { quota: 1, .. })), "it will be over");
}

#[test]
fn who_catches_up_and_is_drained_keeps_no_other_from_it() {
    let mut desk = served(2);
    desk.group_with("web", |group| {
        (group.catch_up, group.deploy_to_new_hosts) = (true, true);
    })
    .unwrap();
    desk.hosts = 3;
    desk.admit(2, 2, 0).unwrap();
    desk.want_all();
    desk.drain(2).unwrap();
    desk.hosts = 4;
    desk.admit(3, 3, 0).unwrap();
    assert_eq!(desk.roll(), [3]);
    desk.give_back(2);
    assert_eq!(desk.roll(), [2]);
}

#[test]
fn a_drain_that_nobody_took_in_time_is_none() {
    let mut desk = served(3);
    let (drain, late) = (desk.drained(1, true, 1), UnixSeconds(NOW.0 + 61));
    assert!(matches!(desk.apply_at(late, drain), Err(Refusal::OrderExpired { .. })));
    desk.drain(1).unwrap();
    let undrain = desk.drained(1, false, 2);
    assert_eq!(desk.apply_at(late, undrain), Ok(true), "to give back time does not matter");
}
