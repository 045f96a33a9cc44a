//! Memory of open streams, and what becomes of streams when a worker dies.

use std::collections::BTreeMap;
use std::fmt::{Result, Write};

use super::super::result::{Findings, Memory};

pub(super) fn memory(text: &mut String, findings: &Findings) -> Result {
    if findings.memory.is_empty() {
        return Ok(());
    }
    let mut counts: Vec<usize> = findings
        .memory
        .iter()
        .map(|memory| memory.streams)
        .collect();
    counts.sort_unstable();
    counts.dedup();
    writeln!(
        text,
        "## Memory\n\nResident KB a stream beyond those of a warm process without any: *idle* streams have had a first token, *active* ones \
         have one each second. A fresh process for each pace. Where fewer could be opened in time, how many is said.\n"
    )?;
    let was_measured = |pace: &&str| findings.memory.iter().any(|memory| memory.pace == *pace);
    let paces: Vec<&str> = ["idle", "active"]
        .into_iter()
        .filter(was_measured)
        .collect();
    let columns = paces.len() * counts.len();
    write!(text, "| | without streams, MB |")?;
    for pace in &paces {
        counts
            .iter()
            .try_for_each(|count| write!(text, " {count} {pace} |"))?;
    }
    writeln!(text, "\n|---|---|{}", "---|".repeat(columns))?;
    for peer in findings.peers.iter().map(|peer| peer.name) {
        let of = |pace: &str, count: usize| {
            let mut found = findings.memory.iter();
            let same = |m: &&Memory| m.peer == peer && m.pace == pace && m.streams == count;
            found.rfind(same)
        };
        let base = findings.memory.iter().find(|memory| memory.peer == peer);
        write!(
            text,
            "| {peer} | {} |",
            base.map_or("-".to_owned(), |memory| (memory.base_kb / 1_024)
                .to_string())
        )?;
        for pace in &paces {
            for &count in &counts {
                write!(text, " {} |", cell(of(pace, count), count))?;
            }
        }
        writeln!(text)?;
        if let Some(why) = findings.why_failed(peer, "memory") {
            writeln!(text, "| | {why} |{}", " |".repeat(columns))?;
        }
    }
    writeln!(text)
}

fn cell(memory: Option<&Memory>, count: usize) -> String {
    match memory {
        None => "-".to_owned(),
        Some(memory) if memory.open < count => {
            format!("{:.1} (only {} open)", memory.kb_per_stream(), memory.open)
        }
        Some(memory) => format!("{:.1}", memory.kb_per_stream()),
    }
}

pub(super) fn deaths(text: &mut String, findings: &Findings) -> Result {
    let Some(first) = findings.deaths.first() else {
        return Ok(());
    };
    writeln!(
        text,
        "## When a worker dies\n\nOne of two workers is killed, once in the middle of {} streams and once with nothing on it, whereupon {} requests follow \
         one after the other at once. All settings about retries and health are as they come.\n\n\
         | | streams on it | whole | the others | answered after it | the others | slowest, ms |\n|---|---|---|---|---|---|---|",
        first.streams, first.asked
    )?;
    for death in &findings.deaths {
        writeln!(
            text,
            "| {} | {} of {} | {} | {} | {} of {} | {} | {:.0} |",
            death.peer,
            death.struck,
            death.streams,
            death.whole,
            listed(&death.broken),
            death.answered,
            death.asked,
            listed(&death.refused),
            death.slowest_ms,
        )?;
    }
    for peer in findings.peers.iter().map(|peer| peer.name) {
        if let Some(why) = findings.why_failed(peer, "death") {
            writeln!(text, "| {peer} | {why} | | | | | |")?;
        }
    }
    writeln!(text)
}

fn listed(kinds: &BTreeMap<String, usize>) -> String {
    let told = kinds.iter().map(|(kind, count)| format!("{count} {kind}"));
    told.collect::<Vec<_>>().join(", ")
}
