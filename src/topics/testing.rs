//! What the tests of this module share: small random filters and topics, and a naive matcher.

use proptest::collection::vec;
use proptest::prelude::*;

use super::shape::HashSeed;

/// A seed like any other.
pub(super) fn seed() -> HashSeed {
    HashSeed::new([0x0123_4567, 0x89AB_CDEF, 42, 7])
}

/// Valid topic names over a small alphabet. `a!`, `a0` stand on both sides of `a/` in byte order.
pub(super) fn any_topic() -> impl Strategy<Value = String> + Clone {
    let level = prop::sample::select(vec!["", "a", "b", "$x", "a!", "a0"]);
    vec(level, 1..6).prop_map(|levels| levels.join("/")).prop_filter("empty", |it| !it.is_empty())
}

/// Valid topic filters over the same alphabet.
pub(super) fn any_filter() -> impl Strategy<Value = String> + Clone {
    let level = prop::sample::select(vec!["", "a", "b", "$x", "a!", "a0", "+", "+"]);
    (vec(level, 0..5), any::<bool>())
        .prop_map(|(mut levels, multi_level)| {
            if multi_level || levels.is_empty() {
                levels.push("#");
            }
            levels.join("/")
        })
        .prop_filter("empty", |it| !it.is_empty())
}

/// Section 4.7 of the specification, word for word.
pub(super) fn naive_matches(filter: &str, topic: &str) -> bool {
    fn levels(filter: &[&str], topic: &[&str]) -> bool {
        match (filter, topic) {
            (["#"], _) => true,
            ([], []) => true,
            (["+", filter @ ..], [_, topic @ ..]) => levels(filter, topic),
            ([a, filter @ ..], [b, topic @ ..]) => a == b && levels(filter, topic),
            _ => false,
        }
    }
    let reserved = topic.starts_with('$') && (filter.starts_with(['+', '#']));
    let (filter, topic): (Vec<_>, Vec<_>) =
        (filter.split('/').collect(), topic.split('/').collect());
    !reserved && levels(&filter, &topic)
}
