//! Topic names and topic filters: what is allowed, and which filter matches which name.

use thiserror::Error;

use super::bytes::{equal, words};

/// The longest topic name or topic filter in bytes of UTF-8 [MQTT-4.7.3-3].
pub const MAX_TOPIC_BYTES: usize = 65_535;

const SHARED_PREFIX: &str = "$share/";

/// Why a topic name or topic filter is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum TopicError {
    /// It has no character [MQTT-4.7.3-1].
    #[error("is empty")]
    Empty,
    /// It has more than [`MAX_TOPIC_BYTES`] bytes [MQTT-4.7.3-3].
    #[error("is longer than 65,535 bytes")]
    TooLong,
    /// It contains U+0000 [MQTT-4.7.3-2].
    #[error("contains U+0000")]
    NullCharacter,
    /// It has more levels than this server allows.
    #[error("has more than {max} levels")]
    TooManyLevels {
        /// The most levels allowed.
        max: usize,
    },
    /// A topic name contains `+` or `#` [MQTT-3.3.2-2].
    #[error("is a topic name with a wildcard character")]
    WildcardInName,
    /// `+` or `#` does not occupy a whole level [MQTT-4.7.1-1], [MQTT-4.7.1-2].
    #[error("has a wildcard that does not occupy a whole level")]
    PartialWildcard,
    /// `#` is not the last level [MQTT-4.7.1-1].
    #[error("has a multi-level wildcard that is not its last level")]
    MultiLevelNotLast,
    /// The share name of a shared subscription is empty [MQTT-4.8.2-1].
    #[error("is a shared subscription without a share name")]
    EmptyShareName,
    /// The share name contains `+` or `#` [MQTT-4.8.2-2].
    #[error("has a wildcard in its share name")]
    WildcardInShareName,
    /// Nothing follows the share name [MQTT-4.8.2-2].
    #[error("is a shared subscription without a topic filter")]
    NoSharedFilter,
    /// A shared subscription needs a wildcard shape for which there is no room.
    #[error("needs one more wildcard shape than this server allows in shared subscriptions")]
    TooManyShapes,
    /// The same topic filter has the most share names allowed.
    #[error("has more share names than this server allows for one topic filter")]
    TooManyGroups,
}

/// Checks a topic name: not empty, not too long, no U+0000, no wildcard, at most `max_levels`
/// levels.
///
/// # Errors
///
/// The first rule that it breaks.
#[inline]
pub fn validate_topic_name(name: &str, max_levels: usize) -> Result<(), TopicError> {
    let bytes = name.as_bytes();
    check_length(bytes)?;
    let (mut slashes, mut forbidden) = (0, 0);
    for word in words(bytes) {
        slashes += equal(word, b'/').count_ones() as usize;
        // `+` and `#` differ in one bit.
        forbidden |= equal(word | u64::from_ne_bytes([b'+' ^ b'#'; 8]), b'+') | equal(word, 0);
    }
    if forbidden != 0 {
        return Err(if bytes.contains(&0) {
            TopicError::NullCharacter
        } else {
            TopicError::WildcardInName
        });
    }
    if slashes >= max_levels {
        return Err(TopicError::TooManyLevels { max: max_levels });
    }
    Ok(())
}

/// Checks a topic filter: not empty, not too long, no U+0000, `+` only as a whole level, `#` only
/// as the whole last level, at most `max_levels` levels.
///
/// A shared subscription is to be taken apart first, with [`parse_shared`].
///
/// # Errors
///
/// The first rule that it breaks.
pub fn validate_topic_filter(filter: &str, max_levels: usize) -> Result<(), TopicError> {
    let bytes = filter.as_bytes();
    check_length(bytes)?;
    if bytes.contains(&0) {
        return Err(TopicError::NullCharacter);
    }
    let mut multi_level = false;
    for (count, level) in bytes.split(|&byte| byte == b'/').enumerate() {
        if count >= max_levels {
            return Err(TopicError::TooManyLevels { max: max_levels });
        }
        if multi_level {
            return Err(TopicError::MultiLevelNotLast);
        }
        if level.len() > 1 && has_wildcard(level) {
            return Err(TopicError::PartialWildcard);
        }
        multi_level = level == b"#";
    }
    Ok(())
}

