//! What holds of every plan, whatever the fleet and the past.

use proptest::prelude::*;

use super::tests::{Fleet, draining};
use super::*;
use crate::domain::{FailureReason, Release, Tokens};
use WorkerPhase::{Ready, Starting, Stopped};

fn any_phase() -> impl Strategy<Value = WorkerPhase> {
    let phases = vec![
        Ready,
        Starting,
        Stopped,
        WorkerPhase::Stopping,
        WorkerPhase::Destroying,
        WorkerPhase::Unhealthy { failed_probes: 1 },
        WorkerPhase::Failed {
            reason: FailureReason::Exited,
        },
        draining(Release::Stop, 5),
        draining(Release::Destroy, 9),
    ];
    prop::sample::select(phases)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn more_demand_never_gives_less_wanted_capacity(
        steps in prop::collection::vec((0.0..500.0_f64, 0.0..200.0_f64, 1..60_000_u64), 1..60),
        waiting in 0.0..5000.0_f64,
    ) {
        let mut less = Fleet::new(&[Ready; 3]).waiting(1, waiting);
        let mut more = Fleet::new(&[Ready; 3]).waiting(2, waiting * 1.1);
        let mut now = Timestamp::from_millis(1_000_000);
        for (arriving, extra, pause_ms) in steps {
            now = now + Duration::from_millis(pause_ms);
            for (fleet, arriving) in [(&mut less, arriving), (&mut more, arriving + extra)] {
                let demand = &mut fleet.inputs.snapshot.demand;
                demand.arrived_total += Tokens(arriving);
                demand.last_active = Some(now);
                let (plan, memory) =
                    plan_scaling(&fleet.inputs, &fleet.memory, &fleet.settings, now);
                (fleet.plan, fleet.memory) = (plan, memory);
            }
            prop_assert!(more.plan.wanted.0 >= less.plan.wanted.0 * (1.0 - 1e-9));
            prop_assert!(
                more.plan.prepared_wanted.0 >= less.plan.prepared_wanted.0 * (1.0 - 1e-9)
            );
        }
    }

    #[test]
    fn orders_name_what_exists_once_and_replay_from_their_record(
        phases in prop::collection::vec(any_phase(), 0..12),
        load in 0.0..2000.0_f64,
        seconds in 0..300_u64,
        cold_mult in 1.0..3.0_f64,
        (cold_workers, max_workers) in (0..5_u32, 0..12_u32),
    ) {
        let fleet = Fleet::new(&phases).with(|settings| {
            settings.cold_mult = Some(cold_mult);
            settings.cold_workers = cold_workers;
            settings.max_workers = max_workers;
        });
        let fleet = fleet.after(load, seconds);
        let mut named = std::collections::BTreeSet::new();
        let (plan, memory_after) =
            plan_scaling(&fleet.inputs, &fleet.memory, &fleet.settings, Timestamp::from_millis(
                fleet.now_s * 1000 + 700,
            ));
        let mut rented = 0;
        for planned in &plan.actions {
            let worker = match &planned.action {
                ScalingAction::Rent { group } => {
                    rented += 1;
                    prop_assert!(fleet.inputs.groups.iter().any(|known| known.group == *group));
                    continue;
                }
                ScalingAction::Restart { worker }
                | ScalingAction::Drain { worker, .. }
                | ScalingAction::CancelDrain { worker }
                | ScalingAction::Destroy { worker } => worker,
            };
            prop_assert!(fleet.inputs.snapshot.workers.iter().any(|known| known.id == *worker));
            prop_assert!(named.insert(worker.clone()), "{worker} twice: {:#?}", plan.actions);
        }
        let live = phases.iter().filter(|phase| !phase.is_ending()).count();
        prop_assert!(rented == 0 || live + rented <= max_workers as usize);

        let record = DecisionRecord {
            at: Timestamp::from_millis(fleet.now_s * 1000 + 700),
            inputs: fleet.inputs,
            memory: fleet.memory,
            settings: fleet.settings,
            plan,
            memory_after,
            choices: Vec::new(),
        };
        let line = serde_json::to_string(&record).unwrap();
        let read: DecisionRecord = serde_json::from_str(&line).unwrap();
        prop_assert_eq!(&read, &record);
        prop_assert!(replay(&read));
    }
}
