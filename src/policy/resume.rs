//! Whether a stream that broke off after its first byte is gone on with, and when a silent one counts as broken.

use std::time::Duration;

use crate::domain::{Obstacle, ResumeMode, ResumeSettings};

/// A stream without a token for so many of its usual gaps is taken for dead.
const SILENT_GAPS: u32 = 20;

/// Why a broken stream ends with an error instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotResumed {
    /// `resume: never`.
    Off,
    /// `resume: deterministic`, and its tokens are drawn by chance.
    Sampled,
    Obstacle(Obstacle),
    /// It lost as many workers as it may.
    TooOften,
}

impl NotResumed {
    /// The metric label.
    pub fn as_str(self) -> &'static str {
        match self {
            NotResumed::Off => "off",
            NotResumed::Sampled => "sampled",
            NotResumed::Obstacle(obstacle) => obstacle.as_str(),
            NotResumed::TooOften => "too_often",
        }
    }
}

/// `times` is how often it was gone on with already.
pub fn may_resume(
    obstacle: Option<Obstacle>,
    samples: bool,
    times: u32,
    settings: &ResumeSettings,
) -> Result<(), NotResumed> {
    match (settings.mode, obstacle) {
        (ResumeMode::Never, _) => Err(NotResumed::Off),
        (_, Some(obstacle)) => Err(NotResumed::Obstacle(obstacle)),
        (ResumeMode::Deterministic, None) if samples => Err(NotResumed::Sampled),
        _ if times >= settings.times_max => Err(NotResumed::TooOften),
        _ => Ok(()),
    }
}

/// How long a stream may be silent until its worker is taken for dead.
pub fn silence_max(usual_gap: Duration, least: Duration) -> Duration {
    least.max(usual_gap.saturating_mul(SILENT_GAPS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(
        mode: ResumeMode,
        obstacle: Option<Obstacle>,
        samples: bool,
        times: u32,
        expect: Result<(), NotResumed>,
    ) {
        let settings = ResumeSettings { mode, times_max: 2 };
        assert_eq!(may_resume(obstacle, samples, times, &settings), expect);
    }

    #[test]
    fn the_setting_decides_which_streams_are_gone_on_with() {
        check(ResumeMode::Always, None, true, 1, Ok(()));
        check(ResumeMode::Deterministic, None, false, 0, Ok(()));
        check(
            ResumeMode::Deterministic,
            None,
            true,
            0,
            Err(NotResumed::Sampled),
        );
        check(ResumeMode::Never, None, false, 0, Err(NotResumed::Off));
    }

    #[test]
    fn what_cannot_be_gone_on_with_or_broke_too_often_is_not() {
        let obstacle = Obstacle::Logprobs;
        check(
            ResumeMode::Always,
            Some(obstacle),
            false,
            0,
            Err(NotResumed::Obstacle(obstacle)),
        );
        check(
            ResumeMode::Always,
            None,
            false,
            2,
            Err(NotResumed::TooOften),
        );
    }

    #[test]
    fn slow_streams_may_be_silent_for_longer() {
        let least = Duration::from_secs(5);
        assert_eq!(silence_max(Duration::from_millis(20), least), least);
        assert_eq!(
            silence_max(Duration::from_secs(1), least),
            Duration::from_secs(20)
        );
    }
}
