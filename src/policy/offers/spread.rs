//! Not all eggs in one basket: shares of the capacity that one host, place or class of GPUs may have.

use super::Holding;
use super::gpu::is_same_gpu;
use crate::domain::{Hardware, WhyNot};

/// Hosts fail as a whole. With many workers a smaller share is possible and worth it.
const HOST_SHARE_MAX: f64 = 1.0 / 2.0;
const HOST_SHARE_MAX_MANY: f64 = 1.0 / 3.0;
const MANY: usize = 6;
/// Places and classes fail rarely, and may be all that is on offer: what is above makes an offer look dearer.
const PLACE_SHARE_MAX: f64 = 1.0 / 2.0;
const CLASS_SHARE_MAX: f64 = 0.6;
const SPREAD_FROM: usize = 3;

/// What speaks against one more machine of this host.
pub(super) fn host_objection(
    hardware: &Hardware,
    speed: f64,
    holdings: &[Holding],
) -> Option<WhyNot> {
    let of_host = |held: &Holding| {
        held.machine
            .as_ref()
            .is_some_and(|machine| machine.host == hardware.machine.host)
    };
    let share = share(speed, holdings, of_host);
    let many = holdings.len() + 1 >= MANY;
    let most = if many {
        HOST_SHARE_MAX_MANY
    } else {
        HOST_SHARE_MAX
    };
    (!holdings.is_empty() && share > most + 1e-9).then_some(WhyNot::HostShare { share })
}

/// How many times as dear it is to look because too much is of its place or class already.
pub(super) fn dearness(hardware: &Hardware, speed: f64, holdings: &[Holding]) -> f64 {
    if holdings.len() + 1 < SPREAD_FROM {
        return 1.0;
    }
    let place = share(speed, holdings, |held| held.location == hardware.location);
    let class = share(speed, holdings, |held| {
        is_same_gpu(&held.gpu_name, &hardware.gpu_name)
    });
    let above = (place - PLACE_SHARE_MAX).max(0.0) + (class - CLASS_SHARE_MAX).max(0.0);
    1.0 + above / 2.0
}

/// Of the capacity there would be with one more of `speed`.
fn share(speed: f64, holdings: &[Holding], counts: impl Fn(&Holding) -> bool) -> f64 {
    let all: f64 = holdings.iter().map(|held| held.speed).sum();
    let counted = holdings.iter().filter(|held| counts(held));
    let sum: f64 = counted.map(|held| held.speed).sum();
    (sum + speed) / (all + speed).max(f64::MIN_POSITIVE)
}
