//! Loads read from files: traces of requests, curves of rates, the gateway's own access log. Read line by line; what
//! cannot be understood is counted and said.

use std::io::{self, BufRead};

use serde::Deserialize;

use super::load::{Arrival, Rates};

/// More requests than this are no trace of one endpoint but a mistake.
pub const REQUESTS_MAX: usize = 50_000_000;
/// Nor is what lasts longer.
pub const SECONDS_MAX: u64 = 400 * 86_400;
const LINE_BYTES_MAX: u64 = 1 << 20;
/// Bytes of prompt text a token, where nobody counted.
const BYTES_PER_TOKEN: f64 = 4.0;

/// Outcomes of requests that no fleet would have served: the client's mistakes, and those beyond its limits.
const REFUSED: [&str; 2] = ["client_error", "limited"];
/// Outcomes whose count of answer tokens is the work it was: whole, or all the client wanted.
const WHOLE: [&str; 2] = ["ok", "client_left"];

/// What a file held.
#[derive(Clone, Debug, PartialEq)]
pub enum Trace {
    Requests(Vec<Arrival>),
    /// Of the column asked for, in requests a second.
    Rates(Rates),
    /// The gateway's own log.
    Log(Log),
}

/// Requests of an access log, in order of arrival from the first.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Log {
    pub requests: Vec<Arrival>,
    /// Milliseconds since 1970 of the first.
    pub first_ms: u64,
    pub lines: u64,
    /// Lines that are no JSON or say too little.
    pub bad: u64,
    /// Of other endpoints, or of none: the gateway's own routes, refusals before the endpoint was known.
    pub elsewhere: u64,
    /// Without any token count: routes that pass through.
    pub uncounted: u64,
    /// With an answer's length that was predicted, not counted.
    pub predicted: u64,
    /// Refused for reasons of their own (a wrong key, a limit): no load for any fleet.
    pub refused: u64,
    /// Endpoints that have lines.
    pub endpoints: Vec<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    #[error("{0}")]
    Read(#[from] io::Error),
    #[error("it is empty")]
    Empty,
    #[error("line {line}: {what}")]
    Line { line: u64, what: String },
    #[error(
        "its header is {found:?}; expected arrival_s,input_tokens,output_tokens, or window_start_s and columns of requests a second"
    )]
    Header { found: String },
    #[error("it has several columns ({0}): name one with --column")]
    Columns(String),
    #[error("it has no column {wanted}; its columns are {found}")]
    NoColumn { wanted: String, found: String },
    #[error("it holds more than {REQUESTS_MAX} requests, or more than 400 days")]
    TooLong,
    #[error("it holds requests of several endpoints ({0}): name one with --endpoint")]
    Endpoints(String),
    #[error("none of its {lines} lines is a request of {of} with token counts")]
    NoRequests { lines: u64, of: String },
}

/// What to take from the file.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// Of a curve with several.
    pub column: Option<String>,
    /// Of a log with several.
    pub endpoint: Option<String>,
}

/// Reads whatever it is: by its first line.
pub fn read(mut text: impl BufRead, wanted: &Wanted) -> Result<Trace, TraceError> {
    let mut first = String::new();
    if line(&mut text, &mut first, 1)? == 0 {
        return Err(TraceError::Empty);
    }
    let header = first.trim_start_matches('\u{feff}').trim();
    if header.starts_with('{') {
        return log(text, first.clone(), wanted).map(Trace::Log);
    }
    let columns: Vec<&str> = header.split(',').map(str::trim).collect();
    let place = |name: &str| columns.iter().position(|column| *column == name);
    let sizes = [
        place("arrival_s"),
        place("input_tokens"),
        place("output_tokens"),
    ];
    if let [Some(at), Some(input), Some(output)] = sizes {
        return requests(text, [at, input, output]).map(Trace::Requests);
    }
    if let Some(at) = place("window_start_s") {
        let column = curve(&columns, at, wanted.column.as_deref())?;
        return rates(text, at, column).map(Trace::Rates);
    }
    Err(TraceError::Header {
        found: header.chars().take(100).collect(),
    })
}

