//! Reads one upstream answer: counts its tokens, sees whether it is whole, and gives what the client gets.

use bytes::{Bytes, BytesMut};
use serde::de::IgnoredAny;

use super::openai::OpenAiMeter;
use super::sse::{EventSplitter, EventTooLong, Events, event_data};
use super::tgi::GenerateMeter;
use super::translate::Translator;

/// A part of a streamed answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Whole events for the client; `None` if all were withheld.
    pub forward: Option<Bytes>,
    /// Output tokens in it.
    pub tokens: u32,
}

/// What is known of an answer when the upstream has ended it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ending {
    /// The engine said that it was done; otherwise the answer was cut off.
    pub complete: bool,
    pub prompt_tokens: Option<u32>,
    pub output_tokens: u32,
    pub finish_reason: Option<String>,
    /// Still to be sent to the client.
    pub tail: Option<Bytes>,
    /// An error the engine reported within the answer; the client has seen it.
    pub engine_error: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    #[error(transparent)]
    EventTooLong(#[from] EventTooLong),
    /// Only where an answer is translated; what is passed through need not be understood.
    #[error("the worker's answer was not understood: {0}")]
    NotUnderstood(String),
    #[error("the worker's answer is longer than any answer may be")]
    TooLong,
}

#[derive(Debug)]
pub struct AnswerReader {
    splitter: EventSplitter,
    form: Form,
    tally: Tally,
}

#[derive(Debug)]
pub(super) enum Form {
    Generate(GenerateMeter),
    OpenAi(OpenAiMeter),
    Translated(Box<Translator>),
}

/// What all forms count.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Tokens seen in events.
    pub tokens: u32,
    /// Output tokens as the engine counts them.
    pub usage: Option<u32>,
    pub prompt_tokens: Option<u32>,
    pub finish_reason: Option<String>,
    /// The mark that ends a whole answer was seen.
    pub ended: bool,
    pub error: Option<String>,
}

impl Tally {
    /// The engine's count if it agrees with what was seen: an event may hold several tokens, but not any number.
    pub fn output_tokens(&self) -> u32 {
        let most = self.tokens.saturating_mul(16).saturating_add(16);
        self.usage
            .filter(|usage| (self.tokens..=most).contains(usage))
            .unwrap_or(self.tokens)
    }

    fn ending(&mut self, tail: Bytes) -> Ending {
        Ending {
            complete: self.ended && self.error.is_none(),
            prompt_tokens: self.prompt_tokens,
            output_tokens: self.output_tokens(),
            finish_reason: self.finish_reason.take(),
            tail: (!tail.is_empty()).then_some(tail),
            engine_error: self.error.take(),
        }
    }
}

/// What one passed-through event is.
#[derive(Default)]
pub(super) struct Seen {
    pub tokens: u32,
    pub withhold: bool,
}

impl AnswerReader {
    pub(super) fn new(form: Form) -> Self {
        Self {
            splitter: EventSplitter::default(),
            form,
            tally: Tally::default(),
        }
    }

    /// The next bytes of a streamed answer.
    pub fn push(&mut self, chunk: Bytes) -> Result<Vec<Step>, ReadError> {
        let events = self.splitter.push(chunk)?;
        match &mut self.form {
            Form::Translated(translator) => translate(translator, &mut self.tally, &events),
            _ => Ok(self.pass(&events)),
        }
    }

    /// The upstream has ended the stream.
    pub fn finish(&mut self) -> Ending {
        let mut tail = BytesMut::new();
        let rest = self.splitter.take_partial();
        // The last event may lack its blank line; if it is whole otherwise it counts.
        if event_data(&rest).is_some_and(|data| is_whole(&data)) {
            let mut frame = BytesMut::from(rest.as_ref());
            frame.extend_from_slice(b"\n\n");
            let last = self.push(frame.freeze()).unwrap_or_default();
            last.into_iter()
                .filter_map(|step| step.forward)
                .for_each(|frame| tail.extend_from_slice(&frame));
        }
        match &mut self.form {
            Form::OpenAi(meter) => meter.finish(&mut self.tally, &mut tail),
            Form::Translated(translator) => translator.finish(&mut self.tally, &mut tail),
            Form::Generate(_) => {}
        }
        self.tally.ending(tail.freeze())
    }

    /// The whole body of an unstreamed answer, and what the client gets for it.
    pub fn answer(&mut self, body: Bytes) -> Result<(Bytes, Ending), ReadError> {
        let body = match &mut self.form {
            Form::Generate(meter) => meter.answer(body, &mut self.tally),
            Form::OpenAi(meter) => meter.answer(body, &mut self.tally),
            Form::Translated(translator) => translator.answer(&body, &mut self.tally)?,
        };
        Ok((body, self.tally.ending(Bytes::new())))
    }

    /// Events as they are; those that follow each other go as one piece.
    fn pass(&mut self, events: &Events) -> Vec<Step> {
        let mut steps = Vec::new();
        let (mut run, mut run_tokens) = (0..0, 0);
        for range in events.ranges() {
            let seen = self.see(events.frame(range.clone()));
            if seen.withhold {
                if !run.is_empty() {
                    steps.push(Step {
                        forward: Some(events.slice(run)),
                        tokens: run_tokens,
                    });
                }
                steps.push(Step {
                    forward: None,
                    tokens: seen.tokens,
                });
                (run, run_tokens) = (range.end..range.end, 0);
            } else {
                run.end = range.end;
                run_tokens += seen.tokens;
            }
        }
        if !run.is_empty() {
            steps.push(Step {
                forward: Some(events.slice(run)),
                tokens: run_tokens,
            });
        }
        steps
    }

    fn see(&mut self, frame: &[u8]) -> Seen {
        let Some(data) = event_data(frame) else {
            return Seen::default();
        };
        let seen = match &mut self.form {
            Form::Generate(meter) => meter.see(&data, &mut self.tally),
            Form::OpenAi(meter) => meter.see(&data, &mut self.tally),
            Form::Translated(_) => Seen::default(),
        };
        self.tally.tokens = self.tally.tokens.saturating_add(seen.tokens);
        seen
    }
}

fn translate(
    translator: &mut Translator,
    tally: &mut Tally,
    events: &Events,
) -> Result<Vec<Step>, ReadError> {
    let (mut out, before) = (BytesMut::new(), tally.tokens);
    let mut any = false;
    for range in events.ranges() {
        any = true;
        let frame = events.frame(range);
        match event_data(frame) {
            Some(data) => translator.event(&data, tally, &mut out)?,
            // Comments keep the connection alive on both sides.
            None => out.extend_from_slice(frame),
        }
    }
    let step = Step {
        forward: (!out.is_empty()).then(|| out.freeze()),
        tokens: tally.tokens - before,
    };
    Ok(if any { vec![step] } else { Vec::new() })
}

fn is_whole(data: &[u8]) -> bool {
    data == b"[DONE]" || serde_json::from_slice::<IgnoredAny>(data).is_ok()
}
