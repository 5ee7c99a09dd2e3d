//! Reason Strings: what a person who reads a client's log would like to know beside the code.

use crate::codec::{PacketType, ReasonCode};

/// What to say with a refusal, where the code and the packet alone do not tell.
pub(super) fn explanation(packet: PacketType, reason: ReasonCode) -> Option<&'static str> {
    use ReasonCode as R;
    Some(match (packet, reason) {
        (PacketType::Connack, R::ClientIdentifierNotValid) => "a client identifier is required",
        (PacketType::Connack, R::QuotaExceeded) => "no room for one more client or session",
        (PacketType::Connack, R::TopicNameInvalid) => "the will topic is not a valid topic name",
        (PacketType::Connack, R::BadAuthenticationMethod) => "unknown authentication method",
        (PacketType::Suback | PacketType::Unsuback, R::TopicFilterInvalid) => {
            "a topic filter is not valid, or has a wildcard and too many levels"
        }
        (PacketType::Suback, R::QuotaExceeded) => "a limit on subscriptions is reached",
        (PacketType::Puback | PacketType::Pubrec, R::NotAuthorized) => {
            "topics below $SYS/ are the server's own"
        }
        (_, R::QoSNotSupported) => "QoS above the server's maximum",
        (_, R::RetainNotSupported) => "retained messages are not available",
        (_, R::PayloadFormatInvalid) => "the payload is not the UTF-8 that it is said to be",
        (_, R::ServerShuttingDown) => "the server is stopping",
        (PacketType::Connack, R::ServerUnavailable) => {
            "the server's store has failed: no session can be kept"
        }
        (PacketType::Puback | PacketType::Pubrec, R::ImplementationSpecificError) => {
            "the server's store has failed: the message is not kept for all who are owed it"
        }
        (PacketType::Disconnect, R::ImplementationSpecificError) => "the server's store has failed",
        (PacketType::Disconnect, R::SessionTakenOver) => {
            "another connection uses this client identifier"
        }
        (PacketType::Disconnect, R::KeepAliveTimeout) => {
            "nothing came for one and a half times the keep alive"
        }
        (PacketType::Disconnect, R::ReceiveMaximumExceeded) => {
            "more unacknowledged messages than the server's Receive Maximum"
        }
        (PacketType::Disconnect, R::TopicNameInvalid) => "not a valid topic name",
        (PacketType::Disconnect, R::TopicAliasInvalid) => {
            "topic alias above the server's Topic Alias Maximum"
        }
        (PacketType::Disconnect, R::ProtocolError) => "a packet that is not allowed at this point",
        _ => return None,
    })
}
