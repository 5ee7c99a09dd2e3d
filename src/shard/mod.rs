//! To be written.

pub mod capacity;
