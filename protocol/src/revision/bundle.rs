//! The `.swell` file: a whole release as one stream, checked while it is read.
//!
//! It starts with [`BUNDLE_MAGIC`]. Then come the release's envelope and the manifest, each behind
//! its length as a `u32` in network byte order, and the frames in the manifest's order. The manifest
//! knows their lengths, so nothing stands between them, and nothing follows the last.
//!
//! The reader holds at most one section. It stops after the release until the caller has verified
//! it: until then nobody vouches for the manifest, and no memory is spent on one.

use thiserror::Error;

use super::manifest::{Frame, Manifest, ManifestRefused};
use crate::{
    ids::{ApplicationName, Digest},
    limits::{ENVELOPE_BYTES_MAX, MANIFEST_BYTES_MAX},
    trust::{Release, Signed, Untrusted},
};

/// The first bytes of every bundle.
pub const BUNDLE_MAGIC: &[u8] = b"swell-bundle/1\n";

const LENGTH_BYTES: usize = 4;

/// Everything of a bundle that comes before the frames.
pub fn bundle_header(release: &Signed<Release>, manifest_bytes: &[u8]) -> Vec<u8> {
    let mut header = BUNDLE_MAGIC.to_vec();
    for section in [release.to_bytes().as_slice(), manifest_bytes] {
        // Both sections are far below 4 GiB: their types bound them.
        let length = u32::try_from(section.len()).expect("sections of a bundle are bounded");
        header.extend_from_slice(&length.to_be_bytes());
        header.extend_from_slice(section);
    }
    header
}

/// What a [`BundleReader`] came across, in the order of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BundleEvent {
    /// The release. Verify it, then call [`BundleReader::accept_release`].
    Release(Signed<Release>),
    /// The manifest that the release names, with every rule checked.
    Manifest {
        /// As it is hashed and stored.
        bytes: Vec<u8>,
        /// What it says.
        manifest: Box<Manifest>,
    },
    /// A frame, with the hash that the manifest names.
    Frame {
        /// Its index in the manifest.
        index: usize,
        /// The compressed bytes.
        bytes: Vec<u8>,
    },
    /// Everything was read.
    End,
}

/// Why a file is not a bundle that can be used. What was read before the fault was in order.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum BundleError {
    /// Another kind of file.
    #[error("is not a bundle: it does not start with 'swell-bundle/1'; give a .swell file")]
    OtherFile,
    /// A section's length cannot be true.
    #[error(
        "the {section} at byte {at} claims {got} bytes where 1 to {max} are allowed: the file was \
         damaged or altered; copy it again"
    )]
    Length {
        /// Which section.
        section: &'static str,
        /// Where its length stands.
        at: u64,
        /// The length that it claims.
        got: u64,
        /// The longest allowed.
        max: u64,
    },
    /// The release's envelope cannot be read.
    #[error("the release {0}: the file was damaged or altered; copy it again")]
    Release(Untrusted),
    /// The caller read on without having accepted the release.
    #[error("the bundle's release has not been verified yet; accept it before reading on")]
    NotAccepted,
    /// The manifest is not the one that the release names.
    #[error(
        "the manifest does not have the {what} that the release names: the file was damaged or \
         altered; copy it again"
    )]
    OtherManifest {
        /// What differs: its length or its hash.
        what: &'static str,
    },
    /// The manifest is the released one, and breaks a rule.
    #[error("the release's manifest cannot be used: {0}; publish it again")]
    Manifest(ManifestRefused),
    /// A frame's bytes are not those that were published.
    #[error(
        "frame {number} of {count} does not have the hash that the manifest names: the file was \
         damaged or altered; copy it again"
    )]
    OtherFrame {
        /// Which one, counted from 1.
        number: usize,
        /// How many there are.
        count: usize,
    },
    /// More bytes after the last frame.
    #[error("bytes follow the end of the bundle at byte {at}: copy it again")]
    TooLong {
        /// Where the bundle ends.
        at: u64,
    },
    /// The file ends too early.
    #[error("ends at byte {at}, within {within}: {missing} are missing; copy it again")]
    CutShort {
        /// How many bytes there were.
        at: u64,
        /// The part that is not complete.
        within: String,
        /// How many bytes are missing, in words: before the manifest nobody knows exactly.
        missing: String,
    },
    /// An earlier call failed; there is nothing more to read.
    #[error("reading the bundle has failed before; start again")]
    Failed,
}

