//! CodeDeploy's rule for batches and verdicts, by a table.

use super::*;

/// A table that a person who reads no Rust can check.
const TABLE: &str = include_str!("../../../testdata/verdict.txt");

#[test]
fn batches_and_verdicts_are_those_of_the_table() {
    let rows = TABLE.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    let mut count = 0;
    for row in rows {
        let cells: Vec<_> = row.split_whitespace().collect();
        let [configuration, hosts, fail, batches, verdict] = cells.try_into().unwrap();
        let got = run(configuration.parse().unwrap(), hosts.parse().unwrap(), fail);
        assert_eq!(got, (batches.to_owned(), verdict), "{row}");
        count += 1;
    }
    assert!(count >= 25, "the table was read");
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
