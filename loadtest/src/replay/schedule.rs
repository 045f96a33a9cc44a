//! When each request of a trace is sent: a pure function of trace and phases, so that no slow server can move it.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde::Serialize;

use crate::trace::{Trace, TraceRequest};

/// A stretch of the replay at one speed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Phase {
    pub name: String,
    /// Seconds of the trace played in one real second; 0 is silence.
    pub speed: f64,
    /// Real seconds.
    pub duration_s: f64,
}

impl Phase {
    pub fn new(name: impl Into<String>, speed: f64, duration_s: f64) -> Self {
        Self {
            name: name.into(),
            speed,
            duration_s,
        }
    }

    /// The whole trace at one speed. It ends just after the last arrival.
    pub fn whole(trace: &Trace, speed: f64) -> Self {
        Self::new("all", speed, (trace.length_s() + 1e-3) / speed)
    }

    /// Reads `3x60`: three times `base_speed` for 60 seconds.
    pub fn parse(text: &str, base_speed: f64) -> Option<Self> {
        let (speed, duration) = text.trim().split_once('x')?;
        let speed: f64 = speed.parse().ok()?;
        let name = if speed == 0.0 {
            "silence".to_owned()
        } else {
            format!("{speed}x")
        };
        Some(Self::new(name, speed * base_speed, duration.parse().ok()?))
    }
}

/// One request and its moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Arrival {
    /// After the start of the replay.
    pub at: Duration,
    /// Index into the phases.
    pub phase: usize,
    pub request: TraceRequest,
}

/// The phases play the trace on, one after the other. Fails if the trace ends before the phases do.
pub fn schedule(trace: &Trace, phases: &[Phase]) -> Result<Vec<Arrival>> {
    let mut arrivals = Vec::new();
    let (mut real_s, mut trace_s) = (0.0, 0.0);
    for (index, phase) in phases.iter().enumerate() {
        ensure!(
            [phase.speed, phase.duration_s]
                .iter()
                .all(|number| number.is_finite() && *number >= 0.0),
            "phase {}: speed and duration must be numbers of at least 0",
            phase.name
        );
        let trace_end_s = trace_s + phase.speed * phase.duration_s;
        let first = trace
            .requests
            .partition_point(|request| request.arrival_s < trace_s);
        arrivals.extend(
            trace.requests[first..]
                .iter()
                .take_while(|request| request.arrival_s < trace_end_s)
                .map(|&request| Arrival {
                    at: Duration::from_secs_f64(
                        real_s + (request.arrival_s - trace_s) / phase.speed,
                    ),
                    phase: index,
                    request,
                }),
        );
        (real_s, trace_s) = (real_s + phase.duration_s, trace_end_s);
    }
    ensure!(
        trace_s <= trace.length_s() + 1.0,
        "the phases play {trace_s:.0} s of a trace that is {:.0} s long",
        trace.length_s()
    );
    Ok(arrivals)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One request at each of these seconds; their input tokens number them.
    fn trace(arrivals_s: &[f64]) -> Trace {
        let requests = arrivals_s
            .iter()
            .zip(0..)
            .map(|(&arrival_s, input_tokens)| TraceRequest {
                arrival_s,
                input_tokens,
                output_tokens: 1,
            })
            .collect();
        Trace { requests }
    }

    #[track_caller]
    fn check(arrivals_s: &[f64], phases: &[(f64, f64)], expect: &[(f64, usize)]) {
        let phases: Vec<Phase> = phases
            .iter()
            .map(|&(speed, duration_s)| Phase::new("p", speed, duration_s))
            .collect();
        let planned = schedule(&trace(arrivals_s), &phases).unwrap();
        let got: Vec<_> = planned
            .iter()
            .map(|arrival| (arrival.at.as_secs_f64(), arrival.phase))
            .collect();
        assert_eq!(got, expect);
    }

    #[test]
    fn arrival_times_are_divided_by_the_speed() {
        check(
            &[0.0, 4.0, 8.0],
            &[(2.0, 4.5)],
            &[(0.0, 0), (2.0, 0), (4.0, 0)],
        );
    }

    #[test]
    fn each_phase_plays_on_where_the_last_one_ended() {
        check(
            &[0.0, 5.0, 10.0, 16.0, 34.0, 42.0],
            &[(1.0, 10.0), (3.0, 10.0), (0.5, 5.0)],
            &[
                (0.0, 0),
                (5.0, 0),
                (10.0, 1),
                (12.0, 1),
                (18.0, 1),
                (24.0, 2),
            ],
        );
    }

    #[test]
    fn silence_sends_nothing_and_takes_its_time() {
        check(
            &[0.0, 1.0, 2.0],
            &[(1.0, 1.5), (0.0, 10.0), (1.0, 1.0)],
            &[(0.0, 0), (1.0, 0), (12.0, 2)],
        );
    }

    #[test]
    fn the_whole_trace_holds_its_last_request() {
        let trace = trace(&[0.0, 3.0, 60.0]);
        let phase = Phase::whole(&trace, 60.0);
        assert_eq!(schedule(&trace, &[phase]).unwrap().len(), 3);
    }

    #[test]
    fn phases_longer_than_the_trace_are_refused() {
        let error = schedule(&trace(&[0.0, 10.0]), &[Phase::new("p", 1.0, 60.0)]).unwrap_err();
        assert!(error.to_string().contains("10 s long"), "{error}");
    }

    #[test]
    fn a_phase_is_read_from_speed_and_seconds() {
        assert_eq!(Phase::parse("3x60", 2.0), Some(Phase::new("3x", 6.0, 60.0)));
        assert_eq!(
            Phase::parse("0x30", 2.0),
            Some(Phase::new("silence", 0.0, 30.0))
        );
        assert_eq!(Phase::parse("fast", 2.0), None);
    }
}
