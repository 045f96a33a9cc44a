//! Whether a request may wait when no worker can take it, and for how long.

use std::time::Duration;

use crate::domain::{WaitReason, WaitingSettings};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// As many requests wait as may.
    TooManyWaiting,
    /// The bodies of waiting requests fill the room.
    TooManyBytes,
    /// This client has as much of the room as it may, in requests or in bytes.
    ClientShare,
}

impl Refusal {
    /// The metric label.
    pub fn as_str(self) -> &'static str {
        match self {
            Refusal::TooManyWaiting => "too_many_waiting",
            Refusal::TooManyBytes => "too_many_bytes",
            Refusal::ClientShare => "client_share",
        }
    }

    pub fn in_words(self) -> &'static str {
        match self {
            Refusal::TooManyWaiting => "too many requests wait already",
            Refusal::TooManyBytes => "the requests that wait already are too large together",
            Refusal::ClientShare => "too many requests of this client wait already",
        }
    }
}

/// Requests that wait, and their bodies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Occupancy {
    pub requests: usize,
    pub bytes: usize,
}

/// `own` is the part of `room` that the same client's requests take.
pub fn may_wait(
    room: Occupancy,
    own: Occupancy,
    body_bytes: usize,
    settings: &WaitingSettings,
) -> Result<(), Refusal> {
    let bytes = room.bytes.saturating_add(body_bytes);
    if room.requests >= settings.requests_max {
        return Err(Refusal::TooManyWaiting);
    }
    if bytes > settings.bytes_max {
        return Err(Refusal::TooManyBytes);
    }
    let requests_left = settings.requests_max - room.requests - 1;
    let bytes_left = settings.bytes_max - bytes;
    let own_bytes = own.bytes.saturating_add(body_bytes);
    let fair = own.requests == 0
        || within_share(own.requests + 1, requests_left, settings.share_max)
            && within_share(own_bytes, bytes_left, settings.share_max);
    if fair {
        Ok(())
    } else {
        Err(Refusal::ClientShare)
    }
}

/// A client may have a fixed multiple of what is left free, so that something always is, however many
/// clients flood: alone it gets `share` of the room, beside another like it less.
/// Choudhury, Hahne: Dynamic queue length thresholds (ToN 1998).
fn within_share(own: usize, left: usize, share: f64) -> bool {
    own as f64 * (1.0 - share) <= left as f64 * share
}

/// Requests that the workers of an endpoint may have at once, where each says how many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Places {
    pub free: u32,
    pub all: u32,
}

/// Whether a client that has `own` places, beside others, may take one more. The last free ones are for clients that have
/// less than an equal part of what is taken: who asks for little finds a place at once, however many others flood.
pub fn may_take_place(places: Places, own: u32, clients: usize, spare_share: f64) -> bool {
    let spare = (f64::from(places.all) * spare_share) as u32;
    let taken = u64::from(places.all.saturating_sub(places.free));
    places.free > spare || u64::from(own) * clients as u64 <= taken
}

/// How long one request may still wait, retries included. Each reason has its own clock, which runs only
/// while it is the reason: who waited for the first worker to start has the whole time for a busy one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    none_ready: Duration,
    all_busy: Duration,
}

impl Patience {
    pub fn new(settings: &WaitingSettings) -> Self {
        Self {
            none_ready: settings.wait_max,
            all_busy: settings.wait_max_busy,
        }
    }

    pub fn left(&self, reason: WaitReason) -> Duration {
        match reason {
            WaitReason::NoneReady => self.none_ready,
            WaitReason::AllBusy => self.all_busy,
        }
    }

