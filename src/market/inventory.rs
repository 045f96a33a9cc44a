//! What a market has of us, as far as its accounts could be asked.

use std::collections::{BTreeMap, BTreeSet};

use super::MarketError;
use crate::domain::{AccountId, Instance, InstanceId};

#[derive(Debug, Default)]
pub struct Inventory {
    pub instances: Vec<Instance>,
    /// Empty for a market without accounts.
    pub held_by: BTreeMap<InstanceId, AccountId>,
    /// All of these accounts' machines are in it.
    pub answered: BTreeSet<AccountId>,
    /// Accounts that could not be listed, and why: it says nothing about their machines.
    pub silent: BTreeMap<AccountId, String>,
}

impl Inventory {
    /// Of a market without accounts.
    pub fn of(instances: Vec<Instance>) -> Self {
        Self {
            instances,
            ..Self::default()
        }
    }

    /// Whether a machine of this account would be in it if it existed; `None`: it is not known whose it is.
    pub fn speaks_of(&self, account: Option<&AccountId>) -> bool {
        match account {
            Some(account) => self.answered.contains(account),
            None => self.silent.is_empty(),
        }
    }

    /// All instances, or why some cannot be known.
    pub fn complete(self) -> Result<Vec<Instance>, MarketError> {
        match self.silent.into_values().next() {
            Some(why) => Err(MarketError::Unavailable(format!("one account: {why}"))),
            None => Ok(self.instances),
        }
    }
}
