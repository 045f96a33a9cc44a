//! Tidegate: a reverse proxy for language-model workers that is itself their autoscaler.
//!
//! Layers, in reading order; `docs/ARCHITECTURE.md` says who may use whom.

pub mod domain;
pub mod policy;
pub mod simulate;

#[cfg(test)]
mod layering_test;

#[cfg(feature = "serve")]
pub mod admin;
#[cfg(feature = "serve")]
pub mod app;
#[cfg(feature = "serve")]
pub mod cli;
#[cfg(feature = "serve")]
pub mod config;
#[cfg(feature = "serve")]
pub mod engines;
#[cfg(feature = "serve")]
pub mod fleet;
#[cfg(feature = "serve")]
pub mod ledger;
#[cfg(feature = "serve")]
pub mod market;
#[cfg(feature = "serve")]
pub mod picture;
#[cfg(feature = "serve")]
pub mod probe;
#[cfg(feature = "serve")]
pub mod proxy;
#[cfg(feature = "serve")]
pub mod scaler;
#[cfg(feature = "serve")]
pub mod telemetry;
