//! What may go wrong, each with the share of instances or calls it strikes, and what it makes of one instance.

use serde::{Deserialize, Serialize};

use super::chance::{between, happens, pick, stream, waiting};

/// Shares between 0 and 1. The first group strikes instances when they are created, the second calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Faults {
    /// Pulls its image for ever.
    pub stuck_loading: f64,
    /// Stays without a status for ever.
    pub never_boots: f64,
    /// Says an error in `status_msg` and goes no further.
    pub error_status: f64,
    /// The host goes offline some time after the instance runs; half of them come back.
    pub dead_host: f64,
    /// A bid instance loses its GPUs some time after it runs, whatever is bid.
    pub outbid: f64,
    /// The GPU is far slower than its name promises.
    pub slow_hardware: f64,
    /// Somebody else rented the same offer at the same time: the instance dies without an error.
    pub two_buyers: f64,
    /// Once stopped, it never gets its GPU back.
    pub no_restart: f64,

    /// 502, 503, HTML, half of the JSON, or a connection that just ends.
    pub api_down: f64,
    /// The answer comes late, sometimes too late.
    pub api_slow: f64,
    /// 429 without a reason.
    pub too_many_requests: f64,
    /// A creation that takes effect and is not answered.
    pub lost_answer: f64,
    /// A listing that is empty, truncated or contradicts itself.
    pub bad_listing: f64,
    /// An offer that is gone when it is to be rented.
    pub offer_vanishes: f64,
}

impl Faults {
    /// `name=share`, or `all=share`; to be laid over what is set.
    pub fn set(&mut self, text: &str) -> Result<(), String> {
        let (name, share) = text
            .split_once('=')
            .ok_or_else(|| format!("{text}: not name=share"))?;
        let share: f64 = share.parse().map_err(|_| format!("{text}: not a share"))?;
        let change = |name: &str| serde_json::json!({ name: share });
        if name != "all" {
            return self.change(&change(name));
        }
        let names = serde_json::to_value(*self).map_err(|error| error.to_string())?;
        for name in names.as_object().into_iter().flatten() {
            self.change(&change(name.0))?;
        }
        Ok(())
    }

    /// Lays the shares given over those set, all or none; `{"clear": true}` sets all to 0 first.
    pub fn change(&mut self, order: &serde_json::Value) -> Result<(), String> {
        let mut order = order.as_object().cloned().ok_or("no object of shares")?;
        let mut whole = serde_json::to_value(*self).map_err(|error| error.to_string())?;
        if order.remove("clear") == Some(true.into()) {
            whole = serde_json::to_value(Self::default()).map_err(|error| error.to_string())?;
        }
        for (name, share) in &order {
            if !share
                .as_f64()
                .is_some_and(|share| (0.0..=1.0).contains(&share))
            {
                return Err(format!("{name}: a share is between 0 and 1, not {share}"));
            }
        }
        super::offers::merge(&mut whole, order.into());
        *self = serde_json::from_value(whole).map_err(|error| error.to_string())?;
        Ok(())
    }
}

