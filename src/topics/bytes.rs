//! Looking at eight bytes of a topic at once. Topics are short, so a call to a general search
//! function costs more than the search.

const LOW_BITS: u64 = u64::from_ne_bytes([0x7F; 8]);

/// What stands in for the bytes behind the end of the text. No search looks for it.
const FILLER: u8 = b'x';

/// The text in words of eight bytes, the first byte lowest, the last word filled up.
#[inline]
pub(super) fn words(text: &[u8]) -> impl Iterator<Item = u64> {
    let (chunks, rest) = text.as_chunks::<8>();
    let mut last = [FILLER; 8];
    for (to, from) in last.iter_mut().zip(rest) {
        *to = *from;
    }
    let last = (!rest.is_empty()).then_some(last);
    chunks.iter().copied().chain(last).map(u64::from_le_bytes)
}

/// The high bit of every byte that equals the wanted one, and no other bit.
#[inline]
pub(super) fn equal(word: u64, wanted: u8) -> u64 {
    let differing = word ^ u64::from_ne_bytes([wanted; 8]);
    !(((differing & LOW_BITS) + LOW_BITS) | differing | LOW_BITS)
}

/// Where the topic level separators are.
#[inline]
pub(super) fn separators(text: &[u8]) -> impl Iterator<Item = usize> {
    words(text).enumerate().flat_map(|(at, word)| {
        let mut found = equal(word, b'/');
        std::iter::from_fn(move || {
            let bit = (found != 0).then(|| found.trailing_zeros() as usize)?;
            found &= found - 1;
            Some(at * 8 + bit / 8)
        })
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn equal_bytes_are_found_exactly(bytes in any::<[u8; 8]>(), wanted in any::<u8>()) {
            let found = equal(u64::from_le_bytes(bytes), wanted).to_le_bytes();
            prop_assert_eq!(found, bytes.map(|byte| if byte == wanted { 0x80 } else { 0 }));
        }

        #[test]
        fn separators_are_found_in_order(
            text in vec(prop::sample::select(vec![b'/', b'.', b'0', b'\xAF', 0, b'a']), 0..70),
        ) {
            let expected: Vec<usize> = (0..text.len()).filter(|&at| text[at] == b'/').collect();
            prop_assert_eq!(separators(&text).collect::<Vec<_>>(), expected);
        }
    }
}
