//! Reading an `appspec.yml`. Only the signer does; hosts see the typed form.
//!
//! The grammar is CodeDeploy's. A file that AWS's agent takes is taken here; where the agent would
//! fail on a host in the middle of a deployment, this fails at the desk, with line and column. Keys
//! that mean nothing are CodeDeploy's silence; here they are warnings. So are keys that are there twice,
//! of which the last one counts.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    marker::PhantomData,
};

use serde::{Deserialize, Deserializer, de};
use serde_saphyr::{DuplicateKeyPolicy, Spanned};
use thiserror::Error;

use super::{
    access::normalise_range,
    appspec::{
        AppSpec, EventHooks, FileExistsBehavior, FileMapping, Permission, Script, SelinuxContext,
    },
    paths::{normalise, shown},
    rules::{PathKind, SpecRefused},
};
use crate::{
    execute::LifecycleEvent,
    limits::{APPSPEC_BYTES_MAX, APPSPEC_DEPTH_MAX, APPSPEC_NODES_MAX},
    local::CustomEvent,
};

/// A place in the file, both counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The line.
    pub line: u64,
    /// The column.
    pub column: u64,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

/// Why a file is no appspec: where, which key, what is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{place}: {key}{}{problem}", if key.is_empty() { "" } else { ": " })]
pub struct AppSpecError {
    /// Where it is.
    pub place: Place,
    /// The path of the key, such as `hooks.AfterInstall[0].timeout`; empty for the whole file.
    pub key: String,
    /// What is wrong, and what to do.
    pub problem: String,
}

/// Something that is allowed and likely a mistake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// Where it is.
    pub place: Place,
    /// What it is.
    pub text: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.text)
    }
}

impl AppSpec {
    /// Reads the bytes of an appspec file; `kind_of` tells what the revision has at a path.
    pub fn from_yaml(
        bytes: &[u8],
        kind_of: &dyn Fn(&str) -> Option<PathKind>,
    ) -> Result<(Self, Vec<Warning>), AppSpecError> {
        let (spec, _, warnings) = Self::from_yaml_with_events(bytes, kind_of, &[])?;
        Ok((spec, warnings))
    }

    /// The same, with the scripts of events that are not CodeDeploy's, in the order of `events`. No
    /// manifest holds them: only a deployment of one host alone can have such events.
    pub fn from_yaml_with_events(
        bytes: &[u8],
        kind_of: &dyn Fn(&str) -> Option<PathKind>,
        events: &[String],
    ) -> Result<(Self, Vec<CustomEvent>, Vec<Warning>), AppSpecError> {
        let text = text_of(bytes)?;
        let root = parse(text)?;
        let mut reader =
            Reader { kind_of, text, events, custom: BTreeMap::new(), warnings: Vec::new() };
        let spec = reader.spec(&root)?;
        let custom = events.iter().filter_map(|event| reader.custom.remove_entry(event.as_str()));
        let custom = custom.map(|(name, scripts)| CustomEvent { name, scripts }).collect();
        Ok((spec, custom, reader.warnings))
    }
}

/// A YAML node with its place.
#[derive(Clone, Debug)]
struct Node {
    place: Place,
    value: Value,
}

impl Node {
    /// What a map has under a name, or a list at a number with the bracket after it.
    fn part(&self, name: &str) -> Option<&Self> {
        match &self.value {
            Value::Map(entries) => {
                entries.iter().rev().find(|(key, _)| key == name).map(|(_, node)| node)
            }
            Value::List(list) => list.get(name.strip_suffix(']')?.parse::<usize>().ok()?),
            _ => None,
        }
    }
}

#[derive(Clone, Debug)]
enum Value {
    Null,
    Bool(bool),
    Number(f64, String),
    Text(String),
    List(Vec<Node>),
    Map(Vec<(String, Node)>),
}

impl Value {
    fn kind(&self) -> &'static str {
        match self {
            Self::Null => "nothing",
            Self::Bool(_) => "true or false",
            Self::Number(..) => "a number",
            Self::Text(_) => "text",
            Self::List(_) => "a list",
            Self::Map(_) => "a map",
        }
    }
}

const START: Place = Place { line: 1, column: 1 };

fn unreadable(place: Place, problem: String) -> AppSpecError {
    AppSpecError { place, key: String::new(), problem }
}

fn text_of(bytes: &[u8]) -> Result<&str, AppSpecError> {
    if bytes.len() > APPSPEC_BYTES_MAX {
        let problem = format!("has {} bytes; at most {APPSPEC_BYTES_MAX} are allowed", bytes.len());
        return Err(unreadable(START, problem));
    }
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    std::str::from_utf8(bytes).map_err(|error| {
        let before = String::from_utf8_lossy(&bytes[..error.valid_up_to()]);
        unreadable(end_of(&before), format!("is not UTF-8: {error}"))
    })
}

