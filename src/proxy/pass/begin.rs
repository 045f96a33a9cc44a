//! From a request's head to a request that passes: who calls, which endpoint, which route, at what cost.

use std::sync::Arc;
use std::time::Instant;

use pingora::protocols::http::ServerSession;

use super::Passing;
use super::body::Body;
use crate::domain::{PassRoute, Prefix};
use crate::engines::{ErrorKind, JsonObject, builtin_routes, peek_model};
use crate::fleet::{EndpointFleet, Ticket};
use crate::policy::admission::Patience;
use crate::policy::passing::{NoPassage, find_passage, passage_cost};
use crate::proxy::authorize::Caller;
use crate::proxy::client::Client;
use crate::proxy::record::Record;
use crate::proxy::respond::Refusal;
use crate::proxy::stop::{Outcome, Stop, bad_request, body_stop};
use crate::proxy::wishes::Wishes;
use crate::proxy::{Gateway, ProxySettings};
use crate::telemetry::now;

/// Names the endpoint where the path does not.
const ENDPOINT_HEADER: &str = "x-tidegate-endpoint";

impl Gateway {
    /// `named` is the endpoint in the path, `path` what comes after it.
    pub(in crate::proxy) async fn pass_begin(
        &self,
        client: &mut Client<'_>,
        record: &Record,
        named: Option<&str>,
        path: &str,
    ) -> Result<Box<Passing>, Stop> {
        let received_at = Instant::now();
        let under_way = self.fleet.request_under_way();
        let settings = self.settings.load_full();
        let mut admitted = self.let_in(client, record, None, &settings.keys)?;
        let found = self.endpoint_by_head(client.http, &admitted.caller, named)?;
        if let Some(endpoint) = &found {
            self.may_call(&admitted.caller, None, &endpoint.name, &settings.keys)?;
        }
        // Where the head tells the endpoint, an unknown route is refused before its body is read.
        let method = client.http.req_header().method.to_string();
        let route = found.as_ref().map(|it| route_of(it, &method, path));
        let route = route.transpose()?;
        let upgrade = client.http.is_upgrade_req();
        let wishes = Wishes::of(client.http.req_header(), &JsonObject::default())
            .map_err(|error| bad_request(None, &error))?;
        let body = read_body(client.http, &settings).await?;
        let needs_json = route
            .as_ref()
            .is_none_or(|route| route.cost.field.is_some());
        let json = needs_json.then(|| body.json()).flatten();
        let endpoint = match found {
            Some(endpoint) => endpoint,
            None => self.endpoint_by_model(&admitted.caller, json.as_ref())?,
        };
        self.may_call(&admitted.caller, None, &endpoint.name, &settings.keys)?;
        let route = route.map_or_else(|| route_of(&endpoint, &method, path), Ok)?;
        record.endpoint(&endpoint.name);
        record.passes(&route.path);
        let cost = passage_cost(
            &route.cost,
            counted_bytes(client.http, &route, &body, json.as_ref()),
        );
        record.predicted(&cost);
        self.charge(client, None, &mut admitted, &cost)?;
        endpoint.arrived(&cost, now());
        endpoint.second_tries.request_sent(&endpoint.settings());
        let upgrade = upgrade && route.websocket;
        if upgrade {
            // The client of a websocket may be silent for as long as it likes; the worker may not.
            client.http.set_read_timeout(None);
        }
        Ok(Box::new(Passing {
            target: target(client.http, path),
            prefixed: named.is_some(),
            upgrade,
            ticket: Ticket {
                client: admitted.caller.client.clone(),
                cost,
                body_bytes: body.kept(),
                tried: Vec::new(),
                priority: wishes.priority,
                resumed: false,
                prefix: Prefix::default(),
                streamed: false,
            },
            admitted,
            received_at,
            patience: Patience::new(&endpoint.settings().waiting),
            endpoint,
            route,
            body,
            json,
            claim: None,
            contact: None,
            attempts: 0,
            stop: None,
            outcome: None,
            _under_way: under_way,
        }))
    }

