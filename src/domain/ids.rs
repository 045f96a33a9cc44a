//! Names and identities; cheap to clone.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            pub fn new(name: impl AsRef<str>) -> Self {
                Self(Arc::from(name.as_ref()))
            }

            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl From<String> for $name {
            fn from(name: String) -> Self {
                Self::new(name)
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0.to_string()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }
    };
}

id!(
    /// The name clients use for a model service.
    EndpointName
);
id!(
    /// A worker group within one endpoint.
    GroupName
);
id!(
    /// An account of a market: its user's number, or a fingerprint of its key while that is not known.
    AccountId
);

/// Before a user's number.
const USER: &str = "user-";

impl AccountId {
    pub fn of_user(number: &str) -> Self {
        Self::new(format!("{USER}{number}"))
    }

    /// It stays the same when the account gets another key.
    pub fn is_of_user(&self) -> bool {
        self.as_str().starts_with(USER)
    }
}

id!(
    /// A worker and the rental that pays for it: one machine from intention to end.
    WorkerId
);
id!(
    /// A market's name for a rented machine.
    InstanceId
);
id!(
    /// A market's name for something that can be rented.
    OfferId
);
id!(
    /// A market's name for who offers machines.
    HostId
);
id!(
    /// A market's name for one physical machine of a host.
    MachineId
);
id!(
    /// One state directory's identity; part of every machine's label.
    InstallationId
);
id!(
    /// Who a request belongs to for fairness: the key's name, or the address without keys.
    ClientKey
);
