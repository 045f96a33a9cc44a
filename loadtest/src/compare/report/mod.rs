//! The document of a run.

mod aims;
mod cost;
mod delay;
mod picture;
mod streams;

use std::fmt::Write;
use std::path::Path;

use anyhow::Result;

use self::picture::Bar;
use super::case;
use super::figures::Spread;
use super::result::{Cost, Findings, Memory};
use crate::harness::write_document;

const OURS: &str = "tidegate";
const NGINX: &str = "nginx";

fn show(spread: Option<Spread>, digits: usize) -> String {
    spread.map_or("-".to_owned(), |spread| spread.show(digits))
}

/// The document, everything measured, and a picture of each of the figures that there are.
pub(super) fn write(findings: &Findings, folder: &Path) -> Result<()> {
    let mut text = document(findings);
    for (file, title, unit, bars) in pictures(findings) {
        if bars.len() > 1 {
            write_document(&folder.join(file), &picture::bars(title, unit, &bars)?)?;
            text += &format!("\n![{title}]({file})\n");
        }
    }
    write_document(&folder.join("compare.md"), &text)?;
    let json = serde_json::to_string_pretty(findings)?;
    write_document(&folder.join("compare.json"), &format!("{json}\n"))?;
    println!("written to {}", folder.join("compare.md").display());
    Ok(())
}

type Picture = (&'static str, &'static str, &'static str, Vec<Bar>);

fn pictures(findings: &Findings) -> [Picture; 3] {
    let bars = |figure: &dyn Fn(&str) -> Option<Spread>| -> Vec<Bar> {
        let peers = findings.peers.iter().map(|peer| peer.name);
        let bar = |name: &str| {
            Some(Bar {
                name: name.to_owned(),
                ours: name == OURS,
                spread: figure(name).filter(|spread| spread.least > 0.0)?,
            })
        };
        peers.filter_map(bar).collect()
    };
    let most = findings.memory.iter().map(|memory| memory.streams).max();
    [
        (
            "compare-request.svg",
            "CPU time of a request, 1 KB",
            "us",
            bars(&|peer| findings.spread(peer, case::SMALL.name, Cost::per_answer_us)),
        ),
        (
            "compare-token.svg",
            "CPU time of a streamed token",
            "us",
            bars(&|peer| findings.spread(peer, case::CHAT_1000.name, Cost::per_token_us)),
        ),
        (
            "compare-memory.svg",
            "memory of an active stream",
            "KB",
            bars(&|peer| {
                let of_most =
                    |m: &&Memory| m.peer == peer && m.pace == "active" && Some(m.streams) == most;
                Spread::of(
                    findings
                        .memory
                        .iter()
                        .filter(of_most)
                        .map(Memory::kb_per_stream),
                )
            }),
        ),
    ]
}

pub(super) fn document(findings: &Findings) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = head(&mut text, findings)
        .and_then(|()| aims::write(&mut text, findings))
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
        "# Beside other proxies and routers\n\n{}\
         All before the same two stand-in engines, one thread or process each, loopback, HTTP/1.1 with kept connections, \
         everybody in turn in {} rounds with {} s for each figure. {pinning} CPU time is that of the whole tree of processes, user and \
         system, from /proc. Median, and least and most in brackets; ratios are taken within each round. Single figures move \
         with the machine and its other work; ratios are what can be compared.\n\n\
         {} CPUs of {}, Linux {}; load average {:.1} before and {:.1} after. {:.0} minutes.\n\n```\n{}\n```\n",
        machine.caution(),
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

#[cfg(test)]
mod tests {
    use super::super::machine::{Machine, Pinning};
    use super::super::peers::{Kind, Setup};
    use super::super::result::{Failure, Missing};
    use super::*;

    fn peer(name: &'static str, kind: Kind) -> Setup {
        Setup {
            name,
            kind,
            version: "1.0".to_owned(),
            licence: "MIT",
            policy: "any",
            command: format!("{name} -c RUN/conf"),
            files: Vec::new(),
        }
    }

    fn cost(round: usize, peer: &'static str, cpu_s: f64) -> Cost {
        Cost {
            round,
            peer,
            case: case::SMALL.name,
            clients: 16,
            answers: 10_000,
            tokens: 0,
            seconds: 1.0,
            cpu_s,
        }
    }

    fn findings() -> Findings {
        Findings {
            command: "make compare".to_owned(),
            seed: 1,
            rounds: 2,
            window_s: 1.0,
            took_s: 60.0,
            machine: Machine::of_this_run(Pinning::none()),
            peers: vec![
                peer("tidegate", Kind::Ours),
                peer("nginx", Kind::Proxy),
                peer("sglang", Kind::Router),
                peer("litellm", Kind::Router),
            ],
            missing: vec![Missing::new("envoy", "no wheel\nlog\nfor this system")],
            costs: vec![
                cost(0, "tidegate", 0.4),
                cost(0, "nginx", 0.2),
                cost(0, "sglang", 1.6),
                cost(1, "nginx", 0.3),
                cost(1, "tidegate", 0.6),
            ],
            delays: Vec::new(),
            memory: Vec::new(),
            deaths: Vec::new(),
            failed: vec![Failure {
                peer: "litellm".to_owned(),
                what: case::SMALL.name.to_owned(),
                times: 2,
                why: "answered with status 500".to_owned(),
            }],
        }
    }

    #[test]
    fn aims_are_told_met_or_missed_or_not_measured() {
        let text = document(&findings());
        for wanted in [
            "beside nginx | 1.50 | 2.00 (2.00-2.00) | missed |",
            "best of the routers | 0.33 | 0.25 (0.25-0.25) | met |",
            "p99, ms | 0.50 | - | not measured |",
        ] {
            assert!(text.contains(wanted), "no {wanted} in {text}");
        }
    }

    #[test]
    fn whoever_could_not_be_measured_is_named_with_the_reason() {
        let text = document(&findings());
        for wanted in [
            "| envoy | not measured: no wheel: for this system |",
            "| litellm | answered with status 500 |",
            "| nginx | 25.0 (20.0-30.0) | 1.00 (1.00-1.00) |",
        ] {
            assert!(text.contains(wanted), "no {wanted} in {text}");
        }
    }
}
