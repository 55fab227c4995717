//! What is allowed in a revision and will hurt on a host.
//!
//! Nothing here is refused: hosts do what AWS's agent does. But who reads it at the desk need not find
//! it out on a hundred hosts.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::Read,
    os::unix::fs::MetadataExt,
    path::{Component, Path, PathBuf},
};

use groundswell_protocol::{
    execute::LifecycleEvent,
    limits::EVENT_DEADLINE_SECONDS_MAX,
    revision::{AclEntry, AppSpec, Permission, Script},
};

use crate::{SignError, release::Found};

/// Looks at a revision that is in `dir`.
pub(crate) fn look(dir: &Path, spec: &AppSpec, found: &[Found]) -> Result<Vec<String>, SignError> {
    let mut warnings = Vec::new();
    for hooks in &spec.hooks {
        let key = format!("hooks.{}", hooks.event);
        for (i, script) in hooks.scripts.iter().enumerate() {
            for text in of_script(dir, script, found)? {
                let location = &script.location;
                warnings.push(format!("{key}[{i}].location: {location} {text}"));
            }
        }
        let seconds: u64 = hooks.scripts.iter().map(|s| u64::from(s.timeout_seconds)).sum();
        if seconds > u64::from(EVENT_DEADLINE_SECONDS_MAX) {
            warnings.push(format!(
                "{key}: the timeouts add up to {seconds} s, and CodeDeploy ends an event after \
                 {EVENT_DEADLINE_SECONDS_MAX} s: give each script a timeout of its own"
            ));
        }
        if !LifecycleEvent::IN_PLACE.contains(&hooks.event) {
            warnings.push(format!(
                "{key} runs in no deployment of a fleet, which deploys in place and without events of \
                 traffic: only `swell local` has it, with --lifecycle"
            ));
        }
        if hooks.event == LifecycleEvent::ApplicationStop {
            warnings.push(format!(
                "{key} does not run in the first deployment to a host, and later from the revision \
                 that was there: a mistake in it shows when this revision is replaced"
            ));
        }
    }
    let created = Created::of(spec, found);
    warnings.extend(created.clashes());
    warnings.extend(created.links_to_nothing(dir)?);
    for (i, permission) in spec.permissions.iter().enumerate() {
        if let Some(text) = created.hurt_by(permission) {
            warnings.push(format!("permissions[{i}]: {text}"));
        }
    }
    Ok(warnings)
}

fn of_script(dir: &Path, script: &Script, found: &[Found]) -> Result<Vec<String>, SignError> {
    let path = dir.join(&script.location);
    let mut text = Vec::new();
    File::open(&path)
        .and_then(|file| file.take(SCRIPT_BYTES_READ).read_to_end(&mut text))
        .map_err(SignError::io(&path))?;
    let mut warnings = Vec::new();
    let entry = found.iter().find(|entry| entry.path == script.location);
    if entry.is_some_and(|entry| entry.metadata.mode() & 0o111 == 0) {
        warnings.push("is not executable; hosts make it so before they run it".into());
    }
    if text.starts_with(b"\x7fELF") {
        return Ok(warnings);
    }
    let text = String::from_utf8_lossy(&text);
    let first = text.split('\n').next().unwrap_or_default();
    let interpreter = first.strip_prefix("#!").map(str::trim);
    if text.contains("\r\n") {
        warnings.push(match interpreter {
            Some(_) if first.ends_with('\r') => {
                "has lines that end in CR LF: its interpreter is not found; save it with LF".into()
            }
            _ => "has lines that end in CR LF, which shells take for part of the commands".into(),
        });
    }
    if interpreter.is_none() {
        warnings.push("does not begin with #!; /bin/sh runs it, whatever it is written in".into());
    }
    let shell = interpreter.is_none_or(|line| {
        line.split(['/', ' ']).any(|word| matches!(word, "sh" | "bash" | "dash" | "ksh" | "zsh"))
    });
    if shell && !stops_at_errors(interpreter.unwrap_or_default(), &text) {
        warnings.push(
            "goes on after a command that fails, and succeeds if its last one does; begin it with \
             `set -e`"
                .into(),
        );
    }
    Ok(warnings)
}

/// True if a shell script ends at the first command that fails.
fn stops_at_errors(interpreter: &str, text: &str) -> bool {
    let asks =
        |word: &str| word.strip_prefix('-').is_some_and(|w| !w.starts_with('-') && w.contains('e'));
    interpreter.split_whitespace().skip(1).any(asks)
        || text.lines().map(str::trim).any(|line| {
            let mut words = line.split([' ', ';', '\t']);
            words.next() == Some("set") && words.any(|word| asks(word) || word == "errexit")
        })
}