    /// By path, by header, or the only one there is.
    fn endpoint_by_head(
        &self,
        http: &ServerSession,
        caller: &Caller,
        named: Option<&str>,
    ) -> Result<Option<Arc<EndpointFleet>>, Stop> {
        let header = http.get_header(ENDPOINT_HEADER);
        let header = header.map(|value| String::from_utf8_lossy(value.as_bytes()));
        if let Some(name) = named.or(header.as_deref()) {
            let found = self.fleet.endpoint(name);
            return match found.filter(|endpoint| !endpoint.is_removed()) {
                Some(endpoint) => Ok(Some(endpoint)),
                None => Err(Stop::Refused(
                    self.unknown(caller, None, "endpoint", name),
                    Outcome::ClientError,
                )),
            };
        }
        let endpoints = self.fleet.endpoints();
        let mut live = endpoints.values().filter(|endpoint| !endpoint.is_removed());
        Ok(match (live.next(), live.next()) {
            (Some(only), None) => Some(Arc::clone(only)),
            _ => None,
        })
    }

    fn endpoint_by_model(
        &self,
        caller: &Caller,
        body: Option<&JsonObject>,
    ) -> Result<Arc<EndpointFleet>, Stop> {
        let refuse = |refusal| Err(Stop::Refused(refusal, Outcome::ClientError));
        let Some(model) = body.and_then(|body| peek_model(body).ok().flatten()) else {
            let names = self.names_for(caller);
            let message = format!(
                "say which endpoint: by path as in /NAME/..., by {ENDPOINT_HEADER}: NAME, or by `model` in a \
                 JSON body; there is {names}"
            );
            return refuse(Refusal::new(None, ErrorKind::UnknownModel, message));
        };
        let endpoints = self.fleet.endpoints();
        let mut live = endpoints.values().filter(|endpoint| !endpoint.is_removed());
        match live.find(|endpoint| endpoint.settings().answers_to(&model)) {
            Some(endpoint) => Ok(Arc::clone(endpoint)),
            None => refuse(self.unknown(caller, None, "model", &model)),
        }
    }
}

fn route_of(endpoint: &EndpointFleet, method: &str, path: &str) -> Result<PassRoute, Stop> {
    let settings = endpoint.settings();
    let builtin: Vec<_> = settings
        .groups
        .iter()
        .map(|group| builtin_routes(group.engine))
        .collect();
    let shown: String = path.chars().take(100).collect();
    let refusal = match find_passage(method, path, &settings.passage, &builtin) {
        Ok(route) => return Ok(route),
        Err(NoPassage::UnknownRoute) => Refusal::new(
            None,
            ErrorKind::UnknownRoute,
            format!("endpoint {} has no route {shown}", endpoint.name),
        ),
        Err(NoPassage::Climbs) => Refusal::new(
            None,
            ErrorKind::BadRequest,
            format!("{shown} has a segment that is . or .."),
        ),
        Err(NoPassage::OtherMethods(methods)) => {
            let methods = methods.join(", ");
            let message = format!("{shown} takes {methods}");
            let mut refusal = Refusal::new(None, ErrorKind::MethodNotAllowed, message);
            refusal.allow = Some(methods.into());
            refusal
        }
    };
    Err(Stop::Refused(refusal, Outcome::ClientError))
}

async fn read_body(http: &mut ServerSession, settings: &ProxySettings) -> Result<Body, Stop> {
    Body::read(http, settings)
        .await
        .map_err(|error| body_stop(None, error))
}

/// What the cost rule counts. A body that is not here yet counts by what it says of its length.
fn counted_bytes(
    http: &ServerSession,
    route: &PassRoute,
    body: &Body,
    json: Option<&JsonObject>,
) -> usize {
    let field = route.cost.field.as_deref();
    let field = field.and_then(|field| json?.raw(field));
    field.map_or_else(|| body.bytes(http), |field| field.len())
}

fn target(http: &ServerSession, path: &str) -> String {
    match http.req_header().uri.query() {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    }
}
