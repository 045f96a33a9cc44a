//! From bytes to a request with an endpoint and a predicted cost.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use super::allow::Admitted;
use super::authorize::Caller;
use super::client::Client;
use super::read_request::read_body;
use super::record::Record;
use super::respond::Refusal;
use super::stop::{Outcome, Stop, bad_request, body_stop};
use super::wishes::Wishes;
use super::{Gateway, models};
use crate::domain::{Api, ClientKey, EndpointName, PredictedCost, RequestShape};
use crate::engines::{self, BadRequest, Call, ErrorKind, JsonObject, peek_model, read_call};
use crate::fleet::EndpointFleet;
use crate::telemetry::now;

/// A request that was read and understood.
pub(super) struct Request {
    pub(super) api: Api,
    pub(super) endpoint: Arc<EndpointFleet>,
    pub(super) call: Call,
    pub(super) body_bytes: usize,
    pub(super) shape: RequestShape,
    pub(super) wishes: Wishes,
    pub(super) predicted: PredictedCost,
    pub(super) admitted: Admitted,
    pub(super) received_at: Instant,
    pub(super) record: Record,
    /// What it really cost is counted.
    pub(super) settled: AtomicBool,
}

impl Request {
    /// How often it wants to hear its place while it is held: the streaming client, or the endpoint for it.
    pub(super) fn words_every(&self) -> Option<Duration> {
        let settings = &self.endpoint.settings().waiting;
        let wanted = self.wishes.events.unwrap_or(settings.events);
        (wanted && self.call.streamed).then_some(settings.events_interval)
    }
}

impl Gateway {
    /// Authorize, read, find the endpoint, validate, predict.
    pub(super) async fn understand(
        &self,
        client: &mut Client<'_>,
        record: &Record,
        api: Api,
        endpoint: Option<&str>,
    ) -> Result<Box<Request>, Stop> {
        let settings = self.settings.load_full();
        let mut admitted = self.let_in(client, record, Some(api), &settings.keys)?;
        if let Some(named) = endpoint.and_then(|name| self.fleet.endpoint(name)) {
            self.may_call(&admitted.caller, Some(api), &named.name, &settings.keys)?;
        }
        let body = read_body(client.http, &settings)
            .await
            .map_err(|error| body_stop(api, error))?;
        let body_bytes = body.len();
        let body = JsonObject::parse(body).map_err(|error| {
            let message = error.to_string();
            bad_request(
                api,
                &BadRequest {
                    message,
                    param: None,
                },
            )
        })?;
        let endpoint = self.find_endpoint(&admitted.caller, api, endpoint, &body)?;
        record.endpoint(&endpoint.name);
        self.may_call(&admitted.caller, Some(api), &endpoint.name, &settings.keys)?;
        let limits = endpoint.settings().limits.clone();
        let call = read_call(api, body, &limits).map_err(|error| bad_request(api, &error))?;
        refuse_unservable(api, &endpoint, &call)?;
        let wishes = Wishes::of(client.http.req_header(), &call.body)
            .map_err(|error| bad_request(api, &error))?;
        let shape = shape_of(api, admitted.caller.client.clone(), &call);
        let predicted = endpoint.predict(&shape);
        record.asked(&shape, &predicted);
        self.charge(client, Some(api), &mut admitted, &predicted)?;
        endpoint.arrived(&predicted, now());
        Ok(Box::new(Request {
            api,
            endpoint,
            call,
            body_bytes,
            shape,
            wishes,
            predicted,
            admitted,
            received_at: Instant::now(),
            record: record.clone(),
            settled: AtomicBool::new(false),
        }))
    }

    /// By path, else by `model`, else the only one there is.
    fn find_endpoint(
        &self,
        caller: &Caller,
        api: Api,
        path: Option<&str>,
        body: &JsonObject,
    ) -> Result<Arc<EndpointFleet>, Stop> {
        let known = |found: Option<Arc<EndpointFleet>>, what: &str, name: &str| {
            found
                .filter(|endpoint| !endpoint.is_removed())
                .ok_or_else(|| {
                    let refusal = self.unknown(caller, Some(api), what, name);
                    Stop::Refused(refusal, Outcome::ClientError)
                })
        };
        if let Some(name) = path {
            return known(self.fleet.endpoint(name), "endpoint", name);
        }
        let model = peek_model(body).map_err(|error| bad_request(api, &error))?;
        let endpoints = self.fleet.endpoints();
        let mut live = endpoints.values().filter(|endpoint| !endpoint.is_removed());
        if let Some(model) = model {
            let found = live.find(|endpoint| endpoint.settings().answers_to(&model));
            return known(found.map(Arc::clone), "model", &model);
        }
        match (live.next(), live.next()) {
            (Some(only), None) => Ok(Arc::clone(only)),
            _ => {
                let names = self.names_for(caller);
                let message = format!("say which model: one of {names}");
                let mut refusal = Refusal::new(Some(api), ErrorKind::UnknownModel, message);
                refusal.param = Some("model");
                Err(Stop::Refused(refusal, Outcome::ClientError))
            }
        }
    }

    pub(super) fn unknown(
        &self,
        caller: &Caller,
        api: Option<Api>,
        what: &str,
        name: &str,
    ) -> Refusal {
        let names = self.names_for(caller);
        let shown: String = name.chars().take(100).collect();
        let message = format!("no {what} named {shown:?}; there is {names}");
        let mut refusal = Refusal::new(api, ErrorKind::UnknownModel, message);
        refusal.param = (what == "model").then_some("model");
        refusal
    }

    /// Of what the caller's key does not open it learns no name.
    pub(super) fn names_for(&self, caller: &Caller) -> String {
        let settings = self.settings.load();
        let opens = |name: &EndpointName| caller.may_call(name, &settings.keys).is_ok();
        models::names(&self.fleet, opens).join(", ")
    }
}

/// What none of the endpoint's engines can serve is said before a worker is started for it.
fn refuse_unservable(api: Api, endpoint: &EndpointFleet, call: &Call) -> Result<(), Stop> {
    let settings = endpoint.settings();
    let mut refusal = None;
    for group in &settings.groups {
        if !engines::may_refuse(group.engine, api) {
            return Ok(());
        }
        match engines::exchange(group.engine, call, None) {
            Ok(_) => return Ok(()),
            Err(error) => refusal = Some(error),
        }
    }
    refusal.map_or(Ok(()), |error| Err(bad_request(api, &error)))
}

fn shape_of(api: Api, client: ClientKey, call: &Call) -> RequestShape {
    RequestShape {
        api,
        client,
        streamed: call.streamed,
        prompt_bytes: call.prompt_bytes,
        max_new_tokens: call
            .limit_hint()
            .map(|max| max.saturating_mul(call.choices)),
    }
}
