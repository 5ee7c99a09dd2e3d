//! The data types of MQTT (MQTT 5.0, 1.5): a reader over borrowed bytes, and writers into a `Vec`.

use super::{DecodeErrorKind, EncodeError, MAX_REMAINING_LENGTH, PacketId};

/// Takes fields off the front of a byte slice.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) const fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { rest: bytes }
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// Everything that is left.
    pub(super) fn take_rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }

    /// Fails when anything is left.
    pub(super) const fn finish(&self) -> Result<(), DecodeErrorKind> {
        if self.is_empty() { Ok(()) } else { Err(DecodeErrorKind::TrailingBytes) }
    }

    pub(super) fn bytes(&mut self, len: usize) -> Result<&'a [u8], DecodeErrorKind> {
        let (bytes, rest) =
            self.rest.split_at_checked(len).ok_or(DecodeErrorKind::UnexpectedEnd)?;
        self.rest = rest;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeErrorKind> {
        let (bytes, rest) = self.rest.split_first_chunk().ok_or(DecodeErrorKind::UnexpectedEnd)?;
        self.rest = rest;
        Ok(*bytes)
    }

    pub(super) fn u8(&mut self) -> Result<u8, DecodeErrorKind> {
        self.array().map(|[byte]| byte)
    }

    pub(super) fn u16(&mut self) -> Result<u16, DecodeErrorKind> {
        self.array().map(u16::from_be_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, DecodeErrorKind> {
        self.array().map(u32::from_be_bytes)
    }

    /// A Variable Byte Integer in its shortest form `[MQTT-1.5.5-1]`.
    pub(super) fn variable_byte_integer(&mut self) -> Result<u32, DecodeErrorKind> {
        let (value, len) =
            variable_byte_integer(self.rest)?.ok_or(DecodeErrorKind::UnexpectedEnd)?;
        if len != variable_byte_integer_len(value) {
            return Err(DecodeErrorKind::VariableByteIntegerNotMinimal);
        }
        self.bytes(len)?;
        Ok(value)
    }

    /// Binary Data: two bytes of length, then as many bytes.
    pub(super) fn binary(&mut self) -> Result<&'a [u8], DecodeErrorKind> {
        let len = self.u16()?;
        self.bytes(usize::from(len))
    }

    /// A UTF-8 Encoded String.
    pub(super) fn string(&mut self) -> Result<&'a str, DecodeErrorKind> {
        let bytes = self.binary()?;
        // [MQTT-1.5.4-1], [MQTT311-1.5.3-1]. U+FEFF stays where it is [MQTT-1.5.4-3].
        let text = std::str::from_utf8(bytes).map_err(|_| DecodeErrorKind::InvalidUtf8)?;
        // [MQTT-1.5.4-2], [MQTT311-1.5.3-2]
        if bytes.contains(&0) {
            return Err(DecodeErrorKind::NullCharacter);
        }
        Ok(text)
    }

    /// A Packet Identifier, which is never 0 `[MQTT-2.2.1-3]`, `[MQTT311-2.3.1-1]`.
    pub(super) fn packet_id(&mut self) -> Result<PacketId, DecodeErrorKind> {
        PacketId::new(self.u16()?).ok_or(DecodeErrorKind::ZeroPacketId)
    }
}

/// The Variable Byte Integer at the front and the number of its bytes, in any form that fits four
/// bytes; `None` when the slice ends first.
pub(super) fn variable_byte_integer(bytes: &[u8]) -> Result<Option<(u32, usize)>, DecodeErrorKind> {
    let mut value = 0;
    for (index, &byte) in bytes.iter().take(4).enumerate() {
        value |= u32::from(byte & 0x7F) << (7 * index);
        if byte & 0x80 == 0 {
            return Ok(Some((value, index + 1)));
        }
    }
    if bytes.len() < 4 { Ok(None) } else { Err(DecodeErrorKind::VariableByteIntegerTooLong) }
}

/// The bytes that a value takes in its shortest form. Values beyond [`MAX_REMAINING_LENGTH`] have
/// none; the answer is then 4.
pub(super) const fn variable_byte_integer_len(value: u32) -> usize {
    match value {
        0..=0x7F => 1,
        0x80..=0x3FFF => 2,
        0x4000..=0x1F_FFFF => 3,
        _ => 4,
    }
}

