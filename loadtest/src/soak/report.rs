//! What a part of the soak found, and the document of all parts.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;

use crate::harness::{tidegate_binary, version_of, write_document};

/// One part's findings.
#[derive(Clone, Debug, Default)]
pub struct Section {
    pub title: String,
    /// Runs this part again.
    pub command: String,
    /// Markdown.
    pub text: String,
    /// What must not be: empty when all went well.
    pub complaints: Vec<String>,
}

impl fmt::Display for Section {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            title,
            command,
            text,
            ..
        } = self;
        write!(f, "## {title}\n\n`{command}`\n\n{}\n", text.trim_end())?;
        if self.complaints.is_empty() {
            return Ok(());
        }
        f.write_str("\n**Not as it must be:**\n\n")?;
        self.complaints
            .iter()
            .try_for_each(|complaint| writeln!(f, "- {complaint}"))
    }
}

pub(super) fn write_all(path: &Path, sections: &[Section]) -> Result<()> {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let mut text = format!(
        "# Promises held in bulk and under faults\n\n\
         `{}`, the whole of `make soak` on {cpus} shared CPUs. Every part starts its own gateway and workers.\n",
        version_of(&tidegate_binary()?)?
    );
    for section in sections {
        text.push_str(&format!("\n{section}"));
    }
    write_document(path, &text)
}

/// Times in the order of size, for quantiles.
#[derive(Clone, Debug, Default)]
pub(super) struct Times(Vec<Duration>);

impl Times {
    pub fn add(&mut self, time: Duration) {
        self.0.push(time);
    }

    pub fn count(&self) -> usize {
        self.0.len()
    }

    pub fn at(&self, share: f64) -> Option<Duration> {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let at = ((sorted.len() as f64 * share).ceil() as usize).saturating_sub(1);
        sorted.get(at).or(sorted.last()).copied()
    }

    /// `-` where there are none; in milliseconds.
    pub fn quantile(&self, share: f64) -> String {
        self.at(share).map_or("-".to_owned(), |time| {
            format!("{:.0}", time.as_secs_f64() * 1e3)
        })
    }
}

impl fmt::Display for Times {
    /// p50 / p99 / max in milliseconds.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (p50, p99, max) = (self.quantile(0.5), self.quantile(0.99), self.quantile(1.0));
        write!(f, "{p50} / {p99} / {max}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_times_that_were_seen() {
        let mut times = Times::default();
        assert_eq!(times.to_string(), "- / - / -");
        for ms in (1..=100).rev() {
            times.add(Duration::from_millis(ms));
        }
        assert_eq!(times.to_string(), "50 / 99 / 100");
    }

    #[test]
    fn complaints_stand_in_the_document() {
        let mut section = Section {
            title: "Seams".to_owned(),
            ..Section::default()
        };
        assert!(!section.to_string().contains("must be"));
        section.complaints.push("a stream just stopped".to_owned());
        assert!(section.to_string().ends_with("- a stream just stopped\n"));
    }
}
