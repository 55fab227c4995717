//! A hundred thousand manifests, appspecs and bundles that somebody might make up: good ones, changed where
//! it could hurt. Each is refused, or is found harmless here by rules of this file's own.

use super::{tests::signed_release, *};
use crate::{
    cbor,
    execute::LifecycleEvent,
    ids::Digest,
    limits::{PATH_COMPONENT_BYTES_MAX, PATH_DEPTH_MAX, SYMLINK_HOPS_MAX},
    time::UnixSeconds,
};

/// Numbers that look random and are the same for the same seed.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb) ^ (mixed >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(end.max(1)).unwrap()).unwrap()
    }

    fn of<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        &list[self.below(list.len())]
    }

    fn small(&mut self) -> u32 {
        let odd = [0, 1, 2, 7, 255, 256, 65_535, 1 << 20, u32::MAX - 1, u32::MAX];
        *self.of(&odd)
    }
}

/// Names and targets, of which some are good.
const PATHS: [&str; 40] = [
    "",
    ".",
    "..",
    "/",
    "//",
    "/etc",
    "/etc/passwd",
    "../etc",
    "../../../../../../etc/passwd",
    "app/..",
    "app/../..",
    "app/../../etc",
    "app/./run.sh",
    "app//run.sh",
    "app/run.sh/",
    "app/run.sh/x",
    "app",
    "app/sub",
    "app/sub/x",
    "app/link",
    "app/link/x",
    "app/up",
    "app/up/app",
    "APP",
    "a\u{308}pp",
    "äpp",
    "app\0",
    "app/\n",
    "app/\u{202e}txt",
    "app/\u{1b}[2J",
    " app",
    "app ",
    "~",
    "$HOME",
    "*",
    "con",
    "sub/../../..",
    "x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x",
    "up/up/up/up/up/up/up/up",
    "link",
];

fn odd_path(dice: &mut Dice) -> String {
    let path = *dice.of(&PATHS);
    match dice.below(12) {
        0 => format!("/{path}"),
        1 => format!("{path}/{}", dice.of(&PATHS)),
        2 => path.repeat(dice.below(30)),
        3 => "x".repeat(250 + dice.below(10)),
        _ => path.into(),
    }
}

/// A revision with all that there is: files, directories, links through links, hooks and permissions.
fn good() -> (Manifest, Vec<Vec<u8>>) {
    let permission = Permission {
        acls: vec!["u:backup:rx".into()],
        mode: Some(0o750),
        group: Some("www".into()),
        owner: Some("www".into()),
        except: vec!["*.tmp".into()],
        object: "/srv/app".into(),
        context: None,
        pattern: "*".into(),
        on_files: true,
        on_directories: false,
    };
    let script =
        Script { sudo: false, runas: None, location: "app/run.sh".into(), timeout_seconds: 60 };
    let hooks = EventHooks { event: LifecycleEvent::AfterInstall, scripts: vec![script] };
    let mapping = FileMapping { source: "app".into(), destination: "/srv/app".into() };
    let spec = AppSpec {
        files: vec![mapping],
        hooks: vec![hooks],
        permissions: vec![permission],
        file_exists_behavior: None,
    };
    let mut publisher = Publisher::new(spec).unwrap();
    let mut frames = Vec::new();
    publisher.directory("app").unwrap();
    publisher.symlink("app/link", "sub").unwrap();
    publisher.begin_file("app/run.sh", 0o755, UnixSeconds(1)).unwrap();
    frames.extend(publisher.write(b"#!/bin/sh\n").unwrap());
    frames.extend(publisher.end_file().unwrap());
    publisher.directory("app/sub").unwrap();
    publisher.symlink("app/sub/back", "../link/x").unwrap();
    publisher.begin_file("app/sub/x", 0o644, UnixSeconds(2)).unwrap();
    frames.extend(publisher.write(&[7; 3000]).unwrap());
    frames.extend(publisher.end_file().unwrap());
    publisher.symlink("app/up", "..").unwrap();
    let mut published = publisher.finish().unwrap();
    frames.append(&mut published.frames);
    (published.manifest, frames.into_iter().map(|(_, bytes)| bytes).collect())
}

