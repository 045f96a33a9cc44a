//! Everything that is wrong with a configuration, with its place and what would be right.

use std::fmt;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mistake {
    pub file: String,
    /// From 1.
    pub line: u64,
    /// From 1.
    pub column: u64,
    pub what: String,
    /// What would be right.
    pub expected: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            file,
            line,
            column,
            what,
            expected,
        } = self;
        write!(f, "{file}:{line}:{column}: {what}")?;
        if !expected.is_empty() {
            write!(f, "; expected {expected}")?;
        }
        Ok(())
    }
}

/// At least one mistake, in the order of files and lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistakes(pub(super) Vec<Mistake>);

impl Mistakes {
    pub fn iter(&self) -> impl Iterator<Item = &Mistake> {
        self.0.iter()
    }
}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, mistake) in self.0.iter().enumerate() {
            if n > 0 {
                writeln!(f)?;
            }
            write!(f, "{mistake}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Mistakes {}