/// Appends a line; its length in bytes, 0 at the end.
fn line(text: &mut impl BufRead, into: &mut String, number: u64) -> Result<usize, TraceError> {
    into.clear();
    let mut bytes = Vec::new();
    let length = io::Read::take(&mut *text, LINE_BYTES_MAX).read_until(b'\n', &mut bytes)?;
    if length as u64 == LINE_BYTES_MAX {
        let what = "longer than a MiB".to_owned();
        return Err(TraceError::Line { line: number, what });
    }
    into.push_str(&String::from_utf8_lossy(&bytes));
    Ok(length)
}

/// Which column of a curve is meant.
fn curve(columns: &[&str], at: usize, wanted: Option<&str>) -> Result<usize, TraceError> {
    let others: Vec<usize> = (0..columns.len()).filter(|column| *column != at).collect();
    let found = match wanted {
        Some(name) => others.iter().find(|column| columns[**column] == name),
        None if others.len() == 1 => others.first(),
        None => None,
    };
    found.copied().ok_or_else(|| {
        let names: Vec<&str> = others.iter().map(|column| columns[*column]).collect();
        let found = names.join(", ");
        match wanted {
            Some(wanted) => TraceError::NoColumn {
                wanted: wanted.to_owned(),
                found,
            },
            None => TraceError::Columns(found),
        }
    })
}

/// Numbers of a row, of which an empty one is none.
fn numbers<const N: usize>(
    row: &str,
    places: [usize; N],
    number: u64,
) -> Result<[Option<f64>; N], TraceError> {
    let cells: Vec<&str> = row.trim().split(',').map(str::trim).collect();
    let mut found = [None; N];
    for (place, found) in places.into_iter().zip(&mut found) {
        let cell = cells.get(place).copied().unwrap_or("");
        if cell.is_empty() {
            continue;
        }
        let value = cell
            .parse()
            .ok()
            .filter(|value: &f64| value.is_finite() && *value >= 0.0);
        let what = || {
            format!(
                "{:?} is no number of 0 or more",
                cell.chars().take(40).collect::<String>()
            )
        };
        *found = Some(value.ok_or_else(|| TraceError::Line {
            line: number,
            what: what(),
        })?);
    }
    Ok(found)
}

fn requests(mut text: impl BufRead, places: [usize; 3]) -> Result<Vec<Arrival>, TraceError> {
    let mut requests: Vec<Arrival> = Vec::new();
    let mut row = String::new();
    for number in 2.. {
        if line(&mut text, &mut row, number)? == 0 {
            break;
        }
        if row.trim().is_empty() {
            continue;
        }
        let [Some(at_s), Some(prompt), Some(output)] = numbers(&row, places, number)? else {
            let what = "a column is missing".to_owned();
            return Err(TraceError::Line { line: number, what });
        };
        if requests.len() == REQUESTS_MAX {
            return Err(TraceError::TooLong);
        }
        requests.push(Arrival {
            at_s,
            prompt_tokens: prompt as u32,
            output_tokens: (output as u32).max(1),
        });
    }
    requests.sort_by(|a, b| a.at_s.total_cmp(&b.at_s));
    match requests.last() {
        None => Err(TraceError::Empty),
        Some(last) if last.at_s > SECONDS_MAX as f64 => Err(TraceError::TooLong),
        Some(_) => Ok(requests),
    }
}

fn rates(mut text: impl BufRead, at: usize, column: usize) -> Result<Rates, TraceError> {
    let (mut starts, mut rates) = (Vec::new(), Vec::new());
    let mut row = String::new();
    for number in 2.. {
        if line(&mut text, &mut row, number)? == 0 {
            break;
        }
        if row.trim().is_empty() {
            continue;
        }
        let [start, rate] = numbers(&row, [at, column], number)?;
        let Some(start) = start else {
            let what = "window_start_s is missing".to_owned();
            return Err(TraceError::Line { line: number, what });
        };
        starts.push(start);
        rates.push(rate.filter(|rate| *rate > 0.0));
    }
    let window_s = match starts[..] {
        [first, second, ..] if second - first >= 1.0 => (second - first) as u64,
        _ => return Err(TraceError::Empty),
    };
    for (index, pair) in starts.windows(2).enumerate() {
        if ((pair[1] - pair[0]) - window_s as f64).abs() > 0.5 {
            let what = format!("windows are {window_s} s apart, and this one is not");
            let line = index as u64 + 3;
            return Err(TraceError::Line { line, what });
        }
    }
    if window_s.saturating_mul(rates.len() as u64) > SECONDS_MAX {
        return Err(TraceError::TooLong);
    }
    Ok(Rates { window_s, rates })
}

