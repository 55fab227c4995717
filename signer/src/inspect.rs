//! Documents in words: a line for each field, times in UTC, keys and hashes as everybody writes them.

use std::fmt::Display;

use groundswell_protocol::{
    ids::Labels,
    revision::FileExistsBehavior,
    rollout::{Canary, CanaryHosts, DeploymentConfiguration, Zones},
    time::UnixSeconds,
    trust::{
        Action, Deploy, Drain, Genesis, Group, Member, Order, Release, Removal, Role, Root, Token,
        VoterList,
    },
};

use crate::terminal::plain;

/// Lines of `field: value`. Whatever a value holds, it stays in its line.
#[derive(Default)]
struct Fields(String);

impl Fields {
    fn of(what: &str) -> Self {
        Self(format!("{what}\n"))
    }

    fn put(mut self, field: &str, value: impl Display) -> Self {
        let value = plain(&value.to_string());
        self.0.push_str(&format!("  {field}: {value}\n"));
        self
    }

    fn put_or(self, field: &str, value: Option<impl Display>, otherwise: &str) -> Self {
        match value {
            Some(value) => self.put(field, value),
            None => self.put(field, otherwise),
        }
    }

    fn end(self) -> String {
        self.0.trim_end().to_owned()
    }
}

/// A release.
pub fn release(release: &Release) -> String {
    let environments: Vec<_> = release.environments.iter().map(ToString::to_string).collect();
    Fields::of("release")
        .put("application", &release.application)
        .put("label", &release.label)
        .put("revision", release.manifest)
        .put_or("cut against revision", release.parent, "none")
        .put("signed", release.created_at)
        .put_or("architecture", release.architecture.as_ref(), "any")
        .put("environments", some_or(&environments.join(", "), "any"))
        .put("content", bytes(release.content_bytes))
        .put("manifest", bytes(release.manifest_bytes))
        .end()
}

/// An order.
pub fn order(order: &Order) -> String {
    let fields = Fields::of("order")
        .put("group", &order.group)
        .put("action", action_name(&order.action))
        .put("sequence", order.sequence)
        .put("after order", order.parent)
        .put("reason", some_or(&order.reason, "none given"))
        .put("signed", order.issued_at)
        .put_or("may begin until", order.not_after, "any time");
    match &order.action {
        Action::Deploy(terms) | Action::Rollback(terms) => deploy(fields, terms),
        Action::Stop { order, rollback } => {
            fields.put("stops order", order).put("then goes back to its fallback", yes(*rollback))
        }
        Action::Pause { order } => fields.put("pauses order", order),
        Action::Resume { order } => fields.put("resumes order", order),
        Action::ReleaseSlot { host, token } => {
            fields.put("of host", host).put("releases slot", token)
        }
        Action::Waive { host, generation } => {
            fields.put("waives host", host).put("after the recovery of generation", generation)
        }
        Action::Freeze | Action::Unfreeze => fields,
    }
    .end()
}

fn deploy(fields: Fields, deploy: &Deploy) -> Fields {
    let files = deploy.file_exists_behavior.map(file_exists_name);
    let fields = fields
        .put("release", deploy.release)
        .put_or("fallback", deploy.fallback, "none")
        .put("group version", deploy.group_version)
        .put("waits for its turn", yes(deploy.queue))
        .put("only outdated hosts", yes(deploy.only_outdated))
        .put_or("files in the way", files, "as the appspec says")
        .put("ignores ApplicationStop failures", yes(deploy.ignore_application_stop_failures));
    match &deploy.configuration {
        Some(own) => configuration(fields, own),
        None => fields.put("configuration", "the group's own"),
    }
}

/// The name of an action: `Deploy`, `Rollback`, `Stop`, `Pause`, `Resume`, `ReleaseSlot`, `Waive`,
/// `Freeze` or `Unfreeze`.
pub fn action_name(action: &Action) -> &'static str {
    match action {
        Action::Deploy(_) => "Deploy",
        Action::Rollback(_) => "Rollback",
        Action::Stop { .. } => "Stop",
        Action::Pause { .. } => "Pause",
        Action::Resume { .. } => "Resume",
        Action::ReleaseSlot { .. } => "ReleaseSlot",
        Action::Waive { .. } => "Waive",
        Action::Freeze => "Freeze",
        Action::Unfreeze => "Unfreeze",
    }
}

