//! Routes that the gateway answers without a worker: the list of models, its own health.

use bytes::Bytes;

use super::client::Client;
use super::record::Record;
use super::respond::{self, Refusal};
use super::route::Route;
use super::serve::client_left;
use super::stop::Stop;
use super::{Gateway, models};
use crate::domain::EndpointName;
use crate::engines::ErrorKind;
use crate::telemetry::now;

impl Gateway {
    pub(super) async fn own_route(
        &self,
        client: &mut Client<'_>,
        record: &Record,
        route: Route<'_>,
    ) -> pingora::Result<()> {
        match route {
            Route::Models { endpoint } => {
                record.route(models::LABEL);
                self.models(client, record, endpoint).await
            }
            Route::Health => self.health(client).await,
            Route::Alive {
                installation,
                worker,
            } => {
                record.unlogged();
                self.alive(client, installation, worker).await
            }
            Route::WrongMethod { api, allow } => {
                let path = client.http.req_header().uri.path();
                let message = format!("{path} takes {allow}");
                let mut refusal = Refusal::new(api, ErrorKind::MethodNotAllowed, message);
                refusal.allow = Some(allow.into());
                respond::refuse(client, &refusal).await
            }
            Route::Generation { .. } | Route::Other { .. } => {
                let refusal = Refusal::new(None, ErrorKind::UnknownRoute, "no such route");
                respond::refuse(client, &refusal).await
            }
        }
    }

    async fn health(&self, client: &mut Client<'_>) -> pingora::Result<()> {
        let (status, body): (u16, &[u8]) = match self.fleet.is_leaving() {
            true => (503, b"{\"status\":\"leaving\"}"),
            false => (200, b"{\"status\":\"ok\"}"),
        };
        respond::json(client, status, Bytes::from_static(body)).await
    }

    /// Answered to the last moment: a gateway that drains has machines that still serve.
    async fn alive(
        &self,
        client: &mut Client<'_>,
        installation: &str,
        worker: Option<&str>,
    ) -> pingora::Result<()> {
        let ours = self.settings.load().installation.as_str() == installation;
        if ours {
            self.fleet.hear_alive(worker, now());
        }
        let whose = if ours { "ours" } else { "foreign" };
        self.metrics.alive_calls.with_label_values(&[whose]).inc();
        let (status, body): (u16, &[u8]) = match ours {
            true => (200, b"{\"alive\":true}"),
            false => (404, b"{\"alive\":false}"),
        };
        respond::json(client, status, Bytes::from_static(body)).await
    }

    async fn models(
        &self,
        client: &mut Client<'_>,
        record: &Record,
        endpoint: Option<&str>,
    ) -> pingora::Result<()> {
        let settings = self.settings.load();
        let admitted = match self.let_in(client, record, None, &settings.keys) {
            Ok(admitted) => admitted,
            Err(stop) => return refuse(client, record, &stop).await,
        };
        if let Some(name) = endpoint {
            let Some(endpoint) = self.fleet.endpoint(name) else {
                let refusal = self.unknown(&admitted.caller, None, "endpoint", name);
                return respond::refuse(client, &refusal).await;
            };
            if let Err(stop) = self.may_call(&admitted.caller, None, &endpoint.name, &settings.keys)
            {
                return refuse(client, record, &stop).await;
            }
        }
        let opens = |name: &EndpointName| {
            endpoint.is_none_or(|only| name.as_str() == only)
                && admitted.caller.may_call(name, &settings.keys).is_ok()
        };
        respond::json(client, 200, models::list(&self.fleet, opens)).await
    }
}

async fn refuse(client: &mut Client<'_>, record: &Record, stop: &Stop) -> pingora::Result<()> {
    match stop {
        Stop::Refused(refusal, outcome) => {
            record.outcome(outcome.as_str(), Some(&refusal.message));
            respond::refuse(client, refusal).await
        }
        _ => Err(client_left()),
    }
}
