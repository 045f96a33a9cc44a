//! What becomes of instances as time goes on: their way up, what their fate and the market do to them.

use super::clock::At;
use super::faults::Boot;
use super::instance::Phase;
use super::launch;
use super::market::Holder;
use super::processes::Ended;
use super::world::World;

impl World {
    /// Everything that is due by now.
    pub fn advance(&mut self, now: At) {
        let market_s = self.market_s(now);
        self.market.advance(market_s);
        let ids: Vec<u64> = self.instances.keys().copied().collect();
        for id in ids {
            if self.instances[&id].exists() {
                self.advance_instance(now, id, market_s);
            }
        }
        for account in 0..self.accounts.len() {
            if self.credit(account, now) <= 0.0 {
                self.stop_all_of(now, account);
            }
        }
    }

    fn stop_all_of(&mut self, now: At, account: usize) {
        let running = self.instances.values().filter(|instance| {
            instance.account == account && instance.exists() && instance.phase != Phase::Stopped
        });
        let ids: Vec<u64> = running.map(|instance| instance.id).collect();
        for id in ids {
            // It exists: nothing else can be wrong.
            let _ = self.stop(now, id);
        }
    }

    fn advance_instance(&mut self, now: At, id: u64, market_s: f64) {
        let Some(instance) = self.instances.get_mut(&id) else {
            return;
        };
        if now >= instance.ends && !instance.expired {
            instance.expired = true;
            let _ = self.stop(now, id);
            return;
        }
        let machine = &self.market.machines[instance.machine];
        let bid = instance.rental.price.unwrap_or(f64::INFINITY);
        if machine.holder == Holder::Ours(id) && bid < machine.min_bid {
            self.outbid(now, id, market_s);
            return;
        }
        if instance.due.is_none_or(|due| due > now) {
            return;
        }
        instance.due = None;
        match instance.phase {
            Phase::Creating => self.make_container(now, id),
            Phase::Loading => self.run(now, id),
            Phase::Running => self.strike(now, id, market_s),
            Phase::Scheduling => self.schedule(now, id, market_s),
            Phase::Offline => self.come_back(now, id),
            Phase::Exited | Phase::Stopped | Phase::Gone => {}
        }
    }

    /// From the queue to the pull of its image, as far as its fate lets it.
    fn make_container(&mut self, now: At, id: u64) {
        let clock = self.clock;
        let Some(instance) = self.instances.get_mut(&id) else {
            return;
        };
        let pull = now.plus(clock.real(instance.fate.pull_s));
        match instance.fate.boot.clone() {
            Boot::NeverBoots => {}
            Boot::Vanishes => {
                instance.end(now, "lost its offer to another buyer");
                self.processes.kill(id);
            }
            Boot::Waits => instance.enter(now, Phase::Scheduling, Some(now)),
            Boot::StuckLoading => {
                instance.status_msg = "Pulling image: 61%".into();
                instance.enter(now, Phase::Loading, None);
            }
            Boot::Error(message) => {
                instance.status_msg = message.into();
                instance.enter(now, Phase::Loading, None);
            }
            Boot::Fine => {
                instance.status_msg = format!("Pulling {}", instance.rental.image);
                let traffic = self.settings.pull_gb * instance.hardware.down_usd_per_gb;
                let traffic = traffic * instance.bill_scale;
                instance.meter.charge_traffic(now, traffic);
                instance.enter(now, Phase::Loading, Some(pull));
            }
        }
    }

    /// Starts its container.
    fn run(&mut self, now: At, id: u64) {
        let Some(instance) = self.instances.get_mut(&id) else {
            return;
        };
        let started = launch::of(instance, &self.settings, &self.clock)
            .and_then(|launch| Ok(self.processes.start(launch)?));
        if let Err(error) = started {
            instance.status_msg = format!("Error response from daemon: {error:#}");
            return;
        }
        instance.starts += 1;
        instance.status_msg = format!("success, running {}", instance.rental.image);
        let fate = &instance.fate;
        let first = [
            fate.offline_after_s,
            fate.outbid_after_s.filter(|_| instance.is_bid()),
        ];
        let first = first.into_iter().flatten().reduce(f64::min);
        let due = first.map(|after_s| now.plus(self.clock.real(after_s)));
        instance.enter(now, Phase::Running, due);
    }

    /// What its fate holds for it while it runs.
    fn strike(&mut self, now: At, id: u64, market_s: f64) {
        let Some(instance) = self.instances.get_mut(&id) else {
            return;
        };
        let fate = &mut instance.fate;
        let offline = fate.offline_after_s.unwrap_or(f64::INFINITY);
        if fate.outbid_after_s.is_some_and(|outbid| outbid <= offline) {
            fate.outbid_after_s = None;
            self.outbid(now, id, market_s);
        } else {
            self.go_offline(now, id);
        }
    }

    /// Its host is lost, with all that runs on it.
    pub fn go_offline(&mut self, now: At, id: u64) {
        let Some(instance) = self.instances.get_mut(&id) else {
            return;
        };
        instance.fate.offline_after_s = None;
        let back = instance.fate.back_after_s;
        let back = back.map(|after_s| now.plus(self.clock.real(after_s)));
        instance.enter(now, Phase::Offline, back);
        self.processes.kill(id);
    }

    fn come_back(&mut self, now: At, id: u64) {
        if let Some(instance) = self.instances.get_mut(&id) {
            instance.enter(now, Phase::Loading, Some(now));
        }
    }

    /// Somebody bids more: its GPUs go, it waits for them.
    pub fn outbid(&mut self, now: At, id: u64, market_s: f64) {
        let Some(instance) = self.instances.get_mut(&id) else {
            return;
        };
        if self.market.machines[instance.machine].holder == Holder::Ours(id) {
            let bid = instance.rental.price.unwrap_or_default();
            self.market.outbid(instance.machine, bid, market_s);
        }
        instance.ports.clear();
        instance.status_msg = "outbid: waiting for its GPUs".into();
        let due = now.plus(self.clock.real(5.0));
        instance.enter(now, Phase::Scheduling, Some(due));
        self.processes.kill(id);
    }

    /// Gives it its GPUs, if nobody has them and its fate lets it; else it is looked at again soon.
    pub fn schedule(&mut self, now: At, id: u64, market_s: f64) {
        let Some(instance) = self.instances.get_mut(&id) else {
            return;
        };
        let machine = &self.market.machines[instance.machine];
        // Who took them by a bid loses them by one.
        let free = matches!(machine.holder, Holder::Nobody | Holder::Bidder(_));
        let pays = instance
            .rental
            .price
            .is_none_or(|bid| bid >= machine.min_bid);
        if free && pays && instance.fate.restarts {
            self.market.claim(instance.machine, id, market_s);
            let after_s = instance.fate.restart_s;
            let due = now.plus(self.clock.real(after_s));
            instance.status_msg.clear();
            instance.enter(now, Phase::Loading, Some(due));
        } else {
            instance.due = Some(now.plus(self.clock.real(5.0)));
        }
    }

    /// A container ended without anybody's order.
    pub fn container_ended(&mut self, now: At, ended: Ended) {
        if self.processes.is_current(ended) {
            self.exit(now, ended.instance);
        }
    }

    pub fn exit(&mut self, now: At, id: u64) {
        self.processes.kill(id);
        if let Some(instance) = self.instances.get_mut(&id)
            && instance.phase == Phase::Running
        {
            instance.ports.clear();
            instance.enter(now, Phase::Exited, None);
        }
    }
}
