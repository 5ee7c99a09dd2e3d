//! Kept sessions that have ended, but would still be found after a crash.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use crate::record::Epoch;

/// The client identifiers of such sessions, and the epochs in which they have ended.
#[derive(Debug, Default)]
pub(super) struct Endings {
    /// The last one of each client.
    last: HashMap<Arc<str>, Epoch>,
    /// All of them, oldest first.
    in_order: VecDeque<(Epoch, Arc<str>)>,
}

impl Endings {
    pub fn is_empty(&self) -> bool {
        self.in_order.is_empty()
    }

    /// The session of this client has ended in the present epoch.
    pub fn push(&mut self, client_id: &str, present: Epoch) {
        let client_id = Arc::<str>::from(client_id);
        self.last.insert(Arc::clone(&client_id), present);
        self.in_order.push_back((present, client_id));
    }

    pub fn contains(&self, client_id: &str) -> bool {
        self.last.contains_key(client_id)
    }

    /// Those up to this epoch will not be found any more.
    pub fn forget(&mut self, up_to: Epoch) {
        while self.in_order.front().is_some_and(|(epoch, _)| *epoch <= up_to) {
            let Some((epoch, client_id)) = self.in_order.pop_front() else { return };
            // It may have had another session since.
            if self.last.get(&client_id) == Some(&epoch) {
                self.last.remove(&client_id);
            }
        }
    }
}
