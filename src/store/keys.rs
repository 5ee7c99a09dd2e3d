//! The keys under which everything is kept. The first byte is the kind, numbers are big-endian, so
//! that what belongs to one session lies together and in order.
//!
//! Topics and filters may be longer than an engine takes for a key. Long ones are named by a hash
//! with the store's own secret in it, and lie in the value.

use std::hash::Hasher;
use std::ops::Range;

use siphasher::sip128::{Hasher128, SipHasher24};

use crate::record::{MessageNumber, Position, SessionNumber};

/// What is kept of the store itself: name → value.
pub(super) const META: u8 = b'm';
/// Session → its record.
pub(super) const SESSION: u8 = b's';
/// Session and filter → subscription.
pub(super) const SUBSCRIPTION: u8 = b'u';
/// Session and packet id → nothing.
pub(super) const RECEIVED: u8 = b'r';
/// Topic → retained message.
pub(super) const RETAINED: u8 = b't';
/// Session and position → delivery.
pub(super) const DELIVERY: u8 = b'd';
/// Session and position → how far the delivery has come since it was put.
pub(super) const STATE: u8 = b'a';
/// Message → body that more than one delivery refers to.
pub(super) const BODY: u8 = b'b';
/// Message → how many deliveries refer to it.
pub(super) const REFERENCES: u8 = b'c';

/// Whether entries of this kind come and go with messages; the others stay longer.
pub(super) fn is_queue(kind: u8) -> bool {
    matches!(kind, DELIVERY | STATE | BODY | REFERENCES)
}

/// A key of a kind that has one number.
pub(super) fn of_number(kind: u8, number: u64) -> Vec<u8> {
    let mut key = Vec::with_capacity(9);
    key.push(kind);
    key.extend_from_slice(&number.to_be_bytes());
    key
}

/// The key of a session's record.
pub(super) fn of_session(session: SessionNumber) -> Vec<u8> {
    of_number(SESSION, session)
}

/// The key of a delivery or its state.
pub(super) fn of_delivery(kind: u8, session: SessionNumber, position: Position) -> Vec<u8> {
    let mut key = Vec::with_capacity(17);
    key.push(kind);
    key.extend_from_slice(&session.to_be_bytes());
    key.extend_from_slice(&position.to_be_bytes());
    key
}

/// The key of a received packet id.
pub(super) fn of_received(session: SessionNumber, packet_id: u16) -> Vec<u8> {
    let mut key = of_number(RECEIVED, session);
    key.extend_from_slice(&packet_id.to_be_bytes());
    key
}

/// The key of a message's body or references.
pub(super) fn of_message(kind: u8, message: MessageNumber) -> Vec<u8> {
    of_number(kind, message)
}

/// The key of a part of the store's own.
pub(super) fn of_meta(name: &str) -> Vec<u8> {
    let mut key = vec![META];
    key.extend_from_slice(name.as_bytes());
    key
}

/// All keys of a kind.
pub(super) fn all(kind: u8) -> Range<Vec<u8>> {
    vec![kind]..vec![kind.saturating_add(1)]
}

/// All keys of a kind that belong to a session.
pub(super) fn all_of(kind: u8, session: SessionNumber) -> Range<Vec<u8>> {
    of_number(kind, session)..after(kind, session)
}

/// The keys of a session's deliveries, or their states, from a position on.
pub(super) fn from_position(kind: u8, session: SessionNumber, from: Position) -> Range<Vec<u8>> {
    of_delivery(kind, session, from)..after(kind, session)
}

fn after(kind: u8, session: SessionNumber) -> Vec<u8> {
    session
        .checked_add(1)
        .map_or_else(|| vec![kind.saturating_add(1)], |next| of_number(kind, next))
}

/// The session that a key of a kind with a session belongs to.
pub(super) fn session_of(key: &[u8]) -> Option<SessionNumber> {
    number_at(key, 1)
}

/// The position in the key of a delivery or its state.
pub(super) fn position_of(key: &[u8]) -> Option<Position> {
    (key.len() == 17).then(|| number_at(key, 9))?
}

/// The packet id in the key of a received one.
pub(super) fn packet_id_of(key: &[u8]) -> Option<u16> {
    Some(u16::from_be_bytes(key.get(9..)?.try_into().ok()?))
}

