//! Tests of the broker core, without I/O.
