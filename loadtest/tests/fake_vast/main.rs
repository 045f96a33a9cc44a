//! The fake Vast over real sockets, with real containers: what tests of renting rely on.

mod cli;
mod clients;
mod faults;
mod gateway;
mod life;
mod listing;
mod money;
mod program;
mod search;
mod storm;
mod support;