/// Changes one thing.
fn change(manifest: &mut Manifest, dice: &mut Dice) {
    let at = dice.below(manifest.entries.len());
    let Some(entry) = manifest.entries.get(at).cloned() else { return };
    match dice.below(16) {
        0 => manifest.entries[at].path = odd_path(dice),
        1 => manifest.entries[at].path = dice.of(&manifest.entries).path.clone(),
        2 => manifest.entries.push(entry),
        3 => drop(manifest.entries.remove(at)),
        4 => manifest.entries[at].kind = EntryKind::Symlink { target: odd_path(dice) },
        5 => manifest.entries[at].kind = EntryKind::Directory,
        6 => manifest.entries[at].kind = dice.of(&manifest.entries).kind.clone(),
        7 => manifest.entries.push(Entry { path: odd_path(dice), kind: EntryKind::Directory }),
        8 => {
            let kind = EntryKind::Symlink { target: odd_path(dice) };
            manifest.entries.push(Entry { path: odd_path(dice), kind });
        }
        9 => change_file(&mut manifest.entries[at].kind, dice),
        10 => {
            let at = dice.below(manifest.frames.len());
            let Some(frame) = manifest.frames.get_mut(at) else { return };
            let field = if dice.below(2) == 0 { &mut frame.bytes } else { &mut frame.raw_bytes };
            *field = dice.small();
        }
        11 => {
            let frames = vec![manifest.frames[0].clone()];
            manifest.deltas.push(Delta {
                base: Digest([dice.next().to_le_bytes()[0]; 32]),
                file: manifest.entries.iter().find_map(hash_of).unwrap_or(Digest::ZERO),
                frames,
                base_bytes: dice.small().into(),
                file_bytes: dice.small().into(),
                window_log: dice.next().to_le_bytes()[0],
                base_offset: dice.small().into(),
                file_offset: dice.small().into(),
            });
        }
        _ => change_spec(&mut manifest.spec, dice),
    }
}

fn hash_of(entry: &Entry) -> Option<Digest> {
    match &entry.kind {
        EntryKind::File { hash, .. } => Some(*hash),
        _ => None,
    }
}

fn change_file(kind: &mut EntryKind, dice: &mut Dice) {
    let EntryKind::File { mode, size, chunks, modified, .. } = kind else { return };
    match (dice.below(7), chunks.first_mut()) {
        (0, _) => *mode = u16::try_from(dice.below(65_536)).unwrap(),
        (1, _) => *size = u64::from(dice.small()),
        (2, _) => *modified = UnixSeconds(dice.next()),
        (3, Some(chunk)) => chunk.frame = dice.small(),
        (4, Some(chunk)) => chunk.offset = dice.small(),
        (5, Some(chunk)) => chunk.raw_bytes = dice.small(),
        _ => chunks.clear(),
    }
}

fn change_spec(spec: &mut AppSpec, dice: &mut Dice) {
    let (mapping, permission) = (&mut spec.files[0], &mut spec.permissions[0]);
    let script = &mut spec.hooks[0].scripts[0];
    match dice.below(12) {
        0 => mapping.source = odd_path(dice),
        1 => mapping.destination = odd_path(dice),
        2 => mapping.destination = format!("/srv/{}", odd_path(dice)),
        3 => script.location = odd_path(dice),
        4 => script.timeout_seconds = dice.small(),
        5 => script.runas = Some(odd_path(dice)),
        6 => permission.object = odd_path(dice),
        7 => permission.acls = vec![odd_path(dice)],
        8 => permission.owner = Some(odd_path(dice)),
        9 => permission.mode = Some(u16::try_from(dice.below(65_536)).unwrap()),
        10 => permission.pattern = odd_path(dice),
        _ => spec.hooks[0].event = *dice.of(&LifecycleEvent::ALL),
    }
}

