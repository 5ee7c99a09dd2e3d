//! The QoS 2 messages from a client whose PUBREL is still to come. MQTT 5.0 section 4.3.3.

use crate::codec::PacketId;

/// The packet ids of QoS 2 messages that were received and not yet released.
///
/// The message itself has been passed on by then ("Method A" of the specification); the id is
/// remembered so that a PUBLISH that comes again is not delivered again. `[MQTT-4.3.3-10]`
#[derive(Debug, Default)]
pub struct Incoming {
    /// Sorted; at most the Receive Maximum, which is a cap of the broker.
    packet_ids: Vec<PacketId>,
}

/// What a QoS 2 PUBLISH is.
#[derive(Debug, PartialEq, Eq)]
pub enum Received {
    /// The first of its packet id: deliver it.
    New,
    /// It was received before: acknowledge it again, do not deliver it. `[MQTT-4.3.3-10]`
    Duplicate,
    /// More messages than the Receive Maximum are unreleased: the client violates it.
    /// `[MQTT-3.3.4-9]`
    TooMany,
}

impl Incoming {
    /// A QoS 2 PUBLISH came in; at most `maximum` may be unreleased.
    pub fn publish(&mut self, packet_id: PacketId, maximum: usize) -> Received {
        match self.packet_ids.binary_search(&packet_id) {
            Ok(_) => Received::Duplicate,
            Err(_) if self.packet_ids.len() >= maximum => Received::TooMany,
            Err(at) => {
                self.packet_ids.insert(at, packet_id);
                Received::New
            }
        }
    }

    /// A PUBREL came in, or the PUBLISH was refused: the id is free again. False if it was not in
    /// use.
    pub fn release(&mut self, packet_id: PacketId) -> bool {
        match self.packet_ids.binary_search(&packet_id) {
            Ok(at) => {
                self.packet_ids.remove(at);
                true
            }
            Err(_) => false,
        }
    }

    /// Whether nothing is unreleased: the state can be freed.
    pub fn is_empty(&self) -> bool {
        self.packet_ids.is_empty()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn id(value: u16) -> PacketId {
        PacketId::new(value).unwrap()
    }

    #[test]
    fn a_packet_id_is_new_once_until_it_is_released() {
        let mut incoming = Incoming::default();
        assert_eq!(incoming.publish(id(7), 2), Received::New);
        assert_eq!(incoming.publish(id(7), 2), Received::Duplicate);
        assert!(incoming.release(id(7)));
        assert!(!incoming.release(id(7)));
        assert!(incoming.is_empty());
        assert_eq!(incoming.publish(id(7), 2), Received::New);
    }

    #[test]
    fn more_than_the_receive_maximum_is_too_many() {
        let mut incoming = Incoming::default();
        assert_eq!(incoming.publish(id(9), 2), Received::New);
        assert_eq!(incoming.publish(id(1), 2), Received::New);
        assert_eq!(incoming.publish(id(5), 2), Received::TooMany);
        assert_eq!(incoming.publish(id(1), 2), Received::Duplicate, "a duplicate is not one more");
    }
}
