//! Topic aliases of one network connection, in both directions. MQTT 5.0 section 3.3.2.3.4.

use std::collections::HashMap;

use crate::codec::ReasonCode;

/// The aliases that the client has set: alias to topic name.
#[derive(Debug, Default)]
pub struct InboundAliases {
    /// By alias, less one.
    topics: Vec<Option<Box<str>>>,
}

impl InboundAliases {
    /// The topic name that an alias stands for.
    pub fn known(&self, alias: u16) -> Option<&str> {
        self.topics.get(usize::from(alias).checked_sub(1)?)?.as_deref()
    }

    /// The topic name that a PUBLISH means by its topic field and alias; a non-empty topic sets
    /// the alias.
    ///
    /// # Errors
    /// [`ReasonCode::TopicAliasInvalid`] for an alias above `maximum` `[MQTT-3.3.2-9]`, and
    /// [`ReasonCode::ProtocolError`] for an alias that was never set on this connection.
    pub fn resolve<'a>(
        &'a mut self,
        topic: &'a str,
        alias: u16,
        maximum: u16,
    ) -> Result<&'a str, ReasonCode> {
        if alias == 0 || alias > maximum {
            return Err(ReasonCode::TopicAliasInvalid);
        }
        let at = usize::from(alias) - 1;
        if topic.is_empty() {
            let known = self.topics.get(at).and_then(Option::as_deref);
            return known.ok_or(ReasonCode::ProtocolError);
        }
        if self.topics.len() <= at {
            self.topics.resize(at + 1, None);
        }
        if let Some(known) = self.topics.get_mut(at) {
            *known = Some(topic.into());
        }
        Ok(topic)
    }
}

/// The aliases that the broker has set towards the client: topic name to alias.
#[derive(Debug)]
pub struct OutboundAliases {
    aliases: HashMap<Box<str>, u16>,
    maximum: u16,
}

/// How a PUBLISH to a client names its topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AliasUse {
    /// In full, without an alias.
    Full,
    /// In full, and this alias is set by it.
    Sets(u16),
    /// By this alias alone.
    Known(u16),
}

impl OutboundAliases {
    /// A table for at most `maximum` aliases: what the client allows, capped by what the broker
    /// is willing to remember.
    pub fn new(maximum: u16) -> Self {
        Self { aliases: HashMap::default(), maximum }
    }

    /// How to name `topic` in the next packet. Aliases go to the first topics that come.
    ///
    /// The caller must send the packet if the answer is [`AliasUse::Sets`], and then call
    /// [`OutboundAliases::set`].
    pub fn lookup(&self, topic: &str) -> AliasUse {
        match self.aliases.get(topic) {
            Some(alias) => AliasUse::Known(*alias),
            None if self.aliases.len() < usize::from(self.maximum) => {
                AliasUse::Sets(self.aliases.len() as u16 + 1)
            }
            None => AliasUse::Full,
        }
    }

    /// Remembers that a packet that sets `alias` for `topic` is on its way.
    pub fn set(&mut self, topic: &str, alias: u16) {
        self.aliases.insert(topic.into(), alias);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_inbound_alias_is_set_used_and_replaced() {
        let mut aliases = InboundAliases::default();
        assert_eq!(aliases.resolve("a", 1, 2).unwrap(), "a");
        assert_eq!(aliases.resolve("", 1, 2).unwrap(), "a");
        assert_eq!(aliases.resolve("b", 1, 2).unwrap(), "b");
        assert_eq!(aliases.resolve("", 1, 2).unwrap(), "b");
    }

    #[test]
    fn inbound_aliases_out_of_range_or_unknown_are_refused() {
        let mut aliases = InboundAliases::default();
        assert_eq!(aliases.resolve("a", 3, 2), Err(ReasonCode::TopicAliasInvalid));
        assert_eq!(aliases.resolve("a", 0, 2), Err(ReasonCode::TopicAliasInvalid));
        assert_eq!(aliases.resolve("", 2, 2), Err(ReasonCode::ProtocolError));
    }

    #[test]
    fn outbound_aliases_go_to_the_first_topics_and_stop_at_the_maximum() {
        let mut aliases = OutboundAliases::new(1);
        assert_eq!(aliases.lookup("a"), AliasUse::Sets(1));
        assert_eq!(aliases.lookup("a"), AliasUse::Sets(1), "not yet sent");
        aliases.set("a", 1);
        assert_eq!(aliases.lookup("a"), AliasUse::Known(1));
        assert_eq!(aliases.lookup("b"), AliasUse::Full);
    }
}
