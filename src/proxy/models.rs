//! `GET /v1/models`: the names a request's `model` may use.

use bytes::Bytes;
use serde_json::json;

use crate::domain::Endpoint;
use crate::fleet::Fleet;

pub(super) fn list(fleet: &Fleet, only: Option<&str>) -> Bytes {
    let data: Vec<_> = names(fleet, only)
        .into_iter()
        .map(|id| json!({"id": id, "object": "model", "created": 0, "owned_by": "tidegate"}))
        .collect();
    Bytes::from(json!({"object": "list", "data": data}).to_string())
}

/// Names of all endpoints, or of one.
pub(super) fn names(fleet: &Fleet, only: Option<&str>) -> Vec<String> {
    fleet
        .endpoints()
        .values()
        .filter(|endpoint| !endpoint.is_removed())
        .filter(|endpoint| only.is_none_or(|name| endpoint.name.as_str() == name))
        .flat_map(|endpoint| names_of(&endpoint.settings()))
        .collect()
}

fn names_of(endpoint: &Endpoint) -> Vec<String> {
    std::iter::once(endpoint.name.to_string())
        .chain(endpoint.model_names.iter().cloned())
        .collect()
}
