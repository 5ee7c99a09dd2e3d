//! Every record comes back as it was written, and whatever the bytes are, decoding gives a record or
//! an error.

use proptest::collection::vec;
use proptest::prelude::*;

use super::script::{delivery, message, session, state, subscription};
use crate::store::encoding::{self, Body, DecodeError};

proptest! {
    #[test]
    fn a_record_comes_back(
        session in session(),
        subscription in subscription(),
        body in message(),
        delivery in delivery(),
        state in state(),
        name in "\\PC{0,300}",
        number in any::<u64>(),
        seed in any::<[u64; 4]>(),
    ) {
        prop_assert_eq!(encoding::read_session(&encoding::session(&session)), Ok(session));
        let value = encoding::subscription(&subscription, Some(&name));
        let read = Ok((subscription, name.clone().into_boxed_str()));
        prop_assert_eq!(encoding::read_subscription(&value), read);
        prop_assert_eq!(encoding::read_message(&encoding::message(&body)), Ok(body.clone()));
        let value = encoding::retained(&body, Some(&name));
        prop_assert_eq!(encoding::read_retained(&value), Ok((body.clone(), name.into())));
        prop_assert_eq!(encoding::read_state(&encoding::state(state)), Ok(state));
        prop_assert_eq!(encoding::read_number(&encoding::number(number)), Ok(number));
        prop_assert_eq!(encoding::read_seed(&encoding::seed(seed)), Ok(seed));

        let value = encoding::delivery_shared(&delivery, number, body.data.len());
        let read = encoding::read_delivery(&value).unwrap();
        prop_assert_eq!(&read.record, &delivery);
        prop_assert_eq!(read.body, Body::Shared { message: number, bytes: body.data.len() });
        let value = encoding::delivery_inline(&delivery, &body);
        let read = encoding::read_delivery(&value).unwrap();
        prop_assert_eq!(read.record, delivery);
        prop_assert_eq!(read.body.len(), body.data.len());
        let Body::Inline(view) = read.body else { panic!("{:?}", read.body) };
        prop_assert_eq!(view.to_record(), body);
    }

    #[test]
    fn any_bytes_are_a_record_or_an_error(mut value in vec(any::<u8>(), 0..64)) {
        read_all(&value);
        if let Some(version) = value.first_mut() {
            *version = 1;
            read_all(&value);
        }
    }

    /// Bytes that are nearly right get further than any bytes.
    #[test]
    fn a_spoilt_record_is_a_record_or_an_error(
        record in delivery(),
        body in message(),
        session in session(),
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
        cut in any::<prop::sample::Index>(),
    ) {
        for mut value in [encoding::delivery_inline(&record, &body), encoding::session(&session)] {
            let whole = value.len();
            let at = at.index(whole);
            value[at] = byte;
            read_all(&value);
            value.truncate(cut.index(whole));
            read_all(&value);
        }
        let mut value = encoding::delivery_inline(&record, &body);
        value.pop();
        prop_assert!(encoding::read_delivery(&value).is_err());
    }
}

fn read_all(value: &[u8]) {
    _ = encoding::read_session(value);
    _ = encoding::read_subscription(value);
    _ = encoding::read_message(value);
    _ = encoding::read_retained(value);
    _ = encoding::read_delivery(value);
    _ = encoding::read_state(value);
    _ = encoding::read_number(value);
    _ = encoding::read_seed(value);
}

#[test]
fn what_is_wrong_is_said() {
    let read = |value: &[u8]| encoding::read_number(value).unwrap_err();
    assert_eq!(read(&[]), DecodeError::CutOff);
    assert_eq!(read(&[2, 0]), DecodeError::Version(2));
    assert_eq!(read(&[1, 0x80]), DecodeError::CutOff);
    assert_eq!(read(&[1, 7, 0]), DecodeError::TooLong);
    let too_large = [&[1][..], &[0xFF; 9], &[0x7F]].concat();
    assert_eq!(read(&too_large), DecodeError::Field("number"));
    assert!(DecodeError::Version(2).to_string().contains("version 2"));
}
