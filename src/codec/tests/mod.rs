//! Tests of whole packets.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use super::*;

mod any;
mod mutation;
mod refused;
mod round_trip;
mod vectors;

const VERSIONS: [Version; 3] = [Version::V3_1, Version::V3_1_1, Version::V5];

/// The frame that fills `bytes`.
fn whole(bytes: &[u8]) -> Result<Frame<'_>, DecodeError> {
    match frame(bytes, u32::MAX)? {
        FrameStatus::Complete(frame) => {
            assert_eq!(frame.len, bytes.len(), "bytes behind the packet");
            Ok(frame)
        }
        FrameStatus::Incomplete { needed } => {
            panic!("{} bytes are incomplete, {needed:?} needed", bytes.len())
        }
    }
}

fn decode(bytes: &[u8], version: Version) -> Result<Packet<'_>, DecodeError> {
    Packet::decode(&whole(bytes)?, version)
}

fn encode(packet: &Packet<'_>, version: Version) -> Result<Vec<u8>, EncodeError> {
    let mut out = Vec::new();
    packet.encode(version, &mut out)?;
    Ok(out)
}

/// The bytes of a packet with this first byte and body.
fn packet(header: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![header];
    primitive::put_variable_byte_integer(&mut out, u32::try_from(body.len()).unwrap());
    out.extend_from_slice(body);
    out
}
