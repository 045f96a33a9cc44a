//! How many requests a worker that just came up gets: a few at first, and one more for each that it has
//! answered, so that the number doubles with each round as TCP's window does. Held requests that waited for
//! it together do not all fall on an engine that still compiles, and if it fails, few fail with it.

/// At first, whatever its concurrency.
const FIRST_MAX: u32 = 8;
/// Answers after which it is like any other.
const ENOUGH: u32 = 512;

/// Places of a worker that has begun to answer so many requests since it came up, of `most` that it has.
pub fn places(most: Option<u32>, prior_concurrency: u32, answered: u32) -> Option<u32> {
    if answered >= ENOUGH {
        return most;
    }
    let now = prior_concurrency.clamp(1, FIRST_MAX) + answered;
    Some(most.map_or(now, |most| most.min(now)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_worker_gets_a_few_and_with_each_answer_one_more_until_it_has_all() {
        assert_eq!(places(None, 64, 0), Some(8));
        assert_eq!(places(None, 4, 0), Some(4));
        assert_eq!(places(None, 0, 0), Some(1));
        assert_eq!(places(Some(2), 64, 0), Some(2));
        assert_eq!(places(Some(32), 64, 8), Some(16));
        assert_eq!(places(Some(32), 64, 100), Some(32));
        assert_eq!(places(None, 64, ENOUGH), None);
    }

    #[test]
    fn a_crowd_is_handed_out_in_rounds_that_double() {
        let (mut answered, mut rounds) = (0, Vec::new());
        while rounds.iter().sum::<u32>() < 200 {
            let round = places(None, 8, answered).expect("still few");
            rounds.push(round);
            answered += round;
        }
        assert_eq!(rounds, [8, 16, 32, 64, 128]);
    }
}