/// Takes the topic filter of a shared subscription apart: `$share/{ShareName}/{filter}` gives
/// share name and filter, anything that does not start with `$share/` gives `None`.
///
/// The filter is not checked any further: see [`validate_topic_filter`].
///
/// # Errors
///
/// The share name is empty or contains a wildcard, or no filter follows [MQTT-4.8.2-1],
/// [MQTT-4.8.2-2].
pub fn parse_shared(filter: &str) -> Result<Option<(&str, &str)>, TopicError> {
    let Some(rest) = filter.strip_prefix(SHARED_PREFIX) else {
        return Ok(None);
    };
    let (share, filter) = rest.split_once('/').unwrap_or((rest, ""));
    if share.is_empty() {
        return Err(TopicError::EmptyShareName);
    }
    if has_wildcard(share.as_bytes()) {
        return Err(TopicError::WildcardInShareName);
    }
    if filter.is_empty() {
        return Err(TopicError::NoSharedFilter);
    }
    Ok(Some((share, filter)))
}

/// Whether a valid topic filter matches a valid topic name.
///
/// A filter that starts with a wildcard does not match a name that starts with `$`
/// [MQTT-4.7.2-1]; `a/#` also matches `a`.
#[must_use]
pub fn matches(filter: &str, topic: &str) -> bool {
    matches_bytes(filter.as_bytes(), topic.as_bytes())
}

/// [`matches`] for bytes that are known to be UTF-8.
pub(super) fn matches_bytes(filter: &[u8], topic: &[u8]) -> bool {
    if is_reserved(topic) && starts_with_wildcard(filter) {
        return false;
    }
    let mut topic_levels = topic.split(|&byte| byte == b'/');
    for level in filter.split(|&byte| byte == b'/') {
        if level == b"#" {
            return true;
        }
        match topic_levels.next() {
            Some(topic_level) if level == b"+" || level == topic_level => {}
            _ => return false,
        }
    }
    topic_levels.next().is_none()
}

/// Whether the server keeps the name for its own purposes: it starts with `$`.
pub(super) fn is_reserved(topic: &[u8]) -> bool {
    topic.first() == Some(&b'$')
}

/// Whether the filter's first level is a wildcard.
pub(super) fn starts_with_wildcard(filter: &[u8]) -> bool {
    matches!(filter.first(), Some(b'+' | b'#'))
}

/// Whether there is a wildcard character anywhere.
pub(super) fn has_wildcard(bytes: &[u8]) -> bool {
    bytes.iter().any(|&byte| byte == b'+' || byte == b'#')
}

