//! The stand-in worker of tests and trials: it has TGI's routes and OpenAI's, so nothing is translated.

use super::Exchange;
use super::call::Call;
use super::tgi;
use crate::domain::EngineKind;

pub(super) fn exchange(call: &Call) -> Exchange {
    tgi::exchange(EngineKind::Fake, call)
}
