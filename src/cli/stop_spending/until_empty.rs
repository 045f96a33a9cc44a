//! Looking until nothing is left.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::cli::exit::Trouble;

/// Looks in a row that show nothing of ours.
const EMPTY_LOOKS: u32 = 2;
/// A market lets itself be listed about once a second, and the scaler lists it too.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Looks until several looks in a row find nothing, or patience ends: what is left then.
pub(super) async fn until_empty(
    patience: Duration,
    look: impl AsyncFn() -> Result<Vec<String>, String>,
) -> Result<Vec<String>, Trouble> {
    let deadline = Instant::now() + patience;
    let (mut empty, mut told, mut complained) = (0, Vec::new(), None);
    loop {
        match look().await {
            Ok(left) => {
                empty = if left.is_empty() { empty + 1 } else { 0 };
                if empty >= EMPTY_LOOKS || Instant::now() >= deadline {
                    return Ok(left);
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

    #[tokio::test(start_paused = true)]
    async fn one_empty_listing_is_not_believed() {
        let looks = Cell::new(0);
        let look = async || {
            looks.set(looks.get() + 1);
            // Gone, there again, gone for good.
            Ok(match looks.get() {
                1 | 3 => vec!["w1".to_owned()],
                _ => Vec::new(),
            })
        };
        let left = until_empty(Duration::from_secs(60), look)
            .await
            .expect("an answer");
        assert!(left.is_empty());
        assert_eq!(looks.get(), 5);
    }

    #[tokio::test(start_paused = true)]
    async fn what_does_not_go_in_time_is_named_and_a_market_that_is_silent_is_not_taken_for_empty()
    {
        let stays = async || Ok(vec!["w1".to_owned()]);
        let left = until_empty(Duration::from_secs(5), stays)
            .await
            .expect("an answer");
        assert_eq!(left, ["w1"]);
        let silent = async || Err("away".to_owned());
        let trouble = until_empty(Duration::from_secs(5), silent).await;
        assert!(matches!(trouble, Err(Trouble::Unreachable(_))));
    }
}
