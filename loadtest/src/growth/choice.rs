//! How long the choice of a worker takes, alone and with the claim that follows it.

use std::hint::black_box;

use anyhow::{Result, ensure};
use tidegate::domain::{
    Candidate, Contention, GapLaw, KvRoom, RoutingSettings, Timestamp, Tokens, TokensPerSecond,
    UsdPerHour,
};
use tidegate::fleet::Admission;
use tidegate::policy::choose_worker;
use tidegate::policy::cost::cost;

use super::fleet::{occupy, ready, ticket};
use super::least_us;

/// In microseconds, without and with the claim.
pub(super) fn measure(workers: usize) -> Result<(f64, f64)> {
    let settings = RoutingSettings::default();
    let asked = cost(1_000.0, 200.0, settings.kappa);
    let candidates: Vec<Candidate> = (0..workers).map(busy).collect();
    let mut missed = 0;
    let choice_us = least_us(|| {
        let choice = choose_worker(
            black_box(&asked),
            candidates.iter().copied(),
            &settings,
            Contention::Several,
        );
        missed += usize::from(black_box(choice).is_err());
    });
    let endpoint = ready(workers)?;
    let load = occupy(&endpoint, workers, &asked)?;
    let (ticket, now) = (ticket(asked), Timestamp::from_millis(2_000));
    let claim_us = least_us(|| match endpoint.admit(black_box(&ticket), now) {
        Admission::Assigned(claim) => drop(black_box(claim)),
        _ => missed += 1,
    });
    ensure!(missed == 0, "nobody was chosen {missed} times");
    drop(load);
    Ok((choice_us, claim_us))
}

fn busy(slot: usize) -> Candidate {
    // Spread, so that the least is found neither at once nor always later.
    let spread = (slot * 7_919 % 1_009) as f64;
    Candidate {
        slot,
        ready: true,
        tried: false,
        in_flight: 20,
        max_concurrency: Some(256),
        full_concurrency: 64,
        speed: TokensPerSecond(700.0 + spread),
        weight: 1.0,
        outstanding: Tokens(1_500.0 + 3.0 * spread),
        prefilling: Tokens(50.0),
        gap: GapLaw {
            base_s: 0.017,
            per_stream_s: 0.0002,
        },
        kv: Some(KvRoom {
            used: 10_000.0,
            capacity: 31_000.0,
        }),
        usd_per_hour: UsdPerHour(0.4),
        prefix_held: 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busy_fleet_still_takes_requests() {
        let settings = RoutingSettings::default();
        let asked = cost(1_000.0, 200.0, settings.kappa);
        let chosen = choose_worker(&asked, (0..100).map(busy), &settings, Contention::Several);
        assert!(chosen.is_ok(), "{chosen:?}");
        let endpoint = ready(10).unwrap();
        let _load = occupy(&endpoint, 10, &asked).unwrap();
        let admitted = endpoint.admit(&ticket(asked), Timestamp::from_millis(2_000));
        assert!(matches!(admitted, Admission::Assigned(_)));
    }
}