/// What the `files` of an appspec put on a host that has none of it.
#[derive(Default)]
struct Created {
    files: Vec<String>,
    directories: Vec<String>,
    /// Where links come, and which they are in the revision. They are files, too.
    links: Vec<(String, String)>,
}

impl Created {
    fn of(spec: &AppSpec, found: &[Found]) -> Self {
        let mut created = Self::default();
        for mapping in &spec.files {
            let destination = mapping.destination.trim_end_matches('/');
            let above = destination.match_indices('/').skip(1).map(|(at, _)| &destination[..at]);
            created.directories.extend(above.chain([destination]).map(str::to_owned));
            for entry in found {
                let is_dir = entry.metadata.is_dir();
                let name = match entry.path.strip_prefix(mapping.source.as_str()) {
                    _ if mapping.source.is_empty() => entry.path.as_str(),
                    Some("") if is_dir => continue,
                    Some("") => entry.path.rsplit('/').next().unwrap_or_default(),
                    Some(below) => match below.strip_prefix('/') {
                        Some(below) => below,
                        None => continue,
                    },
                    None => continue,
                };
                let target = format!("{destination}/{name}");
                if entry.metadata.is_symlink() {
                    created.links.push((target.clone(), entry.path.clone()));
                }
                let list = if is_dir { &mut created.directories } else { &mut created.files };
                list.push(target);
            }
        }
        created
    }

    /// What no host installs: it has one name for two things.
    fn clashes(&self) -> Vec<String> {
        let (mut seen, mut clashes) = (BTreeSet::new(), Vec::new());
        let directories: BTreeSet<&String> = self.directories.iter().collect();
        for file in &self.files {
            if !seen.insert(file) {
                clashes.push(format!("files: hosts refuse that two files would become {file}"));
            } else if directories.contains(file) {
                clashes
                    .push(format!("files: hosts refuse that {file} would be file and directory"));
            }
        }
        clashes
    }

    /// Links to what is not installed beside them. One that leads through another link is not followed.
    fn links_to_nothing(&self, dir: &Path) -> Result<Vec<String>, SignError> {
        let all = self.files.iter().chain(&self.directories);
        let there: BTreeSet<&Path> = all.map(Path::new).collect();
        let links: BTreeSet<&Path> = self.links.iter().map(|(at, _)| Path::new(at)).collect();
        let mut warnings = Vec::new();
        for (at, source) in &self.links {
            let path = dir.join(source);
            let target = fs::read_link(&path).map_err(SignError::io(&path))?;
            let mut place = PathBuf::from(at);
            place.pop();
            for component in target.components() {
                match component {
                    Component::ParentDir => _ = place.pop(),
                    Component::Normal(name) => place.push(name),
                    _ => {}
                }
            }
            let through_link = || place.ancestors().skip(1).any(|above| links.contains(above));
            if !there.contains(&*place) && !through_link() {
                let place = place.display();
                warnings.push(format!(
                    "files: {source} would be a link to nothing at {at}: {place} is not installed"
                ));
            }
        }
        Ok(warnings)
    }

    fn hurt_by(&self, permission: &Permission) -> Option<String> {
        if permission.context.is_some() {
            return Some("hosts that do not run SELinux refuse the context".into());
        }
        let object = &permission.object;
        let is_file = self.files.contains(object);
        if is_file && (permission.pattern != "**" || !permission.except.is_empty()) {
            return Some(format!(
                "{object} is a file, and hosts refuse a pattern or except with it"
            ));
        }
        let below = |path: &&String| {
            let rest = path.strip_prefix(object.trim_end_matches('/'));
            rest.and_then(|rest| rest.strip_prefix('/')).is_some_and(|rest| permission.covers(rest))
        };
        let file_hit = is_file || self.files.iter().any(|path| below(&path));
        let hits = (permission.on_files && file_hit)
            || permission.on_directories && self.directories.iter().any(|path| below(&path));
        let is_default = |text: &String| AclEntry::parse(text).is_ok_and(|acl| acl.is_default);
        if permission.on_files && file_hit && permission.acls.iter().any(is_default) {
            return Some(format!(
                "hosts refuse default ACL entries for the files in {object}: add type: [directory]"
            ));
        }
        if hits {
            return None;
        }
        let pattern = &permission.pattern;
        Some(format!(
            "nothing that is installed matches '{pattern}' in {object}: `**` is for any depth, other \
             patterns are names directly in it, and the object itself is never changed"
        ))
    }
}

/// As much of a script as is looked at.
const SCRIPT_BYTES_READ: u64 = 256 << 10;
