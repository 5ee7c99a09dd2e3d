//! MQTT 3.1.1, one file per chapter or packet.

mod data;
