//! Reads one upstream answer: counts its tokens, sees whether it is whole, and gives what the client gets.

use bytes::{Bytes, BytesMut};
use serde::de::IgnoredAny;

use super::openai::OpenAiMeter;
use super::sse::{EventSplitter, EventTooLong, Events, event_data};
use super::tgi::GenerateMeter;
use super::transcript::Transcript;
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
    /// An error the engine reported within the answer.
    pub engine_error: Option<String>,
    /// The event that said so, which the client has not got: it comes last if nobody goes on with the stream.
    pub error_event: Option<Bytes>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    #[error(transparent)]
    EventTooLong(#[from] EventTooLong),
    /// What is passed through need only be JSON.
    #[error("the worker's answer was not understood: {0}")]
    NotUnderstood(String),
    #[error("the worker's answer is longer than any answer may be")]
    TooLong,
}

impl ReadError {
    pub(super) fn not_understood(data: &[u8]) -> Self {
        let text = String::from_utf8_lossy(data);
        ReadError::NotUnderstood(text.chars().take(200).collect())
    }
}

#[derive(Debug)]
pub struct AnswerReader {
    splitter: EventSplitter,
    pub(super) form: Form,
    pub(super) tally: Tally,
    pub(super) transcript: Transcript,
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
    /// Output tokens of the workers that had the stream before.
    pub before: u32,
    /// Tokens seen in events of this worker.
    pub tokens: u32,
    /// Output tokens as the engine counts them.
    pub usage: Option<u32>,
    pub prompt_tokens: Option<u32>,
    pub finish_reason: Option<String>,
    /// The mark that ends a whole answer was seen.
    pub ended: bool,
    /// Ended by us at a stop sequence that the engine could not see: what else it sends is not wanted.
    pub stopped: bool,
    pub error: Option<String>,
    /// The engine's event that reported the error.
    pub error_event: Option<Bytes>,
    /// The error is that nobody can read what it said.
    pub garbled: bool,
}

impl Tally {
    /// The engine's count if it agrees with what was seen: an event may hold several tokens, but not any number.
    pub fn output_tokens(&self) -> u32 {
        let most = self.tokens.saturating_mul(16).saturating_add(16);
        let own = self
            .usage
            .filter(|usage| (self.tokens..=most).contains(usage) && !self.stopped)
            .unwrap_or(self.tokens);
        self.before.saturating_add(own)
    }

    fn is_over(&self) -> bool {
        self.stopped || self.error.is_some()
    }

    /// An event that is no JSON breaks the stream; one of another shape may be something new.
    pub fn is_garbled_by(&mut self, data: &[u8]) -> bool {
        if serde_json::from_slice::<IgnoredAny>(data).is_err() {
            self.error = Some("the worker sent what is no event".to_owned());
            self.garbled = true;
        }
        self.garbled
    }

    /// What an engine says of its prompt, which for a stream that is gone on with holds the text given before.
    pub fn note_prompt(&mut self, tokens: Option<u32>) {
        if self.before == 0 {
            self.prompt_tokens = tokens.or(self.prompt_tokens);
        } else if self.prompt_tokens.is_none() {
            self.prompt_tokens = tokens.map(|tokens| tokens.saturating_sub(self.before));
        }
    }

    /// Another worker takes over.
    pub fn next_worker(&self) -> Self {
        Self {
            before: self.output_tokens(),
            prompt_tokens: self.prompt_tokens,
            ..Self::default()
        }
    }

    fn ending(&mut self, tail: Bytes) -> Ending {
        Ending {
            complete: self.ended && self.error.is_none(),
            prompt_tokens: self.prompt_tokens,
            output_tokens: self.output_tokens(),
            finish_reason: self.finish_reason.take(),
            tail: (!tail.is_empty()).then_some(tail),
            engine_error: self.error.take(),
            error_event: self.error_event.take(),
        }
    }
}

/// What one passed-through event is, and what the client gets of it.
#[derive(Default)]
pub(super) struct Seen {
    pub tokens: u32,
    pub gets: Gets,
}

