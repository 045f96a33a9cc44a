//! Who would be ejected, as the fleet judges it once a second. Nobody is: what is measured is the judgement.

use super::station::Station;
use crate::domain::{EjectionSettings, GroupName, IterationLaw, Timestamp, TokensPerSecond};
use crate::policy::ejection::{Fault, Health, Member, PaceSample, Review, middle, review};

#[derive(Clone, Debug)]
pub(super) struct Judge {
    health: Vec<Health>,
    group: GroupName,
}

impl Judge {
    pub(super) fn of(workers: usize) -> Self {
        Self {
            health: vec![Health::default(); workers],
            group: GroupName::new("all"),
        }
    }

    /// After the second's measuring; who does other work is learned anew.
    pub(super) fn watch(
        &mut self,
        stations: &mut [Station],
        settings: &EjectionSettings,
        now_s: f64,
    ) -> Watched {
        let samples: Vec<_> = stations.iter().map(|station| station.pace).collect();
        let laws: Vec<_> = stations.iter().map(|station| station.book.law()).collect();
        let capacities: Vec<_> = stations
            .iter()
            .map(|station| station.book.capacity())
            .collect();
        let speeds: Vec<_> = capacities.iter().map(|view| view.mean).collect();
        let now = Timestamp::from_millis((now_s * 1e3) as u64);
        let found = self.look(&samples, &laws, &speeds, settings, now);
        for place in &found.other_work {
            stations[*place].book.learn_anew();
        }
        Watched {
            at_s: now_s,
            capacities,
            ejected: found.ejected,
            other_work: found.other_work,
        }
    }

    fn look(
        &mut self,
        samples: &[Option<PaceSample>],
        laws: &[IterationLaw],
        capacities: &[TokensPerSecond],
        settings: &EjectionSettings,
        now: Timestamp,
    ) -> Review {
        for (place, sample) in samples.iter().enumerate() {
            let Some(sample) = sample else {
                self.health[place].rest(1.0);
                continue;
            };
            let peers = middle(&mut laws.to_vec(), sample.load);
            self.health[place].watch(*sample, laws[place], peers, settings);
        }
        let members = self.health.iter_mut().zip(capacities);
        let mut members: Vec<Member> = members
            .map(|(health, capacity)| Member {
                health,
                group: &self.group,
                capacity: *capacity,
            })
            .collect();
        review(&mut members, settings, now)
    }
}

/// One second of a simulated gateway.
#[derive(Clone, Debug)]
pub struct Watched {
    pub at_s: f64,
    pub capacities: Vec<crate::domain::CapacityView>,
    /// Whom the gateway would eject now.
    pub ejected: Vec<(usize, Fault)>,
    /// Whose work changed together.
    pub other_work: Vec<usize>,
}
