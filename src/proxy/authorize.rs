//! Who may call: bearer keys, compared in constant time by their hash.

use pingora::proxy::Session;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::domain::ClientKey;

/// A key as it is kept: its name and its hash.
#[derive(Clone)]
pub struct AcceptedKey {
    name: ClientKey,
    hash: [u8; 32],
}

impl AcceptedKey {
    pub fn new(name: &str, secret: &str) -> Self {
        Self {
            name: ClientKey::new(name),
            hash: Sha256::digest(secret.as_bytes()).into(),
        }
    }
}

/// All keys that open the gateway. Without any, everybody may call.
#[derive(Clone, Default)]
pub struct KeyRing(Vec<AcceptedKey>);

impl KeyRing {
    pub fn new(keys: Vec<AcceptedKey>) -> Self {
        Self(keys)
    }

    fn find(&self, secret: &[u8]) -> Option<&AcceptedKey> {
        let hash: [u8; 32] = Sha256::digest(secret).into();
        // Every key is compared, so that time does not tell which one nearly matched.
        self.0.iter().fold(None, |found, key| {
            if bool::from(key.hash.ct_eq(&hash)) {
                Some(key)
            } else {
                found
            }
        })
    }
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct NotAllowed;

/// The client a request is counted for: its key's name, or its address where no keys are configured.
pub(super) fn client_of(session: &Session, keys: &KeyRing) -> Result<ClientKey, NotAllowed> {
    if keys.0.is_empty() {
        let address = session
            .client_addr()
            .and_then(|address| address.as_inet())
            .map_or_else(|| "local".to_owned(), |address| address.ip().to_string());
        return Ok(ClientKey::new(address));
    }
    let header = session.get_header_bytes("authorization");
    let secret = header
        .split_at_checked(7)
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case(b"bearer "))
        .map(|(_, secret)| secret.trim_ascii())
        .ok_or(NotAllowed)?;
    keys.find(secret)
        .map(|key| key.name.clone())
        .ok_or(NotAllowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_found_by_its_secret_and_by_nothing_else() {
        let ring = KeyRing::new(vec![
            AcceptedKey::new("alice", "alice-secret-0001"),
            AcceptedKey::new("bob", "bob-secret-000002"),
        ]);
        let name = |secret: &str| ring.find(secret.as_bytes()).map(|key| key.name.to_string());
        assert_eq!(name("bob-secret-000002"), Some("bob".into()));
        assert_eq!(name("bob-secret-00000"), None);
        assert_eq!(name(""), None);
    }
}
