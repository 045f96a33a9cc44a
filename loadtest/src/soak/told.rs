//! What a client was told, and what is wrong with it as one whole answer of the interface it called.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::ask::Route;

#[derive(Clone, Debug, Default)]
pub struct Told {
    pub status: u16,
    pub streamed: bool,
    /// Every event parsed, `[DONE]` and what is no JSON as a string; an unstreamed answer is one event.
    pub events: Vec<Value>,
    /// When each came.
    pub at: Vec<Instant>,
    /// Why nothing more came, if it was not the answer's proper end.
    pub broken: Option<String>,
}

/// How an answer compares with the one nobody disturbed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Match {
    /// Every event, ids and times apart.
    Equal,
    /// The same text in other events.
    TextOnly(String),
    Differs(String),
}

impl Told {
    pub fn note(&mut self, data: &str, at: Instant) {
        let event = serde_json::from_str(data).unwrap_or_else(|_| json!(data));
        self.events.push(event);
        self.at.push(at);
    }

    pub fn text(&self) -> String {
        self.events.iter().map(text_of).collect()
    }

    /// The longest time between two events.
    pub fn longest_gap(&self) -> Duration {
        let gaps = self.at.windows(2).map(|pair| pair[1] - pair[0]);
        gaps.max().unwrap_or_default()
    }

    /// The message of the error that ended it, in the shape of the interface called.
    pub fn error(&self, route: Route) -> Option<&str> {
        let last = self.events.last()?;
        if route.is_tgi() {
            last["error_type"].as_str().and(last["error"].as_str())
        } else {
            last["error"]["message"].as_str()
        }
    }

    /// What keeps this from being one whole answer.
    pub fn flaws(&self, route: Route) -> Vec<String> {
        let mut flaws = Vec::new();
        if self.status != 200 {
            flaws.push(format!("status {}: {:?}", self.status, self.events));
        }
        flaws.extend(self.broken.clone());
        if self.streamed != route.is_streamed() {
            flaws.push("streamed although it should not be, or the other way".to_owned());
        }
        if let Some(error) = self.events.iter().find(|event| !event["error"].is_null()) {
            flaws.push(format!("an error event: {error}"));
        }
        if !flaws.is_empty() {
            return flaws;
        }
        match route {
            Route::Generate => {
                if !self
                    .events
                    .iter()
                    .all(|answer| answer["generated_text"].is_string())
                {
                    flaws.push("no generated text".to_owned());
                }
            }
            Route::GenerateStream | Route::Root => self.tgi_flaws(&mut flaws),
            Route::Completions | Route::Chat => self.openai_flaws(route, &mut flaws),
        }
        flaws
    }

    fn tgi_flaws(&self, flaws: &mut Vec<String>) {
        let finals = self
            .events
            .iter()
            .filter(|event| event["generated_text"].is_string());
        let finals = finals.count();
        let last = self.events.last().unwrap_or(&Value::Null);
        if finals != 1 || !last["generated_text"].is_string() {
            flaws.push(format!("{finals} final events, the last event is {last}"));
        }
        let indices = self.events.iter().map(|event| event["index"].as_u64());
        if let Some((nth, index)) = (1..).zip(indices).find(|(nth, index)| *index != Some(*nth)) {
            flaws.push(format!("event {nth} has index {index:?}"));
        }
        if last["generated_text"] != json!(self.text()) {
            flaws.push(format!(
                "{} is not the text of the events",
                last["generated_text"]
            ));
        }
        // An end that is no token may have an event of its own, and one event may hold several tokens.
        let special = self
            .events
            .iter()
            .filter(|event| event["token"]["special"] == true);
        let least = self.events.len() - special.count();
        if last["details"]["generated_tokens"].as_u64() < Some(least as u64) {
            flaws.push(format!(
                "{} events, details {}",
                self.events.len(),
                last["details"]
            ));
        }
    }

