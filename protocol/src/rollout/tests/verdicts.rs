//! CodeDeploy's rule for batches and verdicts, by a table.

use super::*;
use crate::testdata;

const TABLE: &str = include_str!("../../../testdata/verdict.txt");

#[test]
fn batches_and_verdicts_are_those_of_the_table() {
    let rows = testdata::rows(TABLE);
    assert!(rows.len() >= 25, "the table was read");
    for (row, [configuration, hosts, fail, batches, verdict]) in rows {
        let got = run(configuration.parse().unwrap(), hosts.parse().unwrap(), fail);
        assert_eq!(got, (batches.to_owned(), verdict), "{row}");
    }
}

fn run(minimum: MinimumHealthy, hosts: u8, fail: &str) -> (String, &'static str) {
    let mut desk = Desk::new(hosts);
    desk.group("web", "", minimum, 1).unwrap();
    let release = desk.release("web");
    let order = match desk.deploy_with("web", release, |_| {}) {
        Ok(order) => order,
        Err(Refusal::NothingMayBeDown { .. }) => return ("-".into(), "refused"),
        Err(other) => panic!("{other}"),
    };
    let (mut tried, mut batches) = (0, Vec::new());
    loop {
        desk.want_all();
        let grants = desk.ledger.next_grants();
        if grants.is_empty() {
            break;
        }
        batches.push(grants.len().to_string());
        let batch: Vec<_> = grants.iter().map(|_| desk.grant_next()).collect();
        for number in batch {
            tried += 1;
            let fails = match fail {
                "*" => true,
                "last" => tried == hosts,
                count => tried <= count.parse().unwrap(),
            };
            desk.done(number, if fails { failure(true) } else { Outcome::Succeeded });
        }
    }
    let verdict = match desk.status(order, false) {
        DeploymentStatus::Succeeded => "succeeded",
        DeploymentStatus::Failed { .. } => "failed",
        other => panic!("{other:?}"),
    };
    (batches.join(","), verdict)
}

#[test]
fn a_deployment_for_some_hosts_is_judged_by_the_whole_group() {
    for (failing, good) in [(0, true), (2, true), (3, false)] {
        let mut desk = Desk::new(10);
        desk.group_with("web", |group| group.configuration = MinimumHealthy::HalfAtATime.into())
            .unwrap();
        let (older, release) = (desk.release("web"), desk.release("web"));
        desk.deploy_with("web", older, |_| {}).unwrap();
        desk.roll();
        let stopped = desk.deploy_with("web", release, |_| {}).unwrap();
        desk.want_all();
        for _ in 0..7 {
            let number = desk.grant_next();
            desk.done(number, Outcome::Succeeded);
        }
        desk.act("web", Action::Stop { order: stopped, rollback: false }).unwrap();
        // Five of ten must stay healthy, and seven are not touched.
        let order = desk.deploy_with("web", release, |deploy| deploy.only_outdated = true).unwrap();
        desk.want_all();
        let batch: Vec<_> = desk.ledger.next_grants().iter().map(|_| desk.grant_next()).collect();
        assert_eq!(batch.len(), 3);
        for (at, number) in batch.into_iter().enumerate() {
            desk.done(number, if at < failing { failure(true) } else { Outcome::Succeeded });
        }
        let succeeded = desk.status(order, false) == DeploymentStatus::Succeeded;
        assert_eq!(succeeded, good, "{failing} of three fail");
    }
}

/// One zone after the other, and a floor for each.
const ZONES: &str = include_str!("../../../testdata/zones.txt");

#[test]
fn zones_go_in_the_batches_of_the_table() {
    let rows = testdata::rows(ZONES);
    assert!(rows.len() >= 10, "the table was read");
    for (row, [group, per_zone, hosts, batches]) in rows {
        let hosts: Vec<usize> = hosts.split(',').map(|hosts| hosts.parse().unwrap()).collect();
        let got = run_zones(group.parse().unwrap(), per_zone.parse().unwrap(), &hosts);
        assert_eq!(got, batches, "{row}");
    }
}

fn run_zones(group: MinimumHealthy, per_zone: MinimumHealthy, hosts: &[usize]) -> String {
    let of_hosts = |(count, zone): (&usize, &'static str)| vec![zone; *count];
    let zones: Vec<_> = hosts.iter().zip(["a", "b", "c"]).flat_map(of_hosts).collect();
    let mut desk = Desk::in_zones(u8::try_from(zones.len()).unwrap(), &zones);
    let floor = Zones { bake_seconds: 0, minimum_healthy: per_zone, first_bake_seconds: 0 };
    desk.group_with("web", |web| {
        web.configuration = DeploymentConfiguration { zones: Some(floor), ..group.into() };
    })
    .unwrap();
    let release = desk.release("web");
    match desk.deploy_with("web", release, |_| {}) {
        Ok(_) => {}
        Err(Refusal::NoneOfZone { .. }) => return "refused".into(),
        Err(other) => panic!("{other}"),
    }
    let mut batches = vec![Vec::new(); hosts.len()];
    loop {
        desk.want_all();
        let grants = desk.ledger.next_grants();
        if grants.is_empty() {
            let of_zone = |sizes: &Vec<String>| sizes.join(",");
            return batches.iter().map(of_zone).collect::<Vec<_>>().join("|");
        }
        let batch: Vec<_> = grants.iter().map(|_| desk.grant_next()).collect();
        let zone = |number: &u8| zones[usize::from(*number)];
        assert!(batch.iter().all(|number| zone(number) == zone(&batch[0])), "one zone at a time");
        let at = ["a", "b", "c"].iter().position(|name| *name == zone(&batch[0])).unwrap();
        batches[at].push(batch.len().to_string());
        batch.into_iter().for_each(|number| desk.done(number, Outcome::Succeeded));
    }
}

/// What ends a deployment though the floor would not.
const BUDGET: &str = include_str!("../../../testdata/budget.txt");

#[test]
fn budgets_and_deadlines_end_deployments_as_the_table_says() {
    let rows = testdata::rows(BUDGET);
    assert!(rows.len() >= 8, "the table was read");
    for (row, [hosts, budget, fail, tried, end]) in rows {
        let got = run_budget(hosts.parse().unwrap(), budget, fail.parse().unwrap());
        assert_eq!(got, (tried.parse().unwrap(), end.to_owned()), "{row}");
    }
}

fn run_budget(hosts: u8, budget: &str, fail: usize) -> (usize, String) {
    let mut desk = Desk::new(hosts);
    let is_late = budget == "late";
    desk.group_with("web", |group| {
        group.failure_budget = budget.parse().ok();
        group.configuration = MinimumHealthy::AllAtOnce.into();
        group.configuration.deployment_deadline_seconds = is_late.then_some(60);
    })
    .unwrap();
    let release = desk.release("web");
    let order = desk.deploy_with("web", release, |_| {}).unwrap();
    let mut tried = 0;
    loop {
        desk.want_all();
        if is_late && tried == fail {
            for (passed, _) in desk.ledger.waits() {
                desk.apply(Entry::Passed(passed)).unwrap();
            }
        }
        if desk.ledger.next_grants().is_empty() {
            break;
        }
        let number = desk.grant_next();
        tried += 1;
        let fails = !is_late && tried <= fail;
        desk.done(number, if fails { failure(true) } else { Outcome::Succeeded });
    }
    let end = match desk.status(order, false) {
        DeploymentStatus::Succeeded => "succeeded".into(),
        DeploymentStatus::Failed { reason } => reason.split(':').next().unwrap().to_owned(),
        other => panic!("{other:?}"),
    };
    (tried, end)
}
