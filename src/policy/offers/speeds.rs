//! What was learned of speeds: how far machines of a group, of a class and of one address were from what their
//! description promised.
//!
//! A measured speed is `stated * exp(group + class + machine + noise)`, each a normal effect around zero with a known
//! spread. What one machine did moves its class a little and the whole group less; sums are closed, nothing is fitted.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::gpu::class_of;
use crate::domain::{Alternative, MachineKey, Timestamp, TokensPerSecond};

/// Spreads of the logarithms. A stated speed may be off by a factor of two; a class by a third; a machine of a known
/// class by a seventh; the same machine on two days by a twelfth.
const GROUP_SD: f64 = 0.7;
const CLASS_SD: f64 = 0.35;
const MACHINE_SD: f64 = 0.15;
const NOISE_SD: f64 = 0.08;
/// What was measured counts half after this.
const HALF_LIFE: Duration = Duration::from_secs(30 * 86_400);
/// Measurements of one machine count as so many at most.
const WEIGHT_MAX: f64 = 10.0;
const MACHINES_MAX: usize = 500;
/// A factor beyond this is a mistake in somebody's figures.
const FACTOR_MAX: f64 = 20.0;

/// Learned speeds of one group. `default()` knows nothing.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SpeedBeliefs {
    /// Strength of the machine that the group's stated speed is for: the middle one of the first offers seen.
    pub reference: Option<f64>,
    machines: Vec<Measured>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Measured {
    machine: MachineKey,
    class: String,
    /// Mean logarithm of measured over stated, and what it counts, as of `at`.
    log: f64,
    weight: f64,
    at: Timestamp,
}

/// A belief in the logarithm of measured over stated speed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Belief {
    pub mean: f64,
    /// Of what the class, and of what the machine may add: uncertain in a way that is worth trying out. What the whole
    /// group may add moves all offers alike and is left out.
    pub class_sd: f64,
    pub machine_sd: f64,
    pub class_seen: bool,
    /// Of all together, within what is known of machines that were measured and of those that never were.
    pub sd: f64,
}

/// Normal: mean and precision.
#[derive(Clone, Copy)]
struct Normal {
    mean: f64,
    precision: f64,
}

impl Normal {
    const NOTHING: Self = Self {
        mean: 0.0,
        precision: 0.0,
    };

    fn around_zero(sd: f64) -> Self {
        Self {
            mean: 0.0,
            precision: sd.powi(-2),
        }
    }

    fn and(self, other: Self) -> Self {
        let precision = self.precision + other.precision;
        if precision <= 0.0 {
            return Self::NOTHING;
        }
        Self {
            mean: (self.mean * self.precision + other.mean * other.precision) / precision,
            precision,
        }
    }

    /// Seen through another normal effect.
    fn widened(self, sd: f64) -> Self {
        if self.precision <= 0.0 {
            return Self::NOTHING;
        }
        Self {
            mean: self.mean,
            precision: (1.0 / self.precision + sd * sd).recip(),
        }
    }
}

impl SpeedBeliefs {
    /// A worker was rented as `rented` and does `measured`; said again it is one more opinion, not another machine.
    pub fn observe(&mut self, rented: &Alternative, measured: TokensPerSecond, now: Timestamp) {
        let (Some(machine), stated) = (&rented.machine, rented.stated_tokens_per_second.0) else {
            return;
        };
        let factor = measured.0 / stated;
        if !factor.is_finite() || !(1.0 / FACTOR_MAX..=FACTOR_MAX).contains(&factor) {
            return;
        }
        let class = class_of(&rented.gpu_name, rented.gpu_count);
        let known = self
            .machines
            .iter_mut()
            .find(|known| known.machine == *machine && known.class == class);
        match known {
            Some(known) => known.add(factor.ln(), now),
            None => {
                self.make_room();
                self.machines.push(Measured {
                    machine: machine.clone(),
                    class,
                    log: factor.ln(),
                    weight: 1.0,
                    at: now,
                });
            }
        }
    }

    fn make_room(&mut self) {
        if self.machines.len() >= MACHINES_MAX
            && let Some((oldest, _)) = self
                .machines
                .iter()
                .enumerate()
                .min_by_key(|(_, known)| known.at)
        {
            self.machines.swap_remove(oldest);
        }
    }

    pub(super) fn of(&self, class: &str, machine: &MachineKey, now: Timestamp) -> Belief {
        let mut classes: BTreeMap<&str, Normal> = BTreeMap::new();
        let mut own = Normal::NOTHING;
        for known in &self.machines {
            let seen = known.seen(now);
            let entry = classes.entry(&known.class).or_insert(Normal::NOTHING);
            if known.class == class && known.machine == *machine {
                own = seen;
            } else {
                *entry = entry.and(seen.widened(MACHINE_SD));
            }
        }
        let others = classes.iter().filter(|(name, _)| **name != class);
        let group = others.fold(Normal::around_zero(GROUP_SD), |sum, (_, seen)| {
            sum.and(seen.widened(CLASS_SD))
        });
        let seen = classes.get(class).copied().unwrap_or(Normal::NOTHING);
        let level = group.widened(CLASS_SD).and(seen);
        let machine = level.widened(MACHINE_SD).and(own);
        let class_known = seen.and(own.widened(MACHINE_SD));
        Belief {
            mean: machine.mean,
            class_sd: class_known
                .and(Normal::around_zero(CLASS_SD))
                .precision
                .powf(-0.5),
            machine_sd: own
                .and(Normal::around_zero(MACHINE_SD))
                .precision
                .powf(-0.5),
            class_seen: class_known.precision > 0.0,
            sd: machine.precision.powf(-0.5).clamp(NOISE_SD, CLASS_SD),
        }
    }

