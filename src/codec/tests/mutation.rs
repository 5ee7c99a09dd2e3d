//! Broken packets are refused or are other valid packets; nothing panics.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// Decodes whatever it is; what decodes must be a packet that can be written and read again.
fn error_or_valid(bytes: &[u8], version: Version) -> Result<(), TestCaseError> {
    let Ok(FrameStatus::Complete(frame)) = frame(bytes, u32::MAX) else { return Ok(()) };
    prop_assert!(frame.len <= bytes.len());
    let Ok(packet) = Packet::decode(&frame, version) else { return Ok(()) };
    let version = match &packet {
        Packet::Connect(connect) => connect.version,
        _ => version,
    };
    let again = encode(&packet, version);
    prop_assert!(again.is_ok(), "{packet:?} decodes and does not encode: {again:?}");
    let again = again.unwrap();
    prop_assert_eq!(decode(&again, version), Ok(packet));
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// The packet is cut, as a buffer that is not yet full.
    #[test]
    fn every_beginning_is_incomplete((packet, version) in any::packet()) {
        let bytes = encode(&packet, version).unwrap();
        for len in 0..bytes.len() {
            match frame(&bytes[..len], u32::MAX) {
                Ok(FrameStatus::Incomplete { needed }) => {
                    prop_assert!(needed.is_none_or(|needed| needed == bytes.len()));
                }
                other => prop_assert!(false, "{len} bytes: {other:?}"),
            }
        }
    }

    /// The packet is cut, and its length says so.
    #[test]
    fn every_truncation_is_an_error_or_valid((packet, version) in any::packet()) {
        let bytes = encode(&packet, version).unwrap();
        let frame = whole(&bytes).unwrap();
        for len in 0..frame.body.len() {
            error_or_valid(&super::packet(frame.header, &frame.body[..len]), version)?;
        }
    }

    #[test]
    fn every_flip_is_an_error_or_valid((packet, version) in any::packet()) {
        let mut bytes = encode(&packet, version).unwrap();
        for at in 0..bytes.len() {
            for mask in [1, 2, 4, 8, 0x10, 0x20, 0x40, 0x80, 0xFF] {
                bytes[at] ^= mask;
                error_or_valid(&bytes, version)?;
                bytes[at] ^= mask;
            }
        }
    }

    /// A packet of one version, read as one of another.
    #[test]
    fn the_wrong_version_is_an_error_or_valid(
        (packet, version) in any::packet(),
        other in any::version(),
    ) {
        error_or_valid(&encode(&packet, version).unwrap(), other)?;
    }

    #[test]
    fn any_body_is_an_error_or_valid(
        header in any::<u8>(),
        body in vec(prop_oneof![0..8u8, any::<u8>()], 0..40),
        version in any::version(),
    ) {
        error_or_valid(&super::packet(header, &body), version)?;
    }

    #[test]
    fn any_bytes_are_an_error_or_valid(bytes in vec(any::<u8>(), 0..40), version in any::version()) {
        error_or_valid(&bytes, version)?;
        // A frame need not come from `frame`.
        let frame = Frame { header: bytes.len() as u8, body: &bytes, len: bytes.len() + 2 };
        let _ = Packet::decode(&frame, version);
        let _ = Publish::decode(&frame, version);
        let _ = PublishProperties::decode_forwarded(&bytes);
    }
}

/// Every body of up to two bytes, for every first byte and version.
#[test]
fn all_short_packets() {
    for version in VERSIONS {
        for header in 0x10..=0xFFu8 {
            error_or_valid(&[header, 0], version).unwrap();
            for first in 0..=255u8 {
                error_or_valid(&[header, 1, first], version).unwrap();
                for second in 0..=255u8 {
                    error_or_valid(&[header, 2, first, second], version).unwrap();
                }
            }
        }
    }
}
