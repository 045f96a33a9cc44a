//! Who calls: a bearer key, compared in constant time by its hash, or an address where no key is needed.

use std::sync::Arc;

use pingora::protocols::http::ServerSession;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::domain::{Access, ApiKey, ClientKey, EndpointName, NeedsKey};
use crate::fleet::Account;

/// A key with what was used of its limits.
pub struct HeldKey {
    key: ApiKey,
    pub(super) account: Arc<Account>,
}

/// All keys, and which endpoints need one.
#[derive(Default)]
pub struct KeyRing {
    keys: Vec<Arc<HeldKey>>,
    needs_key: NeedsKey,
}

impl KeyRing {
    /// Keys that were in `before` go on with the accounts they have.
    pub fn new(access: &Access, before: &KeyRing) -> Self {
        let keys = access.keys.iter().map(|key| {
            let kept = before.keys.iter().find(|held| held.key.name == key.name);
            let account = match kept {
                Some(held) => Arc::clone(&held.account),
                None => Arc::default(),
            };
            account.set_limits(key.limits);
            Arc::new(HeldKey {
                key: key.clone(),
                account,
            })
        });
        Self {
            keys: keys.collect(),
            needs_key: access.needs_key.clone(),
        }
    }

    fn find(&self, secret: &[u8]) -> Option<&Arc<HeldKey>> {
        let hash: [u8; 32] = Sha256::digest(secret).into();
        // Every key is compared, so that time does not tell which one nearly matched.
        self.keys.iter().fold(None, |found, held| {
            if bool::from(held.key.sha256.ct_eq(&hash)) {
                Some(held)
            } else {
                found
            }
        })
    }
}

/// Who sent a request.
#[derive(Clone)]
pub(super) struct Caller {
    /// Whom fairness counts: the key's name, or the address.
    pub(super) client: ClientKey,
    pub(super) key: Option<Arc<HeldKey>>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum NotAllowed {
    /// No key, or one that nobody has, where one is needed.
    Unknown,
    /// A key that opens other endpoints.
    OutOfScope,
}

impl Caller {
    /// A key that is not known is no key: clients of an open endpoint send made-up ones.
    pub(super) fn of(http: &ServerSession, keys: &KeyRing) -> Self {
        let key = bearer(http.get_header_bytes("authorization"))
            .and_then(|secret| keys.find(secret))
            .map(Arc::clone);
        let client = match &key {
            Some(held) => held.key.name.clone(),
            None => ClientKey::new(address(http)),
        };
        Self { client, key }
    }

    pub(super) fn may_call(
        &self,
        endpoint: &EndpointName,
        keys: &KeyRing,
    ) -> Result<(), NotAllowed> {
        if !keys.needs_key.holds(endpoint) {
            return Ok(());
        }
        match &self.key {
            None => Err(NotAllowed::Unknown),
            Some(held) if held.key.scope.holds(endpoint) => Ok(()),
            Some(_) => Err(NotAllowed::OutOfScope),
        }
    }

    /// Nothing is open to this caller, whatever the request turns out to be.
    pub(super) fn is_shut_out<'a>(
        &self,
        mut endpoints: impl Iterator<Item = &'a EndpointName>,
        keys: &KeyRing,
    ) -> bool {
        self.key.is_none() && endpoints.all(|endpoint| keys.needs_key.holds(endpoint))
    }

    /// The key's name for metrics: of an address there are too many.
    pub(super) fn label(&self) -> &str {
        self.key.as_ref().map_or("", |held| held.key.name.as_str())
    }
}

fn bearer(header: &[u8]) -> Option<&[u8]> {
    header
        .split_at_checked(7)
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case(b"bearer "))
        .map(|(_, secret)| secret.trim_ascii())
}

fn address(http: &ServerSession) -> String {
    http.client_addr()
        .and_then(|address| address.as_inet())
        .map_or_else(|| "local".to_owned(), |address| address.ip().to_string())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::domain::{KeyLimits, KeyScope, Timestamp};

    fn key(name: &str, secret: &str, scope: KeyScope) -> ApiKey {
        ApiKey {
            name: ClientKey::new(name),
            sha256: Sha256::digest(secret.as_bytes()).into(),
            scope,
            limits: KeyLimits {
                max_concurrency: Some(1),
                ..KeyLimits::default()
            },
        }
    }

    fn only(name: &str) -> KeyScope {
        KeyScope::Only(BTreeSet::from([EndpointName::new(name)]))
    }

    fn ring(needs_key: NeedsKey) -> KeyRing {
        let keys = vec![
            key("alice", "alice-secret-0001", KeyScope::Every),
            key("bob", "bob-secret-000002", only("a")),
        ];
        KeyRing::new(&Access { keys, needs_key }, &KeyRing::default())
    }

    fn caller(ring: &KeyRing, secret: &str) -> Caller {
        let key = ring.find(secret.as_bytes()).map(Arc::clone);
        let client = ClientKey::new("somebody");
        Caller { client, key }
    }

    #[test]
    fn a_key_is_found_by_its_secret_and_by_nothing_else() {
        let ring = ring(NeedsKey::Every);
        let name = |secret: &str| caller(&ring, secret).label().to_owned();
        assert_eq!(name("bob-secret-000002"), "bob");
        assert_eq!(name("bob-secret-00000"), "");
        assert_eq!(name(""), "");
    }

    #[test]
    fn a_key_opens_what_it_is_for() {
        let (a, b) = (EndpointName::new("a"), EndpointName::new("b"));
        let ring = ring(NeedsKey::Every);
        let check = |secret: &str, endpoint: &EndpointName, expected: Result<(), NotAllowed>| {
            let caller = caller(&ring, secret);
            assert_eq!(caller.may_call(endpoint, &ring), expected, "{secret}");
        };
        check("alice-secret-0001", &a, Ok(()));
        check("alice-secret-0001", &b, Ok(()));
        check("bob-secret-000002", &a, Ok(()));
        check("bob-secret-000002", &b, Err(NotAllowed::OutOfScope));
        check("nobody", &a, Err(NotAllowed::Unknown));
        assert!(caller(&ring, "nobody").is_shut_out([&a, &b].into_iter(), &ring));
    }

    #[test]
    fn an_endpoint_without_keys_stays_open_beside_one_that_has_some() {
        let (a, b) = (EndpointName::new("a"), EndpointName::new("b"));
        let ring = ring(NeedsKey::Only(BTreeSet::from([a.clone()])));
        let nobody = caller(&ring, "made-up");
        assert_eq!(nobody.may_call(&a, &ring), Err(NotAllowed::Unknown));
        assert_eq!(nobody.may_call(&b, &ring), Ok(()));
        assert!(!nobody.is_shut_out([&a, &b].into_iter(), &ring));
    }

    #[test]
    fn a_new_ring_keeps_the_accounts_of_keys_that_stay() {
        let before = ring(NeedsKey::Every);
        let now = Timestamp::from_millis(1);
        let alice = caller(&before, "alice-secret-0001").key.expect("a key");
        let _under_way = alice.account.enter(now).expect("room for one");
        let access = Access {
            keys: vec![key("alice", "a-new-secret-00001", KeyScope::Every)],
            needs_key: NeedsKey::Every,
        };
        let after = KeyRing::new(&access, &before);
        let alice = caller(&after, "a-new-secret-00001").key.expect("a key");
        assert!(alice.account.enter(now).is_err(), "still one under way");
        assert!(caller(&after, "alice-secret-0001").key.is_none());
    }
}
