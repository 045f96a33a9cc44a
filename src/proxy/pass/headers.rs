//! What of a request's header is the worker's business, and what of an answer's is the client's. Hop-by-hop
//! headers of requests are Pingora's own business; those of answers are taken away here.

use std::net::SocketAddr;

use http::{HeaderName, StatusCode, Uri, Version, header};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::proxy::Session;
use pingora::{OrErr, Result};

use crate::fleet::Contact;
use crate::proxy::record::Record;
use crate::proxy::trace::Trace;

/// Headers of the gateway's own, in both directions.
const OWN: &str = "x-tidegate-";
const HOP_BY_HOP: [HeaderName; 4] = [
    header::CONNECTION,
    header::PROXY_AUTHENTICATE,
    header::TE,
    header::UPGRADE,
];
const HOP_BY_HOP_NAMED: [&str; 2] = ["keep-alive", "proxy-connection"];

pub(super) fn for_worker(
    head: &mut RequestHeader,
    target: &str,
    contact: &Contact,
    record: &Record,
) -> Result<()> {
    let uri: Uri = target
        .parse()
        .or_err(pingora::ErrorType::InvalidHTTPHeader, "path")?;
    head.set_uri(uri);
    match &contact.api_key {
        Some(key) => {
            head.insert_header(header::AUTHORIZATION, format!("Bearer {}", key.expose()))?
        }
        None => {
            head.remove_header(&header::AUTHORIZATION);
        }
    }
    // Answered by the gateway, which has read the body.
    head.remove_header(&header::EXPECT);
    remove(head.headers.keys().cloned().collect(), |name| {
        head.remove_header(name);
    });
    for name in Trace::names() {
        head.remove_header(&name);
    }
    for (name, value) in record.onward() {
        head.insert_header(name.clone(), value.clone())?;
    }
    head.insert_header(header::HOST, contact.address.to_string())?;
    Ok(())
}

fn remove(names: Vec<HeaderName>, mut take: impl FnMut(&HeaderName)) {
    for name in names.iter().filter(|name| name.as_str().starts_with(OWN)) {
        take(name);
    }
}

pub(super) fn set_length(head: &mut RequestHeader, length: usize) -> Result<()> {
    head.remove_header(&header::TRANSFER_ENCODING);
    head.insert_header(header::CONTENT_LENGTH, length.to_string())
}

/// `prefix` is the endpoint's name where the client's path began with it.
pub(super) fn for_client(
    session: &mut Session,
    head: &mut ResponseHeader,
    prefix: Option<&str>,
    worker: Option<SocketAddr>,
) -> Result<()> {
    if head.status != StatusCode::SWITCHING_PROTOCOLS {
        for name in nominated(head) {
            head.remove_header(&name);
        }
        for name in HOP_BY_HOP {
            head.remove_header(&name);
        }
        for name in HOP_BY_HOP_NAMED {
            head.remove_header(name);
        }
    }
    // Both would lead clients past the gateway or tell what runs behind it.
    head.remove_header(&header::SERVER);
    head.remove_header("alt-svc");
    remove(head.headers.keys().cloned().collect(), |name| {
        head.remove_header(name);
    });
    let location = head.headers.get(header::LOCATION);
    let location = location.and_then(|location| location.to_str().ok());
    if let Some(location) = location.and_then(|it| relocated(it, prefix, worker)) {
        head.insert_header(header::LOCATION, location)?;
    }
    if session.req_header().version < Version::HTTP_11
        && head.headers.contains_key(header::TRANSFER_ENCODING)
    {
        // Such a client reads until the connection closes.
        head.remove_header(&header::TRANSFER_ENCODING);
        session.set_keepalive(None);
    }
    Ok(())
}

/// Headers that `Connection` says are for the next hop only. Framing stays Pingora's.
fn nominated(head: &ResponseHeader) -> Vec<HeaderName> {
    head.headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .filter(|name| name != header::CONTENT_LENGTH && name != header::TRANSFER_ENCODING)
        .collect()
}

/// A redirect to the worker itself, or to a path on it, as the client can follow it.
fn relocated(location: &str, prefix: Option<&str>, worker: Option<SocketAddr>) -> Option<String> {
    let origin = worker.map(|address| format!("http://{address}"));
    let of_worker = origin.and_then(|origin| location.strip_prefix(&origin).map(str::to_owned));
    let path = match of_worker {
        Some(path) if path.is_empty() => "/".to_owned(),
        Some(path) if path.starts_with('/') => path,
        Some(_) => return None,
        None if location.starts_with('/') && !location.starts_with("//") => location.to_owned(),
        None => return None,
    };
    Some(match prefix {
        Some(prefix) => format!("/{prefix}{path}"),
        None => path,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_stay_at_the_gateway_and_behind_the_endpoint() {
        let worker = Some(SocketAddr::from(([10, 0, 0, 7], 8000)));
        let check = |location: &str, prefix: Option<&str>, expect: Option<&str>| {
            let found = relocated(location, prefix, worker);
            assert_eq!(found.as_deref(), expect, "{location}");
        };
        check("http://10.0.0.7:8000/a?b", Some("e"), Some("/e/a?b"));
        check("http://10.0.0.7:8000", None, Some("/"));
        check("/a", Some("e"), Some("/e/a"));
        check("http://10.0.0.7:80001/a", None, None);
        check("https://elsewhere.example/a", Some("e"), None);
        check("//elsewhere.example/a", Some("e"), None);
        check("a", Some("e"), None);
    }
}
