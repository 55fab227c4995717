//! Ledgers that share their states, as in the simulator.

use super::{super::sharing::share, *};

/// A ledger that applies what another one has applied.
fn follower(desk: &Desk) -> Ledger {
    let mut ledger = Ledger::new(desk.ledger.trust().clone());
    catch_up(&mut ledger, desk);
    ledger
}

fn catch_up(ledger: &mut Ledger, desk: &Desk) {
    for (index, bytes) in (1..).zip(&desk.log) {
        if index > ledger.applied_index() {
            let stamped = Stamped::from_bytes(bytes).unwrap();
            drop(ledger.apply(index, Stamped::hash(bytes), &stamped));
        }
    }
}

#[test]
fn ledgers_that_apply_the_same_hold_one_state() {
    share();
    let mut desk = Desk::new(4);
    desk.group("web", "", MinimumHealthy::OneAtATime, 1).unwrap();
    let mut other = follower(&desk);
    assert!(other.state.is(&desk.ledger.state));
    let restored = Ledger::restore(other.trust().clone(), &other.snapshot()).unwrap();
    assert!(restored.state.is(&desk.ledger.state));
    desk.health(1, false);
    assert!(!other.is_same(&desk.ledger));
    catch_up(&mut other, &desk);
    assert!(other.state.is(&desk.ledger.state));
}

#[test]
fn a_ledger_that_went_astray_stays_so() {
    share();
    let mut desk = Desk::new(4);
    let mut astray = follower(&desk);
    astray.state.unhealthy.insert(host(2), Version::default());
    desk.group("web", "", MinimumHealthy::OneAtATime, 1).unwrap();
    desk.health(1, false);
    catch_up(&mut astray, &desk);
    assert!(!astray.is_same(&desk.ledger));
    assert_ne!(astray.state_hash(), desk.ledger.state_hash());
    assert!(follower(&desk).is_same(&desk.ledger));
}
