//! Where this host looks for the fleet while it knows nobody, and what came of each attempt.

use std::collections::BTreeMap;

use groundswell_protocol::time::Mono;
use groundswell_signer::seed::Seed;

use crate::{config::Settings, control::api, home::Home};

/// The seeds, by how the node names them.
pub(super) struct Seeds(BTreeMap<String, Tried>);

struct Tried {
    /// None for a line of the seeds' file that is none.
    seed: Option<Seed>,
    at: Option<Mono>,
    outcome: Option<Result<(), String>>,
}

impl Seeds {
    /// Those that came with the join token, and those of the settings.
    pub(super) fn of(home: &Home, settings: &Settings) -> Self {
        let written = home.seeds().into_iter().map(|text| match text.parse::<Seed>() {
            Ok(seed) => (seed.to_string(), Tried { seed: Some(seed), at: None, outcome: None }),
            Err(error) => {
                tracing::warn!(%error, "a seed of this host cannot be used");
                let outcome = Some(Err(error.to_string()));
                (text, Tried { seed: None, at: None, outcome })
            }
        });
        let set = settings.seeds.iter().map(|seed| {
            (seed.to_string(), Tried { seed: Some(seed.clone()), at: None, outcome: None })
        });
        Self(written.chain(set).collect())
    }

    /// Those that can be dialled, as the node is to name them.
    pub(super) fn names(&self) -> Vec<String> {
        let good = self.0.iter().filter(|(_, tried)| tried.seed.is_some());
        good.map(|(name, _)| name.clone()).collect()
    }

    /// The seed of this name is to be dialled now.
    ///
    /// Only what the host was given may hold a name to look up: addresses of other hosts come from
    /// their records, and those shall not make this one ask for whatever they like.
    pub(super) fn dialled(&mut self, name: &str, now: Mono) -> Option<Seed> {
        let tried = self.0.get_mut(name)?;
        tried.at = Some(now);
        tried.seed.clone()
    }

    /// What came of an attempt; it is logged where it is another outcome than the last time.
    pub(super) fn came(&mut self, name: &str, outcome: Result<(), String>) {
        let Some(tried) = self.0.get_mut(name) else { return };
        match (&outcome, &tried.outcome) {
            (new, Some(old)) if new == old => {}
            (Err(error), _) => {
                tracing::warn!(seed = name, error, "no connection to a seed");
            }
            (Ok(()), Some(Err(_))) => tracing::info!(seed = name, "connected to a seed again"),
            (Ok(()), _) => {}
        }
        tried.outcome = Some(outcome);
    }

    pub(super) fn views(&self, now: Mono) -> Vec<api::Seed> {
        let views = self.0.iter().map(|(name, tried)| api::Seed {
            address: name.clone(),
            tried_seconds_ago: tried.at.map(|at| now.since(at).as_secs()),
            answered: tried.outcome == Some(Ok(())),
            error: tried.outcome.clone().and_then(Result::err),
        });
        views.collect()
    }
}
