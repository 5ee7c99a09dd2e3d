//! Retained messages of one shard, by topic.

use std::collections::BTreeMap;
use std::ops::Bound;

use thiserror::Error;

use super::name::{has_wildcard, is_reserved, starts_with_wildcard};

/// One shard's retained values by topic name, bounded in number and in bytes.
///
/// A filter finds its values in the order of their names, in pieces: names that cannot match are
/// leapt over, not visited, where the filter's literal levels allow it.
#[derive(Debug)]
pub struct Retained<V> {
    values: BTreeMap<Box<str>, Stored<V>>,
    bytes: u64,
    max_count: usize,
    max_bytes: u64,
}

#[derive(Debug)]
struct Stored<V> {
    value: V,
    bytes: u32,
}

/// Why a value is not retained. What was retained under the topic before stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum RetainedFull {
    /// There are as many values as allowed.
    #[error("the number of retained messages is at its limit")]
    Count,
    /// With it, the values would have more bytes than allowed.
    #[error("the size of the retained messages is at its limit")]
    Bytes,
}

impl<V> Retained<V> {
    /// Nothing retained yet, and room for `max_count` values of `max_bytes` bytes together.
    #[must_use]
    pub fn new(max_count: usize, max_bytes: u64) -> Self {
        Self { values: BTreeMap::new(), bytes: 0, max_count, max_bytes }
    }

    /// Retains a value that counts for so many bytes; gives back the one that it replaces.
    ///
    /// # Errors
    ///
    /// A limit would be exceeded; nothing changes.
    pub fn set(&mut self, topic: &str, value: V, bytes: u32) -> Result<Option<V>, RetainedFull> {
        let count = self.values.len();
        let old = self.values.get_mut(topic);
        let old_bytes = old.as_ref().map_or(0, |old| old.bytes);
        if old.is_none() && count >= self.max_count {
            return Err(RetainedFull::Count);
        }
        let total = self.bytes - u64::from(old_bytes) + u64::from(bytes);
        // A limit that was reached must not keep a value from being replaced by a smaller one.
        if total > self.max_bytes && bytes > old_bytes {
            return Err(RetainedFull::Bytes);
        }
        self.bytes = total;
        let new = Stored { value, bytes };
        Ok(match old {
            Some(old) => Some(std::mem::replace(old, new).value),
            None => {
                self.values.insert(topic.into(), new);
                None
            }
        })
    }

    /// Removes the value of a topic.
    pub fn remove(&mut self, topic: &str) -> Option<V> {
        let old = self.values.remove(topic)?;
        self.bytes -= u64::from(old.bytes);
        Some(old.value)
    }

    /// The value of a topic.
    #[must_use]
    pub fn get(&self, topic: &str) -> Option<&V> {
        self.values.get(topic).map(|stored| &stored.value)
    }

