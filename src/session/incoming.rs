//! The QoS 2 messages from a client whose PUBREL is still to come. MQTT 5.0 section 4.3.3.

use crate::codec::PacketId;

/// The packet ids of QoS 2 messages that were received and not yet released.
///
/// The message itself has been passed on by then ("Method A" of the specification); the id is
/// remembered so that a PUBLISH that comes again is not delivered again. `[MQTT-4.3.3-10]`
#[derive(Debug, Default)]
pub struct Incoming {
    /// Sorted by packet id.
    unreleased: Vec<Unreleased>,
    /// How many of them came on the present connection.
    counted: usize,
}

#[derive(Debug)]
struct Unreleased {
    packet_id: PacketId,
    /// Whether it came on the present connection, and so uses up the client's send quota.
    counted: bool,
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
    /// A QoS 2 PUBLISH came in; at most `maximum` that came on one connection may be unreleased:
    /// the quota starts anew with each (MQTT 5.0 section 4.9). There are never more than twice as
    /// many altogether.
    pub fn publish(&mut self, packet_id: PacketId, maximum: usize) -> Received {
        match self.position(packet_id) {
            Ok(_) => Received::Duplicate,
            Err(_) if self.counted >= maximum => Received::TooMany,
            Err(_) if self.unreleased.len() >= maximum.saturating_mul(2) => Received::TooMany,
            Err(at) => {
                self.unreleased.insert(at, Unreleased { packet_id, counted: true });
                self.counted += 1;
                Received::New
            }
        }
    }

    /// A store has kept that the message of this packet id is unreleased.
    pub fn restore(&mut self, packet_id: PacketId) {
        if let Err(at) = self.position(packet_id) {
            self.unreleased.insert(at, Unreleased { packet_id, counted: false });
        }
    }

    /// A PUBREL came in, or the PUBLISH was refused: the id is free again. False if it was not in
    /// use.
    pub fn release(&mut self, packet_id: PacketId) -> bool {
        let Ok(at) = self.position(packet_id) else { return false };
        self.counted -= usize::from(self.unreleased.remove(at).counted);
        true
    }

    /// Whether the message of this packet id was received and not released.
    pub fn is_unreleased(&self, packet_id: PacketId) -> bool {
        self.position(packet_id).is_ok()
    }

    /// The connection is gone: what is unreleased counts no more against the next one.
    pub fn connection_lost(&mut self) {
        self.unreleased.iter_mut().for_each(|entry| entry.counted = false);
        self.counted = 0;
    }

    fn position(&self, packet_id: PacketId) -> Result<usize, usize> {
        self.unreleased.binary_search_by_key(&packet_id, |entry| entry.packet_id)
    }

    /// Whether nothing is unreleased: the state can be freed.
    pub fn is_empty(&self) -> bool {
        self.unreleased.is_empty()
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

    #[test]
    fn the_quota_starts_anew_with_each_connection() {
        let mut incoming = Incoming::default();
        assert_eq!(incoming.publish(id(1), 2), Received::New);
        assert_eq!(incoming.publish(id(2), 2), Received::New);
        incoming.connection_lost();
        assert_eq!(incoming.publish(id(1), 2), Received::Duplicate);
        assert_eq!(incoming.publish(id(3), 2), Received::New);
        assert!(incoming.release(id(1)));
        assert_eq!(incoming.publish(id(4), 2), Received::New);
        assert_eq!(incoming.publish(id(5), 2), Received::TooMany);
        assert!(incoming.release(id(3)));
        assert_eq!(incoming.publish(id(5), 2), Received::New);
        incoming.connection_lost();
        assert_eq!(incoming.publish(id(6), 2), Received::New);
        assert_eq!(incoming.publish(id(7), 2), Received::TooMany, "four altogether");
    }
}