#[derive(Default)]
pub(super) enum Gets {
    #[default]
    TheEvent,
    Nothing,
    /// Another event in its place.
    Instead(Bytes),
}

impl AnswerReader {
    pub(super) fn new(form: Form, transcript: Transcript) -> Self {
        Self {
            splitter: EventSplitter::default(),
            form,
            tally: Tally::default(),
            transcript,
        }
    }

    /// What the client has been given.
    pub fn transcript(&self) -> &Transcript {
        &self.transcript
    }

    /// Nothing more is wanted from the worker, though it may go on: it reported an error, or was stopped.
    pub fn is_over(&self) -> bool {
        self.tally.is_over()
    }

    /// Output tokens given so far.
    pub fn output_tokens(&self) -> u32 {
        self.tally.output_tokens()
    }

    /// The next bytes of a streamed answer.
    pub fn push(&mut self, chunk: Bytes) -> Result<Vec<Step>, ReadError> {
        let events = self.splitter.push(chunk)?;
        match &mut self.form {
            Form::Translated(translator) => {
                translate(translator, &mut self.tally, &mut self.transcript, &events)
            }
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
            Form::OpenAi(meter) => meter.finish(&mut self.tally, &self.transcript, &mut tail),
            Form::Translated(translator) => {
                translator.finish(&mut self.tally, &mut self.transcript, &mut tail);
            }
            Form::Generate(_) => {}
        }
        self.tally.ending(tail.freeze())
    }

    /// The whole body of an unstreamed answer, and what the client gets for it.
    pub fn answer(&mut self, body: Bytes) -> Result<(Bytes, Ending), ReadError> {
        if serde_json::from_slice::<IgnoredAny>(&body).is_err() {
            return Err(ReadError::not_understood(&body));
        }
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
        let mut run = 0..0;
        let mut run_tokens = 0;
        for range in events.ranges() {
            if self.is_over() {
                break;
            }
            let seen = self.see(events.frame(range.clone()));
            let instead = match seen.gets {
                Gets::TheEvent => {
                    run.end = range.end;
                    run_tokens += seen.tokens;
                    continue;
                }
                Gets::Nothing => None,
                Gets::Instead(event) => Some(event),
            };
            push_run(&mut steps, events, run, run_tokens);
            steps.push(Step {
                forward: instead,
                tokens: seen.tokens,
            });
            (run, run_tokens) = (range.end..range.end, 0);
        }
        push_run(&mut steps, events, run, run_tokens);
        steps
    }

    fn see(&mut self, frame: &[u8]) -> Seen {
        let Some(data) = event_data(frame) else {
            return Seen::default();
        };
        let (tally, transcript) = (&mut self.tally, &mut self.transcript);
        let seen = match &mut self.form {
            Form::Generate(meter) => meter.see(&data, tally, transcript),
            Form::OpenAi(meter) => meter.see(&data, tally, transcript),
            Form::Translated(_) => Seen::default(),
        };
        if self.tally.error.is_some() {
            // Another worker may go on; if none can, this is how the stream ends.
            self.tally.error_event = (!self.tally.garbled).then(|| Bytes::copy_from_slice(frame));
            return Seen {
                tokens: 0,
                gets: Gets::Nothing,
            };
        }
        seen
    }
}

fn push_run(steps: &mut Vec<Step>, events: &Events, run: std::ops::Range<usize>, tokens: u32) {
    if !run.is_empty() {
        steps.push(Step {
            forward: Some(events.slice(run)),
            tokens,
        });
    }
}

fn translate(
    translator: &mut Translator,
    tally: &mut Tally,
    transcript: &mut Transcript,
    events: &Events,
) -> Result<Vec<Step>, ReadError> {
    let (mut out, before) = (BytesMut::new(), tally.tokens);
    let mut any = false;
    for range in events.ranges() {
        if tally.is_over() {
            break;
        }
        any = true;
        let frame = events.frame(range);
        match event_data(frame) {
            Some(data) => {
                if let Err(error) = translator.event(&data, tally, transcript, &mut out) {
                    // What came before it is the client's: the transcript holds it already.
                    tally.error = Some(error.to_string());
                    tally.garbled = true;
                }
            }
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
