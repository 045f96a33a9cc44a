//! Whether a request may wait when no worker can take it.

use std::time::Duration;

use crate::domain::{TokensPerSecond, WaitingSettings, WaitingView};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// As many requests wait as may.
    TooManyWaiting,
    /// The bodies of waiting requests fill the room.
    TooManyBytes,
}

impl Refusal {
    /// The metric label.
    pub fn as_str(self) -> &'static str {
        match self {
            Refusal::TooManyWaiting => "too_many_waiting",
            Refusal::TooManyBytes => "too_many_bytes",
        }
    }
}

pub fn may_wait(
    room: &WaitingView,
    body_bytes: usize,
    settings: &WaitingSettings,
) -> Result<(), Refusal> {
    if room.requests >= settings.requests_max {
        Err(Refusal::TooManyWaiting)
    } else if room.bytes.saturating_add(body_bytes) > settings.bytes_max {
        Err(Refusal::TooManyBytes)
    } else {
        Ok(())
    }
}

/// What to tell a refused client: the time to work off what waits, within 1 to 60 s.
pub fn retry_after(room: &WaitingView, ready_speed: TokensPerSecond) -> Duration {
    let seconds = if ready_speed.0 > 0.0 {
        room.cost.0 / ready_speed.0
    } else {
        10.0
    };
    Duration::from_secs(seconds.clamp(1.0, 60.0).ceil() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Tokens;

    fn room(requests: usize, bytes: usize) -> WaitingView {
        WaitingView {
            requests,
            bytes,
            cost: Tokens(500.0),
            oldest_since: None,
        }
    }

    fn settings() -> WaitingSettings {
        WaitingSettings {
            requests_max: 3,
            bytes_max: 1_000,
            wait_max: Duration::from_secs(1),
        }
    }

    #[test]
    fn the_room_is_bounded_in_requests_and_bytes() {
        assert_eq!(may_wait(&room(2, 0), 1_000, &settings()), Ok(()));
        assert_eq!(
            may_wait(&room(3, 0), 1, &settings()),
            Err(Refusal::TooManyWaiting)
        );
        assert_eq!(
            may_wait(&room(0, 999), 2, &settings()),
            Err(Refusal::TooManyBytes)
        );
    }

    #[test]
    fn retry_after_is_the_time_to_work_off_the_room() {
        assert_eq!(
            retry_after(&room(1, 1), TokensPerSecond(100.0)).as_secs(),
            5
        );
        assert_eq!(retry_after(&room(1, 1), TokensPerSecond(0.0)).as_secs(), 10);
        assert_eq!(
            retry_after(&room(1, 1), TokensPerSecond(0.001)).as_secs(),
            60
        );
    }
}