/// The length of a whole packet with a body of this length, in bytes; saturating.
pub(super) const fn packet_len(body_len: usize) -> usize {
    let length_len = match body_len {
        0..=0x7F => 1,
        0x80..=0x3FFF => 2,
        0x4000..=0x1F_FFFF => 3,
        _ => 4,
    };
    body_len.saturating_add(1 + length_len)
}

/// Appends a Variable Byte Integer. `value` must not exceed [`MAX_REMAINING_LENGTH`].
pub(super) fn put_variable_byte_integer(out: &mut Vec<u8>, mut value: u32) {
    while value > 0x7F {
        out.push((value & 0x7F) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

pub(super) fn put_u16(out: &mut Vec<u8>, value: u16) {
    out.extend_from_slice(&value.to_be_bytes());
}

pub(super) fn put_u32(out: &mut Vec<u8>, value: u32) {
    out.extend_from_slice(&value.to_be_bytes());
}

/// Appends Binary Data, or nothing when it is too long.
pub(super) fn put_binary(out: &mut Vec<u8>, bytes: &[u8]) -> Result<(), EncodeError> {
    let len = u16::try_from(bytes.len()).map_err(|_| EncodeError::ValueTooLong)?;
    put_u16(out, len);
    out.extend_from_slice(bytes);
    Ok(())
}

/// Appends a UTF-8 Encoded String, or nothing when it cannot be one.
pub(super) fn put_string(out: &mut Vec<u8>, text: &str) -> Result<(), EncodeError> {
    // [MQTT-1.5.4-2]
    if text.as_bytes().contains(&0) {
        return Err(EncodeError::NullCharacter);
    }
    put_binary(out, text.as_bytes())
}

/// Appends a packet whose body is written by `body`; on an error `out` is as it was.
pub(super) fn put_packet(
    out: &mut Vec<u8>,
    header: u8,
    body: impl FnOnce(&mut Vec<u8>) -> Result<(), EncodeError>,
) -> Result<(), EncodeError> {
    let start = out.len();
    out.push(header);
    let result = put_length_prefixed(out, body);
    if result.is_err() {
        out.truncate(start);
    }
    result
}

/// Appends what `body` writes behind its length as a Variable Byte Integer.
pub(super) fn put_length_prefixed(
    out: &mut Vec<u8>,
    body: impl FnOnce(&mut Vec<u8>) -> Result<(), EncodeError>,
) -> Result<(), EncodeError> {
    let at = out.len();
    out.push(0);
    body(out)?;
    let len = out.len().saturating_sub(at + 1);
    fill_length(out, at, len)
}

/// Puts a length as a Variable Byte Integer in the place of the one byte at `at`.
pub(super) fn fill_length(out: &mut Vec<u8>, at: usize, len: usize) -> Result<(), EncodeError> {
    let value = body_len(len)?;
    match out.get_mut(at) {
        Some(place) if value < 0x80 => *place = value as u8,
        _ => {
            let mut bytes = [0; 4];
            let mut rest = value;
            let mut used = 0;
            for byte in &mut bytes {
                used += 1;
                *byte = (rest & 0x7F) as u8;
                rest >>= 7;
                if rest == 0 {
                    break;
                }
                *byte |= 0x80;
            }
            out.splice(at..=at, bytes.into_iter().take(used));
        }
    }
    Ok(())
}

/// A length as a Remaining Length.
pub(super) fn body_len(len: usize) -> Result<u32, EncodeError> {
    u32::try_from(len)
        .ok()
        .filter(|&len| len <= MAX_REMAINING_LENGTH)
        .ok_or(EncodeError::PacketTooLarge)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// MQTT 5.0, table 1-1.
    #[test]
    fn variable_byte_integers_at_their_borders() {
        let borders: [(u32, &[u8]); 8] = [
            (0, &[0x00]),
            (127, &[0x7F]),
            (128, &[0x80, 0x01]),
            (16_383, &[0xFF, 0x7F]),
            (16_384, &[0x80, 0x80, 0x01]),
            (2_097_151, &[0xFF, 0xFF, 0x7F]),
            (2_097_152, &[0x80, 0x80, 0x80, 0x01]),
            (MAX_REMAINING_LENGTH, &[0xFF, 0xFF, 0xFF, 0x7F]),
        ];
        for (value, bytes) in borders {
            let mut out = Vec::new();
            put_variable_byte_integer(&mut out, value);
            assert_eq!(out, bytes);
            assert_eq!(Reader::new(bytes).variable_byte_integer(), Ok(value));
            assert_eq!(variable_byte_integer_len(value), bytes.len());
            let mut out = vec![0xAA, 0, 0xBB];
            fill_length(&mut out, 1, value as usize).unwrap();
            assert_eq!(out, [&[0xAA], bytes, &[0xBB]].concat());
        }
    }

    #[test]
    fn long_and_padded_integers_are_refused() {
        use DecodeErrorKind as Kind;
        let read = |bytes: &[u8]| Reader::new(bytes).variable_byte_integer();
        assert_eq!(read(&[0x80, 0x80, 0x80, 0x80]), Err(Kind::VariableByteIntegerTooLong));
        assert_eq!(read(&[0x80, 0x80, 0x80, 0x80, 0x01]), Err(Kind::VariableByteIntegerTooLong));
        assert_eq!(read(&[0x80, 0x00]), Err(Kind::VariableByteIntegerNotMinimal));
        assert_eq!(read(&[0xFF, 0x80, 0x00]), Err(Kind::VariableByteIntegerNotMinimal));
        assert_eq!(read(&[0x80]), Err(Kind::UnexpectedEnd));
        assert_eq!(read(&[]), Err(Kind::UnexpectedEnd));
    }

    /// The example of MQTT 5.0, figure 1-2, and what 1.5.4 forbids.
    #[test]
    fn strings() {
        let example = [0x00, 0x05, 0x41, 0xF0, 0xAA, 0x9B, 0x94];
        assert_eq!(Reader::new(&example).string(), Ok("A\u{2A6D4}"));
        let bom = [0x00, 0x03, 0xEF, 0xBB, 0xBF];
        assert_eq!(Reader::new(&bom).string(), Ok("\u{FEFF}"));
        let surrogate = [0x00, 0x03, 0xED, 0xA0, 0x80];
        assert_eq!(Reader::new(&surrogate).string(), Err(DecodeErrorKind::InvalidUtf8));
        let overlong_nul = [0x00, 0x02, 0xC0, 0x80];
        assert_eq!(Reader::new(&overlong_nul).string(), Err(DecodeErrorKind::InvalidUtf8));
        let nul = [0x00, 0x03, b'a', 0x00, b'b'];
        assert_eq!(Reader::new(&nul).string(), Err(DecodeErrorKind::NullCharacter));
        let short = [0x00, 0x03, b'a', b'b'];
        assert_eq!(Reader::new(&short).string(), Err(DecodeErrorKind::UnexpectedEnd));
    }

    #[test]
    fn a_failed_packet_leaves_the_output_alone() {
        let mut out = vec![1, 2, 3];
        let long = "x".repeat(65_536);
        let result = put_packet(&mut out, 0x10, |out| {
            put_u16(out, 7);
            put_string(out, &long)
        });
        assert_eq!(result, Err(EncodeError::ValueTooLong));
        assert_eq!(out, [1, 2, 3]);
        assert_eq!(put_string(&mut out, "a\0b"), Err(EncodeError::NullCharacter));
        assert_eq!(out, [1, 2, 3]);
    }

    proptest! {
        #[test]
        fn variable_byte_integers_round_trip(value in 0..=MAX_REMAINING_LENGTH) {
            let mut out = Vec::new();
            put_variable_byte_integer(&mut out, value);
            prop_assert_eq!(variable_byte_integer(&out), Ok(Some((value, out.len()))));
            prop_assert_eq!(Reader::new(&out).variable_byte_integer(), Ok(value));
        }

        #[test]
        fn any_bytes_as_integer_and_back(bytes in prop::collection::vec(any::<u8>(), 0..6)) {
            let mut reader = Reader::new(&bytes);
            if let Ok(value) = reader.variable_byte_integer() {
                let mut out = Vec::new();
                put_variable_byte_integer(&mut out, value);
                prop_assert!(bytes.starts_with(&out));
                prop_assert_eq!(out.len() + reader.take_rest().len(), bytes.len());
            }
        }
    }
}
