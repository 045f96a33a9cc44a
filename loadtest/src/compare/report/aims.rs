//! What was aimed for beside what was measured, met or missed.

use std::fmt::{Result, Write};

use super::super::case::{CHAT_1000, SMALL};
use super::super::delay::REQUESTS;
use super::super::figures::{Spread, ratio};
use super::super::peers::Kind;
use super::super::result::{Cost, Findings};
use super::super::subject::FLOOR;
use super::{NGINX, OURS, show};

struct Aim {
    what: &'static str,
    most: f64,
    digits: usize,
    /// `None`: not measured in this run.
    got: Option<Spread>,
}

pub(super) fn write(text: &mut String, findings: &Findings) -> Result {
    writeln!(
        text,
        "## Aims\n\n| | at most | measured | |\n|---|---|---|---|"
    )?;
    for aim in aims(findings) {
        let verdict = match aim.got {
            None => "not measured",
            Some(got) if got.median <= aim.most => "met",
            Some(_) => "missed",
        };
        let (what, most) = (aim.what, aim.most);
        writeln!(
            text,
            "| {what} | {most:.2} | {} | {verdict} |",
            show(aim.got, aim.digits)
        )?;
    }
    writeln!(text)
}

fn aims(findings: &Findings) -> [Aim; 5] {
    let beside = |peer: &str, case: &str, figure: fn(&Cost) -> Option<f64>| {
        let ours = findings.by_round(OURS, case, figure);
        ratio(&ours, &findings.by_round(peer, case, figure))
    };
    let routers = findings
        .peers
        .iter()
        .filter(|peer| peer.kind == Kind::Router);
    let beside_routers =
        routers.filter_map(|peer| beside(peer.name, SMALL.name, Cost::per_answer_us));
    [
        Aim {
            what: "CPU time of a streamed token, beside nginx",
            most: 1.0,
            digits: 2,
            got: beside(NGINX, CHAT_1000.name, Cost::per_token_us),
        },
        Aim {
            what: "CPU time of a small request, beside nginx",
            most: 1.5,
            digits: 2,
            got: beside(NGINX, SMALL.name, Cost::per_answer_us),
        },
        Aim {
            what: "CPU time of a small request, beside the best of the routers",
            most: 1.0 / 3.0,
            digits: 2,
            got: beside_routers.max_by(|a, b| a.median.total_cmp(&b.median)),
        },
        Aim {
            what: "Added to the first byte at half load, p99, ms",
            most: 0.5,
            digits: 3,
            got: Spread::of(added_p99(findings)),
        },
        Aim {
            what: "Memory of an active stream among the most, KB",
            most: 25.0,
            digits: 1,
            got: Spread::of(most_streams(findings)),
        },
    ]
}

fn added_p99(findings: &Findings) -> Vec<f64> {
    let of = |peer: &'static str| {
        let delays = findings.delays.iter();
        delays.filter(move |delay| delay.peer == peer && delay.what == REQUESTS)
    };
    let added = of(OURS).filter_map(|ours| {
        let floor = of(FLOOR).find(|floor| floor.round == ours.round)?;
        Some(ours.first_byte.p99 - floor.first_byte.p99)
    });
    added.collect()
}

fn most_streams(findings: &Findings) -> Option<f64> {
    let ours = findings.memory.iter();
    let active = ours.filter(|memory| memory.peer == OURS && memory.pace == "active");
    let most = active.max_by_key(|memory| memory.streams)?;
    Some(most.kb_per_stream())
}
