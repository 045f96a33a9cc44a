//! One request from its first byte to its last.

use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use http::Method;
use pingora::apps::{HttpPersistentSettings, ReusedHttpStream};
use pingora::protocols::http::ServerSession;
use pingora::{Error, ErrorSource, ErrorType};

use super::Gateway;
use super::client::Client;
use super::pass::{self, Passing};
use super::record::Record;
use super::reply_headers::ReplyHeaders;
use super::respond;
use super::route::{Route, classify};
use super::screen::{Screened, screen};
use super::stop::{Outcome, Stop};
use super::understand::Request;
use crate::domain::{Api, EndpointName, PredictedCost};

/// How long the rest of a refused request's body is read, so that the client sees the answer.
pub(super) const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

impl Gateway {
    pub(super) fn route<'a>(&self, method: &Method, path: &'a str) -> Route<'a> {
        classify(method, path, |name| self.fleet.endpoint(name).is_some())
    }

    /// Answers a request whose header was read; gives the connection back if it can take another.
    pub(super) async fn serve(
        &self,
        mut http: Box<ServerSession>,
        route: Route<'_>,
    ) -> Option<ReusedHttpStream> {
        let record = Record::new(&self.access_log);
        let mut headers = ReplyHeaders::default();
        let mut client = Client {
            http: &mut http,
            headers: &mut headers,
        };
        let answered = self.respond(&mut client, &record, route).await;
        record.ended(&http);
        // Otherwise nobody is left to answer, and what comes on the connection may be anything.
        answered.ok()?;
        let settings = HttpPersistentSettings::for_session(&http);
        let reusable = Box::pin(http.finish()).await.ok().flatten()?;
        Some(ReusedHttpStream::from_reusable_stream(reusable, settings))
    }

    /// What is done first for every request. An answer is written where it may go no further.
    async fn enter(&self, client: &mut Client<'_>, record: &Record) -> pingora::Result<bool> {
        let settings = self.settings.load_full();
        let limits = &settings.connections;
        client.http.set_write_timeout(Some(limits.write_timeout));
        client.http.set_total_drain_timeout(Some(DRAIN_TIMEOUT));
        record.head(client);
        if let Err(screened) = screen(client.http.req_header(), limits) {
            record.outcome(Outcome::ClientError.as_str(), None);
            self.turn_away(client, screened).await?;
            return Ok(false);
        }
        if self.fleet.is_leaving() {
            client.http.set_keepalive(None);
        }
        Ok(true)
    }

    async fn respond(
        &self,
        client: &mut Client<'_>,
        record: &Record,
        route: Route<'_>,
    ) -> pingora::Result<()> {
        // On the heap, like all that is over before a stream flows: thousands of streams keep only what they need.
        if !Box::pin(self.enter(client, record)).await? {
            return Ok(());
        }
        let (api, endpoint) = match route {
            Route::Generation { api, endpoint } => (api, endpoint),
            own => return Box::pin(self.own_route(client, record, own)).await,
        };
        self.generation(client, record, api, endpoint).await
    }

    /// What comes after such a header on its connection may be anything.
    async fn turn_away(&self, client: &mut Client<'_>, screened: Screened) -> pingora::Result<()> {
        let labels = [screened.rule];
        self.metrics
            .clients_refused
            .with_label_values(&labels)
            .inc();
        client.http.set_keepalive(None);
        respond::refuse(client, &screened.refusal()).await
    }

    async fn generation(
        &self,
        client: &mut Client<'_>,
        record: &Record,
        api: Api,
        endpoint: Option<&str>,
    ) -> pingora::Result<()> {
        let began = Instant::now();
        record.route(api.as_str());
        let _under_way = self.fleet.request_under_way();
        // On the heap, and gone before a stream flows: thousands of streams keep only what they need.
        let understood = Box::pin(self.understand(client, record, api, endpoint)).await;
        let (name, result) = match understood {
            Ok(request) => {
                let name = request.endpoint.name.clone();
                let result = self.answer(client.reborrow(), &request).await;
                forget_what_was_not_made(&request, &result);
                (Some(name), result)
            }
            Err(stop) => (None, Err(stop)),
        };
        let (outcome, end) = match result {
            Ok(()) => (Outcome::Ok, Ok(())),
            Err(stop) => {
                record.stopped(&stop);
                (stop.outcome(), answer(client, stop).await)
            }
        };
        record.outcome(outcome.as_str(), None);
        self.count(name.as_ref(), api.as_str(), outcome, began);
        end
    }

    /// Finds what goes on through Pingora's own phases, or answers.
    pub(super) async fn pass(
        &self,
        client: &mut Client<'_>,
        record: &Record,
    ) -> pingora::Result<Option<Box<Passing>>> {
        if !self.enter(client, record).await? {
            return Ok(None);
        }
        let began = Instant::now();
        record.route(pass::LABEL);
        let head = client.http.req_header();
        let (method, path) = (head.method.clone(), head.uri.path().to_owned());
        let (endpoint, path) = match self.route(&method, &path) {
            Route::Other { endpoint, path } => (endpoint, path),
            // An endpoint came since the request was sent this way.
            _ => (None, path.as_str()),
        };
        match self.pass_begin(client, record, endpoint, path).await {
            Ok(passing) => Ok(Some(passing)),
            Err(stop) => {
                let outcome = stop.outcome();
                record.stopped(&stop);
                record.outcome(outcome.as_str(), None);
                self.count(None, pass::LABEL, outcome, began);
                answer(client, stop).await.map(|()| None)
            }
        }
    }

    pub(super) fn count(
        &self,
        endpoint: Option<&EndpointName>,
        api: &str,
        outcome: Outcome,
        began: Instant,
    ) {
        let name = endpoint.map_or("", EndpointName::as_str);
        self.metrics
            .requests
            .with_label_values(&[name, api, outcome.as_str()])
            .inc();
        if outcome == Outcome::Ok {
            self.metrics
                .request_seconds
                .with_label_values(&[name, api])
                .observe(began.elapsed().as_secs_f64());
        }
    }
}

/// Tells the client why it gets no answer of a worker, or no more of it.
pub(super) async fn answer(client: &mut Client<'_>, stop: Stop) -> pingora::Result<()> {
    match stop {
        Stop::Refused(refusal, _) => respond::refuse(client, &refusal).await,
        Stop::Answer { status, body } => respond::json(client, status, body).await,
        Stop::Broken { .. } | Stop::Told(_) => Ok(()),
        Stop::ClientLeft => Err(client_left()),
    }
}

/// Work that turned out not to be wanted, or never could be done, is no demand.
fn forget_what_was_not_made(request: &Request, result: &Result<(), Stop>) {
    let unwanted = match result {
        Err(Stop::ClientLeft) => true,
        Err(Stop::Refused(_, outcome) | Stop::Told(outcome)) => *outcome == Outcome::ClientError,
        Err(Stop::Answer { status, .. }) => *status < 500,
        Ok(()) | Err(Stop::Broken { .. }) => false,
    };
    if unwanted && !request.settled.load(Relaxed) {
        let nothing = PredictedCost::default();
        request.endpoint.settled(&request.predicted, &nothing);
    }
}

/// Nobody is left to answer; Pingora closes the connection.
pub(super) fn client_left() -> Box<Error> {
    let mut error = Error::explain(ErrorType::ConnectionClosed, "the client left");
    error.esource = ErrorSource::Downstream;
    error
}
