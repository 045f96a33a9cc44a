//! What the fake model says: words that depend only on the last few tokens, so that any worker can continue any text.

use std::sync::LazyLock;

/// Longest token in characters; a longer run without whitespace is cut every so many.
const TOKEN_CHARS_MAX: usize = 16;

/// The id of the token that ends a text; it has no visible text.
pub const EOS: u16 = WORDS.len() as u16;

/// Each begins with its only space, so a word never merges with the text before it.
#[rustfmt::skip]
const WORDS: [&str; 128] = [
    " tide", " gate", " harbour", " keel", " rope", " salt", " gull", " mast",
    " wave", " sand", " reef", " anchor", " sail", " deck", " wind", " cloud",
    " rain", " storm", " calm", " dawn", " dusk", " noon", " north", " south",
    " east", " west", " light", " shadow", " stone", " river", " bridge", " mill",
    " wheel", " grain", " bread", " oven", " smoke", " fire", " ember", " coal",
    " iron", " copper", " tin", " silver", " glass", " lens", " clock", " bell",
    " tower", " street", " market", " cart", " horse", " field", " barley", " hedge",
    " orchard", " apple", " plum", " honey", " bee", " moth", " owl", " fox",
    " hare", " otter", " heron", " trout", " salmon", " eel", " moss", " fern",
    " birch", " oak", " ash", " elm", " root", " leaf", " seed", " bark",
    " the", " a", " of", " and", " to", " in", " under", " over",
    " between", " beside", " without", " until", " because", " slowly", " quickly", " again",
    " runs", " holds", " turns", " opens", " closes", " carries", " finds", " leaves",
    " old", " new", " quiet", " bright", " narrow", " deep", " warm", " cold.",
    " first,", " last.", " so,", " then;", " naïve", " café", " Straße", " mañana",
    " ænigma", " Łódź", " море", " ветер", " θάλασσα", " 海", " 潮汐", " 🌊",
];

static WORD_HASHES: LazyLock<Vec<u64>> = LazyLock::new(|| WORDS.iter().map(|w| hash(w)).collect());

/// The text of a token; empty for [`EOS`].
pub fn word(id: u16) -> &'static str {
    WORDS.get(usize::from(id)).copied().unwrap_or("")
}

/// Cuts text before every whitespace character and inside long runs. Appending a word of ours never changes the tokens
/// before it, which is what makes a partial answer continuable.
pub fn tokens(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let end = rest
            .char_indices()
            .enumerate()
            .skip(1)
            .find(|(nth, (_, c))| c.is_whitespace() || *nth == TOKEN_CHARS_MAX)
            .map_or(rest.len(), |(_, (at, _))| at);
        let (token, after) = rest.split_at(end);
        rest = after;
        (!token.is_empty()).then_some(token)
    })
}

/// The last tokens of a text and how many there were; all that the model knows.
#[derive(Clone, Debug)]
pub struct Context {
    window: Vec<u64>,
    /// Tokens seen.
    pub tokens: u32,
}

impl Context {
    /// `window` is how many tokens decide the next one; at least 1.
    pub fn new(window: usize) -> Self {
        Self {
            window: vec![0; window.max(1)],
            tokens: 0,
        }
    }

    pub fn read(mut self, text: &str) -> Self {
        for token in tokens(text) {
            self.push(hash(token));
        }
        self
    }

    fn push(&mut self, token: u64) {
        self.window.rotate_left(1);
        if let Some(last) = self.window.last_mut() {
            *last = token;
        }
        self.tokens = self.tokens.saturating_add(1);
    }

    /// The next token, which becomes part of the context. With `eos_every`, one in so many ends the text.
    fn next(&mut self, eos_every: Option<u32>) -> u16 {
        let state = self
            .window
            .iter()
            .fold(0, |state, token| mix(state ^ token));
        if eos_every.is_some_and(|every| mix(!state).is_multiple_of(u64::from(every.max(1)))) {
            return EOS;
        }
        let id = (state % WORDS.len() as u64) as u16;
        if let Some(token) = WORD_HASHES.get(usize::from(id)) {
            self.push(*token);
        }
        id
    }
}

/// Why a text ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    Length,
    Eos,
    Stop,
}

/// Where a text must end.
#[derive(Clone, Debug, Default)]
pub struct Limits {
    pub max_tokens: u32,
    pub stop: Vec<String>,
    pub eos_every: Option<u32>,
}

/// A whole answer, settled before its first token; the engine only decides when each token comes.
#[derive(Clone, Debug, PartialEq)]
pub struct Script {
    pub tokens: Vec<u16>,
    pub finish: Finish,
    /// Tokens that lie wholly before a stop sequence (all words, when none was met).
    pub whole_words: usize,
    /// Text between the last whole word and the stop sequence.
    pub fragment: String,
}

impl Script {
    pub fn compose(mut context: Context, limits: &Limits) -> Self {
        let mut script = Self {
            tokens: Vec::with_capacity(limits.max_tokens.min(4096) as usize),
            finish: Finish::Length,
            whole_words: 0,
            fragment: String::new(),
        };
        let mut watch = StopWatch::new(&limits.stop);
        while script.tokens.len() < limits.max_tokens as usize {
            let id = context.next(limits.eos_every);
            script.tokens.push(id);
            if id == EOS {
                script.finish = Finish::Eos;
                return script;
            }
            script.whole_words += 1;
            if let Some(cut) = watch.met_with(word(id)) {
                script.finish = Finish::Stop;
                script.cut_at(cut);
                return script;
            }
        }
        script
    }

