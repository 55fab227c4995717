//! A settings file as a person wrote it.

use std::fmt;

use serde::{Deserialize, Deserializer, de};
use toml::{Spanned, de::DeTable};

/// `swelld.toml`, key by key. Each value knows its place, for messages.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    pub(super) state_dir: Option<Spanned<String>>,
    pub(super) control_socket: Option<Spanned<String>>,
    pub(super) control_group: Option<Spanned<String>>,
    pub(super) executor_socket: Option<Spanned<String>>,
    pub(super) listen: Option<Spanned<Vec<Spanned<String>>>>,
    pub(super) advertise: Option<Spanned<Vec<Spanned<String>>>>,
    pub(super) seeds: Option<Spanned<Vec<Spanned<String>>>>,
    pub(super) store_bytes_max: Option<Spanned<Size>>,
    pub(super) scrub_bytes_per_second: Option<Spanned<Size>>,
    pub(super) replace_voter_seconds: Option<Spanned<i64>>,
    pub(super) log: Option<Spanned<String>>,
    pub(super) log_to: Option<Spanned<String>>,
}

/// The fields of [`File`], for messages.
pub(super) const KEYS: [&str; 12] = [
    "state_dir",
    "control_socket",
    "control_group",
    "executor_socket",
    "listen",
    "advertise",
    "seeds",
    "store_bytes_max",
    "scrub_bytes_per_second",
    "replace_voter_seconds",
    "log",
    "log_to",
];

/// A number of bytes as it may be written: `20971520` or `"20 MiB"`.
#[derive(Debug)]
pub(super) enum Size {
    Number(i64),
    Text(String),
}

/// What is wrong in a settings file, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The key that it is about; none if the file is not TOML.
    pub key: Option<String>,
    /// Where in the file, in bytes from its start.
    pub at: usize,
    /// What is wrong and what would be right.
    pub text: String,
}

impl Problem {
    pub(super) fn new(key: &str, at: usize, text: impl Into<String>) -> Self {
        Self { key: Some(key.into()), at, text: format!("{key}: {}", text.into()) }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Problem {}

impl File {
    /// Reads the text of a settings file; a key that it does not know is an error.
    pub fn parse(text: &str) -> Result<Self, Problem> {
        let table = DeTable::parse(text).map_err(|error| Problem {
            key: None,
            at: error.span().map_or(0, |span| span.start),
            text: error.message().into(),
        })?;
        if let Some(key) = table.get_ref().keys().find(|key| !KEYS.contains(&&**key.get_ref())) {
            return Err(unknown(key.get_ref(), key.span().start));
        }
        toml::from_str(text).map_err(|error| {
            let at = error.span().map_or(0, |span| span.start);
            let entry = table.get_ref().iter().find(|(_, value)| value.span().contains(&at));
            let key = entry.map(|(key, _)| key.get_ref().to_string());
            let text = match &key {
                Some(key) => format!("{key}: {}", error.message()),
                None => error.message().into(),
            };
            Problem { key, at, text }
        })
    }
}

fn unknown(key: &str, at: usize) -> Problem {
    let shown: String = key.escape_debug().take(80).collect();
    let next_step = match nearest(key, KEYS.into_iter()) {
        Some(nearest) => format!("did you mean '{nearest}'?"),
        None => format!("the keys are {}", KEYS.join(", ")),
    };
    let text = format!("unknown key '{shown}'; {next_step}");
    Problem { key: Some(key.into()), at, text }
}

/// Longer words are compared by their beginning.
const LETTERS_MAX: usize = 64;

/// The one of `words` that `text` was probably meant to be: at most a third of it is different.
pub(super) fn nearest<'a>(text: &str, words: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let allowed = (text.chars().take(LETTERS_MAX).count() / 3).max(1);
    let near = words.map(|word| (distance(text, word), word)).min_by_key(|(distance, _)| *distance);
    near.filter(|(distance, _)| *distance <= allowed).map(|(_, word)| word)
}

/// How many letters to add, drop, change or swap with their neighbour to turn `a` into `b`.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) =
        (a.chars().take(LETTERS_MAX).collect(), b.chars().collect());
    let mut rows: Vec<Vec<usize>> = vec![(0..=b.len()).collect()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let change = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut least = change.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                least = least.min(rows[i - 2][j - 2] + 1);
            }
            row.push(least);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;

        impl de::Visitor<'_> for Either {
            type Value = Size;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number of bytes or a text such as \"20 GiB\"")
            }

            fn visit_i64<E>(self, number: i64) -> Result<Size, E> {
                Ok(Size::Number(number))
            }

            fn visit_str<E>(self, text: &str) -> Result<Size, E> {
                Ok(Size::Text(text.into()))
            }
        }

        deserializer.deserialize_any(Either)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_count_single_letter_mistakes() {
        for (a, b, expected) in
            [("", "", 0), ("log", "log", 0), ("lgo", "log", 1), ("lo", "log", 1), ("abc", "xyz", 3)]
        {
            assert_eq!(distance(a, b), expected, "{a} {b}");
        }
    }

    #[test]
    fn only_near_words_are_proposed() {
        assert_eq!(nearest("listne", KEYS.into_iter()), Some("listen"));
        assert_eq!(nearest("store_max_bytes", KEYS.into_iter()), None);
        assert_eq!(nearest("port", KEYS.into_iter()), None);
        assert_eq!(nearest(&"x".repeat(100_000), KEYS.into_iter()), None);
    }

    #[test]
    fn the_list_of_keys_is_that_of_the_fields() {
        let error = toml::from_str::<File>("nothing = 1").unwrap_err();
        let fields = KEYS.map(|key| format!("`{key}`")).join(", ");
        assert!(error.message().ends_with(&fields), "{}", error.message());
    }
}