/// What no host may be given, told without the rules that are tested.
fn assert_harmless(manifest: &Manifest) {
    let clean = |path: &str| {
        let names: Vec<_> = path.split('/').collect();
        let good = |name: &&str| {
            !matches!(*name, "" | "." | "..")
                && name.len() <= PATH_COMPONENT_BYTES_MAX
                && !name.contains(char::is_control)
        };
        names.iter().all(good) && names.len() <= PATH_DEPTH_MAX
    };
    let kind_at = |path: &str| manifest.entries.iter().find(|e| e.path == path).map(|e| &e.kind);
    for (i, entry) in manifest.entries.iter().enumerate() {
        assert!(clean(&entry.path), "{entry:?}");
        assert!(i == 0 || manifest.entries[i - 1].path < entry.path, "{entry:?}");
        if let Some((above, _)) = entry.path.rsplit_once('/') {
            assert_eq!(kind_at(above), Some(&EntryKind::Directory), "{entry:?}");
        }
        match &entry.kind {
            EntryKind::File { mode, .. } => assert!(*mode <= 0o777, "{entry:?}"),
            EntryKind::Symlink { .. } => {
                let mut hops = 0;
                walk(&kind_at, Vec::new(), &entry.path, &mut hops).expect(&entry.path);
            }
            EntryKind::Directory => {}
        }
    }
    assert_spec_harmless(&manifest.spec);
}

/// Follows a path as a kernel does; none if it leaves the revision.
fn walk<'a>(
    kind_at: &dyn Fn(&str) -> Option<&'a EntryKind>,
    mut place: Vec<String>,
    path: &str,
    hops: &mut u32,
) -> Option<Vec<String>> {
    for name in path.split('/').filter(|name| !matches!(*name, "" | ".")) {
        if name == ".." {
            place.pop()?;
            continue;
        }
        place.push(name.into());
        if let Some(EntryKind::Symlink { target }) = kind_at(&place.join("/")) {
            *hops += 1;
            assert!(*hops <= SYMLINK_HOPS_MAX && !target.starts_with('/'), "{target}");
            place.pop();
            place = walk(kind_at, place, target, hops)?;
        }
    }
    Some(place)
}

fn assert_spec_harmless(spec: &AppSpec) {
    let stays = |path: &str| !path.split('/').any(|name| name == "..") && !path.contains('\0');
    for FileMapping { source, destination } in &spec.files {
        assert!(stays(source) && !source.starts_with('/'), "{source}");
        assert!(stays(destination) && destination.starts_with('/'), "{destination}");
    }
    for permission in &spec.permissions {
        assert!(permission.object.starts_with('/') && stays(&permission.object), "{permission:?}");
        assert!(permission.mode.is_none_or(|mode| mode <= 0o7777), "{permission:?}");
    }
    for script in spec.hooks.iter().flat_map(|hooks| &hooks.scripts) {
        assert!(stays(&script.location) && !script.location.starts_with('/'), "{script:?}");
        assert!(script.timeout_seconds > 0, "{script:?}");
    }
}

/// Asserts that both happened, and often: else this showed less than it says.
fn assert_both(taken: u32, all: u32) {
    assert!(taken > all / 100 && taken < all - all / 100, "{taken} of {all} were taken");
}

#[test]
fn hostile_manifests_are_refused_or_harmless() {
    let (good, _) = good();
    assert_harmless(&good);
    let mut taken = 0;
    for seed in 0..MANIFESTS {
        let mut dice = Dice(seed.into());
        let mut manifest = good.clone();
        for _ in 0..=dice.below(4) {
            change(&mut manifest, &mut dice);
        }
        // Else hardly any would come past the rule that entries are in order.
        if dice.below(4) > 0 {
            manifest.entries.sort_by(|a, b| a.path.cmp(&b.path));
        }
        if let Ok(manifest) = Manifest::from_bytes(&cbor::encode(&manifest)) {
            assert_harmless(&manifest);
            taken += 1;
        }
    }
    assert_both(taken, MANIFESTS);
}

#[test]
fn manifests_with_other_bytes_are_refused_or_harmless() {
    let bytes = good().0.to_bytes();
    for seed in 0..CHANGED_BYTES {
        let mut dice = Dice(seed.into());
        let mut bytes = bytes.clone();
        for _ in 0..=dice.below(3) {
            let at = dice.below(bytes.len());
            match dice.below(4) {
                0 => bytes.truncate(at.max(1)),
                1 => bytes.insert(at, dice.next().to_le_bytes()[0]),
                2 => bytes[at] ^= 1 << dice.below(8),
                _ => bytes[at] = dice.next().to_le_bytes()[0],
            }
        }
        if let Ok(manifest) = Manifest::from_bytes(&bytes) {
            assert_harmless(&manifest);
        }
    }
}

