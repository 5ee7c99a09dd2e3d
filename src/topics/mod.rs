//! Topic names and topic filters: who wants a message.
//!
//! Nothing here knows a connection, a packet or a clock. A session is a [`SessionKey`], its
//! subscription options are a packed byte that is kept and given back unread.
//!
//! | question | answered by | held |
//! |---|---|---|
//! | is this name or filter allowed? | [`validate_topic_name`], [`validate_topic_filter`], [`parse_shared`] | |
//! | which filters of this shard match? | [`FilterIndex`] | once per shard |
//! | which shards have a filter that matches? | [`RouteTable`] | a clone per shard |
//! | which shared-subscription groups match, and whose turn is it? | [`GroupTable`], [`GroupRoute`] | a clone per shard |
//! | which member on this shard? | [`SharedGroups`] | once per shard |
//! | which retained messages does a new subscription get? | [`Retained`] | once per shard |
//!
//! # Matching by shape
//!
//! A filter's [`Shape`] says which of its levels are `+`, how many levels it has and whether it
//! ends in `#`. Fleets use millions of filters of very few shapes. For every shape in use, the
//! levels of a topic that the shape does not mask are hashed to a fingerprint, which is looked up
//! in one hash table: a match costs one look-up per shape, however many filters there are. Level
//! hashes are computed once per topic, and only when a wildcard shape is in use. Shapes are
//! capped, for a client can invent thousands; filters beyond the cap go to a level trie, whose cost
//! grows with them: the broker caps their number.

mod bytes;
mod group;
mod index;
mod name;
mod retained;
mod route;
mod segments;
mod shape;
mod shape_slots;
mod shard_set;
mod shared;
mod slots;
mod subscribers;
#[cfg(test)]
mod testing;
mod trie;

pub use group::{GroupRoute, GroupTable, MAX_GROUPS_PER_FILTER, Pick, Strategy};
pub use index::{FilterId, FilterIndex, Place, Subscribed, Unsubscribed};
pub use name::{
    MAX_TOPIC_BYTES, TopicError, matches, parse_shared, validate_topic_filter, validate_topic_name,
};
pub use retained::{Retained, RetainedFull};
pub use route::RouteTable;
pub use shape::{FilterKey, HashSeed, MAX_SHAPE_LEVELS, Shape};
pub use shard_set::{MAX_SHARDS, ShardId, ShardSet};
pub use shared::SharedGroups;
pub use subscribers::{SessionKey, Subscriber};