fn number_at(key: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_be_bytes(key.get(at..at.checked_add(8)?)?.try_into().ok()?))
}

/// The longest topic or filter that is its own key, in bytes.
const MAX_PLAIN: usize = 256;
const PLAIN: u8 = 0;
const HASHED: u8 = 1;

/// How topics and filters become keys: with a secret that nobody who chooses topics knows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Names {
    secret: [u64; 2],
}

/// What a key says of its topic or filter.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Name<'a> {
    /// This is it.
    Plain(&'a str),
    /// It lies in the value.
    InValue,
}

impl Names {
    pub(super) fn new(seed: [u64; 4]) -> Self {
        let [_, _, first, second] = seed;
        Self { secret: [first, second] }
    }

    /// The key of a retained message.
    pub(super) fn of_retained(&self, topic: &str) -> Vec<u8> {
        self.append(vec![RETAINED], topic)
    }

    /// The key of a subscription.
    pub(super) fn of_subscription(&self, session: SessionNumber, filter: &str) -> Vec<u8> {
        self.append(of_number(SUBSCRIPTION, session), filter)
    }

    fn append(&self, mut key: Vec<u8>, name: &str) -> Vec<u8> {
        if name.len() <= MAX_PLAIN {
            key.push(PLAIN);
            key.extend_from_slice(name.as_bytes());
        } else {
            let [first, second] = self.secret;
            let mut hasher = SipHasher24::new_with_keys(first, second);
            hasher.write(name.as_bytes());
            key.push(HASHED);
            key.extend_from_slice(&hasher.finish128().as_bytes());
        }
        key
    }
}

/// Whether a topic or filter has to lie in the value.
pub(super) fn is_in_value(name: &str) -> bool {
    name.len() > MAX_PLAIN
}

/// What the key of a retained message says of its topic, or `None` if it is no such key.
pub(super) fn topic_of(key: &[u8]) -> Option<Name<'_>> {
    name_at(key, 1)
}

/// What the key of a subscription says of its filter, or `None` if it is no such key.
pub(super) fn filter_of(key: &[u8]) -> Option<Name<'_>> {
    name_at(key, 9)
}

fn name_at(key: &[u8], at: usize) -> Option<Name<'_>> {
    match key.get(at..)?.split_first()? {
        (&PLAIN, name) => Some(Name::Plain(str::from_utf8(name).ok()?)),
        (&HASHED, hash) if hash.len() == 16 => Some(Name::InValue),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_belongs_to_a_session_lies_together_and_in_order() {
        let range = all_of(DELIVERY, 7);
        for (session, position, is_in) in
            [(6, u64::MAX, false), (7, 0, true), (7, u64::MAX, true), (8, 0, false)]
        {
            let key = of_delivery(DELIVERY, session, position);
            assert_eq!(range.contains(&key), is_in, "{session} {position}");
            assert_eq!((session_of(&key), position_of(&key)), (Some(session), Some(position)));
        }
        assert!(all_of(DELIVERY, u64::MAX).contains(&of_delivery(DELIVERY, u64::MAX, u64::MAX)));
        assert!(of_delivery(DELIVERY, 1, 255) < of_delivery(DELIVERY, 1, 256));
        assert_eq!(packet_id_of(&of_received(1, 0x1234)), Some(0x1234));
    }

    #[test]
    fn a_long_name_has_a_short_key_of_its_own() {
        let names = Names::new([1, 2, 3, 4]);
        let (long, other) = ("x".repeat(65_535), "x".repeat(65_534));
        let key = names.of_retained(&long);
        assert!(key.len() < 300);
        assert_ne!(key, names.of_retained(&other));
        assert_ne!(key, Names::new([1, 2, 3, 5]).of_retained(&long));
        assert_eq!(topic_of(&key), Some(Name::InValue));
        let plain = names.of_subscription(1, "a/+");
        assert_eq!(filter_of(&plain), Some(Name::Plain("a/+")));
        assert_eq!(session_of(&plain), Some(1));
    }

    /// What is on disk under a hash has to be found again by every later version.
    #[test]
    fn the_hash_of_a_name_stays_what_it_is() {
        let key = Names::new([0, 0, 1, 2]).of_retained(&"x".repeat(300));
        let hash: String = key[2..].iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hash, "b99c50c30c2eca36b99a306860f8be30");
    }
}
