//! Worlds in virtual time that run the production policy: nothing here decides, and nothing here waits.
#![deny(clippy::disallowed_methods)]

pub mod chance;
pub mod fluid;
pub mod planner;
pub mod serving;
