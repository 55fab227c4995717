//! From a directory to a bundle and back, and what strangers may put into either.

use proptest::prelude::*;

use super::*;
use crate::{
    ids::{ApplicationName, Digest, FleetId, ReleaseLabel},
    limits::{CHUNK_BYTES_MAX, CHUNK_BYTES_MIN, REVISION_ENTRIES_MAX},
    time::UnixSeconds,
    trust::{Release, SecretKey, Signed},
};

/// Bytes that look random and are the same for the same seed.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(&seed.to_be_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// Publishes files, given with their paths in order, and the frames that came out.
fn publish(files: &[(&str, Vec<u8>)]) -> (Published, Vec<Vec<u8>>) {
    let mut publisher = Publisher::new(AppSpec::default()).unwrap();
    let mut frames = Vec::new();
    for (path, content) in files {
        publisher.begin_file(path, 0o100_755, UnixSeconds(1)).unwrap();
        for part in content.chunks(100_000) {
            frames.extend(publisher.write(part).unwrap());
        }
        frames.extend(publisher.end_file().unwrap());
    }
    let mut published = publisher.finish().unwrap();
    frames.append(&mut published.frames);
    (published, frames.into_iter().map(|(_, bytes)| bytes).collect())
}

fn unpack(manifest: &Manifest, frames: &[Vec<u8>]) -> Vec<(String, Vec<u8>)> {
    let raw = |index: u32| {
        let frame = &manifest.frames[usize::try_from(index).unwrap()];
        let bytes = &frames[usize::try_from(index).unwrap()];
        assert_eq!(Digest::of_content(bytes), frame.hash);
        zstd::bulk::decompress(bytes, usize::try_from(frame.raw_bytes).unwrap()).unwrap()
    };
    let files = manifest.entries.iter().map(|entry| {
        let mut content = Vec::new();
        for chunk in entry.kind.chunks() {
            content.extend_from_slice(chunk_of(&raw(chunk.frame), chunk).unwrap());
        }
        (entry.path.clone(), content)
    });
    files.collect()
}

fn bundle(files: &[(&str, Vec<u8>)]) -> (Vec<u8>, Published) {
    let (published, frames) = publish(files);
    let release = Release {
        label: ReleaseLabel::new("1").unwrap(),
        parent: None,
        manifest: Manifest::id_of(&published.bytes),
        created_at: UnixSeconds(0),
        application: ApplicationName::new("a").unwrap(),
        architecture: None,
        environments: Vec::new(),
        content_bytes: published.manifest.total_bytes(),
        manifest_bytes: u64::try_from(published.bytes.len()).unwrap(),
    };
    let key = SecretKey::from_seed(&[1; 32]);
    let signed = Signed::new(&release, FleetId([1; 32]), &[&key]).unwrap();
    let mut bytes = bundle_header(&signed, &published.bytes);
    frames.iter().for_each(|frame| bytes.extend_from_slice(frame));
    (bytes, published)
}

/// Reads a bundle in parts of the given size, as if its release were verified.
fn read(bytes: &[u8], part: usize, published: &Published) -> Result<Vec<BundleEvent>, BundleError> {
    let mut reader = BundleReader::new();
    let mut all = Vec::new();
    for part in bytes.chunks(part) {
        let mut events = reader.push(part)?;
        if matches!(events.first(), Some(BundleEvent::Release(_))) {
            let length = u64::try_from(published.bytes.len()).unwrap();
            events.extend(reader.accept_release(Manifest::id_of(&published.bytes), length)?);
        }
        all.extend(events);
    }
    reader.finish().map(|()| all)
}

fn some_files() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("a", noise(1, 900_000)),
        ("b", Vec::new()),
        ("c", b"small".to_vec()),
        ("d", noise(1, 900_000)),
        ("e", vec![0; 1_000_000]),
    ]
}

