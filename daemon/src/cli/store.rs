//! What this host keeps of revisions.

use clap::Subcommand;

use super::{
    Ended, Failed, Output,
    text::{Table, ago, or_dash},
};
use crate::control::{
    api::{Scrubbed, Store, StoredRevision},
    client::Client,
};

#[derive(Subcommand)]
pub(super) enum StoreCommand {
    /// Read all that is kept. What the disk has damaged is removed, and comes from other hosts again.
    ///
    /// The exit code is 1 if something was damaged.
    Scrub,
}

pub(super) async fn show(client: &Client, out: Output) -> Result<Ended, Failed> {
    let store = client.store().await?;
    if out.json {
        out.json(&store)?
    } else {
        out.line(text(&store))?
    }
    Ok(Ended::Well)
}

pub(super) async fn run(
    client: &Client,
    command: StoreCommand,
    out: Output,
) -> Result<Ended, Failed> {
    let StoreCommand::Scrub = command;
    let scrubbed = client.scrub().await?;
    if out.json {
        out.json(&scrubbed)?;
    } else {
        let Scrubbed { frames, bytes, rotten } = scrubbed;
        let came = if rotten > 0 { "; see `swell store` for what is still lacking" } else { "" };
        out.line(format!("{} in {frames} frames read; {rotten} were damaged{came}", size(bytes)))?;
    }
    Ok(if scrubbed.rotten > 0 { Ended::Badly } else { Ended::Well })
}

fn text(store: &Store) -> String {
    let read = store
        .scrubbed_at
        .map_or_else(|| "not read through yet".into(), |at| format!("read through {}", ago(at)));
    let (bytes, most) = (size(store.bytes), size(store.bytes_max));
    let mut text = format!("{bytes} of at most {most}; {read}; {} found damaged\n", store.rotten);
    if store.revisions.is_empty() {
        return text;
    }
    let mut table = Table::new(&["RELEASES", "REVISION", "HERE", "OWN", "SHARED", "LACKS", "KEPT"]);
    for revision in &store.revisions {
        table.row([
            or_dash(Some(&revision.releases.join(", "))),
            revision.revision.chars().take(SHORT_ID_CHARS).collect(),
            size(revision.bytes),
            size(revision.bytes_own),
            size(revision.bytes_shared),
            lacks(revision),
            or_dash(revision.kept.as_deref()),
        ]);
    }
    text.push('\n');
    text.push_str(&table.to_string());
    text
}

fn lacks(revision: &StoredRevision) -> String {
    match revision.frames_lacking {
        0 => "-".into(),
        lacking => {
            format!("{} in {lacking} of {} frames", size(revision.bytes_lacking), revision.frames)
        }
    }
}

/// `512 B`, `3.4 MiB` or `20.0 GiB`.
fn size(bytes: u64) -> String {
    let units = [(1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match units.into_iter().find(|(unit, _)| bytes >= *unit) {
        Some((unit, name)) => {
            let tenths = u128::from(bytes) * 10 / u128::from(unit);
            format!("{}.{} {name}", tenths / 10, tenths % 10)
        }
        None => format!("{bytes} B"),
    }
}

const SHORT_ID_CHARS: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_one_unit() {
        let sizes = [0, 1023, 1024, 3_565_158, 20 << 30, u64::MAX].map(size);
        assert_eq!(sizes, ["0 B", "1023 B", "1.0 KiB", "3.3 MiB", "20.0 GiB", "16777215.9 TiB"]);
    }

    #[test]
    fn it_says_what_is_here_and_what_is_lacking() {
        let revision = StoredRevision {
            revision: "0123456789".into(),
            releases: vec!["shop 1.0.0".into(), "shop 1.0.1".into()],
            bytes: 3 << 20,
            bytes_own: 1 << 20,
            bytes_shared: 2 << 20,
            frames: 12,
            frames_lacking: 1,
            bytes_lacking: 1000,
            kept: Some("current".into()),
        };
        let unknown = StoredRevision {
            releases: Vec::new(),
            frames_lacking: 0,
            kept: None,
            ..revision.clone()
        };
        let store = Store {
            version: 1,
            bytes: 6 << 20,
            bytes_max: 20 << 30,
            scrubbed_at: None,
            rotten: 1,
            revisions: vec![revision, unknown],
        };
        insta::assert_snapshot!(text(&store), @r"
        6.0 MiB of at most 20.0 GiB; not read through yet; 1 found damaged

        RELEASES                REVISION  HERE     OWN      SHARED   LACKS                     KEPT
        shop 1.0.0, shop 1.0.1  01234567  3.0 MiB  1.0 MiB  2.0 MiB  1000 B in 1 of 12 frames  current
        -                       01234567  3.0 MiB  1.0 MiB  2.0 MiB  -                         -
        ");
    }
}
