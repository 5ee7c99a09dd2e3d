//! Tests of the store: against the model, with engines that fail, and on a real folder.

mod disk;
mod model;
mod script;
