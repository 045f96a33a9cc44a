//! Which workers are believed to hold the beginning of a prompt, from what was sent to them.
//!
//! A belief, not knowledge: engines forget without telling. Two generations bound it in number and age.

use std::collections::HashMap;

use crate::domain::{AffinitySettings, Prefix, Timestamp};

/// Workers remembered for one prefix; a popular one is held by all of them anyway.
const HOLDERS_MAX: usize = 4;
/// Different workers told of for one request.
const FOUND_MAX: usize = 8;

/// One life of a worker: a restarted one holds nothing.
pub type Incarnation = u64;

#[derive(Debug, Default)]
pub struct Beliefs {
    young: HashMap<u64, Holders>,
    old: HashMap<u64, Holders>,
    young_since: Timestamp,
}

#[derive(Clone, Copy, Debug, Default)]
struct Holders {
    who: [Incarnation; HOLDERS_MAX],
    count: u8,
    next: u8,
}

/// Who holds how much of one prompt, the longest parts first.
#[derive(Clone, Copy, Debug, Default)]
pub struct Held {
    found: [(Incarnation, f32); FOUND_MAX],
    count: usize,
}

impl Beliefs {
    /// The prompt was sent to `who`.
    pub fn learn(
        &mut self,
        who: Incarnation,
        prefix: &Prefix,
        settings: &AffinitySettings,
        now: Timestamp,
    ) {
        let blocks = prefix.blocks();
        if blocks.is_empty() || settings.remembered == 0 || settings.bound.is_zero() {
            return;
        }
        let full = self.young.len() + blocks.len() > settings.remembered / 2;
        if full || now.since(self.young_since) > settings.max_age / 2 {
            self.old = std::mem::take(&mut self.young);
            self.young_since = now;
        }
        for block in blocks {
            let old = self.old.get(&block.hash).copied().unwrap_or_default();
            self.young.entry(block.hash).or_insert(old).add(who);
        }
    }

    pub fn who_holds(&self, prefix: &Prefix) -> Held {
        let mut held = Held::default();
        let whole = prefix.blocks().last().map_or(1, |block| block.bytes.max(1));
        for block in prefix.blocks().iter().rev() {
            let share = block.bytes as f32 / whole as f32;
            let holders = self.young.get(&block.hash).or(self.old.get(&block.hash));
            for who in holders.into_iter().flat_map(Holders::iter) {
                held.add(who, share.min(1.0));
            }
        }
        held
    }

    pub fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Holders {
    fn iter(&self) -> impl Iterator<Item = Incarnation> {
        self.who[..usize::from(self.count)].iter().copied()
    }

    /// The one told longest ago makes room.
    fn add(&mut self, who: Incarnation) {
        if self.iter().any(|known| known == who) {
            return;
        }
        let place = usize::from(self.next) % HOLDERS_MAX;
        self.who[place] = who;
        self.next = ((place + 1) % HOLDERS_MAX) as u8;
        self.count = self.count.max(place as u8 + 1);
    }
}

impl Held {
    fn add(&mut self, who: Incarnation, share: f32) {
        let known = self.found[..self.count]
            .iter()
            .any(|(known, _)| *known == who);
        if !known && self.count < FOUND_MAX {
            self.found[self.count] = (who, share);
            self.count += 1;
        }
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// In 0 to 1.
    pub fn share_of(&self, who: Incarnation) -> f64 {
        self.found[..self.count]
            .iter()
            .find(|(known, _)| *known == who)
            .map_or(0.0, |(_, share)| f64::from(*share))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::domain::PrefixBlock;

    fn prefix(hashes: &[u64]) -> Prefix {
        let blocks = (1..).zip(hashes).map(|(n, hash)| PrefixBlock {
            hash: *hash,
            bytes: n * 100,
        });
        Prefix::new(blocks.collect())
    }

    fn settings(remembered: usize) -> AffinitySettings {
        AffinitySettings {
            bound: Duration::from_secs(1),
            remembered,
            max_age: Duration::from_secs(100),
        }
    }

    fn at(s: u64) -> Timestamp {
        Timestamp::from_millis(s * 1_000)
    }

    #[test]
    fn the_longest_common_beginning_counts() {
        let mut beliefs = Beliefs::default();
        beliefs.learn(1, &prefix(&[7, 8, 9]), &settings(100), at(0));
        beliefs.learn(2, &prefix(&[7, 5]), &settings(100), at(0));
        let held = beliefs.who_holds(&prefix(&[7, 8, 6, 4]));
        assert_eq!(held.share_of(1), 0.5);
        assert_eq!(held.share_of(2), 0.25);
        assert_eq!(held.share_of(3), 0.0);
    }

    #[test]
    fn what_was_not_seen_for_long_is_forgotten_and_what_was_stays() {
        let mut beliefs = Beliefs::default();
        beliefs.learn(1, &prefix(&[1]), &settings(100), at(0));
        beliefs.learn(1, &prefix(&[2]), &settings(100), at(0));
        for s in (10..200).step_by(10) {
            beliefs.learn(1, &prefix(&[2]), &settings(100), at(s));
        }
        assert!(beliefs.who_holds(&prefix(&[1])).is_empty());
        assert!(!beliefs.who_holds(&prefix(&[2])).is_empty());
    }

    #[test]
    fn memory_and_holders_are_bounded() {
        let mut beliefs = Beliefs::default();
        for n in 0..10_000 {
            beliefs.learn(n, &prefix(&[n, 1]), &settings(64), at(0));
        }
        assert!(beliefs.len() <= 64, "{}", beliefs.len());
        let held = beliefs.who_holds(&prefix(&[0, 1]));
        assert!((9_996..10_000).all(|who| held.share_of(who) == 1.0));
    }

    #[test]
    fn nothing_is_learned_where_affinity_is_off() {
        let mut beliefs = Beliefs::default();
        let off = AffinitySettings {
            bound: Duration::ZERO,
            ..settings(64)
        };
        beliefs.learn(1, &prefix(&[1]), &off, at(0));
        beliefs.learn(1, &prefix(&[1]), &settings(0), at(0));
        assert!(beliefs.is_empty());
    }
}