/// What to do with files in the way, by CodeDeploy's name.
pub fn file_exists_name(behavior: FileExistsBehavior) -> &'static str {
    match behavior {
        FileExistsBehavior::Disallow => "DISALLOW",
        FileExistsBehavior::Overwrite => "OVERWRITE",
        FileExistsBehavior::Retain => "RETAIN",
    }
}

/// Reads what to do with files in the way, in capital letters or small ones.
pub fn file_exists_behavior(text: &str) -> Result<FileExistsBehavior, String> {
    let all =
        [FileExistsBehavior::Disallow, FileExistsBehavior::Overwrite, FileExistsBehavior::Retain];
    let found = all.into_iter().find(|one| file_exists_name(*one).eq_ignore_ascii_case(text));
    found.ok_or_else(|| format!("'{}' is not DISALLOW, OVERWRITE or RETAIN", text.escape_debug()))
}

/// A deployment group.
pub fn group(group: &Group) -> String {
    let fields = Fields::of("deployment group")
        .put("name", &group.name)
        .put("version", group.version)
        .put("application", &group.application)
        .put("filter", labels(&group.filter, "every host"))
        .put("minimum healthy seconds", group.minimum_healthy_seconds)
        .put("catch up", yes(group.catch_up))
        .put("deploy to new hosts", yes(group.deploy_to_new_hosts))
        .put("automatic rollback", yes(group.automatic_rollback))
        .put_or("failure budget", group.failure_budget, "what the minimum allows");
    configuration(fields, &group.configuration).end()
}

fn configuration(fields: Fields, own: &DeploymentConfiguration) -> Fields {
    let mut fields = fields.put("configuration", own).put("minimum healthy", own.minimum_healthy);
    if let Some(Canary { hosts, pause, bake_seconds }) = &own.canary {
        let hosts = match hosts {
            CanaryHosts::Count(count) => format!("{count} hosts"),
            CanaryHosts::Labels(own) => format!("hosts with {own}"),
        };
        let then = if *pause { "until resumed".into() } else { format!("{bake_seconds} s") };
        fields = fields.put("canary", format!("{hosts}; the others wait {then}"));
    }
    for wave in &own.waves {
        fields = fields.put("wave", wave);
    }
    if let Some(Zones { bake_seconds, minimum_healthy, first_bake_seconds }) = &own.zones {
        fields = fields.put(
            "zones",
            format!(
                "one at a time, {minimum_healthy} in each; {first_bake_seconds} s after the first, \
                 {bake_seconds} s after others"
            ),
        );
    }
    let seconds = |seconds: Option<u32>| seconds.map(|seconds| format!("{seconds} s"));
    fields.put_or("event deadline", seconds(own.event_deadline_seconds), "none").put_or(
        "deployment deadline",
        seconds(own.deployment_deadline_seconds),
        "none",
    )
}

/// The removal of a host.
pub fn removal(removal: &Removal) -> String {
    Fields::of("removal")
        .put("host", &removal.name)
        .put("key", removal.host)
        .put("reason", some_or(&removal.reason, "none given"))
        .put("signed", removal.issued_at)
        .end()
}

/// The drain of a host.
pub fn drain(drain: &Drain) -> String {
    Fields::of("drain")
        .put("host", &drain.name)
        .put("key", drain.host)
        .put("drained", yes(drain.drained))
        .put("sequence", drain.sequence)
        .put("reason", some_or(&drain.reason, "none given"))
        .put("signed", drain.issued_at)
        .end()
}

/// A list of voters.
pub fn voters(list: &VoterList) -> String {
    let names: Vec<_> = list.voters.iter().map(|voter| voter.name.as_str()).collect();
    let base = list.base.as_ref();
    Fields::of("list of voters")
        .put("voters", names.join(", "))
        .put("of so many", list.seats)
        .put("generation", list.generation)
        .put("after list", list.parent)
        .put_or("goes on from entry", base.map(|base| base.index), "the newest")
        .put_or("with the ledger", base.map(|base| base.state), "of the voters before")
        .end()
}

