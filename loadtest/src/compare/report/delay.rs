//! What is added at half load.

use std::fmt::{Result, Write};

use super::super::delay::{REQUESTS, STREAMS};
use super::super::delays::Quantiles;
use super::super::figures::Spread;
use super::super::result::{Delay, Findings};
use super::super::subject::FLOOR;
use super::show;

pub(super) fn write(text: &mut String, findings: &Findings) -> Result {
    if findings.delays.is_empty() {
        return Ok(());
    }
    writeln!(
        text,
        "## Delay at half load\n\n\
         Each at half of what the slower of itself and the gateway could do without pauses; requests come at random moments (seeds \
         {} to {}). Milliseconds beyond those without a proxy in the same round: median of the rounds, and least and most.\n",
        findings.seed, findings.rounds,
    )?;
    writeln!(text, "1 KB JSON, unstreamed\n")?;
    table(
        text,
        findings,
        REQUESTS,
        "requests/s",
        &[("first byte", |delay| Some(delay.first_byte))],
    )?;
    writeln!(
        text,
        "Streams of 64 tokens, one every 20 ms; *way* is from a token's leaving the engine to its arrival\n"
    )?;
    table(
        text,
        findings,
        STREAMS,
        "streams",
        &[
            ("first byte", |delay| Some(delay.first_byte)),
            ("way", |delay| delay.way),
            ("gap", |delay| delay.gap),
        ],
    )
}

type Pick = fn(&Delay) -> Option<Quantiles>;

fn table(
    text: &mut String,
    findings: &Findings,
    what: &str,
    unit: &str,
    columns: &[(&str, Pick)],
) -> Result {
    write!(text, "| | {unit} | its CPU, % |")?;
    for (name, _) in columns {
        write!(text, " {name}, p50 | p99 | p99.9 |")?;
    }
    writeln!(text, "\n|---|---|---|{}", "---|".repeat(3 * columns.len()))?;
    let floor = [FLOOR];
    let peers = findings.peers.iter().map(|peer| peer.name);
    for peer in floor.into_iter().chain(peers) {
        let of = |peer: &str| -> Vec<&Delay> {
            let both = |delay: &&Delay| delay.peer == peer && delay.what == what;
            findings.delays.iter().filter(both).collect()
        };
        let (own, floor) = (of(peer), of(FLOOR));
        let failed = findings.why_failed(peer, what);
        if failed.is_some() || own.is_empty() {
            let why = failed.unwrap_or("-");
            writeln!(
                text,
                "| {peer} | {why} | |{}",
                " |".repeat(3 * columns.len())
            )?;
            continue;
        }
        let median = |figure: fn(&Delay) -> f64| {
            Spread::of(own.iter().map(|delay| figure(delay))).map_or(0.0, |spread| spread.median)
        };
        write!(
            text,
            "| {peer} | {:.0} | {:.0} |",
            median(|delay| delay.load),
            100.0 * median(|delay| delay.busy)
        )?;
        for (_, pick) in columns {
            let added: Vec<Quantiles> = own
                .iter()
                .filter_map(|delay| {
                    if peer == FLOOR {
                        return pick(delay);
                    }
                    let same = floor.iter().find(|floor| floor.round == delay.round)?;
                    Some(pick(delay)?.beyond(pick(same)?))
                })
                .collect();
            for quantile in [
                |q: &Quantiles| q.p50,
                |q: &Quantiles| q.p99,
                |q: &Quantiles| q.p999,
            ] {
                write!(
                    text,
                    " {} |",
                    show(Spread::of(added.iter().map(quantile)), 3)
                )?;
            }
        }
        writeln!(text)?;
    }
    writeln!(
        text,
        "\n`{FLOOR}` has no proxy: its figures are not differences.\n"
    )
}
