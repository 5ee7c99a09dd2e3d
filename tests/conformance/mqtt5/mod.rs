//! MQTT 5.0, one file per chapter or packet.

mod data;