    pub fn spend(&mut self, reason: WaitReason, waited: Duration) {
        let left = match reason {
            WaitReason::NoneReady => &mut self.none_ready,
            WaitReason::AllBusy => &mut self.all_busy,
        };
        *left = left.saturating_sub(waited);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn settings(requests_max: usize, bytes_max: usize, share_max: f64) -> WaitingSettings {
        WaitingSettings {
            requests_max,
            bytes_max,
            share_max,
            wait_max: 10 * SECOND,
            wait_max_busy: SECOND,
            events: false,
            events_interval: SECOND,
        }
    }

    fn of(requests: usize, bytes: usize) -> Occupancy {
        Occupancy { requests, bytes }
    }

    #[test]
    fn the_room_is_bounded_in_requests_and_bytes() {
        let check = |room, body, expected| {
            let own = Occupancy::default();
            assert_eq!(
                may_wait(room, own, body, &settings(3, 1_000, 1.0)),
                expected
            );
        };
        check(of(2, 0), 1_000, Ok(()));
        check(of(3, 0), 1, Err(Refusal::TooManyWaiting));
        check(of(0, 999), 2, Err(Refusal::TooManyBytes));
    }

    #[test]
    fn one_client_takes_its_share_of_requests_or_bytes_and_others_still_enter() {
        let settings = settings(100, 100_000, 0.8);
        let check = |room, own, expected| {
            assert_eq!(may_wait(room, own, 10, &settings), expected);
        };
        check(of(79, 790), of(79, 790), Ok(()));
        check(of(80, 800), of(80, 800), Err(Refusal::ClientShare));
        check(of(4, 85_000), of(4, 85_000), Err(Refusal::ClientShare));
        check(of(80, 800), of(0, 0), Ok(()));
        check(of(80, 800), of(30, 300), Ok(()));
        check(of(95, 950), of(30, 300), Err(Refusal::ClientShare));
        check(of(99, 990), of(0, 0), Ok(()));
    }

    #[test]
    fn the_last_places_are_for_who_has_less_than_an_equal_part() {
        let places = |free| Places { free, all: 200 };
        assert!(may_take_place(places(5), 150, 2, 0.02), "there are more");
        assert!(!may_take_place(places(4), 150, 2, 0.02));
        assert!(may_take_place(places(4), 46, 2, 0.02));
        assert!(!may_take_place(places(4), 70, 3, 0.02));
        assert!(may_take_place(places(1), 199, 2, 0.0), "nothing is spared");
        let few = Places { free: 1, all: 8 };
        assert!(may_take_place(few, 7, 2, 0.02), "too few to spare one");
    }

    #[test]
    fn a_share_of_all_is_no_bound() {
        let full_but_one = of(2, 20);
        let settings = settings(3, 30, 1.0);
        assert_eq!(may_wait(full_but_one, full_but_one, 10, &settings), Ok(()));
    }

    #[test]
    fn waiting_for_the_first_worker_does_not_use_up_the_time_for_a_busy_one() {
        let mut patience = Patience::new(&settings(1, 1, 1.0));
        patience.spend(WaitReason::NoneReady, 9 * SECOND);
        assert_eq!(patience.left(WaitReason::AllBusy), SECOND);
        patience.spend(WaitReason::AllBusy, 3 * SECOND);
        assert_eq!(patience.left(WaitReason::AllBusy), Duration::ZERO);
        assert_eq!(patience.left(WaitReason::NoneReady), SECOND);
    }

    proptest! {
        #[test]
        fn whoever_comes_the_room_keeps_its_bounds_and_no_flood_shuts_a_newcomer_out(
            arrivals in proptest::collection::vec((0usize..4, 0usize..300), 0..200),
            requests_max in 2usize..60,
            share in 0.1f64..0.95,
        ) {
            let settings = settings(requests_max, 4_000, share);
            let mut own = [Occupancy::default(); 4];
            let mut room = Occupancy::default();
            for (client, bytes) in arrivals {
                if may_wait(room, own[client], bytes, &settings).is_ok() {
                    for part in [&mut own[client], &mut room] {
                        part.requests += 1;
                        part.bytes += bytes;
                    }
                }
                prop_assert!(room.requests <= requests_max && room.bytes <= 4_000);
                // However much one client has, another that has nothing finds a place.
                let alone = own.iter().filter(|part| part.requests > 0).count() == 1;
                if alone && requests_max > 1 {
                    let refused = may_wait(room, Occupancy::default(), 0, &settings);
                    prop_assert_eq!(refused, Ok(()));
                }
            }
        }
    }
}
