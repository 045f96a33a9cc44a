//! Where in a file a character of a text stands, quotes, escapes and folded lines allowed for.

use super::super::tree::Node;

/// Line and column, both from 1.
pub(super) type Place = (u64, u64);

/// A text setting of a file, in whose value places can be found again.
pub(super) struct Located<'a> {
    pub(super) node: &'a Node,
    pub(super) text: &'a str,
    /// Per byte of `text`, where it stands in the file; empty where the file writes it too differently.
    file_bytes: Vec<usize>,
    file_text: &'a str,
}

impl<'a> Located<'a> {
    pub(super) fn new(node: &'a Node, text: &'a str, file_text: &'a str) -> Self {
        Self {
            node,
            text,
            file_bytes: align(node, text, file_text).unwrap_or_default(),
            file_text,
        }
    }

    /// Of the character that begins at byte `at` of the text; the setting's own place where that is not known.
    pub(super) fn place(&self, at: usize) -> Place {
        let last = self.file_bytes.len().saturating_sub(1);
        let Some(byte) = self.file_bytes.get(at.min(last)) else {
            return (self.node.line, self.node.column);
        };
        let before = self.file_text.get(..*byte).unwrap_or_default();
        let line = before.matches('\n').count() as u64 + 1;
        let column = before.rsplit('\n').next().unwrap_or_default();
        (line, column.chars().count() as u64 + 1)
    }
}

/// Walks both texts side by side: what stands in the file only (quotes, escapes, indentation) is stepped over.
fn align(node: &Node, text: &str, file_text: &str) -> Option<Vec<usize>> {
    let (start, raw) = node.raw(file_text)?;
    let header = match raw.chars().next()? {
        '|' | '>' => raw.find('\n')? + 1,
        '"' | '\'' => 1,
        _ => 0,
    };
    let mut rest = raw.char_indices().skip_while(|(at, _)| *at < header);
    let mut places = Vec::with_capacity(text.len());
    let mut last = start + header;
    for wanted in text.chars() {
        if !wanted.is_whitespace() {
            let (at, _) = rest.find(|(_, found)| *found == wanted)?;
            last = start + at;
        } else if let Some((at, found)) = rest.clone().next()
            && found.is_whitespace()
        {
            rest.next();
            last = start + at;
        }
        places.extend(std::iter::repeat_n(last, wanted.len_utf8()));
    }
    Some(places)
}
