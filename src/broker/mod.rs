//! To be written.
pub mod timer;
