//! Any bytes as what a client or a server sends.
//!
//! Whatever comes is refused or is a packet; nothing panics, nothing is allocated, a packet that
//! is read can be written, and reads as the same; how much of it has arrived makes no difference.

use allocation_counter::measure;
use ringmq::codec::{DecodeError, Frame, FrameStatus, Packet, Version, frame, testing};

use crate::VERSIONS;

/// The sizes that packets may have. The first byte of the input chooses.
const MAX_PACKET_SIZES: [u32; 4] = [u32::MAX, 1 << 20, 127, 8];

/// How many cuts at most are tried in one packet; a longer one is cut at its beginning and its end.
const CUTS: usize = 48;

/// Checks the packets that stand one behind the other in `data`.
pub fn check(data: &[u8]) {
    let Some((&choice, mut stream)) = data.split_first() else { return };
    let max = MAX_PACKET_SIZES[usize::from(choice) % MAX_PACKET_SIZES.len()];
    while let Ok(FrameStatus::Complete(frame)) = framed(stream, max) {
        assert!(frame.len <= stream.len());
        assert_eq!(frame.body, &stream[frame.len - frame.body.len()..frame.len]);
        for version in VERSIONS {
            decoded(&frame, version);
        }
        stream = &stream[frame.len..];
    }
}

/// What `frame` says of all bytes, after it has been asked about beginnings of them.
fn framed(stream: &[u8], max: u32) -> Result<FrameStatus<'_>, DecodeError> {
    let whole = free(|| frame(stream, max));
    let end = match whole {
        Ok(FrameStatus::Complete(frame)) => frame.len,
        _ => stream.len(),
    };
    let mut failed = false;
    for cut in (0..end.min(CUTS)).chain(end.saturating_sub(CUTS).max(CUTS)..end) {
        match (frame(&stream[..cut], max), whole) {
            (Ok(FrameStatus::Incomplete { needed }), Ok(FrameStatus::Complete(frame))) => {
                assert!(needed.is_none_or(|needed| needed == frame.len));
            }
            (
                Ok(FrameStatus::Incomplete { needed }),
                Ok(FrameStatus::Incomplete { needed: in_the_end }),
            ) => {
                assert!(needed.is_none() || needed == in_the_end);
            }
            (Ok(FrameStatus::Incomplete { needed }), Err(_)) => {
                assert!(needed.is_none(), "a length is promised, and refused when more has come");
                assert!(!failed, "an error goes away when more has come");
            }
            (Err(early), Err(late)) => {
                assert_eq!(early, late);
                failed = true;
            }
            (part, whole) => panic!("{cut} bytes are {part:?}, all of them are {whole:?}"),
        }
    }
    whole
}

fn decoded(frame: &Frame<'_>, version: Version) {
    let packet = match free(|| Packet::decode(frame, version)) {
        Ok(packet) => packet,
        Err(error) => {
            free(|| (error.reason_code(), error.connack()));
            assert!(!error.to_string().is_empty());
            return;
        }
    };
    let version = match &packet {
        Packet::Connect(connect) => connect.version,
        _ => version,
    };
    let mut bytes = Vec::new();
    packet.encode(version, &mut bytes).expect("what was read can be written");
    assert!(bytes.len() <= frame.len, "{packet:?} has grown from {} to {bytes:?}", frame.len);
    assert_eq!(read(&bytes, version), packet);
    if let Packet::Publish(publish) = &packet {
        testing::check_forwarded(publish);
        testing::check_head(publish, version);
    }
}

/// The packet that fills `bytes`.
pub(crate) fn read(bytes: &[u8], version: Version) -> Packet<'_> {
    let Ok(FrameStatus::Complete(frame)) = frame(bytes, u32::MAX) else {
        panic!("{bytes:?} is no frame");
    };
    assert_eq!(frame.len, bytes.len());
    Packet::decode(&frame, version).unwrap_or_else(|error| panic!("{bytes:?}: {error}"))
}

/// What `f` gives, after a check that it has allocated nothing.
fn free<R>(f: impl FnOnce() -> R) -> R {
    let mut result = None;
    let allocations = measure(|| result = Some(f()));
    assert_eq!(allocations.count_total, 0, "allocates");
    result.expect("it was called")
}
