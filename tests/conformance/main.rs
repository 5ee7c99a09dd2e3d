//! Conformance by clause: a test for every normative statement that binds a server, named by the
//! statement's number.
//!
//! `mqtt5_3_3_1_2_what_it_shows` shows statement [MQTT-3.3.1-2] of MQTT 5.0, and `mqtt311_…` one of
//! MQTT 3.1.1. A test anywhere in the repository that shows others, or has another name, says so in
//! a line of its doc comment: `/// Shows: MQTT5-3.3.1-3, MQTT311-3.3.1-2`.
//!
//! `mqtt31_…` shows where MQTT 3.1 differs, whose statements have no numbers.
//!
//! `mqtt5.toml` and `mqtt311.toml` list the statements; [`catalogue`] checks that each is tested or
//! excepted and that `docs/conformance.md` says what is so.

mod catalogue;
mod mqtt311;
mod mqtt5;
mod sources;
mod statements;
#[path = "../support/mod.rs"]
mod support;
