//! Names of seeds. Each is looked up anew whenever it is dialled, since what it stands for may change.
//!
//! The system's own resolver is asked, so that /etc/hosts and whatever else the machine is set up
//! with count. It may take long, and each question takes a thread: few are asked at once.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

use groundswell_signer::seed::Seed;
use tokio::sync::Semaphore;

/// The questions that are under way, and how often each name was asked for.
#[derive(Clone)]
pub(super) struct Lookups {
    names: Arc<Mutex<BTreeMap<String, Name>>>,
    threads: Arc<Semaphore>,
}

#[derive(Default)]
struct Name {
    under_way: bool,
    turn: usize,
}

impl Lookups {
    pub(super) fn new() -> Self {
        Self { names: Arc::default(), threads: Arc::new(Semaphore::new(LOOKUPS_MAX)) }
    }

    /// An address of a seed: each time the next of those that its name stands for. None if the same
    /// question is under way already.
    pub(super) async fn find(&self, seed: &Seed) -> Option<Result<IpAddr, String>> {
        let (name, port) = seed.name()?;
        let asked = seed.to_string();
        let turn = self.begin(&asked)?;
        let found = match self.threads.acquire().await {
            Ok(_permit) => tokio::net::lookup_host((name, port)).await,
            Err(closed) => Err(std::io::Error::other(closed)),
        };
        self.change(&asked, |name| name.under_way = false);
        Some(choose(seed, name, turn, found.map(Iterator::collect)))
    }

    fn begin(&self, asked: &str) -> Option<usize> {
        self.change(asked, |name| {
            let free = !std::mem::replace(&mut name.under_way, true);
            name.turn += usize::from(free);
            free.then_some(name.turn)
        })
    }

    fn change<T>(&self, asked: &str, change: impl FnOnce(&mut Name) -> T) -> T {
        // A panic elsewhere leaves no name half changed.
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        change(names.entry(asked.to_owned()).or_default())
    }
}

fn choose(
    seed: &Seed,
    name: &str,
    turn: usize,
    found: std::io::Result<Vec<std::net::SocketAddr>>,
) -> Result<IpAddr, String> {
    let found = found.map_err(|error| format!("the name {name} does not resolve: {error}"))?;
    let all: Vec<IpAddr> = found.iter().map(|a| a.ip()).filter(|ip| seed.accepts(*ip)).collect();
    match all.get(turn % all.len().max(1)) {
        Some(ip) => Ok(*ip),
        None => Err(format!("the name {name} stands for no address of the kind that is asked for")),
    }
}

/// The daemon has eight threads for what blocks; the disk needs the others.
const LOOKUPS_MAX: usize = 2;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_address_of_a_name_has_its_turn() {
        let seed: Seed = "h1:7717".parse().unwrap();
        let found = || Ok(vec!["10.0.0.1:7717".parse().unwrap(), "[::1]:7717".parse().unwrap()]);
        let chosen = |seed: &Seed, turn| choose(seed, "h1", turn, found()).unwrap().to_string();
        assert_eq!([0, 1, 2].map(|turn| chosen(&seed, turn)), ["10.0.0.1", "::1", "10.0.0.1"]);
        let four: Seed = "/dns4/h1/tcp/7717".parse().unwrap();
        assert_eq!([0, 1].map(|turn| chosen(&four, turn)), ["10.0.0.1", "10.0.0.1"]);
        let gone = choose(&seed, "h1", 0, Err(std::io::Error::other("no such name")));
        assert_eq!(gone.unwrap_err(), "the name h1 does not resolve: no such name");
        assert!(choose(&seed, "h1", 0, Ok(Vec::new())).unwrap_err().contains("no address"));
    }

    #[tokio::test]
    async fn a_name_is_asked_for_once_at_a_time() {
        let (lookups, seed) = (Lookups::new(), "localhost:7717".parse::<Seed>().unwrap());
        assert_eq!(lookups.begin(&seed.to_string()), Some(1));
        assert!(lookups.find(&seed).await.is_none(), "the same question is under way");
        lookups.change(&seed.to_string(), |name| name.under_way = false);
        assert!(lookups.find(&seed).await.unwrap().unwrap().is_loopback());
        assert!(lookups.find(&seed).await.is_some(), "and it is asked again");
    }
}
