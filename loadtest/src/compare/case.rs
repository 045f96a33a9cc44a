//! What is asked of the workers through each proxy, and how the workers know what to answer.

use std::time::Duration;

use serde::Serialize;
use serde_json::json;

/// One kind of request and the load that measures its cost.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Case {
    pub name: &'static str,
    pub title: &'static str,
    /// Size of the request's JSON.
    pub body_bytes: usize,
    pub answer: Answer,
    /// Connections that each have one request under way.
    pub clients: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) enum Answer {
    /// One JSON object, at once.
    Whole,
    /// Events, the first at once, the others each so much later; zero: all at once.
    Stream { tokens: u32, gap: Duration },
}

const fn stream(tokens: u32, gap_ms: u64) -> Answer {
    Answer::Stream {
        tokens,
        gap: Duration::from_millis(gap_ms),
    }
}

const fn case(
    name: &'static str,
    title: &'static str,
    body_kb: usize,
    answer: Answer,
    clients: usize,
) -> Case {
    Case {
        name,
        title,
        body_bytes: body_kb << 10,
        answer,
        clients,
    }
}

/// Saturating loads and paced ones: what a proxy can do is told by the first, what a token costs in life by the second.
pub(super) const SMALL: Case = case("small", "1 KB JSON, unstreamed", 1, Answer::Whole, 16);
pub(super) const CHAT: Case = case("chat", "8 KB chat, unstreamed", 8, Answer::Whole, 16);
pub(super) const LONG: Case = case("long", "300 KB prompt, unstreamed", 300, Answer::Whole, 8);
pub(super) const CHAT_64: Case = case(
    "chat-64",
    "8 KB chat, 64 tokens, one every 20 ms",
    8,
    stream(64, 20),
    200,
);
pub(super) const CHAT_1000: Case = case(
    "chat-1000",
    "8 KB chat, 1,000 tokens, one every 20 ms",
    8,
    stream(1_000, 20),
    200,
);
pub(super) const LONG_64: Case = case(
    "long-64",
    "300 KB prompt, 64 tokens, one every 20 ms",
    300,
    stream(64, 20),
    100,
);
pub(super) const BURST_64: Case = case(
    "burst-64",
    "8 KB chat, 64 tokens at once",
    8,
    stream(64, 0),
    16,
);

pub(super) const ALL: [Case; 7] = [SMALL, CHAT, LONG, CHAT_64, CHAT_1000, LONG_64, BURST_64];
pub(super) const QUICK: [Case; 3] = [SMALL, CHAT_64, CHAT_1000];

impl Case {
    /// The load runs into the CPU's limit and not into a clock.
    pub fn saturates(&self) -> bool {
        match self.answer {
            Answer::Whole => true,
            Answer::Stream { gap, .. } => gap.is_zero(),
        }
    }

    pub fn is_streamed(&self) -> bool {
        self.answer != Answer::Whole
    }

    /// Events with text that one answer has.
    pub fn tokens(&self) -> u32 {
        match self.answer {
            Answer::Whole => 0,
            Answer::Stream { tokens, .. } => tokens,
        }
    }

    /// From the first token to the last.
    pub fn length(&self) -> Duration {
        match self.answer {
            Answer::Whole => Duration::ZERO,
            Answer::Stream { tokens, gap } => gap * tokens,
        }
    }

    /// The same asked by fewer: for a proxy that could not carry all, each token late and several in one piece.
    pub fn shared_by(self, slower: usize) -> Self {
        let clients = match self.saturates() {
            true => self.clients,
            false => (self.clients / slower).max(2),
        };
        Self { clients, ..self }
    }

    /// A whole request, head and body.
    pub fn request(&self) -> Vec<u8> {
        let body = self.body();
        let head = format!(
            "POST /v1/chat/completions HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\n\
             content-length: {}\r\n\r\n",
            body.len()
        );
        [head.into_bytes(), body.into_bytes()].concat()
    }

    fn body(&self) -> String {
        let (order, tokens) = (Order(self.answer).to_string(), self.tokens().max(64));
        let body = |prompt: &str| {
            json!({
                "model": "bench",
                "messages": [{"role": "user", "content": prompt}],
                "max_tokens": tokens,
                "stream": self.is_streamed(),
            })
            .to_string()
        };
        let mut prompt = order;
        let missing = self.body_bytes.saturating_sub(body(&prompt).len());
        prompt.extend(
            " quiet river under seven stones"
                .chars()
                .cycle()
                .take(missing),
        );
        body(&prompt)
    }
}

/// The words in a prompt that tell a worker what to answer; a proxy leaves prompts alone.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Order(pub Answer);

const ORDER: &str = "[order ";

impl std::fmt::Display for Order {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Answer::Whole => write!(f, "{ORDER}0 0]"),
            Answer::Stream { tokens, gap } => write!(f, "{ORDER}{tokens} {}]", gap.as_millis()),
        }
    }
}

impl Order {
    /// `None`: a body without an order, such as a router's own question.
    pub fn read(body: &[u8]) -> Option<Self> {
        let begin = memchr::memmem::find(body, ORDER.as_bytes())? + ORDER.len();
        let rest = &body[begin..];
        let order = std::str::from_utf8(&rest[..memchr::memchr(b']', rest)?]).ok()?;
        let (tokens, gap_ms) = order.split_once(' ')?;
        let gap = Duration::from_millis(gap_ms.parse().ok()?);
        Some(Self(match tokens.parse().ok()? {
            0 => Answer::Whole,
            tokens => Answer::Stream { tokens, gap },
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_has_its_size_and_carries_its_order() {
        for case in ALL {
            let body = case.body();
            assert_eq!(body.len(), case.body_bytes, "{}", case.name);
            assert_eq!(Order::read(body.as_bytes()), Some(Order(case.answer)));
        }
    }

    #[test]
    fn a_body_without_an_order_is_not_one_of_ours() {
        for body in ["{}", "[order 1", "[order 1]", "[order x 1]", ""] {
            assert_eq!(Order::read(body.as_bytes()), None, "{body}");
        }
    }

    #[test]
    fn paced_loads_shrink_for_slow_proxies_and_saturating_ones_do_not() {
        assert_eq!(CHAT_64.shared_by(20).clients, 10);
        assert_eq!(SMALL.shared_by(20).clients, SMALL.clients);
    }
}
