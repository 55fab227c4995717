//! A group's TOML file: which hosts, and how carefully.

use std::{collections::BTreeMap, path::Path};

use groundswell_protocol::{
    ids::{ApplicationName, ConfigurationName, GroupName, LabelText, Labels},
    rollout::{Canary, CanaryHosts, DeploymentConfiguration, MinimumHealthy, Zones},
    trust::{Document, Group},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use toml::Spanned;

use crate::{SignError, read_start};

/// The file, with its configuration as a name or as a table.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct GroupFile<C> {
    name: GroupName,
    application: ApplicationName,
    #[serde(default, skip_serializing_if = "LabelTable::is_empty")]
    filter: LabelTable,
    configuration: C,
    #[serde(default = "watch")]
    minimum_healthy_seconds: u32,
    #[serde(default = "yes")]
    catch_up: bool,
    #[serde(default = "yes")]
    deploy_to_new_hosts: bool,
    #[serde(default = "yes")]
    automatic_rollback: bool,
    failure_budget: Option<u32>,
}

type LabelTable = BTreeMap<LabelText, LabelText>;

fn yes() -> bool {
    true
}

/// Seconds for which a host is watched: most of what dies of itself does so right after its start.
fn watch() -> u32 {
    10
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct ConfigurationTable {
    name: Option<ConfigurationName>,
    minimum_healthy: Spanned<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    waves: Vec<LabelTable>,
    canary: Option<CanaryTable>,
    zones: Option<ZonesTable>,
    event_deadline_seconds: Option<u32>,
    deployment_deadline_seconds: Option<u32>,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct CanaryTable {
    count: Option<u32>,
    labels: Option<LabelTable>,
    #[serde(default)]
    pause: bool,
    #[serde(default)]
    bake_seconds: u32,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct ZonesTable {
    #[serde(default)]
    bake_seconds: u32,
    first_bake_seconds: Option<u32>,
    minimum_healthy: Option<Spanned<String>>,
}

/// What is wrong with a file, and where: the line, or 0 where it is the whole.
#[derive(Debug, PartialEq)]
struct Wrong {
    line: usize,
    message: String,
}

/// Reads a group's file. The version is for whoever signs to fill in.
pub fn load(path: &Path) -> Result<Group, SignError> {
    let shown = path.display();
    let bytes = read_start(path, FILE_BYTES_MAX)?;
    let text = String::from_utf8(bytes)
        .map_err(|_| SignError::refused(format!("{shown}: it is not text")).with_hint(HINT))?;
    read(&shown.to_string(), &text)
}

/// Reads a group from the text of its file, which messages call `shown`.
pub fn read(shown: &str, text: &str) -> Result<Group, SignError> {
    parse_group(text).map_err(|Wrong { line, message }| {
        let place = if line == 0 { String::new() } else { format!("{line}:") };
        SignError::refused(format!("{shown}:{place} {message}")).with_hint(HINT)
    })
}

/// Writes a group's file: all of the group but its version, with nothing left to defaults.
pub fn write(group: &Group) -> String {
    let own = &group.configuration;
    let file = match *own == own.minimum_healthy.into() {
        true => toml::to_string(&file_of(group, own.minimum_healthy.to_string())),
        false => toml::to_string(&file_of(group, table_of(own))),
    };
    file.expect("tables of texts, numbers and lists can be written")
}

fn file_of<C>(group: &Group, configuration: C) -> GroupFile<C> {
    GroupFile {
        name: group.name.clone(),
        application: group.application.clone(),
        filter: table_of_labels(&group.filter),
        configuration,
        minimum_healthy_seconds: group.minimum_healthy_seconds,
        catch_up: group.catch_up,
        deploy_to_new_hosts: group.deploy_to_new_hosts,
        automatic_rollback: group.automatic_rollback,
        failure_budget: group.failure_budget,
    }
}

fn table_of(own: &DeploymentConfiguration) -> ConfigurationTable {
    let written = |floor: MinimumHealthy| Spanned::new(0..0, floor.to_string());
    let canary = own.canary.as_ref().map(|Canary { hosts, pause, bake_seconds }| {
        let (count, labels) = match hosts {
            CanaryHosts::Count(count) => (Some(*count), None),
            CanaryHosts::Labels(labels) => (None, Some(table_of_labels(labels))),
        };
        CanaryTable { count, labels, pause: *pause, bake_seconds: *bake_seconds }
    });
    let zones = own.zones.as_ref().map(|zones| ZonesTable {
        bake_seconds: zones.bake_seconds,
        first_bake_seconds: Some(zones.first_bake_seconds),
        minimum_healthy: Some(written(zones.minimum_healthy)),
    });
    ConfigurationTable {
        name: own.name.clone(),
        minimum_healthy: written(own.minimum_healthy),
        waves: own.waves.iter().map(table_of_labels).collect(),
        canary,
        zones,
        event_deadline_seconds: own.event_deadline_seconds,
        deployment_deadline_seconds: own.deployment_deadline_seconds,
    }
}

fn table_of_labels(labels: &Labels) -> LabelTable {
    labels.iter().cloned().collect()
}

fn parse_group(text: &str) -> Result<Group, Wrong> {
    let named = |configuration: &Spanned<toml::Value>| configuration.get_ref().is_str();
    // Which of the two forms it has is asked first, so that each tells its own mistakes.
    let form: GroupFile<Spanned<toml::Value>> = parse(text)?;
    if named(&form.configuration) {
        let file: GroupFile<Spanned<String>> = parse(text)?;
        let minimum = minimum(text, "configuration", &file.configuration)?;
        return group(file, minimum.into());
    }
    let line = line_of(text, form.configuration.span().start);
    let file: GroupFile<ConfigurationTable> = parse(text)?;
    let configuration = configuration(text, &file.configuration, line)?;
    group(file, configuration)
}

fn parse<T: DeserializeOwned>(text: &str) -> Result<T, Wrong> {
    toml::from_str(text).map_err(|error| {
        let line = error.span().map_or(0, |span| line_of(text, span.start));
        Wrong { line, message: error.message().into() }
    })
}

fn line_of(text: &str, at: usize) -> usize {
    text.get(..at).unwrap_or_default().matches('\n').count() + 1
}

fn minimum(text: &str, key: &str, value: &Spanned<String>) -> Result<MinimumHealthy, Wrong> {
    value.get_ref().parse().map_err(|error| Wrong {
        line: line_of(text, value.span().start),
        message: format!("{key}: {error}"),
    })
}

fn labels(table: &LabelTable, line: usize) -> Result<Labels, Wrong> {
    let pairs = table.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
    Labels::new(pairs).map_err(|error| Wrong { line, message: error.to_string() })
}

fn configuration(
    text: &str,
    table: &ConfigurationTable,
    line: usize,
) -> Result<DeploymentConfiguration, Wrong> {
    let waves = table.waves.iter().map(|wave| labels(wave, line)).collect::<Result<_, _>>()?;
    let canary = table.canary.as_ref().map(|canary| {
        let hosts = match (canary.count, &canary.labels) {
            (Some(count), None) => CanaryHosts::Count(count),
            (None, Some(table)) => CanaryHosts::Labels(labels(table, line)?),
            _ => {
                let message = "configuration.canary: either count or labels is needed".into();
                return Err(Wrong { line, message });
            }
        };
        Ok(Canary { hosts, pause: canary.pause, bake_seconds: canary.bake_seconds })
    });
    let zones = table.zones.as_ref().map(|zones| {
        let floor = zones.minimum_healthy.as_ref();
        let floor = floor.map(|floor| minimum(text, "configuration.zones.minimum_healthy", floor));
        Ok(Zones {
            bake_seconds: zones.bake_seconds,
            minimum_healthy: floor.transpose()?.unwrap_or(MinimumHealthy::AllAtOnce),
            first_bake_seconds: zones.first_bake_seconds.unwrap_or(zones.bake_seconds),
        })
    });
    let configuration = DeploymentConfiguration {
        name: table.name.clone(),
        waves,
        zones: zones.transpose()?,
        canary: canary.transpose()?,
        minimum_healthy: minimum(text, "configuration.minimum_healthy", &table.minimum_healthy)?,
        event_deadline_seconds: table.event_deadline_seconds,
        deployment_deadline_seconds: table.deployment_deadline_seconds,
    };
    let wrong = |error| Wrong { line, message: format!("configuration: {error}") };
    configuration.check().map_err(wrong)?;
    Ok(configuration)
}

fn group<C>(file: GroupFile<C>, configuration: DeploymentConfiguration) -> Result<Group, Wrong> {
    let group = Group {
        name: file.name,
        filter: labels(&file.filter, 0)?,
        version: 1,
        catch_up: file.catch_up,
        application: file.application,
        configuration,
        failure_budget: file.failure_budget,
        automatic_rollback: file.automatic_rollback,
        deploy_to_new_hosts: file.deploy_to_new_hosts,
        minimum_healthy_seconds: file.minimum_healthy_seconds,
    };
    group.check().map_err(|error| Wrong { line: 0, message: error.to_string() })?;
    Ok(group)
}

/// Longer files describe no group.
const FILE_BYTES_MAX: usize = 1 << 20;
const HINT: &str = "a group's file has name, application, configuration, and if wanted filter, \
    minimum_healthy_seconds, catch_up, deploy_to_new_hosts, automatic_rollback and failure_budget; \
    configuration is a floor such as \"HalfAtATime\", or a table with minimum_healthy, and if wanted \
    name, canary, waves, zones, event_deadline_seconds and deployment_deadline_seconds";

#[cfg(test)]
mod tests {
    use std::{fmt::Debug, str::FromStr};

    use groundswell_protocol::limits::BAKE_SECONDS_MAX;
    use proptest::{collection::btree_map, option, prelude::*};

    use super::*;

    fn name<T: FromStr<Err: Debug> + Debug>() -> impl Strategy<Value = T> {
        "[a-zA-Z0-9+=,@_-][a-zA-Z0-9+=,.@_-]{0,20}".prop_map(|text| text.parse::<T>().unwrap())
    }

    fn some_labels(at_least: usize) -> impl Strategy<Value = Labels> {
        let pairs = btree_map(name(), name(), at_least..4);
        pairs.prop_map(|pairs| Labels::new(pairs.into_iter().collect()).unwrap())
    }

    fn floor() -> impl Strategy<Value = MinimumHealthy> {
        prop_oneof![
            Just(MinimumHealthy::AllAtOnce),
            Just(MinimumHealthy::HalfAtATime),
            Just(MinimumHealthy::OneAtATime),
            any::<u32>().prop_map(MinimumHealthy::HostCount),
            (0u8..100).prop_map(MinimumHealthy::FleetPercent),
        ]
    }

    fn canary() -> impl Strategy<Value = Canary> {
        let hosts = prop_oneof![
            (1..u32::MAX).prop_map(CanaryHosts::Count),
            some_labels(1).prop_map(CanaryHosts::Labels),
        ];
        (hosts, any::<bool>(), 0..=BAKE_SECONDS_MAX).prop_map(|(hosts, pause, bake_seconds)| {
            Canary { hosts, pause, bake_seconds: if pause { 0 } else { bake_seconds } }
        })
    }

    fn zones() -> impl Strategy<Value = Zones> {
        let seconds = 0..=BAKE_SECONDS_MAX;
        (seconds.clone(), floor(), seconds).prop_map(|(bake, minimum_healthy, first)| Zones {
            bake_seconds: bake,
            minimum_healthy,
            first_bake_seconds: first,
        })
    }

    fn any_configuration() -> impl Strategy<Value = DeploymentConfiguration> {
        let waves = proptest::collection::vec(some_labels(1), 0..3);
        let deadlines = (option::of(1u32..3600), option::of(1u32..86_400));
        let all = (option::of(name()), waves, option::of(canary()), option::of(zones()), floor());
        let staged = (all, deadlines).prop_map(|((name, waves, canary, zones, floor), times)| {
            DeploymentConfiguration {
                name,
                waves,
                canary,
                zones,
                event_deadline_seconds: times.0,
                deployment_deadline_seconds: times.1,
                ..floor.into()
            }
        });
        prop_oneof![floor().prop_map(Into::into), staged]
    }

    fn any_group() -> impl Strategy<Value = Group> {
        let words = (name(), name(), some_labels(0), any_configuration());
        let numbers = (option::of(any::<u32>()), 0u32..3600);
        (words, numbers, any::<[bool; 3]>()).prop_map(|(words, numbers, flags)| Group {
            name: words.0,
            application: words.1,
            filter: words.2,
            configuration: words.3,
            version: 1,
            failure_budget: numbers.0,
            minimum_healthy_seconds: numbers.1,
            catch_up: flags[0],
            automatic_rollback: flags[1],
            deploy_to_new_hosts: flags[2],
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(500))]

        #[test]
        fn what_is_written_is_read_as_the_same_group(group in any_group()) {
            prop_assume!(group.check().is_ok());
            let text = write(&group);
            prop_assert_eq!(parse_group(&text).map_err(|wrong| format!("{wrong:?}: {text}")), Ok(group));
        }
    }

    #[test]
    fn a_short_file_has_sensible_defaults() {
        let text = "name = \"web\"\napplication = \"shop\"\nconfiguration = \"HalfAtATime\"\n";
        let group = parse_group(text).unwrap();
        assert_eq!(group.configuration, MinimumHealthy::HalfAtATime.into());
        assert!(group.catch_up && group.deploy_to_new_hosts && group.automatic_rollback);
        assert_eq!((group.failure_budget, group.minimum_healthy_seconds), (None, 10));
    }

    #[test]
    fn everything_can_be_asked_for() {
        let group = parse_group(
            "name = \"web\"\napplication = \"shop\"\nfailure_budget = 2\ncatch_up = false\n\
             [filter]\nrole = \"web\"\n[configuration]\nname = \"careful\"\n\
             minimum_healthy = \"percent:75\"\nwaves = [{ tier = \"back\" }]\n\
             deployment_deadline_seconds = 7200\nevent_deadline_seconds = 60\n\
             [configuration.canary]\ncount = 1\npause = true\n\
             [configuration.zones]\nbake_seconds = 60\nminimum_healthy = \"count:1\"\n",
        );
        let group = group.unwrap();
        let configuration = &group.configuration;
        assert_eq!(configuration.to_string(), "careful");
        assert_eq!(configuration.waves.len(), 1);
        assert_eq!(configuration.canary.as_ref().unwrap().hosts, CanaryHosts::Count(1));
        let zones = configuration.zones.as_ref().unwrap();
        assert_eq!((zones.bake_seconds, zones.first_bake_seconds), (60, 60));
        assert_eq!(zones.minimum_healthy, MinimumHealthy::HostCount(1));
        assert!(!group.catch_up && group.failure_budget == Some(2));
    }

    #[test]
    fn the_files_that_people_are_shown_can_be_read() {
        let shown = include_str!("../../README.md").split("```toml").skip(1);
        let files: Vec<_> = shown.filter_map(|block| block.split("```").next()).collect();
        let groups: Vec<_> = files.iter().map(|file| parse_group(file).unwrap()).collect();
        let [short, long] = groups.as_slice() else { panic!("{files:?}") };
        assert_eq!(short.minimum_healthy_seconds, watch());
        assert!(long.configuration.zones.is_some() && long.configuration.canary.is_some());
    }

    #[test]
    fn mistakes_are_named_with_line_and_key() {
        let head = "name = \"web\"\napplication = \"shop\"\n";
        let wrong = |rest: &str| parse_group(&format!("{head}{rest}")).unwrap_err();
        for (rest, line, message) in [
            ("configuration = \"Half\"\n", 3, "configuration: "),
            ("configuration = \"AllAtOnce\"\ncatchup = true\n", 4, "unknown field `catchup`"),
            ("[configuration]\nminimum_healthy = \"x\"\n", 4, "configuration.minimum_healthy: "),
            ("[configuration]\nminimum = \"x\"\n", 4, "unknown field `minimum`"),
            (
                "[configuration]\nminimum_healthy = \"count:1\"\n[configuration.canary]\n",
                3,
                "configuration.canary: either count or labels",
            ),
            (
                "[configuration]\nminimum_healthy = \"percent:100\"\n",
                3,
                "configuration: minimum healthy hosts is 0 to 99 percent",
            ),
        ] {
            let got = wrong(rest);
            assert!(got.message.contains(message), "{rest}: {got:?}");
            assert_eq!(got.line, line, "{rest}: {got:?}");
        }
    }
}
