//! The wire format of MQTT 3.1, 3.1.1 and 5.0.
//!
//! Pure: bytes in, packets out, and back. Here is no socket, no clock, no session and no state
//! between two packets. What a packet means, and whether it may come now, is for `session` to say.
//!
//! * [`frame`] finds the next packet in a buffer.
//! * [`Packet::decode`] reads it. Packets borrow from the buffer; decoding allocates nothing, and
//!   what was decoded has been checked in full, lists and user properties included.
//! * [`Packet::encode`], [`PublishHead::encode`] and [`encode_ack`] append to a `Vec<u8>`. What
//!   they write, decodes.
//! * [`DecodeError`] says what was wrong, and [`DecodeError::reason_code`] is the one place that
//!   says which Reason Code the other side is told.
//!
//! There is one type per packet, and the [`Version`] is a parameter. What a version does not know
//! (properties and most Reason Codes before 5.0) is left out when encoding.
//!
//! Clauses are cited by the numbers of MQTT 5.0 (`[MQTT-3.3.1-2]`), and as `[MQTT311-3.1.2-22]`
//! where only 3.1.1 has them. MQTT 3.1 has no numbered clauses.

mod ack;
mod auth;
mod connack;
mod connect;
mod disconnect;
mod error;
mod frame;
mod packet;
mod primitive;
mod property;
mod publish;
mod reason;
mod subscribe;
mod unsubscribe;
mod value;

#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod testing;
#[cfg(test)]
mod tests;

pub use ack::{Ack, AckKind, encode_ack};
pub use auth::Auth;
pub use connack::{Connack, ConnackProperties};
pub use connect::{Connect, ConnectProperties, Will, WillProperties};
pub use disconnect::Disconnect;
pub use error::{DecodeError, DecodeErrorKind, EncodeError};
pub use frame::{Frame, FrameStatus, frame};
pub use packet::{Packet, PacketType};
pub use property::{SubscriptionIds, SubscriptionIdsIter, UserProperties, UserPropertiesIter};
pub use publish::{Publish, PublishHead, PublishProperties};
pub use reason::{ReasonCode, ReasonCodes, ReasonCodesIter};
pub use subscribe::{
    RetainHandling, Suback, Subscribe, SubscribeFilters, SubscribeFiltersIter, SubscriptionOptions,
};
pub use unsubscribe::{Unsuback, Unsubscribe, UnsubscribeFilters, UnsubscribeFiltersIter};
pub use value::{PacketId, QoS, Version};

/// The largest value of a Variable Byte Integer, and so the largest Remaining Length, in bytes
/// (MQTT 5.0, 1.5.5).
pub const MAX_REMAINING_LENGTH: u32 = 268_435_455;
