//! CPU time, and requests a second.

use std::fmt::{Result, Write};

use super::super::case;
use super::super::figures::ratio;
use super::super::result::{Cost, Findings};
use super::{NGINX, OURS, show};

pub(super) fn write(text: &mut String, findings: &Findings) -> Result {
    if findings.costs.is_empty() {
        return Ok(());
    }
    writeln!(
        text,
        "## CPU time\n\nA load without pauses shows how many requests a second a proxy can carry, if its CPU is full: where it is not, \
         clients and engines on the other CPU were the limit. Streams at a pace show what a token costs in life. LiteLLM carries a \
         smaller number of them.\n"
    )?;
    for case in case::ALL {
        if !findings.costs.iter().any(|cost| cost.case == case.name) {
            continue;
        }
        writeln!(text, "{}, {} connections\n", case.title, case.clients)?;
        if case.is_streamed() {
            table(text, findings, case.name, "token", Cost::per_token_us)?;
        } else {
            table(text, findings, case.name, "request", Cost::per_answer_us)?;
        }
    }
    Ok(())
}

fn table(
    text: &mut String,
    findings: &Findings,
    case: &str,
    unit: &str,
    figure: fn(&Cost) -> Option<f64>,
) -> Result {
    writeln!(
        text,
        "| | us/{unit} | beside nginx | tidegate beside it | requests/s | its CPU, % |\n|---|---|---|---|---|---|"
    )?;
    let (ours, nginx) = (
        findings.by_round(OURS, case, figure),
        findings.by_round(NGINX, case, figure),
    );
    for peer in findings.peers.iter().map(|peer| peer.name) {
        let theirs = findings.by_round(peer, case, figure);
        if theirs.is_empty() {
            let why = findings.why_failed(peer, case).unwrap_or("-");
            writeln!(text, "| {peer} | {why} | | | | |")?;
            continue;
        }
        let median = |figure: fn(&Cost) -> Option<f64>| {
            findings
                .spread(peer, case, figure)
                .map_or(0.0, |spread| spread.median)
        };
        writeln!(
            text,
            "| {peer} | {} | {} | {} | {:.0} | {:.0} |",
            show(findings.spread(peer, case, figure), 1),
            show(ratio(&theirs, &nginx), 2),
            show(ratio(&ours, &theirs), 2),
            median(|cost| Some(cost.answers_per_s())),
            median(|cost| Some(100.0 * cost.busy())),
        )?;
    }
    writeln!(text)
}