#[test]
fn what_is_published_comes_back() {
    let files = some_files();
    let (published, frames) = publish(&files);
    let manifest = Manifest::from_bytes(&published.bytes).unwrap();
    assert_eq!(manifest, published.manifest);
    let back = unpack(&manifest, &frames);
    let expected: Vec<_> = files.into_iter().map(|(path, c)| (path.to_owned(), c)).collect();
    assert_eq!(back, expected);
    // Equal content travels once: of two equal files one, and of zeros nearly nothing.
    assert!(manifest.transfer_bytes() < 950_000, "{}", manifest.transfer_bytes());
    assert!(matches!(manifest.entries[0].kind, EntryKind::File { mode: 0o755, .. }));
}

#[test]
fn the_chunker_is_pinned() {
    let (published, _) = publish(&[("a", noise(42, 2_000_000))]);
    let lengths: Vec<_> =
        published.manifest.entries[0].kind.chunks().iter().map(|chunk| chunk.raw_bytes).collect();
    insta::assert_debug_snapshot!(lengths);
    let inner = &lengths[..lengths.len() - 1];
    assert!(inner.iter().all(|length| (CHUNK_BYTES_MIN..=CHUNK_BYTES_MAX).contains(length)));
}

#[test]
fn a_byte_more_at_the_start_changes_little() {
    let content = noise(7, 3_000_000);
    let (before, _) = publish(&[("a", content.clone())]);
    let (after, _) = publish(&[("a", [b"!".as_slice(), &content].concat())]);
    let known: std::collections::BTreeSet<_> =
        before.manifest.frames.iter().map(|frame| frame.hash).collect();
    let new: u32 = after
        .manifest
        .frames
        .iter()
        .filter(|frame| !known.contains(&frame.hash))
        .map(|frame| frame.bytes)
        .sum();
    assert!(new < 600_000, "{new} of 3,000,000 bytes are new");
}

#[test]
fn a_bundle_reads_the_same_in_parts_of_any_size() {
    let (bytes, published) = bundle(&some_files());
    let whole = read(&bytes, bytes.len(), &published).unwrap();
    assert_eq!(whole.len(), published.manifest.frames.len() + 3);
    for part in [1000, 65_536, 99_991] {
        assert_eq!(read(&bytes, part, &published).unwrap(), whole);
    }
}

#[test]
fn no_bit_of_a_bundle_can_be_flipped() {
    let (bytes, published) = bundle(&[("a", noise(1, 3000)), ("b", noise(2, 100))]);
    // The release is verified elsewhere; here it is taken for good.
    let release_end = bytes.len() - 3100 - published.bytes.len() - 40;
    for at in (0..BUNDLE_MAGIC.len() + 4).chain(release_end + 40..bytes.len()).step_by(7) {
        let mut bad = bytes.clone();
        bad[at] ^= 1;
        assert!(read(&bad, 500, &published).is_err(), "byte {at}");
    }
    for length in (0..bytes.len()).step_by(11) {
        assert!(read(&bytes[..length], 500, &published).is_err(), "{length} bytes");
    }
    let longer = [&bytes[..], b"x"].concat();
    assert!(matches!(read(&longer, 500, &published), Err(BundleError::TooLong { .. })));
}

#[test]
fn paths_that_lead_out_are_refused() {
    let (published, _) = publish(&[("a", b"x".to_vec())]);
    let with = |change: &dyn Fn(&mut Manifest)| {
        let mut manifest = published.manifest.clone();
        change(&mut manifest);
        Manifest::from_bytes(&manifest.to_bytes()).unwrap_err().to_string()
    };
    for path in ["../x", "/etc/passwd", "a/../../x", "", ".", "a//b", "x\u{1b}[2J"] {
        let refused = with(&|manifest| manifest.entries[0].path = path.into());
        assert!(!refused.contains('\u{1b}'), "{refused}");
    }
    let link = |path: &str, target: &str| Entry {
        kind: EntryKind::Symlink { target: target.into() },
        path: path.into(),
    };
    for target in ["/etc/passwd", "../x", "b/../../x"] {
        with(&|manifest| manifest.entries.push(link("z", target)));
    }
    // A file below a link, a directory twice, an order that is not the one order.
    with(&|manifest| {
        manifest.entries.insert(0, link("A", "a"));
        let mut inside = manifest.entries[1].clone();
        inside.path = "A/x".into();
        manifest.entries.insert(1, inside);
    });
    with(&|manifest| manifest.entries.push(manifest.entries[0].clone()));
    with(&|manifest| manifest.entries.insert(0, link("z", "a")));
}