    fn openai_flaws(&self, route: Route, flaws: &mut Vec<String>) {
        let (dones, chunks): (Vec<_>, Vec<_>) =
            self.events.iter().partition(|event| **event == "[DONE]");
        if dones.len() != 1 || self.events.last() != Some(&json!("[DONE]")) {
            flaws.push(format!(
                "{} times [DONE], last {:?}",
                dones.len(),
                self.events.last()
            ));
        }
        if let Some(odd) = chunks.iter().find(|chunk| !chunk.is_object()) {
            flaws.push(format!("an event that is no object: {odd}"));
        }
        flaws.extend(
            ["id", "model", "object"]
                .iter()
                .filter_map(|name| self.changes(name)),
        );
        let count = |what: fn(&Value) -> bool| chunks.iter().filter(|chunk| what(chunk)).count();
        let roles = count(|chunk| chunk["choices"][0]["delta"]["role"].is_string());
        // llama.cpp leaves it out where the first character has several tokens.
        if roles > usize::from(route == Route::Chat) {
            flaws.push(format!("{roles} chunks with a role"));
        }
        let finishes = count(|chunk| chunk["choices"][0]["finish_reason"].is_string());
        if finishes != 1 {
            flaws.push(format!("{finishes} finish reasons"));
        }
        let usages: Vec<&Value> = chunks
            .iter()
            .map(|chunk| &chunk["usage"])
            .filter(|usage| usage.is_object())
            .collect();
        let adds_up = usages.iter().all(|usage| {
            let tokens = |name: &str| usage[name].as_u64().unwrap_or(u64::MAX / 4);
            tokens("prompt_tokens") + tokens("completion_tokens") == tokens("total_tokens")
        });
        if usages.len() > 1 || !adds_up {
            flaws.push(format!("usage {usages:?}"));
        }
    }

    /// The different values of a field that all chunks of one stream should share. `created` is one for OpenAI, but
    /// llama.cpp writes the time of each chunk.
    pub fn changes(&self, name: &str) -> Option<String> {
        let chunks = self.events.iter().filter(|event| event.is_object());
        let values: BTreeSet<String> = chunks.map(|chunk| chunk[name].to_string()).collect();
        (values.len() > 1).then(|| format!("`{name}` changes: {values:?}"))
    }

    /// Why it ended and how many tokens were read and made, as the client was told.
    pub fn counts(&self) -> [Value; 3] {
        let told = |paths: [&str; 2]| {
            let events = self.events.iter().rev();
            let mut found =
                events.filter_map(|event| paths.iter().find_map(|path| event.pointer(path)));
            found
                .find(|value| !value.is_null())
                .cloned()
                .unwrap_or_default()
        };
        [
            told(["/details/finish_reason", "/choices/0/finish_reason"]),
            told(["/details/input_length", "/usage/prompt_tokens"]),
            told(["/details/generated_tokens", "/usage/completion_tokens"]),
        ]
    }

    pub fn compare(&self, undisturbed: &Told) -> Match {
        let (ours, theirs) = (self.text(), undisturbed.text());
        if ours != theirs {
            let at = ours
                .char_indices()
                .zip(theirs.chars())
                .find(|((_, a), b)| a != b)
                .map_or(ours.len().min(theirs.len()), |((at, _), _)| at);
            let shown = |text: &str| {
                text.chars()
                    .skip(text[..floor(text, at)].chars().count().saturating_sub(10))
                    .take(30)
                    .collect::<String>()
            };
            return Match::Differs(format!(
                "from byte {at}: {:?} instead of {:?}",
                shown(&ours),
                shown(&theirs)
            ));
        }
        let (mut ours, mut theirs) = (self.without_chance(), undisturbed.without_chance());
        // TGI tells the prompt's tokens in its last event only. Where a stop sequence that lies across the seam makes
        // another event the last, nobody has told them.
        let untold = |events: &[Value]| {
            events
                .last()
                .is_some_and(|last| last["details"].get("input_length").is_none())
        };
        if untold(&ours) {
            for last in [ours.last_mut(), theirs.last_mut()].into_iter().flatten() {
                if let Some(details) = last.get_mut("details").and_then(Value::as_object_mut) {
                    details.remove("input_length");
                }
            }
        }
        match ours
            .iter()
            .zip(&theirs)
            .find(|(ours, theirs)| ours != theirs)
        {
            Some((ours, theirs)) => Match::TextOnly(format!("{ours} instead of {theirs}")),
            None if ours.len() == theirs.len() => Match::Equal,
            None => Match::TextOnly(format!("{} events instead of {}", ours.len(), theirs.len())),
        }
    }

