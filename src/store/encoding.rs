//! Records as bytes. Each value begins with the version of its encoding; whatever the bytes are,
//! decoding gives a record or an error.
//!
//! Numbers are written in groups of seven bits, the lowest first, so small ones are short.

use bytes::Bytes;
use thiserror::Error;

use crate::record::{
    DeliveryRecord, DeliveryState, MessageNumber, MessageRecord, NEVER, SessionRecord,
    SubscriptionRecord, WillRecord,
};

/// The version of all encodings here. Another one is another format of the data folder, too: what an
/// older program cannot read it would call lost, and remove.
const VERSION: u8 = 1;

/// Why bytes are no record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(super) enum DecodeError {
    /// They are written in a way that this program does not know.
    #[error("it has encoding version {0}, this program knows version {VERSION}")]
    Version(u8),
    /// They end too early.
    #[error("it is cut off")]
    CutOff,
    /// There are more than belong to it.
    #[error("there are bytes behind it")]
    TooLong,
    /// A field has a value that it cannot have.
    #[error("its field `{0}` has an impossible value")]
    Field(&'static str),
}

/// A delivery as it is kept, before its body is copied.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct StoredRecord<'a> {
    /// How it is owed, as it was put.
    pub(super) record: DeliveryRecord,
    /// What is owed.
    pub(super) body: Body<'a>,
}

/// Where the body of a delivery is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Body<'a> {
    /// Here.
    Inline(MessageView<'a>),
    /// Apart, for more than one delivery refers to it.
    Shared {
        /// Its number.
        message: MessageNumber,
        /// The bytes of its data.
        bytes: usize,
    },
}

impl Body<'_> {
    /// The bytes of the body's data.
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Inline(view) => view.data.len(),
            Self::Shared { bytes, .. } => *bytes,
        }
    }
}

/// A message in the bytes that it was read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct MessageView<'a> {
    data: &'a [u8],
    properties_at: u16,
    payload_at: u32,
    qos: u8,
    retain: bool,
    expires_at: u64,
}

impl MessageView<'_> {
    /// A copy that keeps nothing else in memory.
    pub(super) fn to_record(self) -> MessageRecord {
        MessageRecord {
            data: Bytes::copy_from_slice(self.data),
            properties_at: self.properties_at,
            payload_at: self.payload_at,
            qos: self.qos,
            retain: self.retain,
            expires_at: self.expires_at,
        }
    }
}

// ---- Whole values ----------------------------------------------------------------------------

/// The value of a session's record.
pub(super) fn session(record: &SessionRecord) -> Vec<u8> {
    let mut out = Out::new(48 + record.client_id.len());
    out.string(&record.client_id);
    let flags = u8::from(record.user_name.is_some())
        | u8::from(record.offline_since.is_some()) << 1
        | u8::from(record.will.is_some()) << 2
        // Who does not know this takes the session for lost and removes it, as it would have done.
        | u8::from(record.is_ended) << 3;
    out.byte(flags);
    out.number(u64::from(record.expiry_interval));
    if let Some(user_name) = &record.user_name {
        out.string(user_name);
    }
    if let Some(since) = record.offline_since {
        out.number(since);
    }
    if let Some(will) = &record.will {
        out.number(u64::from(will.delay_interval));
        out.byte(u8::from(will.expiry_interval.is_some()));
        out.number(u64::from(will.expiry_interval.unwrap_or(0)));
        out.message(&will.body);
    }
    out.0
}

/// Reads what [`session`] wrote.
pub(super) fn read_session(value: &[u8]) -> Result<SessionRecord, DecodeError> {
    let mut input = In::new(value)?;
    let client_id = input.string("client_id")?;
    let flags = input.byte()?;
    if flags > 0b1111 {
        return Err(DecodeError::Field("session flags"));
    }
    let expiry_interval = input.small("expiry_interval")?;
    let user_name = (flags & 1 != 0).then(|| input.string("user_name")).transpose()?;
    let offline_since = (flags & 2 != 0).then(|| input.number()).transpose()?;
    let will = (flags & 4 != 0).then(|| input.will()).transpose()?;
    let is_ended = flags & 8 != 0;
    input.end(SessionRecord {
        client_id,
        user_name,
        expiry_interval,
        offline_since,
        will,
        is_ended,
    })
}