/// The fields of an access log's line that matter here; `docs/OPERATIONS.md` describes them.
#[derive(Deserialize)]
struct LogLine {
    arrived_ms: Option<u64>,
    endpoint: Option<String>,
    outcome: Option<String>,
    prompt_bytes: Option<u64>,
    prompt_tokens: Option<f64>,
    output_tokens: Option<f64>,
    predicted_prompt_tokens: Option<f64>,
    predicted_output_tokens: Option<f64>,
}

fn log(mut text: impl BufRead, first: String, wanted: &Wanted) -> Result<Log, TraceError> {
    let mut log = Log::default();
    let mut found: Vec<(u64, Arrival)> = Vec::new();
    let mut row = first;
    loop {
        log.lines += 1;
        if !row.trim().is_empty() {
            if found.len() == REQUESTS_MAX {
                return Err(TraceError::TooLong);
            }
            found.extend(log.take(&row, wanted.endpoint.as_deref()));
        }
        if line(&mut text, &mut row, log.lines + 1)? == 0 {
            break;
        }
    }
    log.endpoints.sort();
    if wanted.endpoint.is_none() && log.endpoints.len() > 1 {
        return Err(TraceError::Endpoints(log.endpoints.join(", ")));
    }
    found.sort_by_key(|(at_ms, _)| *at_ms);
    let Some(&(first_ms, _)) = found.first() else {
        let of = wanted.endpoint.clone().unwrap_or("any endpoint".into());
        return Err(TraceError::NoRequests {
            lines: log.lines,
            of,
        });
    };
    let last_ms = found.last().map_or(first_ms, |(at_ms, _)| *at_ms);
    if (last_ms - first_ms) / 1_000 > SECONDS_MAX {
        return Err(TraceError::TooLong);
    }
    log.first_ms = first_ms;
    log.requests = found
        .into_iter()
        .map(|(at_ms, arrival)| Arrival {
            at_s: (at_ms - first_ms) as f64 / 1e3,
            ..arrival
        })
        .collect();
    Ok(log)
}

