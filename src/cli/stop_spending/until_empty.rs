//! Looking until nothing is left.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::cli::exit::Trouble;

/// Looks in a row that show nothing of ours.
const EMPTY_LOOKS: u32 = 2;
/// A market lets itself be listed about once a second, and the scaler lists it too.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What one look shows.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    /// It can be waited for.
    pub(super) going: Vec<String>,
    /// Nobody here can end it, or know that it has ended.
    pub(super) out_of_reach: Vec<String>,
}

/// How long to look.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) patience: Duration,
    /// For so long looks must show nothing until that is believed: markets show new machines late.
    pub(super) settled_after: Duration,
}

/// Looks until looks in a row show nothing that goes, or patience ends: what is left then.
pub(super) async fn until_empty(
    bounds: Bounds,
    look: impl AsyncFn() -> Result<Seen, String>,
) -> Result<Vec<String>, Trouble> {
    let deadline = Instant::now() + bounds.patience;
    let (mut empty, mut told, mut complained) = (0, Vec::new(), None);
    let mut empty_since = None;
    loop {
        let begun = Instant::now();
        match look().await {
            Ok(seen) => {
                let is_empty = seen.going.is_empty();
                empty = if is_empty { empty + 1 } else { 0 };
                empty_since = is_empty.then(|| empty_since.unwrap_or(begun));
                let settled = empty_since.is_some_and(|since: Instant| {
                    empty >= EMPTY_LOOKS && begun.duration_since(since) >= bounds.settled_after
                });
                if is_empty && !settled && Instant::now() >= deadline {
                    let why =
                        "no machine is listed, and that was not so for long enough to be believed";
                    return Err(Trouble::Unreachable(why.into()));
                }
                let left = [seen.going, seen.out_of_reach].concat();
                if settled || Instant::now() >= deadline {
                    return Ok(left);
                }
                if empty == 1 && !bounds.settled_after.is_zero() {
                    let wait = bounds.settled_after.as_secs();
                    eprintln!(
                        "nothing is listed; looking for {wait} s more, for listings may be late"
                    );
                }
                tell(&mut told, &left);
            }
            // A market that is away for a moment says nothing of what is left.
            Err(why) if Instant::now() >= deadline => return Err(Trouble::Unreachable(why)),
            Err(why) => {
                if complained.as_ref() != Some(&why) {
                    eprintln!("{why}");
                }
                complained = Some(why);
            }
        }
        sleep(LOOK_EVERY).await;
    }
}

/// Progress, where it is news.
pub(super) fn tell(told: &mut Vec<String>, left: &[String]) {
    let same = told.iter().collect::<BTreeSet<_>>() == left.iter().collect::<BTreeSet<_>>();
    if !same && !left.is_empty() {
        eprintln!("left: {}", left.join(", "));
    }
    *told = left.to_vec();
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    fn bounds(patience: u64, settled_after: u64) -> Bounds {
        Bounds {
            patience: Duration::from_secs(patience),
            settled_after: Duration::from_secs(settled_after),
        }
    }

    fn there() -> Seen {
        Seen {
            going: vec!["w1".to_owned()],
            out_of_reach: Vec::new(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_machine_that_a_market_shows_late_is_waited_for() {
        let begun = Instant::now();
        // Ordered just before; listed for the first time after half a minute, and then ended.
        let look = async || match begun.elapsed().as_secs() {
            30..40 => Ok(there()),
            _ => Ok(Seen::default()),
        };
        let left = until_empty(bounds(600, 75), look).await.expect("an answer");
        assert!(left.is_empty());
        assert!(begun.elapsed() >= Duration::from_secs(40 + 75));
    }

    #[tokio::test(start_paused = true)]
    async fn an_empty_market_is_not_believed_where_there_was_no_time_to() {
        let empty = async || Ok(Seen::default());
        let trouble = until_empty(bounds(10, 75), empty).await;
        assert!(matches!(trouble, Err(Trouble::Unreachable(_))));
    }

    #[tokio::test(start_paused = true)]
    async fn what_nobody_here_can_reach_is_left_and_not_waited_for() {
        let begun = Instant::now();
        let look = async || {
            Ok(Seen {
                going: Vec::new(),
                out_of_reach: vec!["w2".to_owned()],
            })
        };
        let left = until_empty(bounds(600, 0), look).await.expect("an answer");
        assert_eq!(left, ["w2"]);
        assert!(begun.elapsed() < Duration::from_secs(10));
    }

    #[tokio::test(start_paused = true)]
    async fn one_empty_listing_is_not_believed() {
        let looks = Cell::new(0);
        let look = async || {
            looks.set(looks.get() + 1);
            // Gone, there again, gone for good.
            Ok(match looks.get() {
                1 | 3 => there(),
                _ => Seen::default(),
            })
        };
        let left = until_empty(bounds(60, 0), look).await.expect("an answer");
        assert!(left.is_empty());
        assert_eq!(looks.get(), 5);
    }

    #[tokio::test(start_paused = true)]
    async fn what_does_not_go_in_time_is_named_and_a_market_that_is_silent_is_not_taken_for_empty()
    {
        let stays = async || Ok(there());
        let left = until_empty(bounds(5, 0), stays).await.expect("an answer");
        assert_eq!(left, ["w1"]);
        let silent = async || Err("away".to_owned());
        let trouble = until_empty(bounds(5, 0), silent).await;
        assert!(matches!(trouble, Err(Trouble::Unreachable(_))));
    }
}