/// The place that follows a text.
fn end_of(text: &str) -> Place {
    let count = |count: usize| u64::try_from(count).unwrap_or(u64::MAX).saturating_add(1);
    let last = text.rsplit('\n').next().unwrap_or_default();
    Place { line: count(text.matches('\n').count()), column: count(last.chars().count()) }
}

fn parse(text: &str) -> Result<Node, AppSpecError> {
    let mut options = serde_saphyr::Options::default();
    // `fields` sees them and says so.
    options.duplicate_keys = DuplicateKeyPolicy::PassThrough;
    options.leading_zero_numbers_as_strings = true;
    options.with_snippet = false;
    if let Some(budget) = &mut options.budget {
        budget.max_depth = APPSPEC_DEPTH_MAX;
        budget.max_nodes = APPSPEC_NODES_MAX;
        budget.max_events = APPSPEC_NODES_MAX * 3;
    }
    // Of several documents the first one counts, as it does for AWS's agent; the others are not read.
    let mut bytes = text.as_bytes();
    let first = serde_saphyr::read_with_options::<_, Spanned<Value>>(&mut bytes, options).next();
    let document = first.transpose().map_err(|error| {
        let place = error.location().map_or(START, place_of);
        unreadable(place, format!("is not YAML that can be read: {}", shown(&error.to_string())))
    })?;
    Ok(document.map_or(Node { place: START, value: Value::Null }, node_of))
}

fn place_of(location: serde_saphyr::Location) -> Place {
    Place { line: location.line(), column: location.column() }
}

fn node_of(spanned: Spanned<Value>) -> Node {
    Node { place: place_of(spanned.referenced), value: spanned.value }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor(PhantomData))
    }
}

struct ValueVisitor(PhantomData<()>);

impl<'de> de::Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        Value::deserialize(deserializer)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        #[expect(clippy::cast_precision_loss, reason = "compared with small numbers only")]
        Ok(Value::Number(value as f64, value.to_string()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        #[expect(clippy::cast_precision_loss, reason = "compared with small numbers only")]
        Ok(Value::Number(value as f64, value.to_string()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Number(value, value.to_string()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::Text(value.to_owned()))
    }

    fn visit_seq<A: de::SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(element) = seq.next_element::<Spanned<Value>>()? {
            list.push(node_of(element));
        }
        Ok(Value::List(list))
    }

    fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut entries = Vec::new();
        while let Some((key, value)) = map.next_entry::<String, Spanned<Value>>()? {
            entries.push((key, node_of(value)));
        }
        Ok(Value::Map(entries))
    }
}

/// A map of the file, while its keys are taken.
struct Fields<'a> {
    node: &'a Node,
    key: String,
    entries: &'a [(String, Node)],
}

impl<'a> Fields<'a> {
    fn get(&self, key: &str) -> Option<&'a Node> {
        // The last one counts, as it does for AWS's agent.
        let found = self.entries.iter().rev().find(|(name, _)| name == key).map(|(_, node)| node);
        found.filter(|node| !matches!(node.value, Value::Null))
    }

    fn path(&self, key: &str) -> String {
        if self.key.is_empty() { key.into() } else { format!("{}.{key}", self.key) }
    }

    fn missing(&self, key: &str, hint: &str) -> AppSpecError {
        refuse(self.node, self.path(key), format!("is missing; {hint}"))
    }

    /// The element's own rule was broken: point at what broke it, such as `acls[1]` or `context.type`.
    fn refused(&self, refused: SpecRefused) -> AppSpecError {
        let node = refused.key.split(['.', '[']).try_fold(self.node, Node::part);
        let node = node.or_else(|| self.get(refused.key.split(['.', '[']).next()?));
        refuse(node.unwrap_or(self.node), self.path(&refused.key), refused.problem)
    }

    fn text(&self, key: &str) -> Result<Option<String>, AppSpecError> {
        let Some(node) = self.get(key) else { return Ok(None) };
        match &node.value {
            Value::Text(text) => Ok(Some(text.clone())),
            other => Err(wrong_type(node, self.path(key), "text", other)),
        }
    }

    fn flag(&self, key: &str) -> Result<bool, AppSpecError> {
        let Some(node) = self.get(key) else { return Ok(false) };
        match &node.value {
            Value::Bool(flag) => Ok(*flag),
            other => Err(wrong_type(node, self.path(key), "true or false", other)),
        }
    }

    fn list(&self, key: &str) -> Result<&'a [Node], AppSpecError> {
        let Some(node) = self.get(key) else { return Ok(&[]) };
        match &node.value {
            Value::List(list) => Ok(list),
            other => Err(wrong_type(node, self.path(key), "a list", other)),
        }
    }

    fn texts(&self, key: &str) -> Result<Vec<String>, AppSpecError> {
        let elements = (0..).zip(self.list(key)?).map(|(i, node): (u32, _)| match &node.value {
            Value::Text(text) => Ok(text.trim().to_owned()),
            Value::Number(_, text) => Ok(text.clone()),
            other => Err(wrong_type(node, format!("{}[{i}]", self.path(key)), "text", other)),
        });
        elements.collect()
    }
}