/// Takes a bundle apart, in pieces of any size.
#[derive(Debug)]
pub struct BundleReader {
    state: State,
    /// Bytes that no event has been made of yet.
    held: Vec<u8>,
    /// Where in the file `held` starts.
    position: u64,
}

#[derive(Debug)]
enum State {
    Magic,
    ReleaseLength,
    Release {
        length: usize,
    },
    /// The caller is verifying the release.
    Waiting,
    ManifestLength {
        accepted: Accepted,
    },
    Manifest {
        accepted: Accepted,
    },
    Frames {
        frames: Vec<Frame>,
        next: usize,
    },
    End,
    Failed,
}

#[derive(Clone, Copy, Debug)]
struct Accepted {
    hash: Digest,
    length: usize,
}

impl Default for BundleReader {
    fn default() -> Self {
        Self::new()
    }
}

impl BundleReader {
    /// A reader at the start of a file.
    pub fn new() -> Self {
        Self { state: State::Magic, held: Vec::new(), position: 0 }
    }

    /// Takes the next bytes of the file, and tells what they complete.
    ///
    /// After [`BundleEvent::Release`] the rest of `bytes` is held until the release is accepted.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Vec<BundleEvent>, BundleError> {
        if matches!(self.state, State::Waiting) {
            return Err(BundleError::NotAccepted);
        }
        self.held.extend_from_slice(bytes);
        self.advance()
    }

    /// Goes on with the manifest that a release names though nobody has verified it, and tells of which
    /// application it says to be. For a host where whoever gives the file may run anything as it is: the
    /// file is whole then, and that is all.
    pub fn accept_unverified(
        &mut self,
        release: &Signed<Release>,
    ) -> Result<(ApplicationName, Vec<BundleEvent>), BundleError> {
        let claim = release.claim().map_err(BundleError::Release)?;
        let events = self.accept_release(claim.manifest, claim.manifest_bytes)?;
        Ok((claim.application, events))
    }

    /// Goes on with the manifest of this hash and length: those of the release, once verified.
    pub fn accept_release(
        &mut self,
        manifest: Digest,
        manifest_bytes: u64,
    ) -> Result<Vec<BundleEvent>, BundleError> {
        assert!(
            matches!(self.state, State::Waiting),
            "a release is accepted once, after it was read"
        );
        match usize::try_from(manifest_bytes) {
            Ok(length) if (1..=MANIFEST_BYTES_MAX).contains(&length) => {
                let accepted = Accepted { hash: manifest, length };
                self.state = State::ManifestLength { accepted };
                self.advance()
            }
            _ => self.fail(BundleError::OtherManifest { what: "length" }),
        }
    }

    /// Ends the reading: fails unless everything was there.
    pub fn finish(self) -> Result<(), BundleError> {
        let held = self.held.len();
        let section = |name: &str, length: usize| {
            let missing = length.saturating_sub(held);
            self.cut_short(name.to_owned(), format!("at least {missing} bytes"))
        };
        Err(match &self.state {
            State::End => return Ok(()),
            State::Failed => BundleError::Failed,
            State::Waiting => BundleError::NotAccepted,
            State::Magic => section("the first line", BUNDLE_MAGIC.len()),
            State::ReleaseLength => section("the length of the release", LENGTH_BYTES),
            State::Release { length } => section("the release", *length),
            State::ManifestLength { accepted } => {
                section("the manifest", LENGTH_BYTES + accepted.length)
            }
            State::Manifest { accepted } => section("the manifest", accepted.length),
            State::Frames { frames, next } => {
                let left: u64 = frames[*next..].iter().map(|frame| u64::from(frame.bytes)).sum();
                let missing = left.saturating_sub(u64_of(held));
                let within = format!("frame {} of {}", next + 1, frames.len());
                self.cut_short(within, format!("{missing} bytes"))
            }
        })
    }

    fn cut_short(&self, within: String, missing: String) -> BundleError {
        BundleError::CutShort { at: self.position + u64_of(self.held.len()), within, missing }
    }

    fn fail<T>(&mut self, error: BundleError) -> Result<T, BundleError> {
        self.state = State::Failed;
        self.held = Vec::new();
        Err(error)
    }

    fn advance(&mut self) -> Result<Vec<BundleEvent>, BundleError> {
        let mut held = std::mem::take(&mut self.held);
        let (mut events, mut used) = (Vec::new(), 0);
        loop {
            match self.step(&held[used..]) {
                Ok(Some((bytes, event))) => {
                    used += bytes;
                    self.position += u64_of(bytes);
                    events.extend(event);
                }
                Ok(None) => break,
                Err(error) => return self.fail(error),
            }
        }
        held.drain(..used);
        self.held = held;
        Ok(events)
    }

    /// Makes one step if `held` has enough bytes for it: how many it used, and what it completed.
    fn step(&mut self, held: &[u8]) -> Result<Option<(usize, Option<BundleEvent>)>, BundleError> {
        match &mut self.state {
            State::Magic => {
                let length = held.len().min(BUNDLE_MAGIC.len());
                if held[..length] != BUNDLE_MAGIC[..length] {
                    return Err(BundleError::OtherFile);
                }
                if length < BUNDLE_MAGIC.len() {
                    return Ok(None);
                }
                self.state = State::ReleaseLength;
                Ok(Some((length, None)))
            }
            State::ReleaseLength => {
                let Some(got) = length_of(held) else { return Ok(None) };
                let length = usize::try_from(got).unwrap_or(usize::MAX);
                if !(1..=ENVELOPE_BYTES_MAX).contains(&length) {
                    return Err(self.bad_length("release", got, ENVELOPE_BYTES_MAX));
                }
                self.state = State::Release { length };
                Ok(Some((LENGTH_BYTES, None)))
            }
            State::Release { length } => {
                let Some(bytes) = held.get(..*length) else { return Ok(None) };
                let release = Signed::from_bytes(bytes).map_err(BundleError::Release)?;
                self.state = State::Waiting;
                Ok(Some((bytes.len(), Some(BundleEvent::Release(release)))))
            }
            State::ManifestLength { accepted } => {
                let Some(got) = length_of(held) else { return Ok(None) };
                if usize::try_from(got).ok() != Some(accepted.length) {
                    return Err(BundleError::OtherManifest { what: "length" });
                }
                self.state = State::Manifest { accepted: *accepted };
                Ok(Some((LENGTH_BYTES, None)))
            }
            State::Manifest { accepted } => {
                let Some(bytes) = held.get(..accepted.length) else { return Ok(None) };
                if Manifest::id_of(bytes) != accepted.hash {
                    return Err(BundleError::OtherManifest { what: "hash" });
                }
                let manifest = Manifest::from_bytes(bytes).map_err(BundleError::Manifest)?;
                self.state = State::Frames { frames: manifest.frames.clone(), next: 0 };
                let (bytes, manifest) = (bytes.to_vec(), Box::new(manifest));
                Ok(Some((bytes.len(), Some(BundleEvent::Manifest { bytes, manifest }))))
            }
            State::Frames { frames, next } => {
                let Some(frame) = frames.get(*next) else {
                    self.state = State::End;
                    return Ok(Some((0, Some(BundleEvent::End))));
                };
                let length = usize::try_from(frame.bytes).unwrap_or(usize::MAX);
                let Some(bytes) = held.get(..length) else { return Ok(None) };
                if Digest::of_content(bytes) != frame.hash {
                    let (number, count) = (*next + 1, frames.len());
                    return Err(BundleError::OtherFrame { number, count });
                }
                let event = BundleEvent::Frame { index: *next, bytes: bytes.to_vec() };
                *next += 1;
                Ok(Some((length, Some(event))))
            }
            State::End if held.is_empty() => Ok(None),
            State::End => Err(BundleError::TooLong { at: self.position }),
            State::Waiting => Ok(None),
            State::Failed => Err(BundleError::Failed),
        }
    }

    fn bad_length(&self, section: &'static str, got: u32, max: usize) -> BundleError {
        let (got, max) = (u64::from(got), u64_of(max));
        BundleError::Length { section, at: self.position, got, max }
    }
}

fn length_of(held: &[u8]) -> Option<u32> {
    held.first_chunk().map(|bytes: &[u8; LENGTH_BYTES]| u32::from_be_bytes(*bytes))
}

fn u64_of(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}