    /// The number of values.
    #[must_use]
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Whether nothing is retained.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// The bytes of all values, as [`Retained::set`] was told.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Appends the values of the next topics from `cursor` on, at most `limit` of them, `$`-topics
    /// included. Gives the cursor to go on with when there are more.
    pub fn walk<'a>(
        &'a self,
        cursor: Option<&str>,
        limit: usize,
        out: &mut Vec<(&'a str, &'a V)>,
    ) -> Option<Box<str>> {
        let from = Bound::Included(cursor.unwrap_or_default());
        let mut values = self.values.range::<str, _>((from, Bound::Unbounded));
        let next = values.by_ref().take(limit);
        out.extend(next.map(|(topic, stored)| (&**topic, &stored.value)));
        values.next().map(|(topic, _)| topic.clone())
    }

    /// Appends values whose topics match a valid filter, in the order of the topics, until
    /// `max_results` are found or `max_visited` topics were looked at (at least one of each).
    ///
    /// Gives the number of topics looked at, and when there may be more, the cursor to go on with.
    /// Values set or removed between the calls are found or not, all others exactly once.
    pub fn scan<'a>(
        &'a self,
        filter: &str,
        cursor: Option<&str>,
        max_results: usize,
        max_visited: usize,
        out: &mut Vec<(&'a str, &'a V)>,
    ) -> (usize, Option<Box<str>>) {
        if !has_wildcard(filter.as_bytes()) {
            let found = self.values.get_key_value(filter);
            out.extend(found.map(|(topic, stored)| (&**topic, &stored.value)));
            return (1, None);
        }
        let (mut results, mut visited) = (0, 0);
        let mut from = cursor.unwrap_or_else(|| first_candidate(filter)).to_owned();
        'seek: loop {
            let range = (Bound::Included(from.as_str()), Bound::Unbounded);
            for (topic, stored) in self.values.range::<str, _>(range) {
                // The next topic is often far enough, and looking at it is cheaper than a search.
                if **topic < *from {
                    continue 'seek;
                }
                if visited >= max_visited.max(1) {
                    return (visited, Some(topic.clone()));
                }
                visited += 1;
                match Step::at(filter, topic) {
                    Step::Match if results >= max_results.max(1) => {
                        return (visited, Some(topic.clone()));
                    }
                    Step::Match => {
                        results += 1;
                        out.push((topic, &stored.value));
                    }
                    Step::Next => {}
                    Step::Seek(target) => from = target,
                    Step::End => return (visited, None),
                }
            }
            return (visited, None);
        }
    }
}

/// What a topic says about the topics behind it.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// It matches.
    Match,
    /// It does not, the next one may.
    Next,
    /// None before this one does.
    Seek(String),
    /// None behind it does.
    End,
}

/// The character behind the level separator: what starts with `a` and this is behind all that
/// starts with `a/`.
const BEHIND_SEPARATOR: char = '0';
const _: () = assert!(BEHIND_SEPARATOR as u32 == '/' as u32 + 1, "names are ordered by bytes");

impl Step {
    /// Compares a wildcard filter with a topic level by level. Names are ordered by bytes, so the
    /// topics below a level are in one piece, but not right behind it: `a!` is between `a` and
    /// `a/b`.
    fn at(filter: &str, topic: &str) -> Self {
        if is_reserved(topic.as_bytes()) && starts_with_wildcard(filter.as_bytes()) {
            return Self::Seek("%".to_owned());
        }
        let mut rest = Some(topic);
        // What of the topic stands before `rest`, and before the level after the last `+`.
        let (mut matched, mut last_plus) = (0, None);
        let mut after_plus = false;
        let mut filter_levels = filter.split('/').peekable();
        while let Some(level) = filter_levels.next() {
            if level == "#" {
                return Self::Match;
            }
            let Some(here) = rest else {
                // A longer value of a `+` level may stand between the topic and those below it.
                return if after_plus { Self::Next } else { Self::Seek(format!("{topic}/")) };
            };
            let (topic_level, tail) =
                here.split_once('/').map_or((here, None), |(level, tail)| (level, Some(tail)));
            after_plus = level == "+";
            if after_plus {
                last_plus = topic.get(..matched + topic_level.len());
            } else if level != topic_level {
                let prefix = topic.get(..matched).unwrap_or_default();
                if here < level {
                    return Self::Seek(format!("{prefix}{level}"));
                }
                let is_last = filter_levels.peek().is_none();
                let before_separator = here
                    .strip_prefix(level)
                    .and_then(|behind| behind.bytes().next())
                    .is_some_and(|byte| byte < b'/');
                if before_separator && !is_last {
                    return Self::Seek(format!("{prefix}{level}/"));
                }
                return Self::behind(last_plus);
            }
            matched += topic_level.len() + 1;
            rest = tail;
        }
        if rest.is_none() { Self::Match } else { Self::behind(last_plus) }
    }

