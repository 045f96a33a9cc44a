//! Everything at once, on seeds: lost calls, lost answers, machines that never come, cut listings, outages and gateways
//! that are killed. Afterwards nothing is there that the ledger does not hold, and no limit was ever passed.

use std::collections::BTreeMap;

use super::*;

const SEEDS: std::ops::Range<u64> = 0..12;
const LIMIT: f64 = 4.0;

#[tokio::test]
async fn nothing_leaks_and_no_limit_is_passed_whatever_goes_wrong() {
    let runs = SEEDS.map(|seed| tokio::spawn(run(seed)));
    for (seed, run) in SEEDS.zip(runs.collect::<Vec<_>>()) {
        assert!(run.await.is_ok(), "seed {seed}");
    }
}

async fn run(seed: u64) {
    let (dir, market) = stage(seed);
    let server = format!("spending: {{max_usd_per_hour: {LIMIT}}}\n");
    let wanted = [endpoint("chat", 3), endpoint("code", 3)];
    let foreign = market.put("somebody", "theirs");
    market.with(|world| {
        world.machines.values_mut().for_each(|theirs| {
            theirs.usd_per_hour = crate::domain::UsdPerHour::ZERO;
        });
        world.faults.chance_pct = 4 + seed;
    });
    for life in 0..3 {
        let mut gateway = Gateway::start(dir.path(), &market, &server, &wanted);
        tokio::time::sleep(Duration::from_millis(300 + 97 * ((seed + life) % 5))).await;
        gateway.kill();
    }
    market.with(|world| world.faults = Default::default());
    let gateway = Gateway::start(dir.path(), &market, &server, &wanted);
    wait_until("both sides agree", || agree(&gateway, &market)).await;
    let peak = market.with(|world| world.peak);
    assert!(peak <= LIMIT, "{peak} $/h at once");
    assert_one_machine_for_each_intention(&market);

    std::fs::write(gateway.ledger.stop_mark(), "").expect("mark");
    wait_until("nothing of ours is left", || market.count() == 1).await;
    assert!(market.has(&foreign), "somebody else's machine is gone");
}

/// Every machine of ours is a rental's, every open rental has its machine, and as many as may be are there.
fn agree(gateway: &Gateway, market: &Scripted) -> bool {
    let rentals = gateway.ledger.open_rentals().expect("read");
    let ours = gateway.ledger.installation();
    market.with(|world| {
        let machines: Vec<_> = world
            .machines
            .values()
            .filter(|machine| machine.label.installation == ours)
            .collect();
        let known = machines
            .iter()
            .all(|machine| rentals.iter().any(|one| one.worker == machine.label.worker));
        known && machines.len() == rentals.len() && machines.len() as f64 * PRICE == LIMIT
    })
}

fn assert_one_machine_for_each_intention(market: &Scripted) {
    let mut asked: BTreeMap<_, u32> = BTreeMap::new();
    market.with(|world| {
        for (label, _) in &world.creates {
            *asked.entry(label.worker.clone()).or_default() += 1;
        }
    });
    assert!(asked.values().all(|&times| times == 1), "{asked:?}");
}