    fn cut_at(&mut self, cut: usize) {
        let mut end = 0;
        self.whole_words = 0;
        for &id in &self.tokens {
            let text = word(id);
            if end + text.len() > cut {
                self.fragment = text.get(..cut - end).unwrap_or("").to_owned();
                return;
            }
            end += text.len();
            self.whole_words += 1;
        }
    }

    pub fn length(&self) -> u32 {
        self.tokens.len() as u32
    }

    /// All that was generated, the stop sequence included.
    pub fn full_text(&self) -> String {
        self.tokens.iter().map(|&id| word(id)).collect()
    }

    /// What comes before the stop sequence.
    pub fn visible_text(&self) -> String {
        let words = self.tokens.iter().take(self.whole_words);
        words
            .map(|&id| word(id))
            .chain([self.fragment.as_str()])
            .collect()
    }
}

/// Looks for stop sequences in a text that grows.
struct StopWatch<'a> {
    stop: &'a [String],
    longest: usize,
    text: String,
}

impl<'a> StopWatch<'a> {
    fn new(stop: &'a [String]) -> Self {
        let longest = stop.iter().map(String::len).max().unwrap_or(0);
        Self {
            stop,
            longest,
            text: String::new(),
        }
    }

    /// Where the earliest stop sequence begins, once one is complete.
    fn met_with(&mut self, word: &str) -> Option<usize> {
        if self.longest == 0 {
            return None;
        }
        let from = self
            .text
            .floor_char_boundary(self.text.len().saturating_sub(self.longest));
        self.text.push_str(word);
        let tail = self.text.get(from..)?;
        let wanted = self.stop.iter().filter(|stop| !stop.is_empty());
        wanted
            .filter_map(|stop| tail.find(stop.as_str()))
            .min()
            .map(|at| from + at)
    }
}

fn hash(text: &str) -> u64 {
    let fnv = |state: u64, byte: u8| (state ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    text.bytes().fold(0xcbf2_9ce4_8422_2325, fnv)
}

/// The finalizer of SplitMix64: every bit of the result depends on every bit of the argument.
fn mix(state: u64) -> u64 {
    let mut z = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn compose(prompt: &str, max_tokens: u32, stop: &[&str]) -> Script {
        let limits = Limits {
            max_tokens,
            stop: stop.iter().map(|s| (*s).to_owned()).collect(),
            eos_every: None,
        };
        Script::compose(Context::new(4).read(prompt), &limits)
    }

    #[test]
    fn every_word_is_one_token_that_starts_with_its_only_whitespace() {
        for word in WORDS {
            assert_eq!(tokens(word).collect::<Vec<_>>(), [word]);
            assert!(word.starts_with(' '), "{word}");
        }
        let distinct: std::collections::BTreeSet<_> = WORDS.iter().collect();
        assert_eq!(distinct.len(), WORDS.len());
    }

    #[test]
    fn tokens_put_together_are_the_text() {
        let text = "Hello  wörld\n\n<|user|> aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa 🌊";
        assert_eq!(tokens(text).collect::<String>(), text);
        assert_eq!(tokens("a  b\n").collect::<Vec<_>>(), ["a", " ", " b", "\n"]);
        assert_eq!(tokens("").count(), 0);
    }

    #[test]
    fn a_text_does_not_run_into_a_short_circle() {
        let script = compose("Once upon a time", 2000, &[]);
        let distinct: std::collections::BTreeSet<_> = script.tokens.windows(4).collect();
        assert!(
            distinct.len() > 1900,
            "{} different windows",
            distinct.len()
        );
    }

    #[test]
    fn a_stop_sequence_ends_the_text_where_it_begins() {
        let free = compose("Hello", 20, &[]);
        let stop = [word(free.tokens[6]), word(free.tokens[7])].concat();
        let stop = stop.trim_start();
        let script = compose("Hello", 20, &[stop]);
        assert_eq!(script.finish, Finish::Stop);
        assert_eq!(script.length(), 8);
        assert_eq!(script.whole_words, 6);
        assert_eq!(script.fragment, " ");
        assert!(script.full_text().ends_with(stop));
        assert_eq!(script.full_text(), script.visible_text() + stop);
    }

    #[test]
    fn an_end_of_sequence_comes_at_the_same_place_after_a_continuation() {
        let limits = Limits {
            max_tokens: 5000,
            stop: Vec::new(),
            eos_every: Some(50),
        };
        let whole = Script::compose(Context::new(4).read("Hello"), &limits);
        assert_eq!(whole.finish, Finish::Eos);
        let half: String = whole.tokens.iter().take(9).map(|&id| word(id)).collect();
        let rest = Script::compose(Context::new(4).read("Hello").read(&half), &limits);
        assert_eq!(rest.finish, Finish::Eos);
        assert_eq!(half + &rest.full_text(), whole.full_text());
    }

    proptest! {
        #[test]
        fn a_text_cut_after_any_token_continues_the_same(
            prompt in "\\PC{0,40}", cut in 0usize..60, window in 1usize..8,
        ) {
            let limits = Limits { max_tokens: 60, ..Limits::default() };
            let whole = Script::compose(Context::new(window).read(&prompt), &limits);
            let partial: String = whole.tokens.iter().take(cut).map(|&id| word(id)).collect();
            let limits = Limits { max_tokens: 60 - cut as u32, ..Limits::default() };
            let resumed = Context::new(window).read(&(prompt + &partial));
            let rest = Script::compose(resumed, &limits);
            prop_assert_eq!(partial + &rest.full_text(), whole.full_text());
        }
    }
}
