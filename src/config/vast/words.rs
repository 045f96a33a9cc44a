//! Splitting a text into words as a shell does, each character's place kept.

/// A word, and where each of its bytes stands in the text it was split from.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Word {
    pub(super) text: String,
    places: Vec<usize>,
    /// Where it begins, an opening quote included.
    pub(super) start: usize,
}

impl Word {
    fn push(&mut self, c: char, at: usize) {
        self.text.push(c);
        self.places.extend(std::iter::repeat_n(at, c.len_utf8()));
    }

    /// Of its byte `at`, in the text it was split from.
    pub(super) fn place(&self, at: usize) -> usize {
        self.places.get(at).copied().unwrap_or(self.start)
    }

    /// What stands behind the byte `at`, as a word of its own.
    pub(super) fn behind(&self, at: usize) -> Word {
        Word {
            text: self.text.get(at..).unwrap_or_default().to_owned(),
            places: self.places.get(at..).unwrap_or_default().to_vec(),
            start: self.place(at),
        }
    }
}

/// A quote that is never closed, or a backslash at the very end: where it stands.
#[derive(Debug, PartialEq)]
pub(super) struct Open(pub(super) usize);

/// Words between blanks; quotes and backslashes as in a POSIX shell, nothing expanded, no comments.
pub(super) fn split(text: &str) -> Result<Vec<Word>, Open> {
    let mut words = Vec::new();
    let mut word: Option<Word> = None;
    let mut chars = text.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        if matches!(c, ' ' | '\t' | '\n') {
            words.extend(word.take());
            continue;
        }
        // A line that goes on is no word by itself.
        if c == '\\' && chars.next_if(|(_, next)| *next == '\n').is_some() {
            continue;
        }
        let word = word.get_or_insert_with(|| Word {
            start: at,
            ..Word::default()
        });
        match c {
            '\'' => loop {
                match chars.next() {
                    Some((_, '\'')) => break,
                    Some((at, c)) => word.push(c, at),
                    None => return Err(Open(at)),
                }
            },
            '"' => loop {
                match chars.next() {
                    Some((_, '"')) => break,
                    Some((at, '\\')) => match chars.next() {
                        Some((_, '\n')) => {}
                        Some((at, c @ ('$' | '`' | '"' | '\\'))) => word.push(c, at),
                        Some((next_at, c)) => {
                            word.push('\\', at);
                            word.push(c, next_at);
                        }
                        None => return Err(Open(at)),
                    },
                    Some((at, c)) => word.push(c, at),
                    None => return Err(Open(at)),
                }
            },
            '\\' => match chars.next() {
                Some((at, c)) => word.push(c, at),
                None => return Err(Open(at)),
            },
            c => word.push(c, at),
        }
    }
    words.extend(word);
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn texts(text: &str) -> Option<Vec<String>> {
        let words = split(text).ok()?;
        Some(words.into_iter().map(|word| word.text).collect())
    }

    #[test]
    fn words_know_where_their_characters_stand() {
        let text = r#"--env '-e A="b c"' x"#;
        let words = split(text).expect("closed");
        assert_eq!(words[1].text, r#"-e A="b c""#);
        assert_eq!(words[1].start, 6);
        assert_eq!(words[1].place(3), text.find('A').expect("there"));
        assert_eq!(split("a 'b"), Err(Open(2)));
    }

    proptest! {
        /// Another implementation splits the same, comments aside, which pasted arguments do not have.
        #[test]
        fn words_are_those_of_a_shell(text in r#"[a-z'"\\ $`]{0,24}"#) {
            prop_assert_eq!(texts(&text), shlex::split(&text));
        }
    }
}
