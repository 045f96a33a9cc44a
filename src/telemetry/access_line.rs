//! One request as the access log tells it. `docs/OPERATIONS.md` has the same list of fields.

use chrono::{DateTime, SecondsFormat};
use serde::{Serialize, Serializer};

use crate::domain::Timestamp;

/// What was never known is left out of the line.
#[derive(Clone, Debug, Default, Serialize)]
pub struct AccessLine {
    /// When the request's header had been read.
    #[serde(serialize_with = "rfc3339")]
    pub time: Timestamp,
    /// The same in milliseconds since 1970, for programs that replay a log.
    pub arrived_ms: u64,
    pub id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client: Option<String>,
    /// The name of the key, never the key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    pub method: String,
    /// Without the query, which may hold secrets.
    pub path: String,
    /// The interface called, or the route of the endpoint's list.
    pub route: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub streamed: Option<bool>,
    /// What the client was answered; absent where it was answered nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    pub outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// In the order they were asked.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub workers: Vec<String>,
    pub retries: u32,
    pub resumes: u32,
    pub hedged: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_bytes: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_new_tokens: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub predicted_prompt_tokens: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub predicted_output_tokens: Option<f64>,
    /// Output-equivalent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub predicted_cost: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_tokens: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output_tokens: Option<u32>,
    pub request_bytes: usize,
    pub response_bytes: usize,
    /// In the waiting room, all attempts together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waited_ms: Option<f64>,
    /// From arrival to the first token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttft_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gap_p50_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gap_max_ms: Option<f64>,
    pub duration_ms: f64,
}

fn rfc3339<S: Serializer>(time: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    let ms = i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
    let time = DateTime::from_timestamp_millis(ms).unwrap_or_default();
    serializer.serialize_str(&time.to_rfc3339_opts(SecondsFormat::Millis, true))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_operators_manual_lists_every_field() {
        let some = Some(1.0);
        let line = AccessLine {
            trace_id: Some("t".into()),
            client: Some("c".into()),
            key: Some("k".into()),
            endpoint: Some("e".into()),
            streamed: Some(true),
            status: Some(200),
            error: Some("e".into()),
            workers: vec!["w".into()],
            prompt_bytes: Some(1),
            max_new_tokens: Some(1),
            predicted_prompt_tokens: some,
            predicted_output_tokens: some,
            predicted_cost: some,
            prompt_tokens: Some(1),
            output_tokens: Some(1),
            waited_ms: some,
            ttft_ms: some,
            gap_p50_ms: some,
            gap_max_ms: some,
            time: Timestamp::from_millis(1_764_077_129_123),
            ..AccessLine::default()
        };
        let line = serde_json::to_value(&line).expect("JSON");
        assert_eq!(line["time"], "2025-11-25T13:25:29.123Z");
        let manual = include_str!("../../docs/OPERATIONS.md");
        let manual = manual.split("## The access log").nth(1).expect("a section");
        for (field, _) in line.as_object().expect("an object") {
            assert!(manual.contains(&format!("`{field}`")), "{field}");
        }
    }
}
