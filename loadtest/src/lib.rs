//! Load, stand-ins and measurements around a running gateway.

pub mod capacity;
pub mod compare;
pub mod fakes;
pub mod fuzz;
pub mod growth;
pub mod harness;
pub mod replay;
pub mod routing;
pub mod scaling;
pub mod scenario;
pub mod soak;
pub mod trace;
pub mod yardsticks;