fn check_length(bytes: &[u8]) -> Result<(), TopicError> {
    match bytes.len() {
        0 => Err(TopicError::Empty),
        1..=MAX_TOPIC_BYTES => Ok(()),
        _ => Err(TopicError::TooLong),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

    use proptest::prelude::*;

    use super::*;
    use crate::topics::testing::{any_filter, any_topic, naive_matches};

    #[test]
    fn topic_names_are_checked() {
        let longest = "x".repeat(MAX_TOPIC_BYTES);
        let many_levels = "/".repeat(300);
        let late_wildcard = format!("{}+", "x".repeat(400));
        for (name, expected) in [
            ("a", Ok(())),
            ("/", Ok(())),
            ("a//b/", Ok(())),
            ("$SYS/broker", Ok(())),
            ("sport tennis/Ä", Ok(())),
            (&longest, Ok(())),
            ("", Err(TopicError::Empty)),
            ("a/+/b", Err(TopicError::WildcardInName)),
            ("a/#", Err(TopicError::WildcardInName)),
            ("a+", Err(TopicError::WildcardInName)),
            (&late_wildcard, Err(TopicError::WildcardInName)),
            ("a\0", Err(TopicError::NullCharacter)),
            (&(longest.clone() + "x"), Err(TopicError::TooLong)),
            (&many_levels, Err(TopicError::TooManyLevels { max: 256 })),
        ] {
            assert_eq!(validate_topic_name(name, 256), expected, "{name:.20}");
        }
        assert_eq!(validate_topic_name("a/b/c", 3), Ok(()));
        assert_eq!(validate_topic_name("a/b/c", 2), Err(TopicError::TooManyLevels { max: 2 }));
    }

    #[test]
    fn topic_filters_are_checked() {
        for (filter, expected) in [
            ("a", Ok(())),
            ("#", Ok(())),
            ("+", Ok(())),
            ("+/+/#", Ok(())),
            ("/+", Ok(())),
            ("a/+/b/#", Ok(())),
            ("$SYS/#", Ok(())),
            ("", Err(TopicError::Empty)),
            ("a#", Err(TopicError::PartialWildcard)),
            ("a/b#", Err(TopicError::PartialWildcard)),
            ("a+/b", Err(TopicError::PartialWildcard)),
            ("++", Err(TopicError::PartialWildcard)),
            ("#/a", Err(TopicError::MultiLevelNotLast)),
            ("a/#/", Err(TopicError::MultiLevelNotLast)),
            ("a/\0", Err(TopicError::NullCharacter)),
            ("a/b/c/d/#", Err(TopicError::TooManyLevels { max: 4 })),
        ] {
            assert_eq!(validate_topic_filter(filter, 4), expected, "{filter}");
        }
        let too_long = "x".repeat(MAX_TOPIC_BYTES + 1);
        assert_eq!(validate_topic_filter(&too_long, 4), Err(TopicError::TooLong));
    }

    #[test]
    fn shared_subscriptions_are_taken_apart() {
        for (filter, expected) in [
            ("a/b", Ok(None)),
            ("$share", Ok(None)),
            ("$shared/g/a", Ok(None)),
            ("$share/g/a/#", Ok(Some(("g", "a/#")))),
            ("$share/g//", Ok(Some(("g", "/")))),
            ("$share/g/$SYS/+", Ok(Some(("g", "$SYS/+")))),
            ("$share/", Err(TopicError::EmptyShareName)),
            ("$share//a", Err(TopicError::EmptyShareName)),
            ("$share/g", Err(TopicError::NoSharedFilter)),
            ("$share/g/", Err(TopicError::NoSharedFilter)),
            ("$share/g+/a", Err(TopicError::WildcardInShareName)),
            ("$share/#/a", Err(TopicError::WildcardInShareName)),
            ("$share/#", Err(TopicError::WildcardInShareName)),
        ] {
            assert_eq!(parse_shared(filter), expected, "{filter}");
        }
    }

    #[test]
    fn examples_of_the_specification_match() {
        for (filter, topic, expected) in [
            ("sport/tennis/player1/#", "sport/tennis/player1", true),
            ("sport/tennis/player1/#", "sport/tennis/player1/ranking", true),
            ("sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon", true),
            ("sport/#", "sport", true),
            ("sport/tennis/+", "sport/tennis/player1", true),
            ("sport/tennis/+", "sport/tennis/player1/ranking", false),
            ("sport/+", "sport", false),
            ("sport/+", "sport/", true),
            ("+/+", "/finance", true),
            ("/+", "/finance", true),
            ("+", "/finance", false),
            ("#", "$SYS/monitor/Clients", false),
            ("+/monitor/Clients", "$SYS/monitor/Clients", false),
            ("$SYS/#", "$SYS/monitor/Clients", true),
            ("$SYS/monitor/+", "$SYS/monitor/Clients", true),
            ("ACCOUNTS", "Accounts", false),
        ] {
            assert_eq!(matches(filter, topic), expected, "{filter} {topic}");
        }
    }

    proptest! {
        #[test]
        fn matching_agrees_with_the_naive_one(filter in any_filter(), topic in any_topic()) {
            prop_assert_eq!(matches(&filter, &topic), naive_matches(&filter, &topic));
        }

        #[test]
        fn what_is_generated_is_valid(filter in any_filter(), topic in any_topic()) {
            prop_assert_eq!(validate_topic_filter(&filter, 8), Ok(()));
            prop_assert_eq!(validate_topic_name(&topic, 8), Ok(()));
        }

        #[test]
        fn names_are_accepted_by_the_letter(name in "[a+#/\0ä]{0,300}", max_levels in 1..300usize) {
            let valid = !name.is_empty()
                && !name.contains(['+', '#', '\0'])
                && name.split('/').count() <= max_levels;
            prop_assert_eq!(validate_topic_name(&name, max_levels).is_ok(), valid);
        }
    }
}
