//! What a client has been given of a streamed answer: enough to go on with it on another worker.

use bytes::Bytes;

use crate::domain::Obstacle;

/// Text kept of one answer at most.
pub(super) const TEXT_BYTES_MAX: usize = 64 << 20;

#[derive(Debug, Default)]
pub struct Transcript {
    /// All text the client has, without the prompt.
    pub(super) text: String,
    /// Events with a token that the client has; TGI numbers them.
    pub(super) index: u32,
    /// The ids of all tokens of `text`, as long as every one of them is known.
    pub(super) ids: Option<Vec<i64>>,
    /// The ids of the prompt's tokens, where the engine told them.
    pub(super) prompt_ids: Option<Vec<i64>>,
    /// Fields that are the same in every chunk of one OpenAI answer.
    pub(super) head: Option<Head>,
    /// Tokens the answer may have in all; `None`: whatever the context holds.
    pub(super) budget: Option<u32>,
    obstacle: Option<Obstacle>,
    /// The text is kept.
    kept: bool,
}

/// The fields by which a client knows chunks to be of one answer, as JSON text.
#[derive(Clone, Debug, Default)]
pub(super) struct Head {
    pub id: Option<Bytes>,
    pub created: Option<Bytes>,
    pub model: Option<Bytes>,
    pub system_fingerprint: Option<Bytes>,
}

impl Head {
    pub fn fields(self) -> [(&'static str, Option<Bytes>); 4] {
        [
            ("id", self.id),
            ("created", self.created),
            ("model", self.model),
            ("system_fingerprint", self.system_fingerprint),
        ]
    }
}

impl Transcript {
    /// For answers that are passed as they are. Kept only for a stream, and only if nothing in the request is an
    /// obstacle.
    pub(super) fn new(streamed: bool, obstacle: Option<Obstacle>) -> Self {
        Self {
            obstacle,
            kept: streamed && obstacle.is_none(),
            ..Self::default()
        }
    }

    /// For answers that are translated: the text is needed for the last event, whatever happens.
    pub(super) fn translated(obstacle: Option<Obstacle>) -> Self {
        Self {
            obstacle,
            kept: true,
            ids: Some(Vec::new()),
            ..Self::default()
        }
    }

    /// Why the stream cannot be gone on with, if so.
    pub fn obstacle(&self) -> Option<Obstacle> {
        self.obstacle
    }

    /// The text is still wanted.
    pub(super) fn is_kept(&self) -> bool {
        self.kept
    }

    pub(super) fn hinder(&mut self, obstacle: Obstacle) {
        self.obstacle.get_or_insert(obstacle);
    }

    /// False if there is no more room; then the text is incomplete.
    pub(super) fn add(&mut self, text: &str) -> bool {
        if !self.kept {
            return true;
        }
        if self.text.len() + text.len() > TEXT_BYTES_MAX {
            self.hinder(Obstacle::TooLong);
            return false;
        }
        self.text.push_str(text);
        true
    }

    /// The ids of the `tokens` tokens that came last; a different number of ids is no help.
    pub(super) fn add_ids(&mut self, ids: &[i64], tokens: u32) {
        match &mut self.ids {
            Some(known) if ids.len() == tokens as usize => known.extend_from_slice(ids),
            known => *known = None,
        }
    }
}