/// How far a new instance gets by itself.
#[derive(Clone, Debug, PartialEq)]
pub enum Boot {
    Fine,
    NeverBoots,
    StuckLoading,
    Error(&'static str),
    /// The second buyer of its offer: it vanishes from the listing.
    Vanishes,
    /// It waits for GPUs that somebody else has.
    Waits,
}

/// What will become of an instance, settled when it is created. Times are seconds of the market.
#[derive(Clone, Debug)]
pub struct Fate {
    pub boot: Boot,
    /// Until the container is made; then its image is pulled.
    pub queue_s: f64,
    pub pull_s: f64,
    /// Loading of the model, each time it starts.
    pub load_s: f64,
    pub restart_s: f64,
    /// As many times slower than its GPU.
    pub slowness: f64,
    /// After so long of running.
    pub offline_after_s: Option<f64>,
    pub back_after_s: Option<f64>,
    pub outbid_after_s: Option<f64>,
    pub restarts: bool,
}

const ERRORS: [&str; 3] = [
    "Error response from daemon: failed to create task for container: OCI runtime create failed: nvidia-container-cli: \
     initialization error: driver not loaded",
    "Error: no space left on device while extracting layer",
    "docker_build() error writing dockerfile",
];

impl Fate {
    /// The fate of the `number`th instance. The image comes at `mbit_s`.
    pub fn draw(seed: u64, number: u64, faults: &Faults, mbit_s: f64) -> Self {
        let mut rng = stream(seed, "fate", number);
        // Always in this order, so that one more fault leaves the rest of a fate as it was.
        let [stuck, never, error, double] = [
            faults.stuck_loading,
            faults.never_boots,
            faults.error_status,
            faults.two_buyers,
        ]
        .map(|share| happens(&mut rng, share));
        let message = pick(&mut rng, &ERRORS).copied().unwrap_or_default();
        let waits = happens(&mut rng, 0.5);
        let boot = match (double, never, stuck, error) {
            (true, ..) if waits => Boot::Waits,
            (true, ..) => Boot::Vanishes,
            (_, true, ..) => Boot::NeverBoots,
            (.., true, _) => Boot::StuckLoading,
            (.., true) => Boot::Error(message),
            _ => Boot::Fine,
        };
        let gigabits = between(&mut rng, 40.0, 100.0);
        let dead = happens(&mut rng, faults.dead_host);
        let offline_after = waiting(&mut rng, 600.0);
        let back = happens(&mut rng, 0.5);
        let back_after = between(&mut rng, 120.0, 900.0);
        let outbid = happens(&mut rng, faults.outbid);
        let outbid_after = waiting(&mut rng, 900.0);
        let slow = happens(&mut rng, faults.slow_hardware);
        let slowness = between(&mut rng, 3.0, 6.0);
        Self {
            boot,
            queue_s: between(&mut rng, 3.0, 15.0),
            pull_s: gigabits * 1_000.0 / mbit_s.max(50.0) + between(&mut rng, 5.0, 40.0),
            load_s: between(&mut rng, 20.0, 60.0),
            restart_s: between(&mut rng, 2.0, 10.0),
            slowness: if slow { slowness } else { 1.0 },
            offline_after_s: dead.then_some(offline_after),
            back_after_s: back.then_some(back_after),
            outbid_after_s: outbid.then_some(outbid_after),
            restarts: !happens(&mut rng, faults.no_restart) && !double,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn faults_are_switched_by_name_and_a_wrong_name_changes_nothing() {
        let mut faults = Faults::default();
        faults.set("all=0.1").unwrap();
        assert_eq!((faults.dead_host, faults.lost_answer), (0.1, 0.1));
        faults
            .change(&json!({"clear": true, "outbid": 1.0}))
            .unwrap();
        assert_eq!((faults.dead_host, faults.outbid), (0.0, 1.0));
        let before = faults;
        assert!(
            faults
                .change(&json!({"outbid": 0.0, "bogus": 1.0}))
                .is_err()
        );
        assert!(faults.set("outbid=7").is_err());
        assert_eq!(faults, before);
    }

    #[test]
    fn a_fate_depends_on_seed_and_number_and_healthy_is_healthy() {
        let fate = |seed, number, faults: &Faults| {
            format!("{:?}", Fate::draw(seed, number, faults, 800.0))
        };
        let mut all = Faults::default();
        all.set("all=0.5").unwrap();
        assert_eq!(fate(1, 2, &all), fate(1, 2, &all));
        assert_ne!(fate(1, 2, &all), fate(1, 3, &all));
        for number in 0..200 {
            let fate = Fate::draw(9, number, &Faults::default(), 800.0);
            assert!(fate.boot == Boot::Fine && fate.slowness == 1.0 && fate.restarts);
            assert!(fate.offline_after_s.is_none() && fate.outbid_after_s.is_none());
        }
    }
}