/// A join token, without its secret.
pub fn token(token: &Token) -> String {
    Fields::of("join token")
        .put("key", token.key)
        .put("names", &token.name_pattern)
        .put("labels", labels(&token.labels, "none"))
        .put_or("zone", token.zone.as_ref(), "none")
        .put_or("hosts", token.uses, "any number")
        .put("join until", token.not_after)
        .put("member until", UnixSeconds(token.not_after.0.saturating_add(token.member_seconds)))
        .end()
}

/// A membership certificate.
pub fn member(member: &Member) -> String {
    Fields::of("membership certificate")
        .put("host", &member.name)
        .put("key", member.host)
        .put("labels", labels(&member.labels, "none"))
        .put_or("zone", member.zone.as_ref(), "none")
        .put("member until", member.not_after)
        .put("incarnation", member.incarnation)
        .end()
}

/// A root document.
pub fn root(root: &Root) -> String {
    let roles = &root.roles;
    let all = [
        ("root", &roles.root),
        ("release", &roles.release),
        ("operator", &roles.operator),
        ("enrolment", &roles.enrolment),
    ];
    let mut fields = Fields::of("root document")
        .put("fleet", &root.name)
        .put("version", root.version)
        .put("review by", root.review_by);
    for (name, Role { keys, threshold }) in all {
        let listed: Vec<_> = keys.iter().map(ToString::to_string).collect();
        let value = format!("{threshold} of {}: {}", keys.len(), listed.join(", "));
        fields = fields.put(name, value);
    }
    fields.end()
}

/// A genesis document.
pub fn genesis(genesis: &Genesis) -> String {
    let mut fields = Fields::of("genesis document").put("generation", genesis.generation);
    for voter in &genesis.voters {
        fields = fields.put("voter", format!("{} {}", voter.name, voter.host));
    }
    fields.end()
}

fn labels(labels: &Labels, none: &str) -> String {
    some_or(&labels.to_string(), none)
}

fn some_or(text: &str, none: &str) -> String {
    if text.is_empty() { none.into() } else { text.into() }
}

fn yes(flag: bool) -> &'static str {
    if flag { "yes" } else { "no" }
}

fn bytes(count: u64) -> String {
    format!("{count} bytes")
}

#[cfg(test)]
mod tests {
    use groundswell_protocol::{
        ids::{Digest, GroupName},
        rollout::MinimumHealthy,
    };

    use super::*;

    #[test]
    fn an_order_is_shown_field_by_field() {
        let mut terms = Deploy::plain(Digest([1; 32]), 3);
        terms.configuration = Some(MinimumHealthy::HalfAtATime.into());
        terms.file_exists_behavior = Some(FileExistsBehavior::Retain);
        let shown = order(&Order {
            group: GroupName::new("web").unwrap(),
            action: Action::Deploy(terms),
            parent: Digest([2; 32]),
            reason: "a\nb\u{1b}[2J".into(),
            sequence: 8,
            issued_at: UnixSeconds(951_782_400),
            not_after: None,
        });
        for line in [
            "  action: Deploy",
            "  reason: a\\nb\\u{1b}[2J",
            "  signed: 2000-02-29T00:00:00Z",
            "  may begin until: any time",
            "  files in the way: RETAIN",
            "  configuration: HalfAtATime",
        ] {
            assert!(shown.lines().any(|shown| shown == line), "{line}: {shown}");
        }
        assert!(shown.contains(&format!("  release: {}\n", Digest([1; 32]))), "{shown}");
    }

    #[test]
    fn codedeploys_names_are_read_in_any_case() {
        assert_eq!(file_exists_behavior("OVERWRITE"), Ok(FileExistsBehavior::Overwrite));
        assert_eq!(file_exists_behavior("retain"), Ok(FileExistsBehavior::Retain));
        assert!(file_exists_behavior("keep").unwrap_err().contains("DISALLOW, OVERWRITE"));
    }
}