#[test]
fn numbers_that_lie_are_refused() {
    let (published, _) = publish(&[("a", noise(3, 500_000))]);
    let with = |change: &dyn Fn(&mut Manifest)| {
        let mut manifest = published.manifest.clone();
        change(&mut manifest);
        assert!(Manifest::from_bytes(&manifest.to_bytes()).is_err());
    };
    fn file(manifest: &mut Manifest) -> (&mut u64, &mut Vec<Chunk>, &mut u16) {
        match &mut manifest.entries[0].kind {
            EntryKind::File { size, chunks, mode, .. } => (size, chunks, mode),
            _ => unreachable!(),
        }
    }
    with(&|manifest| *file(manifest).0 += 1);
    with(&|manifest| *file(manifest).0 = u64::MAX);
    with(&|manifest| file(manifest).1[0].offset = u32::MAX);
    with(&|manifest| file(manifest).1[0].raw_bytes = 0);
    with(&|manifest| file(manifest).1[0].frame = u32::MAX);
    with(&|manifest| *file(manifest).2 = 0o4755);
    with(&|manifest| manifest.frames[0].raw_bytes = u32::MAX);
    with(&|manifest| manifest.frames[0].bytes = 0);
    with(&|manifest| manifest.frames.push(Frame { hash: Digest::ZERO, bytes: 1, raw_bytes: 1 }));
    with(&|manifest| manifest.frames[1] = manifest.frames[0].clone());
}

#[test]
fn patches_make_whole_files_in_order() {
    let (published, _) = publish(&[("a", noise(3, 500_000))]);
    let EntryKind::File { hash: file, .. } = published.manifest.entries[0].kind else {
        unreachable!()
    };
    let frame = published.manifest.frames[0].clone();
    let part = |file_offset: u64, file_bytes: u64| Delta {
        base: Digest([7; 32]),
        file,
        frames: vec![frame.clone()],
        base_bytes: 1000,
        file_bytes,
        window_log: 20,
        base_offset: 0,
        file_offset,
    };
    let check = |deltas: Vec<Delta>| Manifest { deltas, ..published.manifest.clone() }.check();
    assert_eq!(check(vec![part(0, 500_000)]), Ok(()));
    assert_eq!(check(vec![part(0, 200_000), part(200_000, 300_000)]), Ok(()));
    for bad in [
        vec![part(0, 499_999)],
        vec![part(0, 500_001)],
        vec![part(1, 499_999)],
        vec![part(0, 200_000), part(200_001, 299_999)],
        vec![part(200_000, 300_000), part(0, 200_000)],
        vec![part(0, 500_000), part(0, 500_000)],
        vec![part(0, 0), part(0, 500_000)],
        vec![Delta { base: file, ..part(0, 500_000) }],
        vec![Delta { file: Digest([8; 32]), ..part(0, 500_000) }],
        vec![Delta { window_log: 28, ..part(0, 500_000) }],
        vec![Delta { frames: Vec::new(), ..part(0, 500_000) }],
        vec![Delta { base_bytes: u64::MAX, ..part(0, 500_000) }],
    ] {
        let refused = check(bad.clone());
        assert!(matches!(refused, Err(ManifestRefused::Delta { .. })), "{bad:?}: {refused:?}");
    }
}