/// The value of a subscription; `filter` where the key does not name it.
pub(super) fn subscription(record: &SubscriptionRecord, filter: Option<&str>) -> Vec<u8> {
    let mut out = Out::new(8 + filter.map_or(0, str::len));
    out.byte(record.options);
    out.number(u64::from(record.id));
    out.string(filter.unwrap_or(""));
    out.0
}

/// Reads what [`subscription`] wrote.
pub(super) fn read_subscription(
    value: &[u8],
) -> Result<(SubscriptionRecord, Box<str>), DecodeError> {
    let mut input = In::new(value)?;
    let options = input.byte()?;
    let id = input.small("subscription id")?;
    let filter = input.string("filter")?;
    input.end((SubscriptionRecord { options, id }, filter))
}

/// The value of a retained message; `topic` where the key does not name it.
pub(super) fn retained(body: &MessageRecord, topic: Option<&str>) -> Vec<u8> {
    let mut out = Out::new(32 + body.data.len() + topic.map_or(0, str::len));
    out.message(body);
    out.string(topic.unwrap_or(""));
    out.0
}

/// Reads what [`retained`] wrote.
pub(super) fn read_retained(value: &[u8]) -> Result<(MessageRecord, Box<str>), DecodeError> {
    let mut input = In::new(value)?;
    let view = input.message()?;
    let topic = input.string("topic")?;
    input.end((view.to_record(), topic))
}

/// The value of a body that deliveries share.
pub(super) fn message(body: &MessageRecord) -> Vec<u8> {
    let mut out = Out::new(24 + body.data.len());
    out.message(body);
    out.0
}

/// Reads what [`message`] wrote.
pub(super) fn read_message(value: &[u8]) -> Result<MessageRecord, DecodeError> {
    let mut input = In::new(value)?;
    let view = input.message()?;
    input.end(view.to_record())
}

/// The value of a delivery that has its body with it.
pub(super) fn delivery_inline(record: &DeliveryRecord, body: &MessageRecord) -> Vec<u8> {
    let mut out = Out::new(48 + body.data.len());
    out.delivery(record);
    out.byte(INLINE);
    out.message(body);
    out.0
}

/// The value of a delivery that shares its body.
pub(super) fn delivery_shared(
    record: &DeliveryRecord,
    message: MessageNumber,
    bytes: usize,
) -> Vec<u8> {
    let mut out = Out::new(32);
    out.delivery(record);
    out.byte(SHARED);
    out.number(message);
    out.number(bytes as u64);
    out.0
}

/// Reads what [`delivery_inline`] or [`delivery_shared`] wrote.
pub(super) fn read_delivery(value: &[u8]) -> Result<StoredRecord<'_>, DecodeError> {
    let mut input = In::new(value)?;
    let record = input.delivery()?;
    let body = match input.byte()? {
        INLINE => Body::Inline(input.message()?),
        SHARED => {
            let message = input.number()?;
            let bytes = input.number()?;
            let bytes = usize::try_from(bytes).map_err(|_| DecodeError::Field("body length"))?;
            Body::Shared { message, bytes }
        }
        _ => return Err(DecodeError::Field("body place")),
    };
    input.end(StoredRecord { record, body })
}

/// The value of a delivery's state.
pub(super) fn state(state: DeliveryState) -> Vec<u8> {
    let mut out = Out::new(4);
    out.state(state);
    out.0
}

/// Reads what [`state`] wrote.
pub(super) fn read_state(value: &[u8]) -> Result<DeliveryState, DecodeError> {
    let mut input = In::new(value)?;
    let kind = input.byte()?;
    let state = input.state(kind)?;
    input.end(state)
}

