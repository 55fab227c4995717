//! Where the symbolic links of a revision lead, followed through the tree as the kernel would.
//!
//! A link may point at a link. Reading targets as text is not enough then: `a/../..` stays inside
//! or leaves, depending on what `a` is.

use std::collections::BTreeMap;

use super::{
    manifest::{Entry, EntryKind},
    paths::{parent, shown},
};
use crate::limits::{PATH_DEPTH_MAX, SYMLINK_HOPS_MAX};

/// Fails with the first link, and the reason, that leads out of the revision or in a circle.
///
/// A link to a name that does not exist is allowed: deployments make some of them good.
pub(super) fn check(entries: &[Entry]) -> Result<(), (&Entry, String)> {
    let mut links = Links::of(entries);
    for entry in entries {
        if matches!(entry.kind, EntryKind::Symlink { .. }) {
            links.follow(&entry.path, 0).map_err(|problem| (entry, problem))?;
        }
    }
    Ok(())
}

/// Where `path` is in the tree once the links on its way are followed, the last one too. None if they lead
/// out of it or in a circle.
pub(super) fn resolve(entries: &[Entry], path: &str) -> Option<String> {
    let mut links = Links::of(entries);
    let mut reached = Reached { place: Vec::new(), hops: 0 };
    for name in components(path) {
        links.step(&mut reached, name, 0).ok()?;
    }
    Some(reached.place.join("/"))
}

/// Each link is walked once; links through it use the result.
struct Links<'a> {
    targets: BTreeMap<&'a str, &'a str>,
    reached: BTreeMap<&'a str, Reached>,
}

#[derive(Clone)]
struct Reached {
    /// Components from the root of the revision, none of them a link.
    place: Vec<String>,
    /// Links that were followed on the way.
    hops: u32,
}

impl<'a> Links<'a> {
    fn of(entries: &'a [Entry]) -> Self {
        let targets = entries.iter().filter_map(|entry| match &entry.kind {
            EntryKind::Symlink { target } => Some((entry.path.as_str(), target.as_str())),
            EntryKind::Directory | EntryKind::File { .. } => None,
        });
        Self { targets: targets.collect(), reached: BTreeMap::new() }
    }

    /// Recursion is as deep as the chain of links, which is refused past the hop limit.
    fn follow(&mut self, link: &str, depth: u32) -> Result<Reached, String> {
        if let Some(reached) = self.reached.get(link) {
            return Ok(reached.clone());
        }
        if depth >= SYMLINK_HOPS_MAX {
            return Err(too_many_hops());
        }
        let Some((&link, &target)) = self.targets.get_key_value(link) else {
            return Err(format!("'{}' is not a link", shown(link)));
        };
        let mut reached = Reached { place: components(parent(link).unwrap_or("")), hops: 1 };
        for name in components(target) {
            self.step(&mut reached, name, depth)?;
        }
        self.reached.insert(link, reached.clone());
        Ok(reached)
    }

    fn step(&mut self, at: &mut Reached, name: String, depth: u32) -> Result<(), String> {
        if name == ".." {
            return match at.place.pop() {
                Some(_) => Ok(()),
                None => Err("leads out of the revision; point it at something inside".into()),
            };
        }
        at.place.push(name);
        // Through links a place could grow a thousandfold, and each one is remembered.
        if at.place.len() > PATH_DEPTH_MAX {
            return Err(format!("leads more than {PATH_DEPTH_MAX} directories deep"));
        }
        let path = at.place.join("/");
        if self.targets.contains_key(path.as_str()) {
            let through = self.follow(&path, depth + 1)?;
            at.hops = at.hops.saturating_add(through.hops);
            at.place = through.place;
        }
        if at.hops > SYMLINK_HOPS_MAX { Err(too_many_hops()) } else { Ok(()) }
    }
}

fn components(path: &str) -> Vec<String> {
    path.split('/').filter(|name| !matches!(*name, "" | ".")).map(str::to_owned).collect()
}

fn too_many_hops() -> String {
    format!("is a circle, or goes through more than {SYMLINK_HOPS_MAX} links; shorten it")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(links: &[(&str, &str)]) -> Result<(), String> {
        let mut entries: Vec<Entry> = links
            .iter()
            .map(|(path, target)| Entry {
                path: (*path).into(),
                kind: EntryKind::Symlink { target: (*target).into() },
            })
            .collect();
        entries.sort_by(|a, b| a.path.cmp(&b.path));
        check(&entries).map_err(|(_, problem)| problem)
    }

    #[test]
    fn links_are_followed_through_links() {
        assert!(judge(&[("current", "releases/7"), ("a/b/c", "../../x")]).is_ok());
        assert!(judge(&[("a", "..")]).is_err());
        assert!(judge(&[("a/b", "../..")]).is_err());
        assert!(judge(&[("a/b", "..")]).is_ok());
        // As text `x/d/..` stays in `x`; through the tree, `x/d` is the root and `..` leaves it.
        assert!(judge(&[("x/d", ".."), ("x/e", "d/..")]).is_err());
        // As text `d/../..` leaves; through the tree, `d` is three deep and it does not.
        assert!(judge(&[("d", "p/q/r"), ("e", "d/../..")]).is_ok());
    }

    #[test]
    fn circles_end() {
        assert!(judge(&[("a", "a")]).is_err());
        assert!(judge(&[("a", "b"), ("b", "a")]).is_err());
        assert!(judge(&[("a", "b/x"), ("b", "a/x")]).is_err());
    }

    #[test]
    fn hops_are_checked_at_the_limit_and_one_past_it() {
        let chain = |length: u32| {
            let links: Vec<(String, String)> =
                (0..length).map(|i| (format!("l{i:05}"), format!("l{:05}", i + 1))).collect();
            let links: Vec<(&str, &str)> = links.iter().map(|(a, b)| (&**a, &**b)).collect();
            judge(&links)
        };
        assert!(chain(SYMLINK_HOPS_MAX).is_ok());
        assert!(chain(SYMLINK_HOPS_MAX + 1).is_err());
        assert!(chain(10_000).is_err());
    }

    #[test]
    fn places_are_as_deep_as_the_limit_and_not_deeper() {
        let deep = |depth: usize| judge(&[("a", &vec!["x"; depth].join("/"))]);
        assert!(deep(PATH_DEPTH_MAX).is_ok());
        assert!(deep(PATH_DEPTH_MAX + 1).is_err());
    }

    #[test]
    fn many_links_through_one_another_cost_little() {
        // Without memory of what was reached this takes 2^30 steps.
        let links: Vec<(String, String)> =
            (0..30).map(|i| (format!("l{i:02}"), format!("l{0:02}/l{0:02}", i + 1))).collect();
        let links: Vec<(&str, &str)> = links.iter().map(|(a, b)| (&**a, &**b)).collect();
        drop(judge(&links));
    }
}
