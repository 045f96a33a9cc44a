//! What reads bytes from outside, as functions of arbitrary bytes that must neither panic nor contradict themselves.
//!
//! `make fuzz` drives them with libFuzzer, which needs no nightly toolchain: the coverage it steers by comes from flags of
//! stable rustc (`loadtest/fuzz`). `make test` gives each the seeds and some thousands of changed ones.

mod answers;
mod configuration;
mod events;
mod mutate;
mod requests;

pub use mutate::Mutator;

/// One thing that is fuzzed.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    pub name: &'static str,
    /// Panics where a promise is broken.
    pub check: fn(&[u8]),
    /// Inputs that get far.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

pub const TARGETS: [Target; 5] = [
    Target {
        name: "requests",
        check: requests::check,
        seeds: requests::seeds,
    },
    Target {
        name: "events",
        check: events::check,
        seeds: events::seeds,
    },
    Target {
        name: "answers",
        check: answers::check_stream,
        seeds: answers::stream_seeds,
    },
    Target {
        name: "unstreamed",
        check: answers::check_whole,
        seeds: answers::whole_seeds,
    },
    Target {
        name: "configuration",
        check: configuration::check,
        seeds: configuration::seeds,
    },
];

pub fn target(name: &str) -> Option<Target> {
    TARGETS.into_iter().find(|target| target.name == name)
}

/// The first bytes of an input choose, the rest is what is read.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn choose<T: Copy>(&mut self, of: &[T]) -> T {
        of[usize::from(self.byte()) % of.len()]
    }

    fn byte(&mut self) -> u8 {
        let (first, rest) = self.0.split_first().unwrap_or((&0, &[]));
        self.0 = rest;
        *first
    }

    fn rest(self) -> &'a [u8] {
        self.0
    }
}

/// Cuts bytes into pieces of sizes that follow from `seed`; 0 leaves them whole.
fn pieces(bytes: &[u8], seed: u8) -> impl Iterator<Item = &[u8]> {
    let mut dice = fastrand::Rng::with_seed(u64::from(seed));
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let size = if seed == 0 {
            rest.len()
        } else {
            dice.usize(1..=1 + usize::from(seed))
        };
        let (piece, after) = rest.split_at(size.min(rest.len()));
        rest = after;
        (!piece.is_empty()).then_some(piece)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHANGED: usize = 1_500;

    fn run(name: &str) {
        let target = target(name).unwrap();
        let seeds = (target.seeds)();
        assert!(!seeds.is_empty());
        let mut mutator = Mutator::new(7, &seeds);
        for nth in 0..seeds.len() + CHANGED {
            let input = seeds.get(nth).cloned().unwrap_or_else(|| mutator.next());
            // What breaks is printed before it is known to break: a panic leaves it as the last line.
            println!("{name} {}", input.escape_ascii());
            (target.check)(&input);
        }
    }

    #[test]
    fn no_request_breaks_its_reader() {
        run("requests");
    }

    #[test]
    fn events_are_the_same_for_any_chunking() {
        run("events");
    }

    #[test]
    fn streams_are_read_the_same_for_any_chunking() {
        run("answers");
    }

    #[test]
    fn no_unstreamed_answer_breaks_its_reader() {
        run("unstreamed");
    }

    #[test]
    fn no_configuration_breaks_its_reader() {
        run("configuration");
    }

    #[test]
    fn pieces_put_together_are_the_whole() {
        let bytes: Vec<u8> = (0..=255).collect();
        for seed in [0, 1, 7, 255] {
            let pieces: Vec<&[u8]> = pieces(&bytes, seed).collect();
            assert_eq!(pieces.concat(), bytes);
            assert_eq!(pieces.len() == 1, seed == 0);
        }
    }
}