    /// What a machine rented so is expected to do by all that is known now.
    pub fn expected(&self, rented: &Alternative, now: Timestamp) -> TokensPerSecond {
        let stated = rented.stated_tokens_per_second.0;
        let class = class_of(&rented.gpu_name, rented.gpu_count);
        let known = rented.machine.as_ref();
        let factor = known.map_or(1.0, |machine| self.of(&class, machine, now).mean.exp());
        TokensPerSecond(stated * factor)
    }

    /// Whether a measured machine of any class is remembered.
    pub fn knows_any(&self) -> bool {
        !self.machines.is_empty()
    }
}

impl Measured {
    fn add(&mut self, log: f64, now: Timestamp) {
        let kept = (self.weight * self.kept(now)).min(WEIGHT_MAX - 1.0);
        self.log = (self.log * kept + log) / (kept + 1.0);
        self.weight = kept + 1.0;
        self.at = now;
    }

    fn seen(&self, now: Timestamp) -> Normal {
        let weight = self.weight * self.kept(now);
        Normal {
            mean: self.log,
            precision: weight / (NOISE_SD * NOISE_SD),
        }
    }

    fn kept(&self, now: Timestamp) -> f64 {
        let age = now.since(self.at).as_secs_f64() / HALF_LIFE.as_secs_f64();
        (-age).exp2()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{HostId, MachineId, Offer, OfferId, UsdPerHour};

    const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);

    fn machine(name: &str) -> MachineKey {
        MachineKey {
            host: HostId::new("host"),
            machine: MachineId::new(name),
        }
    }

    fn rented(name: &str, gpu: &str) -> Alternative {
        let offer = Offer::plain(OfferId::new("1"), UsdPerHour(1.0));
        Alternative {
            machine: Some(machine(name)),
            gpu_name: gpu.into(),
            gpu_count: 1,
            ..Alternative::plain(&offer, TokensPerSecond(100.0))
        }
    }

    fn factor(beliefs: &SpeedBeliefs, name: &str, gpu: &str) -> f64 {
        beliefs
            .of(&class_of(gpu, 1), &machine(name), NOW)
            .mean
            .exp()
    }

    #[test]
    fn what_one_machine_does_is_believed_of_it_and_less_of_the_others() {
        let mut beliefs = SpeedBeliefs::default();
        beliefs.observe(&rented("a", "RTX 4090"), TokensPerSecond(200.0), NOW);
        let same = factor(&beliefs, "a", "RTX 4090");
        let class = factor(&beliefs, "b", "RTX 4090");
        let other = factor(&beliefs, "c", "H100 SXM");
        assert!(
            same > 1.9 && same > class && class > other && other > 1.2,
            "{same} {class} {other}"
        );
    }

    #[test]
    fn a_class_that_disappoints_is_told_from_a_group_that_was_stated_wrong() {
        let mut beliefs = SpeedBeliefs::default();
        for n in 0..5 {
            beliefs.observe(
                &rented(&format!("a{n}"), "RTX 3090"),
                TokensPerSecond(50.0),
                NOW,
            );
            beliefs.observe(
                &rented(&format!("b{n}"), "RTX 4090"),
                TokensPerSecond(100.0),
                NOW,
            );
            beliefs.observe(
                &rented(&format!("c{n}"), "L40S"),
                TokensPerSecond(105.0),
                NOW,
            );
        }
        assert!((factor(&beliefs, "new", "RTX 3090") - 0.5).abs() < 0.05);
        assert!((factor(&beliefs, "new", "RTX 4090") - 1.0).abs() < 0.05);
        let unseen = factor(&beliefs, "new", "A40");
        assert!((0.6..1.0).contains(&unseen), "{unseen}");
    }

    #[test]
    fn nobody_measured_is_believed_as_stated_and_nonsense_teaches_nothing() {
        let mut beliefs = SpeedBeliefs::default();
        for measured in [0.0, f64::NAN, f64::INFINITY, -5.0, 1e9] {
            beliefs.observe(&rented("a", "RTX 4090"), TokensPerSecond(measured), NOW);
        }
        assert_eq!(factor(&beliefs, "a", "RTX 4090"), 1.0);
        assert!(!beliefs.knows_any());
    }

    #[test]
    fn memory_is_bounded_and_the_oldest_goes_first() {
        let mut beliefs = SpeedBeliefs::default();
        for n in 0..MACHINES_MAX + 10 {
            let at = NOW + Duration::from_secs(n as u64);
            beliefs.observe(&rented(&n.to_string(), "T4"), TokensPerSecond(90.0), at);
        }
        assert_eq!(beliefs.machines.len(), MACHINES_MAX);
        assert!(
            beliefs
                .machines
                .iter()
                .all(|known| known.machine != machine("0"))
        );
    }
}