/// The value of a plain number.
pub(super) fn number(number: u64) -> Vec<u8> {
    let mut out = Out::new(10);
    out.number(number);
    out.0
}

/// Reads what [`number`] wrote.
pub(super) fn read_number(value: &[u8]) -> Result<u64, DecodeError> {
    let mut input = In::new(value)?;
    let number = input.number()?;
    input.end(number)
}

/// The value of the store's seed.
pub(super) fn seed(seed: [u64; 4]) -> Vec<u8> {
    let mut out = Out::new(32);
    for part in seed {
        out.0.extend_from_slice(&part.to_le_bytes());
    }
    out.0
}

/// Reads what [`seed`] wrote.
pub(super) fn read_seed(value: &[u8]) -> Result<[u64; 4], DecodeError> {
    let mut input = In::new(value)?;
    let mut seed = [0; 4];
    for part in &mut seed {
        *part = u64::from_le_bytes(input.array()?);
    }
    input.end(seed)
}

/// The value of what has nothing to say but that it is there.
pub(super) fn nothing() -> Vec<u8> {
    vec![VERSION]
}

// ---- Parts -----------------------------------------------------------------------------------

const INLINE: u8 = 0;
const SHARED: u8 = 1;

const QUEUED: u8 = 0;
const SENT: u8 = 1;
const RECEIVED: u8 = 2;

const QOS: u8 = 0b11;
const RETAIN: u8 = 0b100;
const EXPIRES: u8 = 0b1000;

struct Out(Vec<u8>);

impl Out {
    fn new(capacity: usize) -> Self {
        let mut bytes = Vec::with_capacity(capacity.saturating_add(1));
        bytes.push(VERSION);
        Self(bytes)
    }

    fn byte(&mut self, byte: u8) {
        self.0.push(byte);
    }

    #[expect(clippy::cast_possible_truncation, reason = "seven bits at a time")]
    fn number(&mut self, mut number: u64) {
        while number > 0x7F {
            self.0.push(number as u8 | 0x80);
            number >>= 7;
        }
        self.0.push(number as u8);
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    fn string(&mut self, string: &str) {
        self.bytes(string.as_bytes());
    }

    fn message(&mut self, body: &MessageRecord) {
        let retain = if body.retain { RETAIN } else { 0 };
        let expires = if body.expires_at == NEVER { 0 } else { EXPIRES };
        self.byte(body.qos & QOS | retain | expires);
        if expires != 0 {
            self.number(body.expires_at);
        }
        self.number(u64::from(body.properties_at));
        self.number(u64::from(body.payload_at));
        self.bytes(&body.data);
    }

    fn delivery(&mut self, record: &DeliveryRecord) {
        self.byte(record.qos & QOS | if record.retain { RETAIN } else { 0 });
        self.state(record.state);
        self.number(u64::from(record.shared));
        self.number(record.subscription_ids.len() as u64);
        for &id in &record.subscription_ids {
            self.number(u64::from(id));
        }
    }

    fn state(&mut self, state: DeliveryState) {
        let (kind, packet_id) = match state {
            DeliveryState::Queued => (QUEUED, None),
            DeliveryState::Sent(packet_id) => (SENT, Some(packet_id)),
            DeliveryState::Received(packet_id) => (RECEIVED, Some(packet_id)),
        };
        self.byte(kind);
        if let Some(packet_id) = packet_id {
            self.0.extend_from_slice(&packet_id.to_le_bytes());
        }
    }
}

struct In<'a>(&'a [u8]);

impl<'a> In<'a> {
    fn new(value: &'a [u8]) -> Result<Self, DecodeError> {
        let mut input = Self(value);
        match input.byte()? {
            VERSION => Ok(input),
            version => Err(DecodeError::Version(version)),
        }
    }