    /// The events without what differs between any two answers, and without saying that there is no usage.
    fn without_chance(&self) -> Vec<Value> {
        let mut events = self.events.clone();
        for event in events.iter_mut().filter_map(Value::as_object_mut) {
            event.remove("id");
            event.remove("created");
            if event.get("usage") == Some(&Value::Null) {
                event.remove("usage");
            }
        }
        events
    }
}

fn floor(text: &str, at: usize) -> usize {
    text.floor_char_boundary(at)
}

/// The text in one event, whatever the interface.
fn text_of(event: &Value) -> &str {
    let choice = &event["choices"][0];
    if event["token"]["special"] == true {
        return "";
    }
    let places = [
        &event["token"]["text"],
        &choice["text"],
        &choice["delta"]["content"],
    ];
    let streamed = places.into_iter().find_map(Value::as_str);
    // An unstreamed answer has no token.
    let whole = || event["generated_text"].as_str();
    streamed.or_else(whole).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(events: &[&str]) -> Told {
        let mut told = Told {
            status: 200,
            streamed: true,
            ..Told::default()
        };
        for event in events {
            told.note(event, Instant::now());
        }
        told
    }

    fn chat(id: &str, rest: &str) -> String {
        format!(r#"{{"id":"{id}","created":1,"model":"m","object":"o","choices":[{{{rest}}}]}}"#)
    }

    #[track_caller]
    fn check(route: Route, events: &[&str], flaw: &str) {
        let flaws = told(events).flaws(route).join("; ");
        assert!(
            flaws.contains(flaw) && flaws.is_empty() == flaw.is_empty(),
            "{flaws:?}"
        );
    }

    #[test]
    fn a_chat_that_is_sewn_badly_has_flaws() {
        let role = chat(
            "a",
            r#""delta":{"role":"assistant","content":""},"finish_reason":null"#,
        );
        let text = chat("a", r#""delta":{"content":"x"},"finish_reason":null"#);
        let other = chat("b", r#""delta":{"content":"y"},"finish_reason":null"#);
        let stop = chat("a", r#""delta":{},"finish_reason":"stop""#);
        let done = "[DONE]";
        let check = |events: &[&str], flaw| check(Route::Chat, events, flaw);
        check(&[&role, &text, &stop, done], "");
        check(&[&role, &text, &stop], "0 times [DONE]");
        check(&[&role, &text, &stop, done, done], "2 times [DONE]");
        check(&[&role, &text, &other, &stop, done], "`id` changes");
        check(&[&role, &text, &role, &stop, done], "2 chunks with a role");
        check(&[&role, &text, done], "0 finish reasons");
        check(&[&role, r#"{"error":{"message":"x"}}"#], "an error event");
    }

    #[test]
    fn a_generate_stream_that_is_sewn_badly_has_flaws() {
        let token = |index: u32, text: &str| {
            format!(r#"{{"index":{index},"token":{{"text":"{text}"}},"generated_text":null}}"#)
        };
        let last = |text: &str, tokens: u32| {
            format!(
                r#"{{"index":2,"token":{{"text":"b"}},"generated_text":"{text}","details":{{"generated_tokens":{tokens}}}}}"#
            )
        };
        let check = |events: &[&str], flaw| check(Route::GenerateStream, events, flaw);
        check(&[&token(1, "a"), &last("ab", 2)], "");
        check(&[&token(1, "a"), &token(2, "b")], "0 final events");
        check(&[&token(2, "a"), &last("ab", 2)], "index");
        check(&[&token(1, "a"), &last("b", 2)], "not the text");
        check(&[&token(1, "a"), &last("ab", 1)], "2 events");
        let (first, last) = (token(1, "a"), last("ab", 2));
        let counts = told(&[&first, &last]).counts();
        assert_eq!(counts, [Value::Null, Value::Null, json!(2)]);
    }

    #[test]
    fn the_first_difference_is_told() {
        let a = told(&[r#"{"choices":[{"text":" tide море"}]}"#]);
        let b = told(&[r#"{"choices":[{"text":" tide мост"}]}"#]);
        assert!(matches!(a.compare(&b), Match::Differs(why) if why.contains("from byte 10")));
        let split = told(&[
            r#"{"choices":[{"text":" tide "}]}"#,
            r#"{"choices":[{"text":"море"}]}"#,
        ]);
        assert!(matches!(a.compare(&split), Match::TextOnly(_)));
        assert_eq!(a.compare(&a), Match::Equal);
    }
}
