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
    /// How many PUBCOMPs were sent on it for what did not come on it. The client may count each of
    /// them as one more that it may send: MQTT 5.0 section 4.9 has it do so.
    given_back: usize,
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
            Err(_) if self.is_used_up(maximum) => Received::TooMany,
            Err(_) if self.unreleased.len() >= maximum.saturating_mul(2) => Received::TooMany,
            Err(at) => {
                self.unreleased.insert(at, Unreleased { packet_id, counted: true });
                self.counted += 1;
                Received::New
            }
        }
    }

    /// A QoS 2 PUBLISH came in that is a [`Received::Duplicate`]: if it has not come on the present
    /// connection before, it uses up the quota of that as others do. False if there is none left.
    pub fn came_again(&mut self, packet_id: PacketId, maximum: usize) -> bool {
        let is_used_up = self.is_used_up(maximum);
        let at = self.position(packet_id);
        let Some(entry) = at.ok().and_then(|at| self.unreleased.get_mut(at)) else { return true };
        if entry.counted {
            return true;
        }
        entry.counted = !is_used_up;
        self.counted += usize::from(!is_used_up);
        !is_used_up
    }

    /// Whether the client has sent all that it may send before it gets an answer.
    fn is_used_up(&self, maximum: usize) -> bool {
        self.counted >= maximum.saturating_add(self.given_back)
    }

    /// A store has kept that the message of this packet id is unreleased.
    pub fn restore(&mut self, packet_id: PacketId) {
        if let Err(at) = self.position(packet_id) {
            self.unreleased.insert(at, Unreleased { packet_id, counted: false });
        }
    }

    /// A PUBREL came in, or the PUBLISH was refused: the id is free again. False if it was not in
    /// use. Either is answered.
    pub fn release(&mut self, packet_id: PacketId) -> bool {
        let released = self.position(packet_id).map(|at| self.unreleased.remove(at));
        match released.as_ref().is_ok_and(|entry| entry.counted) {
            true => self.counted -= 1,
            false => self.given_back += 1,
        }
        released.is_ok()
    }

    /// Whether the message of this packet id was received and not released.
    pub fn is_unreleased(&self, packet_id: PacketId) -> bool {
        self.position(packet_id).is_ok()
    }

    /// The connection is gone: what is unreleased counts no more against the next one.
    pub fn connection_lost(&mut self) {
        self.unreleased.iter_mut().for_each(|entry| entry.counted = false);
        (self.counted, self.given_back) = (0, 0);
    }

    fn position(&self, packet_id: PacketId) -> Result<usize, usize> {
        self.unreleased.binary_search_by_key(&packet_id, |entry| entry.packet_id)
    }

    /// Whether there is nothing to remember: the state can be freed.
    pub fn is_empty(&self) -> bool {
        self.unreleased.is_empty() && self.given_back == 0
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
        assert_eq!(incoming.publish(id(5), 2), Received::New, "the client was given one back");
        assert_eq!(incoming.publish(id(6), 2), Received::TooMany);
        assert!(incoming.release(id(3)));
        incoming.connection_lost();
        assert_eq!(incoming.publish(id(6), 2), Received::New);
        assert_eq!(incoming.publish(id(7), 2), Received::TooMany, "four altogether");
    }

    #[test]
    fn what_comes_again_on_another_connection_uses_up_its_quota() {
        let mut incoming = Incoming::default();
        (1..=3).for_each(|n| incoming.restore(id(n)));
        assert!(incoming.came_again(id(1), 2) && incoming.came_again(id(1), 2));
        assert!(incoming.came_again(id(3), 2));
        assert!(!incoming.came_again(id(2), 2));
        assert_eq!(incoming.publish(id(4), 2), Received::TooMany);
        assert!(incoming.release(id(1)));
        assert!(incoming.came_again(id(2), 2));
        assert_eq!(incoming.publish(id(4), 2), Received::TooMany);
    }

    #[test]
    fn what_was_given_back_is_remembered_as_long_as_the_connection_lasts() {
        let mut incoming = Incoming::default();
        assert!(!incoming.release(id(1)));
        assert!(!incoming.is_empty());
        (1..=3).for_each(|n| assert_eq!(incoming.publish(id(n), 2), Received::New));
        assert_eq!(incoming.publish(id(4), 2), Received::TooMany);
        (1..=3).for_each(|n| assert!(incoming.release(id(n))));
        incoming.connection_lost();
        assert!(incoming.is_empty());
    }
}