    fn end<T>(self, record: T) -> Result<T, DecodeError> {
        if self.0.is_empty() { Ok(record) } else { Err(DecodeError::TooLong) }
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or(DecodeError::CutOff)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        self.take(N)?.try_into().map_err(|_| DecodeError::CutOff)
    }

    fn byte(&mut self) -> Result<u8, DecodeError> {
        let [byte] = self.array()?;
        Ok(byte)
    }

    fn number(&mut self) -> Result<u64, DecodeError> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7F);
            if shift == 63 && bits > 1 || shift > 0 && byte == 0 {
                return Err(DecodeError::Field("number"));
            }
            number |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(DecodeError::Field("number"))
    }

    /// A number that does not take up all of a `u64`.
    fn small<T: TryFrom<u64>>(&mut self, field: &'static str) -> Result<T, DecodeError> {
        T::try_from(self.number()?).map_err(|_| DecodeError::Field(field))
    }

    fn bytes(&mut self) -> Result<&'a [u8], DecodeError> {
        let len = self.number()?;
        self.take(usize::try_from(len).map_err(|_| DecodeError::CutOff)?)
    }

    fn string(&mut self, field: &'static str) -> Result<Box<str>, DecodeError> {
        str::from_utf8(self.bytes()?).map(Into::into).map_err(|_| DecodeError::Field(field))
    }

    fn flag(&mut self, field: &'static str) -> Result<bool, DecodeError> {
        match self.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(DecodeError::Field(field)),
        }
    }

    fn will(&mut self) -> Result<WillRecord, DecodeError> {
        let delay_interval = self.small("will delay")?;
        let expires = self.flag("will expires")?;
        let interval: u32 = self.small("will expiry")?;
        let body = self.message()?.to_record();
        Ok(WillRecord { body, delay_interval, expiry_interval: expires.then_some(interval) })
    }

    fn message(&mut self) -> Result<MessageView<'a>, DecodeError> {
        let flags = self.byte()?;
        let qos = flags & QOS;
        if flags > QOS | RETAIN | EXPIRES || qos > 2 {
            return Err(DecodeError::Field("message flags"));
        }
        let expires_at = if flags & EXPIRES == 0 { NEVER } else { self.number()? };
        let properties_at = self.small("properties_at")?;
        let payload_at = self.small("payload_at")?;
        let data = self.bytes()?;
        if u32::from(properties_at) > payload_at {
            return Err(DecodeError::Field("properties_at"));
        }
        if payload_at as usize > data.len() {
            return Err(DecodeError::Field("payload_at"));
        }
        let retain = flags & RETAIN != 0;
        Ok(MessageView { data, properties_at, payload_at, qos, retain, expires_at })
    }

    fn delivery(&mut self) -> Result<DeliveryRecord, DecodeError> {
        let flags = self.byte()?;
        let qos = flags & QOS;
        if flags > QOS | RETAIN || qos > 2 {
            return Err(DecodeError::Field("delivery flags"));
        }
        let kind = self.byte()?;
        let state = self.state(kind)?;
        let shared = self.small("shared")?;
        let count: usize = self.small("subscription ids")?;
        // Each takes a byte at least, so a false count allocates no more than there are bytes.
        if count > self.0.len() {
            return Err(DecodeError::CutOff);
        }
        let ids = (0..count).map(|_| self.small("subscription id"));
        let subscription_ids = ids.collect::<Result<_, _>>()?;
        Ok(DeliveryRecord { qos, retain: flags & RETAIN != 0, shared, subscription_ids, state })
    }

    fn state(&mut self, kind: u8) -> Result<DeliveryState, DecodeError> {
        match kind {
            QUEUED => Ok(DeliveryState::Queued),
            SENT => Ok(DeliveryState::Sent(u16::from_le_bytes(self.array()?))),
            RECEIVED => Ok(DeliveryState::Received(u16::from_le_bytes(self.array()?))),
            _ => Err(DecodeError::Field("delivery state")),
        }
    }
}
