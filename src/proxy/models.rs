//! `GET /v1/models`: the names a request's `model` may use.

use bytes::Bytes;
use serde_json::json;

use crate::domain::{Endpoint, EndpointName};
use crate::fleet::Fleet;

/// Its route in the access log.
pub(super) const LABEL: &str = "models";

/// `opens` tells which endpoints the caller may see.
pub(super) fn list(fleet: &Fleet, opens: impl Fn(&EndpointName) -> bool) -> Bytes {
    let data: Vec<_> = names(fleet, opens)
        .into_iter()
        .map(|id| json!({"id": id, "object": "model", "created": 0, "owned_by": "tidegate"}))
        .collect();
    Bytes::from(json!({"object": "list", "data": data}).to_string())
}

pub(super) fn names(fleet: &Fleet, opens: impl Fn(&EndpointName) -> bool) -> Vec<String> {
    fleet
        .endpoints()
        .values()
        .filter(|endpoint| !endpoint.is_removed())
        .filter(|endpoint| opens(&endpoint.name))
        .flat_map(|endpoint| names_of(&endpoint.settings()))
        .collect()
}

fn names_of(endpoint: &Endpoint) -> Vec<String> {
    std::iter::once(endpoint.name.to_string())
        .chain(endpoint.model_names.iter().cloned())
        .collect()
}
