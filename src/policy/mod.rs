//! The verbs of Tidegate: pure decisions. Time and chance are arguments; every decision carries its reason.
#![deny(clippy::disallowed_methods)]

pub mod admission;
pub mod arrival;
pub mod benchmark;
pub mod capacity;
pub mod cost;
pub mod ejection;
pub mod forecast;
pub mod hedge;
pub mod lifecycle;
pub mod limits;
pub mod offers;
pub mod passing;
pub mod queueing;
pub mod ramp;
pub mod reconcile;
pub mod reputation;
pub mod resume;
pub mod retry;
pub mod routing;
pub mod scaling;
pub mod spending;

pub use routing::choose_worker;
pub use scaling::plan_scaling;
