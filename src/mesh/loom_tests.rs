//! Proofs of the handshakes, over all interleavings.
