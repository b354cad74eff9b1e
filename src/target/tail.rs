//! The last bytes of an output, in memory that does not grow with it.

use super::OUTPUT_TAIL_BYTES;

/// A ring of the last [`OUTPUT_TAIL_BYTES`] bytes.
#[derive(Debug, Default)]
pub(super) struct Tail {
    /// Grows to the limit, then is overwritten from `oldest` on.
    ring: Vec<u8>,
    oldest: usize,
    truncated: bool,
}

impl Tail {
    pub(super) fn push(&mut self, bytes: &[u8]) {
        let kept = &bytes[bytes.len().saturating_sub(OUTPUT_TAIL_BYTES)..];
        self.truncated |= kept.len() < bytes.len() || self.ring.len() + kept.len() > OUTPUT_TAIL_BYTES;
        let room = (OUTPUT_TAIL_BYTES - self.ring.len()).min(kept.len());
        self.ring.extend_from_slice(&kept[..room]);
        let (to_end, wrapped) = {
            let over = &kept[room..];
            over.split_at((self.ring.len() - self.oldest).min(over.len()))
        };
        self.ring[self.oldest..self.oldest + to_end.len()].copy_from_slice(to_end);
        self.ring[..wrapped.len()].copy_from_slice(wrapped);
        self.oldest = (self.oldest + to_end.len() + wrapped.len()) % OUTPUT_TAIL_BYTES;
    }

    /// Whether bytes were dropped.
    pub(super) fn is_truncated(&self) -> bool {
        self.truncated
    }

    /// The bytes in order. Where the cut went through a UTF-8 character, its remains (at most 3 bytes) are dropped.
    pub(super) fn into_bytes(mut self) -> Vec<u8> {
        self.ring.rotate_left(self.oldest);
        if self.truncated {
            let remains = self.ring.iter().take(3).take_while(|byte| **byte & 0xC0 == 0x80).count();
            self.ring.drain(..remains);
        }
        self.ring
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_tail_is_the_end_of_all_that_was_pushed(
            sizes in proptest::collection::vec(0usize..3 * OUTPUT_TAIL_BYTES, 0..8)
        ) {
            let mut tail = Tail::default();
            let mut all = Vec::new();
            for size in sizes {
                let chunk: Vec<u8> = (0..size).map(|i| ((all.len() + i) % 127) as u8).collect();
                tail.push(&chunk);
                all.extend(chunk);
            }
            prop_assert_eq!(tail.is_truncated(), all.len() > OUTPUT_TAIL_BYTES);
            prop_assert_eq!(tail.into_bytes(), all.split_off(all.len().saturating_sub(OUTPUT_TAIL_BYTES)));
        }
    }

    #[test]
    fn exactly_the_limit_is_not_truncated_and_one_more_byte_is() {
        let mut tail = Tail::default();
        tail.push(&[b'a'; OUTPUT_TAIL_BYTES]);
        assert!(!tail.is_truncated());
        tail.push(b"b");
        assert!(tail.is_truncated());
        let bytes = tail.into_bytes();
        assert_eq!((bytes.len(), bytes.last()), (OUTPUT_TAIL_BYTES, Some(&b'b')));
    }

    #[test]
    fn a_character_that_the_cut_went_through_is_dropped() {
        let mut tail = Tail::default();
        tail.push("é".repeat(OUTPUT_TAIL_BYTES).as_bytes());
        tail.push(b"!");
        let text = String::from_utf8(tail.into_bytes()).expect("no half character");
        assert!(text.ends_with("é!"));
    }
}