fn refuse(node: &Node, key: String, problem: impl Into<String>) -> AppSpecError {
    AppSpecError { place: node.place, key, problem: problem.into() }
}

fn wrong_type(node: &Node, key: String, expected: &str, got: &Value) -> AppSpecError {
    refuse(node, key, format!("is {}; {expected} is needed", got.kind()))
}

struct Reader<'a> {
    kind_of: &'a dyn Fn(&str) -> Option<PathKind>,
    text: &'a str,
    /// Events that are not CodeDeploy's and known all the same.
    events: &'a [String],
    /// Their scripts.
    custom: BTreeMap<String, Vec<Script>>,
    warnings: Vec<Warning>,
}

impl Reader<'_> {
    fn spec(&mut self, root: &Node) -> Result<AppSpec, AppSpecError> {
        if matches!(root.value, Value::Null) {
            let problem =
                "the file is empty; an appspec has at least `version: 0.0` and `os: linux`";
            return Err(refuse(root, String::new(), problem));
        }
        const KEYS: &[&str] =
            &["version", "os", "files", "permissions", "hooks", "file_exists_behavior"];
        let fields = self.fields(root, String::new(), KEYS)?;
        self.head(&fields)?;
        let spec = AppSpec {
            hooks: self.hooks(&fields)?,
            files: self.files(&fields)?,
            permissions: self.permissions(&fields)?,
            file_exists_behavior: file_exists_behavior(&fields)?,
        };
        spec.check_counts().map_err(|refused| fields.refused(refused))?;
        Ok(spec)
    }

    /// The map of a node; keys that are not `known` are warned of.
    fn fields<'n>(
        &mut self,
        node: &'n Node,
        key: String,
        known: &[&str],
    ) -> Result<Fields<'n>, AppSpecError> {
        let Value::Map(entries) = &node.value else {
            return Err(wrong_type(node, key, "a map", &node.value));
        };
        let fields = Fields { node, key, entries };
        self.repeated(&fields);
        for (name, value) in entries {
            if !known.contains(&name.as_str()) {
                let name = shown(&fields.path(name));
                let text = format!("{name} means nothing; known are {}", known.join(", "));
                self.warnings.push(Warning { place: value.place, text });
            }
        }
        Ok(fields)
    }

    /// Warns of keys that are there more than once.
    fn repeated(&mut self, fields: &Fields<'_>) {
        let mut seen = BTreeSet::new();
        for (name, value) in fields.entries {
            if !seen.insert(name) {
                let name = shown(&fields.path(name));
                let text = format!("{name} is there more than once; the last one counts");
                self.warnings.push(Warning { place: value.place, text });
            }
        }
    }

    /// True if a number is in the file as these digits. YAML also reads `0o644`, `0x1a4` and `4_20`.
    fn is_written(&self, node: &Node, digits: &str) -> bool {
        let (line, column) =
            (node.place.line.saturating_sub(1), node.place.column.saturating_sub(1));
        let skip = |count: u64| usize::try_from(count).unwrap_or(usize::MAX);
        let Some(line) = self.text.lines().nth(skip(line)) else { return false };
        let written: String = line.chars().skip(skip(column)).collect();
        let rest = written.strip_prefix(digits);
        rest.is_some_and(|rest| {
            !rest.starts_with(|c: char| c.is_alphanumeric() || matches!(c, '_' | '.'))
        })
    }

    fn head(&self, fields: &Fields<'_>) -> Result<(), AppSpecError> {
        let version = fields.get("version");
        let version = version.ok_or_else(|| fields.missing("version", "write `version: 0.0`"))?;
        match &version.value {
            Value::Number(number, _) if *number == 0.0 => {}
            Value::Number(_, text) | Value::Text(text) => {
                let problem = format!("is '{}'; write the number 0.0", shown(text));
                return Err(refuse(version, "version".into(), problem));
            }
            other => return Err(wrong_type(version, "version".into(), "the number 0.0", other)),
        }
        match fields.text("os")? {
            Some(os) if os == "linux" => Ok(()),
            Some(os) => Err(refuse(
                fields.get("os").unwrap_or(fields.node),
                "os".into(),
                format!("is '{}'; write linux, in small letters", shown(&os)),
            )),
            None => Err(fields.missing("os", "write `os: linux`")),
        }
    }

    fn files(&mut self, fields: &Fields<'_>) -> Result<Vec<FileMapping>, AppSpecError> {
        let mut files = Vec::new();
        for (i, node) in fields.list("files")?.iter().enumerate() {
            let entry = self.fields(node, format!("files[{i}]"), &["source", "destination"])?;
            let need = "each entry has a source and a destination";
            let source = entry.text("source")?.ok_or_else(|| entry.missing("source", need))?;
            let destination = entry.text("destination")?;
            let destination = destination.ok_or_else(|| entry.missing("destination", need))?;
            let refused = |key: &str, problem: String| {
                entry.refused(SpecRefused { key: key.into(), problem })
            };
            if source.is_empty() {
                return Err(refused("source", "is empty; write / for the whole revision".into()));
            }
            let mapping = FileMapping {
                source: normalise(&source).map_err(|problem| {
                    refused("source", format!("'{}' {problem}", shown(&source)))
                })?,
                destination: self.place(&entry, "destination", &destination)?,
            };
            mapping.check(self.kind_of).map_err(|refused| entry.refused(refused))?;
            files.push(mapping);
        }
        Ok(files)
    }

    fn hooks(&mut self, fields: &Fields<'_>) -> Result<Vec<EventHooks>, AppSpecError> {
        let Some(node) = fields.get("hooks") else { return Ok(Vec::new()) };
        let Value::Map(entries) = &node.value else {
            return Err(wrong_type(node, "hooks".into(), "a map of lifecycle events", &node.value));
        };
        let events = self.fields_of_events(node, entries);
        let mut hooks = Vec::new();
        for (name, node) in events {
            let key = format!("hooks.{}", shown(name));
            if self.events.iter().any(|own| own == name) {
                let scripts = self.scripts(node, &key)?;
                self.custom.insert(name.to_owned(), scripts);
                continue;
            }
            let event: LifecycleEvent = name.parse().map_err(|_| {
                let events = LifecycleEvent::ALL.into_iter().filter(|event| event.is_scriptable());
                let events: Vec<_> = events.map(|event| event.to_string()).collect();
                let problem = format!("is no lifecycle event; they are {}", events.join(", "));
                refuse(node, key.clone(), problem)
            })?;
            if matches!(event, LifecycleEvent::Install | LifecycleEvent::DownloadBundle) {
                // AWS's agent takes these two, and never runs what they name.
                let text =
                    format!("{key} runs no scripts: the event is done for you; remove the key");
                self.warnings.push(Warning { place: node.place, text });
                continue;
            }
            if !event.is_scriptable() {
                let problem = "runs no scripts: the event is done for you; remove the key";
                return Err(refuse(node, key, problem));
            }
            let scripts = self.scripts(node, &key)?;
            if !scripts.is_empty() {
                hooks.push(EventHooks { event, scripts });
            }
        }
        hooks.sort_by_key(|hooks| hooks.event);
        Ok(hooks)
    }

    /// The events with what was written last of each.
    fn fields_of_events<'n>(
        &mut self,
        node: &'n Node,
        entries: &'n [(String, Node)],
    ) -> BTreeMap<&'n str, &'n Node> {
        self.repeated(&Fields { node, key: "hooks".into(), entries });
        entries.iter().map(|(name, node)| (name.as_str(), node)).collect()
    }

    fn scripts(&mut self, node: &Node, key: &str) -> Result<Vec<Script>, AppSpecError> {
        let list = match &node.value {
            Value::Null => return Ok(Vec::new()),
            Value::List(list) => list,
            other => return Err(wrong_type(node, key.into(), "a list of scripts", other)),
        };
        let mut scripts = Vec::new();
        for (i, node) in list.iter().enumerate() {
            const KEYS: &[&str] = &["location", "timeout", "runas", "sudo"];
            let entry = self.fields(node, format!("{key}[{i}]"), KEYS)?;
            let need = "name a script of the revision";
            let location =
                entry.text("location")?.ok_or_else(|| entry.missing("location", need))?;
            let trimmed = location.trim();
            let runas = entry.text("runas")?.map(|user| user.trim().to_owned());
            let script = Script {
                sudo: entry.flag("sudo")?,
                runas: runas.filter(|user| !user.is_empty()),
                location: normalise(trimmed).map_err(|problem| {
                    let problem = format!("'{}' {problem}", shown(trimmed));
                    entry.refused(SpecRefused { key: "location".into(), problem })
                })?,
                timeout_seconds: self.timeout(&entry)?,
            };
            script.check(self.kind_of).map_err(|refused| entry.refused(refused))?;
            scripts.push(script);
        }
        Ok(scripts)
    }

    fn timeout(&mut self, entry: &Fields<'_>) -> Result<u32, AppSpecError> {
        const DEFAULT: u32 = 3600;
        let Some(node) = entry.get("timeout") else { return Ok(DEFAULT) };
        let text = match &node.value {
            Value::Number(_, text) | Value::Text(text) => text.trim(),
            other => {
                return Err(wrong_type(node, entry.path("timeout"), "a number of seconds", other));
            }
        };
        if let Some((minutes, seconds)) = text.split_once(':') {
            // For YAML 1.1 this is a number in base sixty.
            let part = |text: &str| text.parse::<u32>().ok();
            let whole = part(minutes).zip(part(seconds).filter(|seconds| *seconds < 60));
            let whole =
                whole.and_then(|(minutes, seconds)| minutes.checked_mul(60)?.checked_add(seconds));
            return whole.ok_or_else(|| {
                let problem = format!("'{}' is not a number of seconds", shown(text));
                refuse(node, entry.path("timeout"), problem)
            });
        }
        // The agent reads the digits that a text begins with.
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        if digits < text.len() {
            let text = format!(
                "{}: '{}' is read as {} seconds",
                entry.path("timeout"),
                shown(text),
                &text[..digits]
            );
            self.warnings.push(Warning { place: node.place, text });
        }
        text[..digits].parse().map_err(|_| {
            let problem = format!("'{}' is not a number of seconds", shown(text));
            refuse(node, entry.path("timeout"), problem)
        })
    }

    /// A place on the host as AWS's agent understands it, with superfluous slashes gone. Its service works
    /// in `/`, and so a path that is relative begins there.
    fn place(&mut self, entry: &Fields<'_>, key: &str, path: &str) -> Result<String, AppSpecError> {
        let refused = |problem: String| {
            let problem = format!("'{}' {problem}", shown(path));
            entry.refused(SpecRefused { key: key.into(), problem })
        };
        if path.is_empty() {
            return Err(refused("is empty; write / for the root of the file system".into()));
        }
        if path.starts_with('~') {
            return Err(refused("is no home directory here; name the directory itself".into()));
        }
        let place = format!("/{}", normalise(path).map_err(refused)?);
        if !path.starts_with('/') {
            let text = format!(
                "{}: '{}' is relative and taken as {}; start it with '/'",
                entry.path(key),
                shown(path),
                shown(&place)
            );
            let place = entry.get(key).unwrap_or(entry.node).place;
            self.warnings.push(Warning { place, text });
        }
        Ok(place)
    }

    fn permissions(&mut self, fields: &Fields<'_>) -> Result<Vec<Permission>, AppSpecError> {
        let mut permissions = Vec::new();
        for (i, node) in fields.list("permissions")?.iter().enumerate() {
            const KEYS: &[&str] = &[
                "object", "pattern", "except", "type", "owner", "group", "mode", "acls", "context",
            ];
            let entry = self.fields(node, format!("permissions[{i}]"), KEYS)?;
            let object = entry.text("object")?.unwrap_or_default();
            let object = object.trim();
            if object.is_empty() {
                return Err(entry.missing("object", "name the file or directory"));
            }
            let (on_files, on_directories) = object_types(&entry)?;
            let permission = Permission {
                acls: entry.texts("acls")?,
                mode: self.mode(&entry)?,
                group: entry.text("group")?,
                owner: entry.text("owner")?,
                except: entry.texts("except")?,
                object: self.place(&entry, "object", object)?,
                context: self.context(&entry)?,
                pattern: entry.text("pattern")?.unwrap_or_else(|| "**".into()),
                on_files,
                on_directories,
            };
            permission.check().map_err(|refused| entry.refused(refused))?;
            permissions.push(permission);
        }
        Ok(permissions)
    }

    fn mode(&mut self, entry: &Fields<'_>) -> Result<Option<u16>, AppSpecError> {
        let Some(node) = entry.get("mode") else { return Ok(None) };
        let (text, quoted) = match &node.value {
            Value::Number(_, text) => (text.as_str(), false),
            Value::Text(text) => (text.trim(), true),
            other => return Err(wrong_type(node, entry.path("mode"), "an octal number", other)),
        };
        if !quoted && !self.is_written(node, text) {
            let problem =
                "is written in a form that YAML reads as another number; write its digits";
            return Err(refuse(node, entry.path("mode"), problem));
        }
        let good = text.len() <= 4 && text.bytes().all(|b| (b'0'..=b'7').contains(&b));
        if !good {
            let problem = format!("'{}' is not a mode: up to four digits 0 to 7", shown(text));
            return Err(refuse(node, entry.path("mode"), problem));
        }
        if quoted && text.len() == 4 && text.starts_with('0') {
            let text = format!(
                "{}: {text} is taken digit by digit; AWS's agent reads an unquoted leading zero \
                 as octal and sets another mode",
                entry.path("mode")
            );
            self.warnings.push(Warning { place: node.place, text });
        }
        Ok(Some(u16::from_str_radix(text, 8).unwrap_or(0)))
    }

    fn context(&mut self, entry: &Fields<'_>) -> Result<Option<SelinuxContext>, AppSpecError> {
        let Some(node) = entry.get("context") else { return Ok(None) };
        let context = self.fields(node, entry.path("context"), &["name", "type", "range"])?;
        let kind = context.text("type")?;
        let kind = kind.ok_or_else(|| context.missing("type", "name the SELinux type"))?;
        let range = context.text("range")?.map(|range| normalise_range(range.trim())).transpose();
        let range = range
            .map_err(|problem| context.refused(SpecRefused { key: "range".into(), problem }))?;
        Ok(Some(SelinuxContext { kind, user: context.text("name")?, range }))
    }
}

