//! The next deliveries of one session, as a shard asks for them.

use tracing::error;

use super::encoding;
use super::engine::{Engine, EngineError};
use super::keys;
use super::restore::{self, States};
use crate::record::{DeliveryState, Load, Loaded, Position, SessionNumber, StoredDelivery};

/// What `load` asks for, and the deliveries there that cannot be read.
pub(super) fn load(
    engine: &dyn Engine,
    load: &Load,
) -> Result<(Loaded, Vec<(SessionNumber, Position)>), EngineError> {
    let mut lost = Vec::new();
    let mut loaded = Loaded {
        session: load.session,
        tag: load.tag,
        deliveries: Vec::new(),
        lost: 0,
        is_last: true,
    };
    let mut bytes: usize = 0;
    let range = |kind| keys::from_position(kind, load.session, load.from);
    let mut states = States(engine.scan(range(keys::STATE)).peekable());
    for entry in engine.scan(range(keys::DELIVERY)) {
        let (key, value) = entry?;
        let Some(position) = keys::position_of(&key) else { continue };
        let delivery = match encoding::read_delivery(&value) {
            Ok(stored) => {
                bytes = bytes.saturating_add(stored.body.len());
                let is_full = loaded.deliveries.len() >= load.limit || bytes > load.max_bytes;
                if is_full && !loaded.deliveries.is_empty() {
                    loaded.is_last = false;
                    break;
                }
                let mut record = stored.record;
                if let Some(state) = states.of_delivery(&key)? {
                    record.state = state;
                }
                let body = match record.state {
                    DeliveryState::Received(_) => Some(None),
                    _ => restore::body(engine, stored.body)?.map(Some),
                };
                body.map(|body| StoredDelivery { position, record, body }).ok_or("its body is gone")
            }
            Err(_) => Err("it is no delivery"),
        };
        match delivery {
            Ok(delivery) => loaded.deliveries.push(delivery),
            Err(wrong) => {
                error!(session = load.session, position, "a delivery is lost: {wrong}");
                loaded.lost += 1;
                lost.push((load.session, position));
            }
        }
    }
    Ok((loaded, lost))
}
