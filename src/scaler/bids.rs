//! Bids of machines that run: raised when others come near or bid more, within what policy and the guard allow.

use std::sync::Arc;

use super::Scaler;
use crate::domain::{
    FailureReason, Instance, InstanceState, Timestamp, UsdPerHour, WorkerEvent, WorkerId,
    WorkerPhase,
};
use crate::fleet::{EndpointFleet, Worker};
use crate::ledger::{Ledger, LedgerError};
use crate::policy::offers::bid::{
    BidRecord, BidStep, Raise, RaisedFor, StandingBid, follow, on_demand_like,
};
use crate::policy::reputation::HostEvent;
use crate::telemetry::now;

/// A machine that waits for its GPUs is waited for so many raises at most.
const RAISES_PER_WAIT: u32 = 4;
/// Under which the ledger remembers.
const RAISE: &str = "raise";

impl Scaler {
    /// What a listing means for a machine that is bid for; `None`: what its state says.
    pub(super) fn mind_bid(
        &self,
        endpoint: &Arc<EndpointFleet>,
        worker: &Arc<Worker>,
        instance: &Instance,
    ) -> Option<WorkerEvent> {
        if !instance.interruptible || !is_bid_for(worker.phase().0, instance.state) {
            return None;
        }
        let at = now();
        let standing = self.standing_bid(endpoint, worker, instance);
        match follow(&standing, at) {
            BidStep::Keep => None,
            BidStep::MoveOn => {
                self.note_bid(endpoint, worker, standing, BidStep::MoveOn, at);
                self.count_bid(endpoint, "moved_on");
                Some(WorkerEvent::InstanceUnfit(FailureReason::Outbid))
            }
            BidStep::Raise { to, why } => {
                let raised = self.raise(endpoint, worker, instance, standing, (to, why), at);
                (raised && why == RaisedFor::Outbid).then_some(WorkerEvent::BidRaised)
            }
        }
    }

    fn standing_bid(
        &self,
        endpoint: &EndpointFleet,
        worker: &Worker,
        instance: &Instance,
    ) -> StandingBid {
        let settings = endpoint.settings();
        let group = &worker.spec.group;
        let offers = self.supply.known(&endpoint.name, group);
        let rented = worker.origin.rented_as();
        StandingBid {
            bid: gpu_part(instance),
            least: instance.least_bid,
            outbid: instance.state == InstanceState::Scheduling,
            on_demand: rented.and_then(|rented| on_demand_like(&rented, &offers)),
            most: settings.group(group).and_then(|group| group.bid_price()),
            pace_s: (settings.times.scheduling / RAISES_PER_WAIT).as_secs_f64(),
            raised: worker.origin.raised(),
        }
    }

    fn raise(
        &self,
        endpoint: &Arc<EndpointFleet>,
        worker: &Arc<Worker>,
        instance: &Instance,
        standing: StandingBid,
        (to, why): (UsdPerHour, RaisedFor),
        at: Timestamp,
    ) -> bool {
        if self.calls.is_under_way(worker.id()) {
            return false;
        }
        let (from, least) = (standing.bid, standing.least);
        let all = to + instance.storage_usd_per_hour;
        if let Err(refusal) = self.guard.commit(endpoint, worker, all, at) {
            tracing::info!(endpoint = %endpoint.name, worker = %worker.id(), %refusal, "no more is bid");
            self.count_bid(endpoint, "refused");
            // Asked again at the pace of raises.
            worker.origin.set_raised(Raise {
                at,
                from,
                to: from,
                least,
            });
            return false;
        }
        let raise = Raise {
            at,
            from,
            to,
            least,
        };
        worker.origin.set_raised(raise);
        self.remember(RAISE, worker.id().as_str(), &raise, at);
        self.note_bid(endpoint, worker, standing, BidStep::Raise { to, why }, at);
        self.count_bid(endpoint, "raised");
        self.bid(endpoint, worker, to);
        if why == RaisedFor::Outbid {
            self.learn_of_host(worker, &[HostEvent::Outbid], at);
        }
        true
    }

    /// What earlier gateways bid: what followed them up is not followed again.
    pub(super) fn recall_raises(&self) -> Result<(), LedgerError> {
        for endpoint in self.fleet.endpoints().values() {
            for worker in endpoint.workers().iter() {
                if let Some(raise) = recalled(&self.ledger, worker.id())? {
                    worker.origin.recall_raised(raise);
                }
            }
        }
        Ok(())
    }

    fn note_bid(
        &self,
        endpoint: &EndpointFleet,
        worker: &Worker,
        bid: StandingBid,
        step: BidStep,
        at: Timestamp,
    ) {
        let from = bid.bid.0;
        let (state, reason) = match step {
            BidStep::Raise { to, why } => (
                "bid_raised",
                format!("{from:.4} -> {:.4}: {}", to.0, why.as_str()),
            ),
            BidStep::MoveOn => ("bid_lost", format!("{from:.4} is what it is worth")),
            BidStep::Keep => return,
        };
        tracing::info!(endpoint = %endpoint.name, worker = %worker.id(), reason, "{state}");
        if let Err(error) = self.ledger.event(worker.id(), state, &reason, at) {
            tracing::error!(%error, worker = %worker.id(), "ledger event not written");
        }
        self.decisions.record(&BidRecord {
            at,
            endpoint: endpoint.name.clone(),
            worker: worker.id().clone(),
            bid,
            step,
        });
    }

    fn count_bid(&self, endpoint: &EndpointFleet, outcome: &str) {
        let labels = [endpoint.name.as_str(), outcome];
        self.metrics.bids.with_label_values(&labels).inc();
    }
}

fn recalled(ledger: &Ledger, worker: &WorkerId) -> Result<Option<Raise>, LedgerError> {
    let kept = ledger.recall_one(RAISE, worker.as_str())?;
    Ok(kept.and_then(|value| serde_json::from_value(value).ok()))
}

/// One that is wanted: a machine that answers is believed, whatever its market says of its GPUs.
fn is_bid_for(phase: WorkerPhase, state: InstanceState) -> bool {
    match state {
        InstanceState::Running | InstanceState::Loading => phase.is_starting() || phase.is_ready(),
        InstanceState::Scheduling => {
            phase.is_starting() || matches!(phase, WorkerPhase::Unhealthy { .. })
        }
        _ => false,
    }
}

/// Storage is not bid for.
fn gpu_part(instance: &Instance) -> UsdPerHour {
    let part = instance.usd_per_hour.0 - instance.storage_usd_per_hour.0;
    UsdPerHour(part.max(0.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_raise_is_known_to_the_next_gateway() {
        let dir = tempfile::tempdir().expect("directory");
        let open = || Ledger::open(dir.path(), now()).expect("open");
        let worker = WorkerId::new("g-1");
        let raise = Raise {
            at: Timestamp::from_millis(1_700_000_000_000),
            from: UsdPerHour(0.30),
            to: UsdPerHour(0.33),
            least: Some(UsdPerHour(0.29)),
        };
        let ledger = open();
        let value = serde_json::to_value(raise).expect("JSON");
        let kept = ledger.remember(RAISE, worker.as_str(), &value, raise.at);
        kept.expect("kept");
        drop(ledger);
        assert_eq!(recalled(&open(), &worker).expect("read"), Some(raise));
        let other = WorkerId::new("g-2");
        assert_eq!(recalled(&open(), &other).expect("read"), None);
    }
}