    /// Nothing more matches below the last level that stands for a `+`: on to its next value.
    fn behind(last_plus: Option<&str>) -> Self {
        last_plus.map_or(Self::End, |level| Self::Seek(format!("{level}{BEHIND_SEPARATOR}")))
    }
}

/// A name before which no topic matches a wildcard filter: what stands before the first wildcard.
fn first_candidate(filter: &str) -> &str {
    let wildcard = filter.find(['+', '#']).unwrap_or(filter.len());
    let literal = filter.get(..wildcard).unwrap_or_default();
    // `a/#` matches `a` too.
    if filter.get(wildcard..) == Some("#") {
        literal.strip_suffix('/').unwrap_or(literal)
    } else {
        literal
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

    use proptest::collection::{btree_set, vec};
    use proptest::prelude::*;

    use super::*;
    use crate::topics::testing::{any_filter, any_topic, naive_matches};

    fn retained<'a>(topics: impl IntoIterator<Item = &'a str>) -> Retained<String> {
        let mut retained = Retained::new(usize::MAX, u64::MAX);
        for topic in topics {
            retained.set(topic, topic.to_owned(), 1).unwrap();
        }
        retained
    }

    /// All results in pieces, and how many pieces it took.
    fn scan_all(
        retained: &Retained<String>,
        filter: &str,
        max_results: usize,
        max_visited: usize,
    ) -> (Vec<String>, usize) {
        let (mut found, mut pieces) = (Vec::new(), 0);
        let mut cursor: Option<Box<str>> = None;
        loop {
            let mut out = Vec::new();
            let visited;
            (visited, cursor) =
                retained.scan(filter, cursor.as_deref(), max_results, max_visited, &mut out);
            assert!(visited <= max_visited.max(1));
            assert!(out.len() <= max_results.max(1));
            assert!(out.iter().all(|(topic, value)| topic == value));
            found.extend(out.into_iter().map(|(topic, _)| topic.to_owned()));
            pieces += 1;
            if cursor.is_none() {
                return (found, pieces);
            }
        }
    }

    #[test]
    fn a_plain_topic_is_one_look_up() {
        let retained = retained(["a", "a/b", "a/b/c"]);
        assert_eq!(scan_all(&retained, "a/b", 0, 0), (vec!["a/b".to_owned()], 1));
        assert_eq!(scan_all(&retained, "a/c", 0, 0), (vec![], 1));
    }

    #[test]
    fn topics_that_cannot_match_are_leapt_over() {
        let mut topics = vec!["dev".to_owned(), "dev/5/cmd".to_owned(), "dev!/5".to_owned()];
        for noise in 0..10_000 {
            topics.push(format!("a/{noise}"));
            topics.push(format!("dev/5/log/{noise}"));
            topics.push(format!("dev!/{noise}/x"));
            topics.push(format!("dev0/{noise}"));
            topics.push(format!("$SYS/{noise}"));
            topics.push(format!("z/{noise}"));
        }
        topics.push("zz/state".to_owned());
        let retained = retained(topics.iter().map(String::as_str));
        let one_piece = |filter: &str, expected: &[&str]| {
            let (found, pieces) = scan_all(&retained, filter, 100, 16);
            assert_eq!((found.as_slice(), pieces), (&expected.map_to_owned()[..], 1), "{filter}");
        };
        one_piece("dev/+/cmd", &["dev/5/cmd"]);
        one_piece("dev/+/cmd/#", &["dev/5/cmd"]);
        one_piece("+/state", &["zz/state"]);
        one_piece("dev/6/#", &[]);
        one_piece("+", &["dev"]);
    }

    trait MapToOwned {
        fn map_to_owned(&self) -> Vec<String>;
    }

    impl MapToOwned for [&str] {
        fn map_to_owned(&self) -> Vec<String> {
            self.iter().map(|&text| text.to_owned()).collect()
        }
    }

    #[test]
    fn the_next_piece_starts_where_the_last_one_ended() {
        let topics: Vec<String> = (100..200).map(|number| format!("a/{number}")).collect();
        let mut retained = retained(topics.iter().map(String::as_str));
        let mut out = Vec::new();
        let (visited, cursor) = retained.scan("a/#", None, 40, 1_000, &mut out);
        assert_eq!(visited, 41, "the one to go on with was looked at");
        assert_eq!((out.len(), cursor.as_deref()), (40, Some("a/140")));
        retained.remove("a/140");
        retained.set("a/000", String::new(), 1).unwrap();
        let mut out = Vec::new();
        assert_eq!(retained.scan("a/#", cursor.as_deref(), 100, 1_000, &mut out), (59, None));
        let rest: Vec<&str> = out.iter().map(|(topic, _)| *topic).collect();
        assert_eq!(rest, topics[41..]);
    }

    #[test]
    fn limits_hold_and_replacing_does_not_count_twice() {
        let mut retained = Retained::new(2, 100);
        assert_eq!(retained.set("a", 1, 40), Ok(None));
        assert_eq!(retained.set("b", 2, 61), Err(RetainedFull::Bytes));
        assert_eq!(retained.set("b", 2, 60), Ok(None));
        assert_eq!(retained.set("c", 3, 0), Err(RetainedFull::Count));
        assert_eq!(retained.set("a", 4, 41), Err(RetainedFull::Bytes));
        assert_eq!(retained.get("a"), Some(&1));
        assert_eq!(retained.set("a", 5, 40), Ok(Some(1)));
        assert_eq!((retained.len(), retained.bytes()), (2, 100));
        assert_eq!(retained.remove("b"), Some(2));
        assert_eq!(retained.remove("b"), None);
        assert_eq!((retained.len(), retained.bytes()), (1, 40));
        assert_eq!(retained.set("c", 3, 60), Ok(None));
    }

    proptest! {
        #[test]
        fn a_scan_in_pieces_finds_what_matches_in_order(
            topics in btree_set(any_topic(), 0..60), filter in any_filter(),
            max_results in 0..6usize, max_visited in 0..6usize,
        ) {
            let retained = retained(topics.iter().map(String::as_str));
            let expected: Vec<String> =
                topics.iter().filter(|topic| naive_matches(&filter, topic)).cloned().collect();
            let (found, _) = scan_all(&retained, &filter, max_results, max_visited);
            prop_assert_eq!(found, expected);
        }

        #[test]
        fn a_step_goes_forward_and_over_no_match(
            filter in any_filter(), topics in vec(any_topic(), 2),
        ) {
            prop_assume!(filter.contains(['+', '#']));
            let (topic, other) = (topics[0].as_str(), topics[1].as_str());
            prop_assume!(topic >= first_candidate(&filter));
            let leapt_over = match Step::at(&filter, topic) {
                Step::Match => {
                    prop_assert!(naive_matches(&filter, topic));
                    false
                }
                Step::Next => false,
                Step::End => other >= topic,
                Step::Seek(target) => {
                    prop_assert!(*target > *topic);
                    other >= topic && *other < *target
                }
            };
            prop_assert!(!(leapt_over && naive_matches(&filter, other)));
        }

        #[test]
        fn bytes_and_count_follow_a_model(
            steps in vec((any_topic(), any::<bool>(), 0..40u32), 0..100),
        ) {
            let mut retained = Retained::new(8, 150);
            let mut model = BTreeMap::new();
            for (topic, set, bytes) in steps {
                if set {
                    let _ = retained.set(&topic, bytes, bytes).map(|old| {
                        assert_eq!(old, model.insert(topic, bytes));
                    });
                } else {
                    prop_assert_eq!(retained.remove(&topic), model.remove(&topic));
                }
                prop_assert!(retained.len() <= 8 && retained.bytes() <= 150);
                prop_assert_eq!(retained.len(), model.len());
                prop_assert_eq!(retained.bytes(), model.values().copied().map(u64::from).sum::<u64>());
            }
        }
    }
}
