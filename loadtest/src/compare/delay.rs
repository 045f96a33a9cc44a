//! What a proxy adds to first bytes and to tokens at half load.

use std::time::Duration;

use anyhow::{Context, Result};

use super::case::{Answer, CHAT_64, Case, SMALL};
use super::clients::{Load, ask_at_rate};
use super::cost::{Failed, in_turn};
use super::figures::Spread;
use super::result::{Cost, Delay};
use super::subject::{FLOOR, Subject};
use super::workers::Workers;

const PATIENCE: Duration = Duration::from_secs(30);
const WARM_UP: Duration = Duration::from_millis(500);
/// More would be the measuring side's limit.
const STREAMS_MAX: f64 = 400.0;

pub(super) const REQUESTS: &str = "delay of requests";
pub(super) const STREAMS: &str = "delay of streams";

/// Everybody at half of what the slower of itself and the gateway can do; the floor at the gateway's half.
pub(super) async fn round(
    round: usize,
    subjects: &[Subject],
    workers: &Workers,
    window: Duration,
    costs: &[Cost],
    ours: &'static str,
    failed: &mut Failed,
) -> Vec<Delay> {
    let mut delays = Vec::new();
    for what in [REQUESTS, STREAMS] {
        for subject in in_turn(subjects, round) {
            if failed.is_given_up(subject, what) {
                continue;
            }
            let seed = round as u64 + 1;
            let measured = match half_load(what, subject.name, ours, costs) {
                Some(load) if what == REQUESTS => requests(subject, load, window, seed).await,
                Some(load) => streams(subject, load, workers, window).await,
                None => Err(anyhow::anyhow!("its CPU time is not known")),
            };
            match measured {
                Ok(delay) => {
                    let delay = Delay { round, ..delay };
                    eprintln!("{delay}");
                    delays.push(delay);
                }
                Err(error) => failed.note(subject.name, what, &error),
            }
        }
    }
    delays
}

/// Requests a second, or streams at once.
fn half_load(what: &str, peer: &str, ours: &str, costs: &[Cost]) -> Option<f64> {
    // What a CPU second is good for, and how much of one there was when everything was wanted.
    let median = |peer: &str, case: Case, figure: fn(&Cost) -> f64| {
        let of_both = |cost: &&Cost| cost.peer == peer && cost.case == case.name;
        Spread::of(costs.iter().filter(of_both).map(figure)).map(|spread| spread.median)
    };
    let capacity = |peer: &str| {
        let to_be_had = median(peer, SMALL, Cost::busy)?.min(1.0);
        let per_cpu_second = match what {
            REQUESTS => median(peer, SMALL, |cost| cost.answers as f64 / cost.cpu_s)?,
            _ => median(peer, CHAT_64, |cost| cost.tokens as f64 / cost.cpu_s)?,
        };
        Some(to_be_had * per_cpu_second)
    };
    let ours = capacity(ours)?;
    let least = if peer == FLOOR {
        ours
    } else {
        capacity(peer)?.min(ours)
    };
    Some(match what {
        REQUESTS => 0.5 * least,
        _ => (0.5 * least * token_gap().as_secs_f64()).clamp(1.0, STREAMS_MAX),
    })
}

fn token_gap() -> Duration {
    match CHAT_64.answer {
        Answer::Stream { gap, .. } => gap,
        Answer::Whole => Duration::ZERO,
    }
}

async fn requests(subject: &Subject, rate: f64, window: Duration, seed: u64) -> Result<Delay> {
    let cpu = subject.cpu_time()?;
    let (delays, _) = ask_at_rate(SMALL, &subject.ports, rate, WARM_UP, window, seed).await?;
    let busy = subject.cpu_time()?.saturating_sub(cpu).as_secs_f64();
    Ok(Delay {
        round: 0,
        peer: subject.name,
        what: REQUESTS,
        load: rate,
        busy: busy / (WARM_UP + window).as_secs_f64(),
        first_byte: delays.first_byte.quantiles().context("no answers")?,
        way: None,
        gap: None,
    })
}

async fn streams(
    subject: &Subject,
    count: f64,
    workers: &Workers,
    window: Duration,
) -> Result<Delay> {
    let case = Case {
        clients: count as usize,
        ..CHAT_64
    };
    let load = Load::start(case, &subject.ports);
    load.warm_up(PATIENCE).await?;
    load.tally.record_delays();
    let (cpu, begin) = (subject.cpu_time()?, std::time::Instant::now());
    tokio::time::sleep(window).await;
    let delays = load.tally.take_delays();
    let busy =
        subject.cpu_time()?.saturating_sub(cpu).as_secs_f64() / begin.elapsed().as_secs_f64();
    load.stop().await?;
    workers.wait_idle(PATIENCE).await?;
    Ok(Delay {
        round: 0,
        peer: subject.name,
        what: STREAMS,
        load: case.clients as f64,
        busy,
        first_byte: delays.first_byte.quantiles().context("no stream began")?,
        way: delays.way.quantiles(),
        gap: delays.gap.quantiles(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cost(peer: &'static str, case: &'static str, per_cpu_second: u64) -> Cost {
        Cost {
            round: 0,
            peer,
            case,
            clients: 1,
            answers: per_cpu_second,
            tokens: per_cpu_second,
            seconds: 1.25,
            cpu_s: 1.0,
        }
    }

    #[test]
    fn half_load_is_that_of_the_slower_and_the_floor_has_the_gateways() {
        let costs = [
            cost("tidegate", "small", 20_000),
            cost("nginx", "small", 50_000),
            cost("litellm", "small", 80),
            cost("tidegate", "chat-64", 40_000),
        ];
        let load = |what, peer| half_load(what, peer, "tidegate", &costs);
        assert_eq!(load(REQUESTS, "nginx"), Some(8_000.0));
        assert_eq!(load(REQUESTS, "litellm"), Some(32.0));
        assert_eq!(load(REQUESTS, FLOOR), Some(8_000.0));
        assert_eq!(load(STREAMS, "tidegate"), Some(320.0));
        assert_eq!(load(STREAMS, "nginx"), None);
    }
}
