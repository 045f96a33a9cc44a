//! The document of a run.

mod cost;
mod delay;
mod streams;

use std::fmt::Write;
use std::path::Path;

use anyhow::Result;

use super::figures::Spread;
use super::result::Findings;
use crate::harness::write_document;

const OURS: &str = "tidegate";
const NGINX: &str = "nginx";

fn show(spread: Option<Spread>, digits: usize) -> String {
    spread.map_or("-".to_owned(), |spread| spread.show(digits))
}

pub(super) fn write(findings: &Findings, folder: &Path) -> Result<()> {
    write_document(&folder.join("compare.md"), &document(findings))?;
    let json = serde_json::to_string_pretty(findings)?;
    write_document(&folder.join("compare.json"), &format!("{json}\n"))?;
    println!("written to {}", folder.join("compare.md").display());
    Ok(())
}

pub(super) fn document(findings: &Findings) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = head(&mut text, findings)
        .and_then(|()| cost::write(&mut text, findings))
        .and_then(|()| delay::write(&mut text, findings))
        .and_then(|()| streams::memory(&mut text, findings))
        .and_then(|()| streams::deaths(&mut text, findings))
        .and_then(|()| setups(&mut text, findings));
    text
}

fn head(text: &mut String, findings: &Findings) -> std::fmt::Result {
    let machine = &findings.machine;
    let pinning = if machine.pinned {
        "The proxy under load is on one CPU, clients and engines on another."
    } else {
        "Nothing is pinned: this machine has one CPU or no taskset."
    };
    writeln!(
        text,
        "# Beside other proxies and routers\n\n\
         All before the same two stand-in engines, one thread or process each, loopback, HTTP/1.1 with kept connections, \
         everybody in turn in {} rounds with {} s for each figure. {pinning} CPU time is that of the whole tree of processes, user and \
         system, from /proc. Median, and least and most in brackets; ratios are taken within each round. Single figures move \
         with the machine and its other work; ratios are what can be compared.\n\n\
         {} CPUs of {}, Linux {}; load average {:.1} before and {:.1} after. {:.0} minutes.\n\n```\n{}\n```\n",
        findings.rounds,
        findings.window_s,
        machine.cpus,
        machine.processor,
        machine.kernel,
        machine.load_before,
        machine.load_after,
        findings.took_s / 60.0,
        findings.command,
    )
}

fn setups(text: &mut String, findings: &Findings) -> std::fmt::Result {
    writeln!(
        text,
        "## What was measured\n\n| | version | licence | started with |\n|---|---|---|---|"
    )?;
    for peer in &findings.peers {
        writeln!(
            text,
            "| {} | {} | {} | `{}` |",
            peer.name, peer.version, peer.licence, peer.command
        )?;
    }
    for missing in &findings.missing {
        writeln!(
            text,
            "| {} | not measured: {} | | |",
            missing.name, missing.reason
        )?;
    }
    writeln!(
        text,
        "\nConfiguration files are in `compare.json`. `RUN` is a folder of the run's own."
    )
}
