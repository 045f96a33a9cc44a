//! What is read of OpenAI's chunks and answers; all else passes unread.

use std::borrow::Cow;
use std::fmt;

use serde::de::{self, IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use crate::domain::Obstacle;

/// A stream's chunk or a whole answer; the two differ only in `delta` and `message`.
#[derive(Deserialize)]
pub(super) struct Chunk<'a> {
    #[serde(borrow, default)]
    pub choices: Option<Vec<Choice<'a>>>,
    #[serde(default)]
    pub usage: Option<Usage>,
    /// Asked for by us: what is odd in them must not make the chunk unreadable.
    #[serde(borrow, default)]
    timings: Option<&'a RawValue>,
    #[serde(default)]
    pub error: Option<IgnoredAny>,
    #[serde(borrow, default)]
    pub object: Option<&'a RawValue>,
}

impl Chunk<'_> {
    pub fn timings(&self) -> Timings {
        let read = |timings: &RawValue| serde_json::from_str(timings.get()).ok();
        self.timings.and_then(read).unwrap_or_default()
    }
}

#[derive(Deserialize, Default)]
pub(super) struct Usage {
    #[serde(default)]
    pub prompt_tokens: Option<u32>,
    #[serde(default)]
    pub completion_tokens: Option<u32>,
}

/// llama.cpp's own.
#[derive(Deserialize, Default)]
pub(super) struct Timings {
    #[serde(default)]
    pub predicted_n: Option<u32>,
    /// Prompt tokens worked through, and those that were in the cache.
    #[serde(default)]
    pub prompt_n: Option<u32>,
    #[serde(default)]
    pub cache_n: Option<u32>,
}

impl Timings {
    pub fn prompt_tokens(&self) -> Option<u32> {
        self.prompt_n
            .map(|tokens| tokens.saturating_add(self.cache_n.unwrap_or(0)))
    }
}

#[derive(Deserialize)]
pub(super) struct Choice<'a> {
    #[serde(default)]
    pub index: u32,
    #[serde(borrow, default)]
    pub text: Said<'a>,
    #[serde(borrow, default, alias = "message")]
    pub delta: Option<Delta<'a>>,
    #[serde(default)]
    pub token_ids: Option<Vec<IgnoredAny>>,
    #[serde(borrow, default)]
    pub finish_reason: Option<Cow<'a, str>>,
}

impl Choice<'_> {
    pub fn tokens(&self) -> u32 {
        match &self.token_ids {
            Some(ids) if !ids.is_empty() => u32::try_from(ids.len()).unwrap_or(u32::MAX),
            _ => u32::from(self.text_bytes() > 0),
        }
    }

    pub fn text_bytes(&self) -> usize {
        self.text.length() + self.delta.as_ref().map_or(0, Delta::bytes)
    }

    /// The answer's own text in it.
    pub fn content(&self) -> &str {
        let delta = self.delta.as_ref().map_or("", |delta| &delta.content.text);
        if delta.is_empty() {
            &self.text.text
        } else {
            delta
        }
    }
}

/// What a chat's chunk adds to, or a message holds.
#[derive(Deserialize)]
pub(super) struct Delta<'a> {
    #[serde(borrow, default)]
    pub content: Said<'a>,
    #[serde(borrow, default)]
    pub reasoning_content: Said<'a>,
    #[serde(borrow, default)]
    pub reasoning: Said<'a>,
    #[serde(borrow, default)]
    pub refusal: Said<'a>,
    #[serde(borrow, default)]
    pub tool_calls: Said<'a>,
}

impl Delta<'_> {
    fn bytes(&self) -> usize {
        // Engines that renamed `reasoning_content` send it under both names.
        self.content.length()
            + self.reasoning_content.length().max(self.reasoning.length())
            + self.refusal.length()
            + self.tool_calls.length()
    }

    pub fn obstacle(&self) -> Option<Obstacle> {
        if self.tool_calls.length() > 0 {
            Some(Obstacle::ToolCalls)
        } else if self.reasoning_content.length() + self.reasoning.length() > 0 {
            Some(Obstacle::Reasoning)
        } else if self.refusal.length() + self.content.items > 0 {
            Some(Obstacle::Modality)
        } else {
            None
        }
    }
}

/// Text, or a list of which only the length matters.
#[derive(Clone, Default)]
pub(super) struct Said<'a> {
    pub text: Cow<'a, str>,
    pub items: usize,
}

impl Said<'_> {
    fn length(&self) -> usize {
        self.text.len() + self.items
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Said<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(SaidVisitor)
    }
}

pub(super) struct SaidVisitor;

impl<'de> Visitor<'de> for SaidVisitor {
    type Value = Said<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("text, a list or null")
    }

    fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<Said<'de>, E> {
        Ok(Said {
            text: Cow::Borrowed(text),
            items: 0,
        })
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Said<'de>, E> {
        Ok(Said {
            text: Cow::Owned(text.to_owned()),
            items: 0,
        })
    }

    fn visit_unit<E: de::Error>(self) -> Result<Said<'de>, E> {
        Ok(Said::default())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Said<'de>, A::Error> {
        let mut items = 0;
        while list.next_element::<IgnoredAny>()?.is_some() {
            items += 1;
        }
        Ok(Said {
            text: Cow::Borrowed(""),
            items,
        })
    }
}
