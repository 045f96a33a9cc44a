//! Renting on the fake Vast: nothing leaks, the account owes what the ledger says, outages heal.

mod account;
mod books;
pub mod leaks;
pub mod stage;
pub mod story;
