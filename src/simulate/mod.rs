//! Worlds in virtual time that run the production policy: nothing here decides, and nothing here waits.
//!
//! [`world::run`] plays a [`world::Scenario`] (a load, a market, settings) with whoever plans ([`planner::Planner`]);
//! [`bound`] says what it would have cost whoever knew the load; [`serving::run`] plays requests on a given fleet.
#![deny(clippy::disallowed_methods)]

pub mod bound;
pub mod chance;
pub mod fluid;
pub mod load;
pub mod machines;
pub mod market;
pub mod planner;
pub mod report;
pub mod serving;
pub mod traces;
pub mod world;
