//! Hashes of a prompt's growing beginnings, by which requests are sent where a part was read before.

use std::hash::{DefaultHasher, Hasher};

use crate::domain::{Prefix, PrefixBlock};

/// Shorter beginnings are read faster than they are worth remembering.
const FIRST_BYTES: usize = 512;
/// Each block ends a quarter further than the one before: few hashes, and at most a fifth of a match is missed.
const GROWTH: usize = 4;
/// What lies beyond is not looked at.
const LOOKED_AT_BYTES: usize = 256 << 10;

/// Of the prompt as JSON text, which is the same text whenever it is the same prompt from the same client program.
pub(super) fn of(raw: &[u8]) -> Prefix {
    let raw = &raw[..raw.len().min(LOOKED_AT_BYTES)];
    if raw.len() < FIRST_BYTES {
        return Prefix::default();
    }
    let mut hasher = DefaultHasher::new();
    let (mut begin, mut end) = (0, FIRST_BYTES);
    let mut blocks = Vec::with_capacity(24);
    while begin < raw.len() {
        end = end.min(raw.len());
        hasher.write(&raw[begin..end]);
        blocks.push(PrefixBlock {
            hash: hasher.finish(),
            bytes: end as u32,
        });
        begin = end;
        end += end / GROWTH;
    }
    Prefix::new(blocks)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn common(a: &Prefix, b: &Prefix) -> u32 {
        let same = |(a, b): &(&PrefixBlock, &PrefixBlock)| a == b;
        let pairs = a.blocks().iter().zip(b.blocks());
        pairs.take_while(same).last().map_or(0, |(a, _)| a.bytes)
    }

    #[test]
    fn a_conversation_that_goes_on_shares_all_but_its_end() {
        let first = "word ".repeat(1_000);
        let longer = format!("{first}and one more turn");
        let shared = common(&of(first.as_bytes()), &of(longer.as_bytes()));
        assert!((4_000..5_000).contains(&shared), "{shared}");
        let other = format!("{}x", &first[..2_500]);
        let shared = common(&of(first.as_bytes()), &of(other.as_bytes()));
        assert!((2_000..=2_500).contains(&shared), "{shared}");
    }

    #[test]
    fn the_last_block_is_the_whole_prompt_and_short_ones_have_none() {
        for length in [512, 513, 5_000, 100_000] {
            let prefix = of(&vec![b'x'; length]);
            assert_eq!(prefix.blocks().last().map(|b| b.bytes), Some(length as u32));
        }
        assert!(of(&[b'x'; 511]).blocks().is_empty());
        assert!(of(&vec![b'x'; 16 << 20]).blocks().len() < 40);
    }
}
