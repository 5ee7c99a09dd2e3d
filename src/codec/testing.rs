//! What holds of every PUBLISH, however a test or the fuzzer has come by it.
#![allow(clippy::unwrap_used)]

use super::{Packet, Publish, PublishHead, PublishProperties, SubscriptionIds, Version};

/// The properties that are passed on come back from the bytes in which they are kept.
pub fn check_forwarded(publish: &Publish<'_>) {
    let mut forwarded = Vec::new();
    publish.properties.encode_forwarded(&mut forwarded);
    let expected = PublishProperties {
        message_expiry_interval: None,
        topic_alias: None,
        subscription_identifiers: SubscriptionIds::default(),
        ..publish.properties
    };
    assert_eq!(PublishProperties::decode_forwarded(&forwarded).unwrap(), expected);
}

/// A head with the payload behind it is the packet, and as long as the head says.
pub fn check_head(publish: &Publish<'_>, version: Version) {
    let mut forwarded = Vec::new();
    publish.properties.encode_forwarded(&mut forwarded);
    let ids = publish.properties.subscription_identifiers;
    let ids: Vec<u32> = ids.iter().map(|id| id.get()).collect();
    let head = PublishHead {
        dup: publish.dup,
        qos: publish.qos,
        retain: publish.retain,
        topic: publish.topic,
        packet_id: publish.packet_id,
        topic_alias: publish.properties.topic_alias,
        message_expiry_interval: publish.properties.message_expiry_interval,
        subscription_ids: &ids,
        forwarded: &forwarded,
        payload_len: publish.payload.len(),
    };
    let mut bytes = Vec::new();
    head.encode(version, &mut bytes).unwrap();
    bytes.extend_from_slice(publish.payload);
    assert_eq!(bytes.len(), head.packet_size(version));
    let mut expected = Vec::new();
    Packet::Publish(*publish).encode(version, &mut expected).unwrap();
    assert_eq!(bytes, expected);
}