impl Log {
    fn take(&mut self, row: &str, endpoint: Option<&str>) -> Option<(u64, Arrival)> {
        let Ok(line) = serde_json::from_str::<LogLine>(row) else {
            self.bad += 1;
            return None;
        };
        let (Some(at_ms), Some(outcome)) = (line.arrived_ms, &line.outcome) else {
            self.bad += 1;
            return None;
        };
        let Some(of) = line.endpoint else {
            self.elsewhere += 1;
            return None;
        };
        if endpoint.is_some_and(|endpoint| endpoint != of) {
            self.elsewhere += 1;
            return None;
        }
        if !self.endpoints.contains(&of) {
            self.endpoints.push(of);
        }
        if REFUSED.contains(&outcome.as_str()) {
            self.refused += 1;
            return None;
        }
        let bytes = line
            .prompt_bytes
            .map(|bytes| bytes as f64 / BYTES_PER_TOKEN);
        let prompt = line
            .prompt_tokens
            .or(line.predicted_prompt_tokens)
            .or(bytes);
        // An answer that was cut short tells less of its length than what was expected of it.
        let whole = WHOLE.contains(&outcome.as_str());
        let counted = line.output_tokens.filter(|tokens| whole && *tokens > 0.0);
        let output = counted
            .or(line.predicted_output_tokens)
            .or(line.output_tokens);
        let (Some(prompt), Some(output)) = (prompt, output) else {
            self.uncounted += 1;
            return None;
        };
        self.predicted += u64::from(counted.is_none());
        Some((
            at_ms,
            Arrival {
                at_s: 0.0,
                prompt_tokens: prompt.clamp(0.0, 1e7) as u32,
                output_tokens: output.clamp(1.0, 1e7) as u32,
            },
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(column: Option<&str>, endpoint: Option<&str>) -> Wanted {
        Wanted {
            column: column.map(Into::into),
            endpoint: endpoint.map(Into::into),
        }
    }

    fn read_it(text: &str) -> Result<Trace, TraceError> {
        read(text.as_bytes(), &Wanted::default())
    }

    #[track_caller]
    fn check_refused(text: &str, says: &str) {
        let error = read_it(text).expect_err("a mistake").to_string();
        assert!(error.contains(says), "{error:?} does not say {says:?}");
    }

    #[test]
    fn a_trace_of_requests_is_read_by_its_header_in_any_order() {
        let text = "input_tokens,arrival_s,output_tokens\r\n5,1.5,7\r\n6,0.5,0\r\n";
        let Ok(Trace::Requests(requests)) = read_it(text) else {
            panic!("requests");
        };
        let shown: Vec<_> = requests
            .iter()
            .map(|r| (r.at_s, r.prompt_tokens, r.output_tokens))
            .collect();
        assert_eq!(shown, [(0.5, 6, 1), (1.5, 5, 7)]);
    }

    #[test]
    fn a_curve_is_read_by_its_column_with_its_gaps() {
        let text = "window_start_s,small,large\n0,1,2\n600,0,3\n1200,,4\n";
        let large = read(text.as_bytes(), &wanted(Some("large"), None));
        let small = read(text.as_bytes(), &wanted(Some("small"), None));
        let rates = |rates: [Option<f64>; 3]| {
            let rates = rates.to_vec();
            let window_s = 600;
            Trace::Rates(Rates { window_s, rates })
        };
        assert_eq!(large.ok(), Some(rates([Some(2.0), Some(3.0), Some(4.0)])));
        assert_eq!(small.ok(), Some(rates([Some(1.0), None, None])));
        check_refused(text, "small, large");
        check_refused("window_start_s,a\n0,1\n600,1\n1300,1\n", "line 4");
    }

    #[test]
    fn what_cannot_be_read_is_named_with_its_line() {
        check_refused("", "empty");
        check_refused("time,tokens\n1,2\n", "expected arrival_s");
        let header = "arrival_s,input_tokens,output_tokens\n";
        check_refused(&format!("{header}1,2,3\n1,x,3\n"), "line 3: \"x\"");
        check_refused(&format!("{header}1,2\n"), "line 2");
        check_refused(&format!("{header}-1,2,3\n"), "line 2");
        check_refused(&format!("{header}1,2,3\n1e15,2,3\n"), "400 days");
        let long = format!("{header}{}", "1".repeat(1 << 20));
        check_refused(&long, "longer than a MiB");
    }

    #[test]
    fn the_gateways_own_log_is_read_with_what_it_has_and_the_rest_is_counted() {
        let line = |at_ms: u64, endpoint: &str, outcome: &str, more: &str| {
            format!(
                "{{\"arrived_ms\":{at_ms},\"endpoint\":\"{endpoint}\",\"outcome\":\"{outcome}\"{more}}}"
            )
        };
        let counts = ",\"prompt_tokens\":100,\"output_tokens\":20";
        let believed = ",\"prompt_bytes\":400,\"predicted_output_tokens\":50.4,\"output_tokens\":3";
        let text = [
            line(5_000, "a", "ok", counts),
            line(3_000, "a", "upstream_failed", believed),
            "not JSON".into(),
            line(3_500, "b", "ok", counts),
            line(3_600, "a", "client_error", counts),
            line(3_700, "a", "ok", ""),
            "{\"arrived_ms\":1,\"outcome\":\"ok\"}".into(),
        ]
        .join("\n");
        check_refused(&text, "a, b");
        let Ok(Trace::Log(log)) = read(text.as_bytes(), &wanted(None, Some("a"))) else {
            panic!("a log");
        };
        let shown: Vec<_> = log
            .requests
            .iter()
            .map(|r| (r.at_s, r.prompt_tokens, r.output_tokens))
            .collect();
        assert_eq!(shown, [(0.0, 100, 50), (2.0, 100, 20)]);
        assert_eq!((log.first_ms, log.lines, log.bad), (3_000, 7, 1));
        assert_eq!((log.elsewhere, log.uncounted, log.refused), (2, 1, 1));
        assert_eq!(log.predicted, 1);
        let none = read(text.as_bytes(), &wanted(None, Some("c")));
        assert!(none.is_err_and(|error| error.to_string().contains("of c")));
    }
}
