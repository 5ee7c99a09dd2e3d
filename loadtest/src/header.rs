//! What every measured payload begins with: who sent it, which it is, and when it was due.

/// The bytes of a header: the least that a payload may have.
pub const LEN: usize = 16;

/// Times are counted in nanoseconds of the machine's monotonic clock, of which a header holds the
/// low 48 bits: they come around after 78 hours.
const TIME_MASK: u64 = (1 << 48) - 1;

/// The header of a payload. On the wire it is little-endian: run (2 bytes), due time (6), stream
/// (4), sequence (4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Tells this run's messages from those of others.
    pub run: u16,
    /// When the message was due, in nanoseconds, the low 48 bits.
    pub due: u64,
    /// The stream of messages that it belongs to: one sender's to one topic.
    pub stream: u32,
    /// Its number in the stream, from 0.
    pub sequence: u32,
}

impl Header {
    /// Writes the header to the front of `payload`; nothing if that is too short.
    pub fn write(&self, payload: &mut [u8]) {
        if let Some((front, _)) = payload.split_first_chunk_mut::<LEN>() {
            let words = u128::from(self.run)
                | u128::from(self.due & TIME_MASK) << 16
                | u128::from(self.stream) << 64
                | u128::from(self.sequence) << 96;
            *front = words.to_le_bytes();
        }
    }

    /// Reads the header at the front of `payload`.
    pub fn read(payload: &[u8]) -> Option<Self> {
        let (front, _) = payload.split_first_chunk::<LEN>()?;
        let words = u128::from_le_bytes(*front);
        Some(Self {
            run: words as u16,
            due: (words >> 16) as u64 & TIME_MASK,
            stream: (words >> 64) as u32,
            sequence: (words >> 96) as u32,
        })
    }

    /// How long ago the message was due, in nanoseconds; 0 if its time is still to come, which
    /// happens when the sender's clock is another one.
    pub fn age(&self, now: u64) -> u64 {
        let age = now.wrapping_sub(self.due) & TIME_MASK;
        if age > TIME_MASK / 2 { 0 } else { age }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_header_comes_back_as_it_was_written() {
        let header = Header { run: 0xBEEF, due: 0x1234_5678_9ABC, stream: 7, sequence: u32::MAX };
        let mut payload = [0xAA; 20];
        header.write(&mut payload);
        assert_eq!(Header::read(&payload), Some(header));
        assert_eq!(payload.last(), Some(&0xAA));
        assert_eq!(Header::read(payload.get(..15).unwrap()), None);
    }

    #[test]
    fn age_survives_the_wrap_of_the_clock() {
        let header = Header { run: 0, due: TIME_MASK - 9, stream: 0, sequence: 0 };
        assert_eq!(header.age((1 << 48) + 5), 15);
        assert_eq!(header.age(TIME_MASK - 20), 0);
    }
}
