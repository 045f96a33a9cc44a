//! How much slower than it was, and than its peers, a worker's streams flow.

use crate::domain::{EjectionSettings, IterationLaw, IterationLoad};

use super::Fault;

/// Samples until a worker's own past is known, at each order of its load: what a law says of loads it was not learned
/// at is no past.
const PAST_KNOWN_AFTER: u8 = 60;
/// How fast the past follows while such a load is new.
const NEW_LOAD_PACE: f64 = 1.0 / 20.0;
/// Seconds at the limit's pace that make a suspicion.
const SUSPICION_S: f64 = 5.0;
/// Doublings of the number of streams that are told apart.
const ORDERS: usize = 10;
/// How fast the past follows the present while there is no suspicion: a quarter of an hour.
const PAST_PACE: f64 = 1.0 / 900.0;
/// A second counts as at most this many times slower.
const SURPRISE_MAX: f64 = 4.0;
/// Workers that slow together do not alarm in the same second: this share of the way counts.
const SUSPECT_SHARE: f64 = 0.25;
/// Samples before a worker is one to compare with, and time without tokens after which it is none.
const MEASURE_AFTER: u32 = 10;
const RESTS_AFTER_S: f64 = 60.0;
/// A fault is found so much sooner than it has to be: seconds without tokens tell nothing.
const MARGIN: f64 = 0.85;
/// A look after a long pause counts no more than this.
const LOOK_MAX_S: f64 = 2.0;
/// Tokens after a pause speak for as much of it as this, though for no more than the limit's pace: a slow worker is
/// sent little, and one bad moment is not a minute.
const PAUSE_MAX_S: f64 = 10.0;

/// The streams of one worker in the last second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PaceSample {
    pub mean_gap_s: f64,
    pub load: IterationLoad,
    /// Since the look before.
    pub seconds: f64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Pace {
    past: IterationLaw,
    /// Samples by order of load, up to those that make it known.
    samples: [u8; ORDERS],
    slower_than_before: f64,
    slower_than_peers: f64,
    /// There were enough equals to compare with.
    has_peers: bool,
    /// Without tokens since the last sample.
    idle_s: f64,
}

impl Pace {
    pub(super) fn rest(&mut self, seconds: f64) {
        self.idle_s += seconds;
    }

    pub(super) fn watch(
        &mut self,
        sample: PaceSample,
        learned: IterationLaw,
        peers: Option<IterationLaw>,
        settings: &EjectionSettings,
    ) {
        let pause_s = std::mem::take(&mut self.idle_s).min(PAUSE_MAX_S);
        let anything_known = self.samples.contains(&PAST_KNOWN_AFTER);
        // A slower worker has more streams at once: they must not teach it another past.
        let suspicious = self.slower_than_before > SUSPICION_S * half_way(settings);
        let seen = &mut self.samples[order(sample.load.streams)];
        if *seen >= PAST_KNOWN_AFTER || suspicious {
            add(
                &mut self.slower_than_before,
                sample,
                pause_s,
                self.past,
                settings,
            );
            if self.slower_than_before <= 0.0 {
                self.past = towards(self.past, learned, PAST_PACE);
            }
        } else {
            *seen += 1;
            let pace = if anything_known { NEW_LOAD_PACE } else { 1.0 };
            self.past = towards(self.past, learned, pace);
        }
        self.has_peers = peers.is_some();
        match peers {
            Some(peers) => add(
                &mut self.slower_than_peers,
                sample,
                pause_s,
                peers,
                settings,
            ),
            None => self.slower_than_peers = 0.0,
        }
    }

    pub(super) fn fault(&self, settings: &EjectionSettings) -> Option<Fault> {
        let limit = limit(settings);
        if self.slower_than_peers > limit {
            Some(Fault::SlowerThanPeers)
        } else if self.slower_than_before > limit && !self.peers_slowed_too(settings) {
            Some(Fault::SlowerThanBefore)
        } else {
            None
        }
    }

    /// Slower than before, and its equals no less.
    pub(super) fn has_other_work(&self, settings: &EjectionSettings) -> bool {
        self.slower_than_before > limit(settings) && self.peers_slowed_too(settings)
    }

    fn peers_slowed_too(&self, settings: &EjectionSettings) -> bool {
        self.has_peers && self.slower_than_peers < SUSPECT_SHARE * limit(settings)
    }

    /// So little flowed, ever or of late, that its law may be anybody's or an old one.
    pub(super) fn is_resting(&self) -> bool {
        let seen: u32 = self.samples.iter().map(|seen| u32::from(*seen)).sum();
        seen < MEASURE_AFTER || self.idle_s > RESTS_AFTER_S
    }

    /// Far enough on the way to a fault to be one of those that slowed together.
    pub(super) fn is_suspect(&self, settings: &EjectionSettings) -> bool {
        self.slower_than_peers.max(self.slower_than_before) > SUSPECT_SHARE * limit(settings)
    }

    pub(super) fn forgive(&mut self) {
        self.slower_than_before = 0.0;
        self.slower_than_peers = 0.0;
    }

    /// The work is another: what was the pace before says nothing.
    pub(super) fn forget_past(&mut self) {
        *self = Self::default();
    }
}

/// Half the logarithm of the slowdown that is a fault: what is slower adds up, what is faster takes away.
fn half_way(settings: &EjectionSettings) -> f64 {
    -settings.slow_ratio.clamp(0.01, 0.99).ln() / 2.0
}

/// What has to add up for a fault.
fn limit(settings: &EjectionSettings) -> f64 {
    MARGIN * half_way(settings) * settings.slow_for.as_secs_f64()
}

fn add(
    sum: &mut f64,
    sample: PaceSample,
    pause_s: f64,
    expected: IterationLaw,
    settings: &EjectionSettings,
) {
    let slower = sample.mean_gap_s / expected.at(sample.load);
    if slower.is_finite() && slower > 0.0 {
        let slower = slower.clamp(1.0 / SURPRISE_MAX, SURPRISE_MAX);
        let excess = slower.ln() - half_way(settings);
        let seconds = sample.seconds.clamp(0.0, LOOK_MAX_S);
        let paused = excess.min(half_way(settings)) * pause_s;
        *sum = (*sum + excess * seconds + paused).max(0.0);
    }
}

fn order(streams: f64) -> usize {
    (streams.max(1.0).log2() as usize).min(ORDERS - 1)
}

fn towards(from: IterationLaw, to: IterationLaw, pace: f64) -> IterationLaw {
    let step = |part: fn(IterationLaw) -> f64| part(from) + pace * (part(to) - part(from));
    IterationLaw {
        base_s: step(|law| law.base_s),
        per_stream_s: step(|law| law.per_stream_s),
        per_kv_kilotoken_s: step(|law| law.per_kv_kilotoken_s),
        per_prompt_token_s: step(|law| law.per_prompt_token_s),
    }
}

/// The middle of a group's laws, by what they say of `load`; `None` where there are too few to tell who is odd.
pub fn middle(laws: &mut [IterationLaw], load: IterationLoad) -> Option<IterationLaw> {
    if laws.len() < 3 {
        return None;
    }
    laws.sort_unstable_by(|a, b| a.at(load).total_cmp(&b.at(load)));
    // The faster of the two middle ones: of four, two slow ones do not make the norm.
    laws.get((laws.len() - 1) / 2).copied()
}