/// A manifest with one of everything, a release of it, and the bundle that carries both: pinned,
/// because the hash of the first is signed and the last is carried between versions.
#[test]
fn manifest_and_bundle_are_pinned() {
    let yaml = include_bytes!("../../testdata/appspec.yml");
    let kind_of =
        |path: &str| Some(if path == "app" { PathKind::Directory } else { PathKind::File });
    let (spec, _) = AppSpec::from_yaml(yaml, &kind_of).unwrap();
    let (published, frames) = publish(&[("run", b"#!/bin/sh\n".to_vec()), ("x", noise(5, 70))]);
    let mut manifest = Manifest { spec, ..published.manifest };
    let EntryKind::File { hash: file, size, .. } = manifest.entries[1].kind else { unreachable!() };
    manifest.entries.insert(0, Entry { kind: EntryKind::Directory, path: "app".into() });
    let target = "run".into();
    manifest.entries.push(Entry { kind: EntryKind::Symlink { target }, path: "y".into() });
    manifest.deltas.push(Delta {
        base: Digest([7; 32]),
        file,
        frames: vec![manifest.frames[0].clone()],
        base_bytes: 1000,
        file_bytes: size,
        window_log: 20,
        base_offset: 5,
        file_offset: 0,
    });
    let bytes = manifest.to_bytes();
    let signed = signed_release(&manifest);
    let mut bundle = bundle_header(&signed, &bytes);
    frames.iter().for_each(|frame| bundle.extend_from_slice(frame));
    let hex = |bytes: &[u8]| data_encoding::HEXLOWER.encode(bytes);
    insta::assert_snapshot!(format!(
        "manifest {}\n{}\n\nbundle\n{}",
        Manifest::id_of(&bytes),
        hex(&bytes),
        hex(&bundle)
    ));
}

#[test]
fn entries_are_counted_at_the_limit_and_one_past_it() {
    let directories = |count: usize| {
        let entries = (0..count)
            .map(|i| Entry { kind: EntryKind::Directory, path: format!("{i:08}") })
            .collect();
        Manifest { entries, ..Manifest::default() }.check()
    };
    assert!(directories(REVISION_ENTRIES_MAX).is_ok());
    assert!(matches!(
        directories(REVISION_ENTRIES_MAX + 1),
        Err(ManifestRefused::TooMany { what: "entries", .. })
    ));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_bytes_make_a_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        drop(Manifest::from_bytes(&bytes));
        let mut reader = BundleReader::new();
        drop(reader.push(&bytes));
        let mut reader = BundleReader::new();
        drop(reader.push(BUNDLE_MAGIC));
        drop(reader.push(&bytes));
        drop(AppSpec::from_yaml(&bytes, &|_| None));
    }

    #[test]
    fn no_change_of_a_good_manifest_makes_the_checks_panic(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..5),
    ) {
        let (published, _) = publish(&[("a", noise(3, 40_000)), ("b", b"x".to_vec())]);
        let mut bytes = published.bytes;
        for (at, byte) in &changes {
            let at = at.index(bytes.len());
            bytes[at] = *byte;
        }
        drop(Manifest::from_bytes(&bytes));
    }

    #[test]
    fn content_of_any_shape_comes_back(
        seed: u64,
        lengths in prop::collection::vec(0usize..400_000, 1..6),
    ) {
        let names = ["a", "b", "c", "d", "e", "f"];
        let files: Vec<_> = names
            .into_iter()
            .zip(lengths)
            .map(|(name, length)| (name, noise(seed ^ length as u64, length)))
            .collect();
        let (published, frames) = publish(&files);
        let back = unpack(&published.manifest, &frames);
        for ((_, content), (_, came)) in files.iter().zip(&back) {
            prop_assert_eq!(content, came);
        }
    }
}

/// A release of a manifest, as somebody has signed it.
pub(super) fn signed_release(manifest: &Manifest) -> Signed<Release> {
    let bytes = manifest.to_bytes();
    let release = Release {
        label: ReleaseLabel::new("1").unwrap(),
        parent: None,
        manifest: Manifest::id_of(&bytes),
        created_at: UnixSeconds(0),
        application: ApplicationName::new("a").unwrap(),
        architecture: None,
        environments: Vec::new(),
        content_bytes: manifest.total_bytes(),
        manifest_bytes: u64::try_from(bytes.len()).unwrap(),
    };
    Signed::new(&release, FleetId([1; 32]), &[&SecretKey::from_seed(&[1; 32])]).unwrap()
}