fn object_types(entry: &Fields<'_>) -> Result<(bool, bool), AppSpecError> {
    // A list of none is of nothing, as it is for AWS's agent.
    if entry.get("type").is_none() {
        return Ok((true, true));
    }
    let types = entry.texts("type")?;
    let is_known = |name: &String| matches!(name.as_str(), "file" | "directory");
    if let Some(at) = types.iter().position(|name| !is_known(name)) {
        let problem = format!("'{}' is not supported; write file or directory", shown(&types[at]));
        return Err(entry.refused(SpecRefused { key: format!("type[{at}]"), problem }));
    }
    let has = |kind: &str| types.iter().any(|t| t == kind);
    Ok((has("file"), has("directory")))
}

fn file_exists_behavior(fields: &Fields<'_>) -> Result<Option<FileExistsBehavior>, AppSpecError> {
    const KEY: &str = "file_exists_behavior";
    match fields.text(KEY)?.as_deref() {
        None => Ok(None),
        Some("DISALLOW") => Ok(Some(FileExistsBehavior::Disallow)),
        Some("OVERWRITE") => Ok(Some(FileExistsBehavior::Overwrite)),
        Some("RETAIN") => Ok(Some(FileExistsBehavior::Retain)),
        Some(other) => {
            let problem = format!("is '{}'; write DISALLOW, OVERWRITE or RETAIN", shown(other));
            Err(refuse(fields.get(KEY).unwrap_or(fields.node), KEY.into(), problem))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<(AppSpec, Vec<Warning>), String> {
        let kind_of = |path: &str| match path {
            "scripts/start.sh" => Some(PathKind::File),
            "app" => Some(PathKind::Directory),
            _ => None,
        };
        AppSpec::from_yaml(text.as_bytes(), &kind_of).map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_wrong_is_shown_where_it_is() {
        let permission = "permissions:\n  - object: /srv\n    acls:\n      - \"u:a:r\"\n      - nonsense:x:y:z:1\n";
        let place = |body: &str| {
            let refused = refusal(body);
            refused.split(": ").next().unwrap_or_default().to_owned()
        };
        assert_eq!(place(permission), "7:9", "{}", refusal(permission));
        let except =
            format!("permissions:\n  - object: /srv\n    except: [a, {}]\n", "b".repeat(300));
        assert_eq!(place(&except), "5:17", "{}", refusal(&except));
        let kind = "permissions:\n  - object: /srv\n    type:\n      - file\n      - pipe\n";
        assert_eq!(place(kind), "7:9", "{}", refusal(kind));
        let context = "permissions:\n  - object: /srv\n    context:\n      type: a b\n";
        assert_eq!(place(context), "6:13", "{}", refusal(context));
        let script = "    - location: scripts/start.sh\n".repeat(65);
        let many = format!("files: []\nhooks:\n  AfterInstall:\n{script}");
        assert_eq!(place(&many), "5:3", "{}", refusal(&many));
        let kind_of = |_: &str| None;
        let bytes = b"version: 0.0\nos: linux\n# h\xc3\xa9 \xff\n";
        let refused = AppSpec::from_yaml(bytes, &kind_of).unwrap_err();
        assert_eq!((refused.place.line, refused.place.column), (3, 6), "{refused}");
    }

    #[test]
    fn a_permission_of_no_types_is_of_nothing() {
        let types = |text: &str| {
            let body = format!("permissions:\n  - object: /srv\n    mode: 600\n{text}");
            let (spec, _) = read(&format!("version: 0.0\nos: linux\n{body}")).unwrap();
            (spec.permissions[0].on_files, spec.permissions[0].on_directories)
        };
        assert_eq!(types(""), (true, true));
        assert_eq!(types("    type:\n"), (true, true));
        assert_eq!(types("    type: []\n"), (false, false));
        assert_eq!(types("    type: [file]\n"), (true, false));
    }

    fn refusal(body: &str) -> String {
        read(&format!("version: 0.0\nos: linux\n{body}")).unwrap_err()
    }

    const FULL: &str = r#"version: 0.0
os: linux
files:
  - source: /app/
    destination: /srv/app/
  - source: /
    destination: /opt/all
permissions:
  - object: /srv/app
    pattern: "*.sh"
    except: [keep.sh]
    owner: www
    group: www
    mode: 0755
    type: [file]
hooks:
  ApplicationStart:
    - location: scripts/start.sh
      timeout: "30"
      runas: root
  AfterInstall:
    - location: /scripts/start.sh
file_exists_behavior: OVERWRITE
"#;

    #[test]
    fn a_full_file_is_read() {
        let (spec, warnings) = read(FULL).unwrap();
        assert_eq!(spec.files[0].source, "app");
        assert_eq!(spec.files[0].destination, "/srv/app");
        assert_eq!(spec.files[1].source, "");
        assert_eq!(spec.hooks[0].event, LifecycleEvent::AfterInstall);
        assert_eq!(spec.hooks[0].scripts[0].timeout_seconds, 3600);
        assert_eq!(spec.hooks[1].scripts[0].timeout_seconds, 30);
        let permission = &spec.permissions[0];
        assert_eq!((permission.mode, permission.on_directories), (Some(0o755), false));
        assert_eq!(spec.file_exists_behavior, Some(FileExistsBehavior::Overwrite));
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert!(warnings[0].to_string().contains("taken digit by digit"));
    }

    #[test]
    fn the_head_is_checked_as_the_agent_does() {
        for good in [
            "version: 0\nos: linux",
            "{\"version\": 0.00, \"os\": \"linux\"}",
            "\u{feff}version: 0.0\r\nos: linux\r\n",
        ] {
            assert!(read(good).is_ok(), "{good:?}: {:?}", read(good));
        }
        for (bad, message) in [
            ("", "1:1: the file is empty"),
            ("# nothing\n", "the file is empty"),
            ("version: 0.0", "os: is missing; write `os: linux`"),
            ("os: linux", "version: is missing"),
            ("version: 1.0\nos: linux", "1:10: version: is '1'; write the number 0.0"),
            ("version: \"0.0\"\nos: linux", "version: is '0.0'; write the number 0.0"),
            ("version: 0.0\nos: Linux", "2:5: os: is 'Linux'; write linux"),
            ("just text", "is text; a map is needed"),
            ("- a\n- b", "is a list; a map is needed"),
            ("version: 0.0\n\tos: linux", "is not YAML that can be read"),
        ] {
            let error = read(bad).unwrap_err();
            assert!(error.contains(message), "{bad:?}: {error}");
        }
    }

    #[test]
    fn errors_name_line_column_and_key() {
        for (body, message) in [
            ("files: x", "3:8: files: is text; a list is needed"),
            ("files:\n  - source: 7\n    destination: /x", "4:13: files[0].source: is a number"),
            ("files:\n  - destination: /x", "files[0].source: is missing"),
            (
                "files:\n  - source: ../x\n    destination: /x",
                "files[0].source: '../x' contains '..'",
            ),
            ("files:\n  - source: app\n    destination: ''", "destination: '' is empty"),
            ("files:\n  - source: app\n    destination: ~/x", "'~/x' is no home directory"),
            ("files:\n  - source: gone\n    destination: /x", "'gone' is not in the revision"),
            ("hooks: []", "hooks: is a list; a map of lifecycle events is needed"),
            ("hooks:\n  Begin:\n    - location: a", "hooks.Begin: is no lifecycle event; they are"),
            ("hooks:\n  AllowTraffic:\n    - location: a", "runs no scripts"),
            ("hooks:\n  AfterInstall:\n    location: a", "is a map; a list of scripts is needed"),
            (
                "hooks:\n  AfterInstall:\n    - location: gone.sh",
                "5:17: hooks.AfterInstall[0].location: 'gone.sh' is not in the revision",
            ),
            (
                "hooks:\n  AfterInstall:\n    - location: scripts/start.sh\n      timeout: 0",
                "6:16: hooks.AfterInstall[0].timeout: is 1 to 43200 seconds, not 0",
            ),
            (
                "hooks:\n  AfterInstall:\n    - location: scripts/start.sh\n      timeout: -5",
                "'-5' is not a number of seconds",
            ),
            ("permissions:\n  - mode: 644", "permissions[0].object: is missing"),
            ("permissions:\n  - object: /x\n    mode: 689", "'689' is not a mode"),
            (
                "permissions:\n  - object: /x\n    type: file",
                "permissions[0].type: is text; a list",
            ),
            ("permissions:\n  - object: /x\n    owner: 7", "permissions[0].owner: is a number"),
            ("file_exists_behavior: overwrite", "write DISALLOW, OVERWRITE or RETAIN"),
        ] {
            let error = refusal(body);
            assert!(error.contains(message), "{body:?}: {error}");
        }
    }

    #[test]
    fn of_keys_and_documents_that_are_there_twice_one_counts() {
        let (_, warnings) = read("version: 1.0\nos: linux\nversion: 0.0\n").unwrap();
        assert_eq!(
            warnings[0].to_string(),
            "3:10: version is there more than once; the last one counts"
        );
        let hook = "    - location: scripts/start.sh\n";
        let text = format!(
            "version: 0.0\nos: linux\nhooks:\n  AfterInstall:\n{hook}{hook}  AfterInstall:\n{hook}"
        );
        let (spec, warnings) = read(&text).unwrap();
        assert_eq!((spec.hooks.len(), spec.hooks[0].scripts.len(), warnings.len()), (1, 1, 1));
        for second in ["version: 7", "}{", "- [", "a: *b"] {
            assert!(read(&format!("version: 0.0\nos: linux\n---\n{second}")).is_ok(), "{second}");
        }
        assert!(read("version: 0.0\n---\nos: linux").is_err());
    }

    #[test]
    fn numbers_mean_what_they_show() {
        let mode = |text: &str| {
            let body = format!("permissions:\n  - {{object: /x, mode: {text}}}");
            let read = read(&format!("version: 0.0\nos: linux\n{body}"));
            read.map(|(spec, _)| spec.permissions[0].mode.unwrap())
        };
        for (text, bits) in
            [("0644", 0o644), ("644", 0o644), ("\"0755\"", 0o755), ("4755", 0o4755), ("12", 0o12)]
        {
            assert_eq!(mode(text), Ok(bits), "{text}");
        }
        for bad in ["0o644", "0x1a4", "6_44", "12345", "12a", "u+x", "-644", "644.0"] {
            let refused = mode(bad).unwrap_err();
            assert!(refused.contains("4:"), "{refused}");
        }
        let timeout = |text: &str| {
            let script = format!("{{location: scripts/start.sh, timeout: {text}}}");
            let read =
                read(&format!("version: 0.0\nos: linux\nhooks: {{AfterInstall: [{script}]}}"));
            read.map(|(spec, _)| spec.hooks[0].scripts[0].timeout_seconds)
        };
        for (text, seconds) in
            [("30", 30), ("\"30\"", 30), ("30s", 30), ("1.9", 1), ("1:30", 90), ("7200", 7200)]
        {
            assert_eq!(timeout(text), Ok(seconds), "{text}");
        }
        for bad in ["0", "-1", "soon", "1:75", "1:", "99999999999:1"] {
            assert!(timeout(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn hooks_of_events_that_are_done_for_you_are_left_out_with_a_warning() {
        for event in ["Install", "DownloadBundle"] {
            let (spec, warnings) =
                read(&format!("version: 0.0\nos: linux\nhooks: {{{event}: [{{location: a}}]}}"))
                    .unwrap();
            assert!(spec.hooks.is_empty());
            assert!(warnings[0].to_string().contains("runs no scripts"), "{warnings:?}");
        }
    }

    #[test]
    fn events_of_ones_own_are_taken_where_they_are_expected() {
        let text = "version: 0.0\nos: linux\nhooks:\n  Warm:\n    - location: scripts/start.sh\n";
        let kind_of = |_: &str| Some(PathKind::File);
        let own = ["Start".to_owned(), "Warm".to_owned()];
        let read = AppSpec::from_yaml_with_events(text.as_bytes(), &kind_of, &own);
        let (spec, custom, _) = read.unwrap();
        assert!(spec.hooks.is_empty());
        assert_eq!((custom.len(), custom[0].name.as_str()), (1, "Warm"));
        assert_eq!(custom[0].scripts[0].location, "scripts/start.sh");
        assert!(AppSpec::from_yaml(text.as_bytes(), &kind_of).is_err());
    }

    #[test]
    fn places_that_are_relative_begin_at_the_root_with_a_warning() {
        let body = "files:\n  - {source: app, destination: srv/./app/}\n\
            permissions:\n  - {object: srv/app}\n";
        let (spec, warnings) = read(&format!("version: 0.0\nos: linux\n{body}")).unwrap();
        assert_eq!(spec.files[0].destination, "/srv/app");
        assert_eq!(spec.permissions[0].object, "/srv/app");
        assert_eq!(warnings.len(), 2, "{warnings:?}");
        let text = "files[0].destination: 'srv/./app/' is relative and taken as /srv/app";
        assert!(warnings[0].text.contains(text), "{warnings:?}");
    }

    #[test]
    fn unknown_keys_are_warned_of() {
        let (_, warnings) = read("version: 0.0\nos: linux\nhook:\n  a: 1\n").unwrap();
        assert!(warnings[0].to_string().contains("hook means nothing"), "{warnings:?}");
    }

    #[test]
    fn bombs_and_depth_are_bounded() {
        let bomb = "a: &a [x,x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a,*a]\n\
            c: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c,*c]\n\
            e: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d,*d]\nf: [*e,*e,*e,*e,*e,*e,*e,*e,*e,*e]\n";
        assert!(refusal(bomb).contains("is not YAML that can be read"));
        let deep = format!("files: {}{}", "[".repeat(5000), "]".repeat(5000));
        assert!(refusal(&deep).contains("is not YAML that can be read"));
        let long = format!("version: 0.0\nos: linux\n#{}", "x".repeat(APPSPEC_BYTES_MAX));
        assert!(read(&long).unwrap_err().contains("at most"));
    }
}
