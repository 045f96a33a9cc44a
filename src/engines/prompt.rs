//! How long a prompt is, in the forms APIs take it; its text is not kept.

use std::fmt;

use serde::Deserialize;
use serde::de::{self, SeqAccess, Visitor};

/// What one token of a prompt given as token ids counts for.
const BYTES_PER_TOKEN: usize = 4;

/// A string of which only the length matters.
pub(super) struct TextLength(pub usize);

impl<'de> Deserialize<'de> for TextLength {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Length;

        impl Visitor<'_> for Length {
            type Value = TextLength;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_str<E>(self, text: &str) -> Result<TextLength, E> {
                Ok(TextLength(text.len()))
            }
        }

        deserializer.deserialize_str(Length)
    }
}

pub(super) const PROMPT_FORMS: &str =
    "must be a string, a list of strings, a list of token ids or a list of lists of token ids";

/// The size of a completion's prompt in any of its four forms.
#[derive(Debug, PartialEq)]
pub(super) struct Prompt {
    pub bytes: usize,
    pub prompts: u32,
}

/// One item of a prompt that is a list, measured without keeping it.
enum PromptItem {
    Token,
    /// How many.
    Tokens(usize),
    /// Bytes.
    Text(usize),
}

impl<'de> Deserialize<'de> for PromptItem {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(PromptItemVisitor)
    }
}

struct PromptItemVisitor;

impl<'de> Visitor<'de> for PromptItemVisitor {
    type Value = PromptItem;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string, a token or a list of tokens")
    }

    fn visit_u64<E: de::Error>(self, token: u64) -> Result<PromptItem, E> {
        match u32::try_from(token) {
            Ok(_) => Ok(PromptItem::Token),
            Err(_) => Err(E::custom("a token is too large")),
        }
    }

    fn visit_str<E>(self, text: &str) -> Result<PromptItem, E> {
        Ok(PromptItem::Text(text.len()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut tokens: A) -> Result<PromptItem, A::Error> {
        let mut count = 0;
        while tokens.next_element::<u32>()?.is_some() {
            count += 1;
        }
        Ok(PromptItem::Tokens(count))
    }
}

impl<'de> Deserialize<'de> for Prompt {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(PromptVisitor)
    }
}

struct PromptVisitor;

impl<'de> Visitor<'de> for PromptVisitor {
    type Value = Prompt;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a prompt")
    }

    fn visit_str<E>(self, text: &str) -> Result<Prompt, E> {
        Ok(Prompt {
            bytes: text.len(),
            prompts: 1,
        })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Prompt, A::Error> {
        let mut form = None;
        let mut prompt = Prompt {
            bytes: 0,
            prompts: 0,
        };
        while let Some(item) = items.next_element::<PromptItem>()? {
            if *form.get_or_insert(std::mem::discriminant(&item)) != std::mem::discriminant(&item) {
                return Err(de::Error::custom("mixed forms"));
            }
            prompt.bytes += match &item {
                PromptItem::Token => BYTES_PER_TOKEN,
                PromptItem::Tokens(tokens) => tokens * BYTES_PER_TOKEN,
                PromptItem::Text(bytes) => *bytes,
            };
            prompt.prompts = match item {
                PromptItem::Token => 1,
                _ => prompt.prompts.saturating_add(1),
            };
        }
        if prompt.prompts == 0 {
            return Err(de::Error::custom("empty list"));
        }
        Ok(prompt)
    }
}
