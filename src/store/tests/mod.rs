//! Tests of the store: against the model, with engines that fail, and on a real folder.

mod disk;
mod encoding;
mod faults;
mod fixture;
mod folder;
mod model;
mod script;
