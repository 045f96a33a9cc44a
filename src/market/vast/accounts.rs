//! Whose keys there are, and which account has which instance.

use std::collections::HashMap;
use std::time::Duration;

use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use tokio::time::Instant;

use super::transport::Account;
use crate::domain::{AccountId, InstanceId, Secret};

/// Whose key it is, Vast is asked again after this where it did not say.
const ASK_WHOSE_EVERY: Duration = Duration::from_secs(600);

#[derive(Default)]
pub(super) struct Accounts(Mutex<State>);

#[derive(Default)]
struct State {
    /// A key keeps its number for as long as the process runs.
    keys: Vec<Key>,
    owners: HashMap<InstanceId, AccountId>,
}

struct Key {
    secret: Secret,
    fingerprint: AccountId,
    /// Whose key it is, once Vast has said so, and when it was last asked.
    user: Option<AccountId>,
    user_asked_at: Option<Instant>,
    /// In the configuration; others are kept for the machines they rented.
    named: bool,
    dropped: bool,
}

impl Key {
    fn id(&self) -> &AccountId {
        self.user.as_ref().unwrap_or(&self.fingerprint)
    }

    fn is(&self, account: &AccountId) -> bool {
        self.fingerprint == *account || self.user.as_ref() == Some(account)
    }
}

impl State {
    fn number(&mut self, key: &Secret) -> usize {
        let known = self.keys.iter().position(|known| known.secret == *key);
        known.unwrap_or_else(|| {
            self.keys.push(Key {
                secret: key.clone(),
                fingerprint: fingerprint(key),
                user: None,
                user_asked_at: None,
                named: true,
                dropped: false,
            });
            self.keys.len() - 1
        })
    }

    fn accounts(&self, which: impl Fn(&Key) -> bool) -> Vec<Account> {
        let kept = self.keys.iter().enumerate().filter(|(_, key)| !key.dropped);
        kept.filter(|(_, key)| which(key))
            .map(|(number, key)| account(number, key))
            .collect()
    }
}

impl Accounts {
    /// These are configured now, and no others.
    pub(super) fn name<'k>(&self, keys: impl Iterator<Item = &'k Secret>) {
        let mut state = self.0.lock();
        for key in &mut state.keys {
            key.named = false;
        }
        for key in keys {
            let number = state.number(key);
            if let Some(key) = state.keys.get_mut(number) {
                (key.named, key.dropped) = (true, false);
            }
        }
    }

    pub(super) fn of(&self, key: &Secret) -> Account {
        let mut state = self.0.lock();
        let number = state.number(key);
        account(number, &state.keys[number])
    }

    pub(super) fn all(&self) -> Vec<Account> {
        self.0.lock().accounts(|_| true)
    }

    /// Whether to ask now whose key this is; that counts as asked.
    pub(super) fn asks_whose(&self, account: &Account) -> bool {
        let mut state = self.0.lock();
        let Some(key) = state.keys.get_mut(account.number) else {
            return false;
        };
        let lately = |at: Instant| at.elapsed() < ASK_WHOSE_EVERY;
        let due = key.user.is_none() && !key.user_asked_at.is_some_and(lately);
        if due {
            key.user_asked_at = Some(Instant::now());
        }
        due
    }

    /// Vast says whose key it is. The account as it is called from now on.
    pub(super) fn belongs_to(&self, account: &Account, user: AccountId) -> Account {
        let mut state = self.0.lock();
        if let Some(key) = state.keys.get_mut(account.number) {
            key.user = Some(user.clone());
        }
        Account {
            id: user,
            ..account.clone()
        }
    }

    /// Every name it ever had here.
    pub(super) fn names(&self, account: &Account) -> Vec<AccountId> {
        let state = self.0.lock();
        let key = state.keys.get(account.number).into_iter();
        key.flat_map(|key| [Some(key.fingerprint.clone()), key.user.clone()])
            .flatten()
            .collect()
    }

    pub(super) fn is_named(&self, account: &Account) -> bool {
        let state = self.0.lock();
        state.keys.get(account.number).is_some_and(|key| key.named)
    }

    pub(super) fn drop_key(&self, account: &Account) {
        if let Some(key) = self.0.lock().keys.get_mut(account.number) {
            key.dropped = true;
        }
    }

    pub(super) fn has(&self, account: &Account, id: &InstanceId) {
        self.0.lock().owners.insert(id.clone(), account.id.clone());
    }

    /// Known from an earlier life; the account need not be among ours.
    pub(super) fn belongs(&self, id: &InstanceId, account: &AccountId) {
        let mut state = self.0.lock();
        state.owners.insert(id.clone(), account.clone());
    }

    pub(super) fn forget_instances_but(&self, keep: impl Fn(&InstanceId, &AccountId) -> bool) {
        let mut state = self.0.lock();
        state.owners.retain(|id, account| keep(id, account));
    }

    /// The one that has it, or all where that is not known.
    pub(super) fn that_may_have(&self, id: &InstanceId) -> Vec<Account> {
        let state = self.0.lock();
        let owner = state.owners.get(id);
        state.accounts(|key| owner.is_none_or(|owner| key.is(owner)))
    }
}

fn account(number: usize, key: &Key) -> Account {
    Account {
        number,
        id: key.id().clone(),
        key: key.secret.clone(),
    }
}

/// Tells accounts apart in the ledger without holding the key.
fn fingerprint(key: &Secret) -> AccountId {
    let digest = Sha256::digest(key.expose().as_bytes());
    let hex: String = digest
        .iter()
        .take(6)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    AccountId::new(hex)
}
