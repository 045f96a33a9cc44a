//! Writes TGI's answers from what another engine says, event by event or whole.

use bytes::{BufMut, Bytes, BytesMut};
use serde::Serialize;
use serde_json::{Value, json};

use super::answer::{AnswerReader, Form, ReadError, Tally};
use super::call::{BadRequest, Call};
use super::errors::tgi_stream_error;
use super::generate::GenerateParameters;
use super::seam::SeamStop;
use super::tgi::as_list;
use super::transcript::Transcript;
use super::{Exchange, obstacle};
use crate::domain::{Api, EngineKind};

/// What translation asks of an engine.
pub(super) trait Dialect: std::fmt::Debug + Send + Sync {
    fn name(&self) -> &'static str;
    fn path(&self) -> &'static str;
    /// The request's fields besides the prompt.
    fn request(&self, call: &Call, parameters: &GenerateParameters) -> Result<Value, BadRequest>;
    /// The prompt for going on after what was given, from the tokens themselves: exact where text might be cut into
    /// other tokens. `prompt` is JSON text. `None`: from the text.
    fn prompt_after(&self, prompt: &[u8], transcript: &Transcript) -> Option<Bytes>;
    /// `None`: not understood.
    fn read_event(&self, data: &[u8]) -> Option<Said>;
    fn read_answer(&self, body: &[u8]) -> Option<Whole>;
}

/// What one event of an engine's stream says.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Said {
    pub text: String,
    /// The ids of new tokens, as far as the engine tells them.
    pub ids: Vec<i64>,
    /// The ids of the prompt's tokens, where the engine tells them.
    pub prompt_ids: Option<Vec<i64>>,
    /// New tokens, or all so far where the engine counts itself.
    pub tokens: u32,
    pub tokens_so_far: Option<u32>,
    pub finish: Option<Finish>,
    pub usage: Option<u32>,
    pub prompt_tokens: Option<u32>,
    /// Nothing of interest follows.
    pub done: bool,
    pub error: Option<String>,
}

/// An engine's whole answer.
#[derive(Debug, PartialEq)]
pub(super) struct Whole {
    pub text: String,
    pub finish: Finish,
    pub output_tokens: u32,
    pub prompt_tokens: Option<u32>,
    pub tokens: Vec<Token>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Finish {
    Length,
    EosToken,
    StopSequence,
}

impl Finish {
    fn as_str(self) -> &'static str {
        match self {
            Finish::Length => "length",
            Finish::EosToken => "eos_token",
            Finish::StopSequence => "stop_sequence",
        }
    }
}

/// As TGI writes it.
#[derive(Debug, PartialEq, Serialize)]
pub(super) struct Token {
    pub id: i64,
    pub text: String,
    pub logprob: Option<f64>,
    /// Not part of the text.
    pub special: bool,
}

pub(super) fn exchange(
    dialect: &'static dyn Dialect,
    engine: EngineKind,
    call: &Call,
    parameters: &GenerateParameters,
    model: Option<&str>,
) -> Result<Exchange, BadRequest> {
    let prompt = call.body.raw("inputs").cloned().unwrap_or_default();
    let (translator, body) = ask(dialect, call, parameters, &prompt, model)?;
    let transcript = Transcript::translated(obstacle::of_call(engine, call));
    Ok(Exchange {
        path: dialect.path(),
        body,
        answer: AnswerReader::new(Form::Translated(Box::new(translator)), transcript),
    })
}

/// What to send, and what will read the answer. `prompt` is JSON text.
pub(super) fn ask(
    dialect: &'static dyn Dialect,
    call: &Call,
    parameters: &GenerateParameters,
    prompt: &[u8],
    model: Option<&str>,
) -> Result<(Translator, Bytes), BadRequest> {
    parameters.refuse_only_tgi(dialect.name())?;
    let mut fields = dialect.request(call, parameters)?;
    if let Some(model) = model {
        fields["model"] = model.into();
    }
    let translator = Translator {
        dialect,
        prompt: match parameters.return_full_text {
            true => call.body.get("inputs")?.unwrap_or_default(),
            false => String::new(),
        },
        seed: parameters.seed.filter(|_| parameters.samples()),
        details: parameters.details,
        as_list: call.api == Api::TgiRoot,
        last_id: 0,
        last: None,
        stop: None,
    };
    Ok((translator, with_prompt(prompt, &fields)))
}

/// The prompt's JSON text goes over as it is, however long.
fn with_prompt(prompt: &[u8], fields: &Value) -> Bytes {
    let fields = fields.to_string();
    let mut body = BytesMut::with_capacity(prompt.len() + fields.len() + 12);
    body.put_slice(b"{\"prompt\":");
    body.put_slice(prompt);
    body.put_u8(b',');
    body.put_slice(fields.trim_start_matches('{').as_bytes());
    body.freeze()
}

#[derive(Debug)]
pub(super) struct Translator {
    dialect: &'static dyn Dialect,
    /// Put before the text of the answer.
    prompt: String,
    seed: Option<u64>,
    details: bool,
    as_list: bool,
    last_id: i64,
    /// How the engine finished and the text it finished with; written once its counts are known.
    last: Option<(Finish, String)>,
    /// For a stream that another worker began.
    pub stop: Option<SeamStop>,
}

