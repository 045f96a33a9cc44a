//! Who may call, and with what money.

/// A customer.
#[derive(Clone, Debug)]
pub struct Account {
    pub key: String,
    pub user: u64,
    /// Dollars paid in.
    pub paid: f64,
}

/// Who a key is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    /// Index of the account.
    Account(usize),
    /// A container with the key of its own instance.
    Container { account: usize, instance: u64 },
}

impl Caller {
    pub fn account(self) -> usize {
        match self {
            Caller::Account(account) | Caller::Container { account, .. } => account,
        }
    }

    /// Whether this instance is the caller's business.
    pub fn may_use(self, instance: u64) -> bool {
        match self {
            Caller::Account(_) => true,
            Caller::Container { instance: own, .. } => own == instance,
        }
    }
}