/// What somebody may write in an appspec, for better or worse.
const WORDS: [&str; 30] = [
    "0.0",
    "linux",
    "../../etc",
    "/",
    "''",
    "\"\\0\"",
    "&a [*a, *a]",
    "*a",
    "!!binary aGk=",
    "<<: *a",
    "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[",
    "{{{{{{{{",
    "- - - - - - -",
    "null",
    "~",
    ".nan",
    ".inf",
    "1e999",
    "0777",
    "0o777",
    "-1",
    "18446744073709551616",
    "2026-01-01",
    "? x",
    "|\n    x",
    "\t",
    "\u{feff}",
    "\u{202e}",
    "---",
    "%YAML 1.1",
];

#[test]
fn hostile_appspecs_are_refused_or_harmless() {
    let good = include_str!("../../testdata/appspec.yml");
    let kind_of = |path: &str| match path {
        "app" | "" => Some(PathKind::Directory),
        path if path.starts_with("scripts/") => Some(PathKind::File),
        _ => None,
    };
    assert!(AppSpec::from_yaml(good.as_bytes(), &kind_of).is_ok());
    let mut taken = 0;
    for seed in 0..APPSPECS {
        let mut dice = Dice(seed.into());
        let mut lines: Vec<String> = good.lines().map(ToOwned::to_owned).collect();
        for _ in 0..=dice.below(3) {
            let at = dice.below(lines.len());
            let line = &mut lines[at];
            match dice.below(7) {
                0 => drop(lines.remove(at)),
                1 => lines.insert(at, lines[at].clone()),
                2 => line.insert(0, ' '),
                3 => lines.insert(at, (*dice.of(&WORDS)).into()),
                4 => line.push_str(WORDS[dice.below(WORDS.len())]),
                _ => {
                    let value = line.split_once(": ").map_or(0, |(key, _)| key.len() + 2);
                    line.replace_range(value.., WORDS[dice.below(WORDS.len())]);
                }
            }
        }
        if let Ok((spec, _)) = AppSpec::from_yaml(lines.join("\n").as_bytes(), &kind_of) {
            assert_spec_harmless(&spec);
            taken += 1;
        }
    }
    assert_both(taken, APPSPECS);
}

#[test]
fn hostile_bundles_are_refused_or_whole() {
    let (manifest, frames) = good();
    let bytes = manifest.to_bytes();
    let signed = signed_release(&manifest);
    let mut good = bundle_header(&signed, &bytes);
    frames.iter().for_each(|frame| good.extend_from_slice(frame));
    let mut taken = 0;
    for seed in 0..BUNDLES {
        let mut dice = Dice(seed.into());
        let mut bundle = good.clone();
        let at = dice.below(bundle.len());
        match dice.below(5) {
            0 => bundle.truncate(at),
            1 => drop(bundle.drain(..at)),
            2 => bundle.extend_from_within(at..),
            3 => bundle[at] = dice.next().to_le_bytes()[0],
            _ => {}
        }
        let part = 1 + dice.below(bundle.len());
        if let Some(came) = read(&bundle, part) {
            assert_eq!(came, frames, "bundle {seed} is another one");
            taken += 1;
        }
    }
    assert_both(taken, BUNDLES);
}

/// The frames of a bundle whose release nobody has verified, if it was read to its end.
fn read(bundle: &[u8], part: usize) -> Option<Vec<Vec<u8>>> {
    let (mut reader, mut frames) = (BundleReader::new(), Vec::new());
    for part in bundle.chunks(part) {
        let mut events = reader.push(part).ok()?;
        if let Some(BundleEvent::Release(release)) = events.first() {
            events = reader.accept_unverified(release).ok()?.1;
        }
        for event in events {
            if let BundleEvent::Frame { bytes, .. } = event {
                frames.push(bytes.to_vec());
            }
        }
    }
    reader.finish().ok().map(|()| frames)
}

const MANIFESTS: u32 = 50_000;
const CHANGED_BYTES: u32 = 20_000;
const APPSPECS: u32 = 10_000;
const BUNDLES: u32 = 20_000;
