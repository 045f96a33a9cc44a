//! Stand-ins for the world around the gateway, as programs and in-process for tests.

pub mod vast;
pub mod worker;
