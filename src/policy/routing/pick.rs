//! The least score wins; the first of equals.

use crate::domain::Choice;

pub(super) fn least(choices: impl Iterator<Item = Choice>) -> Option<Choice> {
    choices.reduce(|best, next| {
        if next.score_s < best.score_s {
            next
        } else {
            best
        }
    })
}
