//! Request traces: csv files with the columns `arrival_s,input_tokens,output_tokens`, and pieces cut from them.

use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

/// One request of a trace.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct TraceRequest {
    /// Seconds after the start of the trace.
    pub arrival_s: f64,
    pub input_tokens: u32,
    pub output_tokens: u32,
}

/// Requests in order of arrival.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Trace {
    pub requests: Vec<TraceRequest>,
}

/// Which piece of a trace, and how its requests are resized. Times are the trace's own seconds.
#[derive(Clone, Debug, PartialEq)]
pub struct TraceCut {
    pub skip_s: f64,
    pub duration_s: Option<f64>,
    /// Both token counts are multiplied by this, then bounded; at least 1 remains.
    pub scale_tokens: f64,
    pub input_tokens_max: Option<u32>,
    pub output_tokens_max: Option<u32>,
}

impl Default for TraceCut {
    fn default() -> Self {
        Self {
            skip_s: 0.0,
            duration_s: None,
            scale_tokens: 1.0,
            input_tokens_max: None,
            output_tokens_max: None,
        }
    }
}

impl Trace {
    pub fn read(path: &Path) -> Result<Self> {
        let file = std::fs::File::open(path)
            .with_context(|| format!("cannot open the trace {}", path.display()))?;
        Self::parse(file).with_context(|| format!("in the trace {}", path.display()))
    }

    /// Fails on a missing column, a number that is none, and an arrival before its predecessor.
    pub fn parse(text: impl Read) -> Result<Self> {
        let mut requests: Vec<TraceRequest> = Vec::new();
        for row in csv::Reader::from_reader(text).deserialize() {
            let request: TraceRequest = row?;
            let line = requests.len() + 2;
            let earliest = requests.last().map_or(0.0, |last| last.arrival_s);
            ensure!(
                request.arrival_s.is_finite() && request.arrival_s >= earliest,
                "line {line}: arrival_s is {}, expected {earliest} or later",
                request.arrival_s
            );
            requests.push(request);
        }
        Ok(Self { requests })
    }

    /// Seconds from the start to the last arrival.
    pub fn length_s(&self) -> f64 {
        self.requests.last().map_or(0.0, |last| last.arrival_s)
    }

    /// The piece as a trace of its own: it starts at 0 where the cut starts.
    pub fn cut(&self, cut: &TraceCut) -> Trace {
        let end_s = cut
            .duration_s
            .map_or(f64::INFINITY, |length| cut.skip_s + length);
        let requests = self
            .requests
            .iter()
            .filter(|request| (cut.skip_s..end_s).contains(&request.arrival_s))
            .map(|request| TraceRequest {
                arrival_s: request.arrival_s - cut.skip_s,
                input_tokens: resized(request.input_tokens, cut.scale_tokens, cut.input_tokens_max),
                output_tokens: resized(
                    request.output_tokens,
                    cut.scale_tokens,
                    cut.output_tokens_max,
                ),
            })
            .collect();
        Trace { requests }
    }
}

/// Engines refuse an empty prompt and an answer of no tokens, so 1 is the least.
fn resized(tokens: u32, scale: f64, most: Option<u32>) -> u32 {
    let scaled = (f64::from(tokens) * scale).round() as u32;
    scaled.min(most.unwrap_or(u32::MAX)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const THREE: &str = "arrival_s,input_tokens,output_tokens\n0.0,374,44\n4.5,396,109\n9.0,10,1\n";

    #[track_caller]
    fn check_refused(text: &str, expect: &str) {
        let error = format!("{:#}", Trace::parse(text.as_bytes()).unwrap_err());
        assert!(error.contains(expect), "{error:?} does not say {expect:?}");
    }

    #[test]
    fn a_trace_is_read_in_order() {
        let trace = Trace::parse(THREE.as_bytes()).unwrap();
        assert_eq!(trace.requests.len(), 3);
        assert_eq!(
            trace.requests[1],
            TraceRequest {
                arrival_s: 4.5,
                input_tokens: 396,
                output_tokens: 109
            }
        );
        assert_eq!(trace.length_s(), 9.0);
    }

    #[test]
    fn a_broken_trace_is_refused_with_its_line() {
        let header = "arrival_s,input_tokens,output_tokens\n";
        check_refused(&format!("{header}1.0,2,3\n0.5,2,3\n"), "line 3");
        check_refused(&format!("{header}NaN,2,3\n"), "line 2");
        check_refused(&format!("{header}1.0,-2,3\n"), "line: 2");
        check_refused("arrival_s,output_tokens\n1.0,3\n", "input_tokens");
    }

    #[test]
    fn a_cut_starts_at_zero_and_holds_only_its_window() {
        let trace = Trace::parse(THREE.as_bytes()).unwrap();
        let cut = trace.cut(&TraceCut {
            skip_s: 4.0,
            duration_s: Some(5.0),
            ..TraceCut::default()
        });
        assert_eq!(cut.requests.len(), 1);
        assert_eq!(cut.requests[0].arrival_s, 0.5);
    }

    #[test]
    fn tokens_are_scaled_then_bounded_and_never_zero() {
        let trace = Trace::parse(THREE.as_bytes()).unwrap();
        let cut = trace.cut(&TraceCut {
            scale_tokens: 0.1,
            input_tokens_max: Some(38),
            ..TraceCut::default()
        });
        let sizes: Vec<_> = cut
            .requests
            .iter()
            .map(|request| (request.input_tokens, request.output_tokens))
            .collect();
        assert_eq!(sizes, [(37, 4), (38, 11), (1, 1)]);
    }

    #[test]
    fn the_cut_kept_in_the_repository_is_ten_minutes_of_requests() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios/azure2023_conv_cut.csv");
        let trace = Trace::read(&path).unwrap();
        assert_eq!(trace.requests.len(), 2867);
        assert!((590.0..600.0).contains(&trace.length_s()));
    }
}