impl Translator {
    /// Appends TGI's events for one event of the engine.
    pub fn event(
        &mut self,
        data: &[u8],
        tally: &mut Tally,
        transcript: &mut Transcript,
        out: &mut BytesMut,
    ) -> Result<(), ReadError> {
        if tally.ended || tally.error.is_some() {
            return Ok(());
        }
        let mut said = self
            .dialect
            .read_event(data)
            .ok_or_else(|| ReadError::not_understood(data))?;
        if let Some(error) = said.error {
            tally.error_event = Some(tgi_stream_error(&error, "generation"));
            tally.error = Some(error);
            return Ok(());
        }
        let tokens = said
            .tokens_so_far
            .map_or(said.tokens, |all| all.saturating_sub(tally.tokens));
        tally.tokens = tally.tokens.saturating_add(tokens);
        tally.usage = said.usage.or(tally.usage);
        tally.note_prompt(said.prompt_tokens);
        self.last_id = said.ids.last().copied().unwrap_or(self.last_id);
        let stop = self.stop.as_mut().and_then(|stop| stop.met(&said.text));
        if let Some(end) = stop {
            said.text.truncate(end);
            said.finish = Some(Finish::StopSequence);
            tally.stopped = true;
        }
        if !transcript.add(&said.text) {
            return Err(ReadError::TooLong);
        }
        if tokens > 0 {
            transcript.add_ids(&said.ids, tokens);
        }
        // A later worker's prompt holds what was given before.
        if tally.before == 0 && said.prompt_ids.is_some() {
            transcript.prompt_ids = said.prompt_ids;
        }
        match said.finish {
            Some(finish) => self.last = Some((finish, said.text)),
            None if !said.text.is_empty() => self.write_token(said.text, transcript, out),
            None => {}
        }
        if said.done || tally.stopped {
            self.finish(tally, transcript, out);
        }
        Ok(())
    }

    /// All tokens of the budget are given, only the last event is not.
    pub fn end_at_limit(
        &mut self,
        tally: &mut Tally,
        transcript: &mut Transcript,
        out: &mut BytesMut,
    ) {
        self.last = Some((Finish::Length, String::new()));
        self.finish(tally, transcript, out);
    }

    /// Writes the last event, if the engine has said how it finished.
    pub fn finish(&mut self, tally: &mut Tally, transcript: &mut Transcript, out: &mut BytesMut) {
        let Some((finish, text)) = self.last.take() else {
            return;
        };
        tally.ended = true;
        tally.finish_reason = Some(finish.as_str().to_owned());
        transcript.index += 1;
        let mut details = json!({
            "finish_reason": finish.as_str(),
            "generated_tokens": tally.output_tokens(),
            "seed": self.seed,
        });
        if let Some(prompt_tokens) = tally.prompt_tokens {
            details["input_length"] = prompt_tokens.into();
        }
        write_event(
            out,
            &Event {
                index: transcript.index,
                token: self.token(text),
                generated_text: Some(std::mem::take(&mut self.prompt) + &transcript.text),
                details: Some(details),
            },
        );
    }

    pub fn answer(&mut self, body: &[u8], tally: &mut Tally) -> Result<Bytes, ReadError> {
        let whole = self
            .dialect
            .read_answer(body)
            .ok_or_else(|| ReadError::not_understood(body))?;
        tally.ended = true;
        tally.tokens = whole.output_tokens;
        tally.prompt_tokens = whole.prompt_tokens;
        tally.finish_reason = Some(whole.finish.as_str().to_owned());
        let mut answer =
            json!({ "generated_text": std::mem::take(&mut self.prompt) + &whole.text });
        if self.details {
            answer["details"] = json!({
                "finish_reason": whole.finish.as_str(),
                "generated_tokens": whole.output_tokens,
                "seed": self.seed,
                "prefill": [],
                "tokens": whole.tokens,
            });
        }
        let answer = answer.to_string();
        Ok(if self.as_list {
            as_list(answer.as_bytes())
        } else {
            Bytes::from(answer)
        })
    }

    fn write_token(&self, text: String, transcript: &mut Transcript, out: &mut BytesMut) {
        transcript.index += 1;
        let token = self.token(text);
        write_event(
            out,
            &Event {
                index: transcript.index,
                token,
                generated_text: None,
                details: None,
            },
        );
    }

    /// A token without text is an end mark, which clients leave out of the text.
    fn token(&self, text: String) -> Token {
        Token {
            id: self.last_id,
            special: text.is_empty(),
            text,
            logprob: None,
        }
    }
}

#[derive(Serialize)]
struct Event {
    index: u32,
    token: Token,
    generated_text: Option<String>,
    details: Option<Value>,
}

fn write_event(out: &mut BytesMut, event: &Event) {
    out.put_slice(b"data:");
    // Writing to memory cannot fail, and every key is text.
    let written = serde_json::to_writer(out.writer(), event);
    debug_assert!(written.is_ok());
    out.put_slice(b"\n\n");
}
