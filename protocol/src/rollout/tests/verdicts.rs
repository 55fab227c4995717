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
