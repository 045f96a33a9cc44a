//! The stand-in worker over real sockets: the properties that tests of the gateway rely on.

mod client;
mod continuation;
mod faults;
mod interfaces;
mod pace;
mod program;
