//! End to end: the real gateway program, real sockets, the stand-in worker or the real model.

mod access_log;
mod admin;
mod bad_input;
mod benchmark;
mod change;
mod choosing;
mod cli;
mod clients;
mod eavesdropper;
mod failures;
mod first_answer;
mod hardening;
mod keys;
mod late_refuser;
mod moves;
mod passthrough;
mod protocols;
mod real_model;
mod routes;
mod simulate;
mod soak;
mod streaming;
mod support;
mod upgrade;
mod vast;
mod waiting;
