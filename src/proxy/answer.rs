//! Answering one request: attempts until a worker's answer has begun, and, for a stream that breaks off after that,
//! other workers that go on with it.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::Gateway;
use super::admit::worker_for;
use super::attempt::{Begun, Failed, First};
use super::client::Client;
use super::meter::AnswerMeter;
use super::moving::Elsewhere;
use super::record::Record;
use super::relay::{BreakOff, Relay, Relayed};
use super::reply::Reply;
use super::stop::{Stop, bad_request, not_admitted, upstream_stop};
use super::understand::Request;
use super::upstream::Upstream;
use crate::domain::{Endpoint, GroupName, Obstacle, RequestOutcome, WorkerId};
use crate::engines::{self, AnswerReader, Ending, Exchange};
use crate::fleet::{Claim, EndpointFleet, Ticket, Worker};
use crate::policy::admission::Patience;
use crate::policy::cost::{cost, rest};
use crate::policy::ejection::blame;
use crate::policy::resume::{NotResumed, may_resume};
use crate::policy::retry::{AttemptFailure, Verdict, after_failure, blamed};

/// One request on its way.
pub(super) struct Answering<'a> {
    pub(super) gateway: &'a Gateway,
    pub(super) request: &'a Request,
    pub(super) settings: Arc<Endpoint>,
    pub(super) ticket: Ticket,
    patience: Patience,
    attempts: u32,
    /// Kept connections in a row that turned out to be closed.
    stale: u32,
    resumes: u32,
    /// The engine's own word for why the last stream broke off, for a client nobody goes on for.
    event: Option<bytes::Bytes>,
    broken: Option<Box<Broken>>,
    /// What the client has of a stream with which nobody goes on yet.
    given: Option<Given>,
    /// The place that a stream has taken before it left its worker.
    place: Option<Box<Claim>>,
    last: Option<Stop>,
}

/// Tokens of a broken stream.
#[derive(Clone, Copy)]
struct Given {
    prompt_tokens: Option<u32>,
    output_tokens: u32,
}

/// A stream that lost its worker.
struct Broken {
    reader: AnswerReader,
    /// The worker's.
    group: GroupName,
    why: String,
}

/// Go on with another worker; an error ends the request.
type Next = Result<(), Stop>;

impl Gateway {
    pub(super) async fn answer(&self, client: Client<'_>, request: &Request) -> Result<(), Stop> {
        let settings = request.endpoint.settings();
        request.endpoint.second_tries.request_sent(&settings);
        let _presence = request.endpoint.present(&request.shape.client);
        let mut answering = Answering {
            gateway: self,
            request,
            ticket: Ticket {
                client: request.shape.client.clone(),
                cost: request.predicted,
                body_bytes: request.body_bytes,
                tried: Vec::new(),
                priority: request.wishes.priority,
                resumed: false,
                prefix: request.call.prefix.clone(),
                streamed: request.call.streamed,
            },
            patience: Patience::new(&settings.waiting),
            settings,
            attempts: 0,
            stale: 0,
            resumes: 0,
            event: None,
            broken: None,
            given: None,
            place: None,
            last: None,
        };
        let mut reply = Reply::new(client, request.api);
        reply.words_every = request.words_every();
        let result = answering.run(&mut reply).await;
        answering.settle_unfinished(&result);
        match result {
            Err(stop) if reply.has_begun() => Err(tell(&mut reply, &request.record, stop).await),
            // Of its tokens none had text yet.
            Err(Stop::Broken { why, .. }) => {
                Err(upstream_stop(request.api, AttemptFailure::Broken, &why))
            }
            result => result,
        }
    }
}

impl Gateway {
    pub(super) fn count_failed(
        &self,
        endpoint: &EndpointFleet,
        worker: &WorkerId,
        failure: AttemptFailure,
    ) {
        let cause = match failure {
            AttemptFailure::StaleConnection => "stale_connection",
            AttemptFailure::Broken => "broken",
            AttemptFailure::TimedOut => "timed_out",
            AttemptFailure::Status(_) => "status",
            AttemptFailure::Unusable => "unusable",
            AttemptFailure::Taken => "taken",
        };
        tracing::debug!(endpoint = %endpoint.name, %worker, ?failure, "attempt failed");
        if let Some(outcome) = blame(failure) {
            endpoint.note_outcome(worker, outcome);
        }
        self.metrics
            .attempts_failed
            .with_label_values(&[endpoint.name.as_str(), cause])
            .inc();
    }

    pub(super) fn count_retry(&self, endpoint: &EndpointFleet, outcome: &str) {
        self.metrics
            .retries
            .with_label_values(&[endpoint.name.as_str(), outcome])
            .inc();
    }
}

/// A client that reads a stream learns of its end by an event.
async fn tell(reply: &mut Reply<'_>, record: &Record, stop: Stop) -> Stop {
    record.stopped(&stop);
    let Some((kind, why)) = stop.as_event() else {
        return stop;
    };
    let outcome = stop.outcome();
    let told = match stop {
        Stop::Broken {
            event: Some(event), ..
        } => reply.end(Some(event)).await,
        _ => reply.end_with_error(kind, &why).await,
    };
    match told {
        Ok(()) => Stop::Told(outcome),
        Err(left) => left.into(),
    }
}

impl Answering<'_> {
    async fn run(&mut self, reply: &mut Reply<'_>) -> Result<(), Stop> {
        loop {
            // On the heap, like all that is gone before a stream flows.
            if let Some(begun) = Box::pin(self.begun(reply)).await?
                && self.give(reply, begun).await?
            {
                return Ok(());
            }
        }
    }

    /// It can go on with what the client has, if the client has anything.
    fn fits(&self, worker: &Worker) -> bool {
        let can = |broken: &Broken| {
            engines::can_go_on(worker.spec.engine, &self.request.call, &broken.reader)
        };
        self.broken.as_deref().is_none_or(can)
    }

    /// An answer that has begun; `None` if the attempt failed and another one may be made.
    async fn begun(&mut self, reply: &mut Reply<'_>) -> Result<Option<Box<Begun>>, Stop> {
        let claim = self.worker(reply).await?;
        if !self.fits(claim.worker()) {
            self.ticket.tried.push(claim.worker().id().clone());
            return Ok(None);
        }
        let exchange = self.exchange(claim.worker())?;
        self.attempts += 1;
        match self.begin(reply, claim, exchange).await? {
            Ok(begun) => {
                self.note_gone_on();
                Ok(Some(begun))
            }
            Err(failed) => self.retry(*failed).map(|()| None),
        }
    }

    async fn worker(&mut self, reply: &mut Reply<'_>) -> Result<Claim, Stop> {
        if let Some(claim) = self.place.take() {
            return Ok(*claim);
        }
        let admitted = worker_for(
            reply,
            &self.request.endpoint,
            &self.ticket,
            &mut self.patience,
            &self.gateway.metrics,
            &self.request.record,
        )
        .await;
        admitted.map_err(|not| {
            let stop = not_admitted(self.request.api, not, self.last.take());
            self.give_up(stop)
        })
    }

    /// What this worker is asked: the request, or to go on with what the client has.
    fn exchange(&mut self, worker: &Worker) -> Result<Exchange, Stop> {
        let (call, engine) = (&self.request.call, worker.spec.engine);
        let contact = worker.contact();
        let model = contact.as_ref().and_then(|c| c.served_model.as_deref());
        let made = match self.broken.take() {
            None => engines::exchange(engine, call, model),
            Some(broken) => {
                let same_model = broken.group == worker.spec.group;
                engines::resume(engine, call, broken.reader, model, same_model)
            }
        };
        made.map_err(|error| bad_request(self.request.api, &error))
    }

    /// What to do after an attempt of which the client saw nothing.
    fn retry(&mut self, failed: Failed) -> Next {
        let Failed {
            claim,
            failure,
            stop,
            reader,
        } = failed;
        let (endpoint, worker) = (&self.request.endpoint, Arc::clone(claim.worker()));
        let failure = blamed(failure, self.stale);
        self.gateway.count_failed(endpoint, worker.id(), failure);
        self.broken = self.goes_on().then(|| {
            Box::new(Broken {
                reader,
                group: worker.spec.group.clone(),
                why: "no other worker could go on with it".to_owned(),
            })
        });
        let verdict = after_failure(failure, self.attempts, &self.settings.retry);
        match verdict {
            Verdict::SameAgain => {
                self.attempts -= 1;
                self.stale += 1;
                return Ok(());
            }
            Verdict::ElsewhereDoubted => endpoint.doubt(&worker),
            Verdict::ElsewhereUntried => self.ticket.tried.push(worker.id().clone()),
            Verdict::Elsewhere => {}
            Verdict::GiveUp => return Err(self.give_up(stop)),
        }
        // A worker that is taken away takes all its requests with it, through no fault of the fleet.
        let planned = failure == AttemptFailure::Taken;
        if !planned && !endpoint.second_tries.may_retry() {
            self.gateway.count_retry(endpoint, "over_budget");
            return Err(self.give_up(stop));
        }
        self.gateway.count_retry(endpoint, "retried");
        self.request.record.retried();
        self.last = Some(stop);
        // Only now: the freed place is offered at once, and not by a worker that is doubted.
        drop(claim);
        Ok(())
    }

    /// The client has a part of a stream already.
    pub(super) fn goes_on(&self) -> bool {
        self.resumes > 0
    }

    /// An attempt failed, and another one is under way. The worker, if it is not to be asked again.
    pub(super) fn note_failed(&self, failed: &Failed) -> Option<WorkerId> {
        let (endpoint, worker) = (&self.request.endpoint, failed.claim.worker());
        self.gateway
            .count_failed(endpoint, worker.id(), failed.failure);
        if matches!(
            failed.failure,
            AttemptFailure::Broken | AttemptFailure::TimedOut
        ) {
            endpoint.doubt(worker);
        }
        let verdict = after_failure(failed.failure, self.attempts, &self.settings.retry);
        (verdict == Verdict::ElsewhereUntried).then(|| worker.id().clone())
    }

    fn give_up(&mut self, stop: Stop) -> Stop {
        match self.broken.take() {
            Some(broken) => broken.stop(self.event.take()),
            None => stop,
        }
    }

    /// Gives the client what a worker makes; true if it has all.
    async fn give(&mut self, reply: &mut Reply<'_>, mut begun: Box<Begun>) -> Result<bool, Stop> {
        let First::Stream { steps, ended } = &mut begun.first else {
            return Box::pin(self.give_at_once(reply, begun)).await;
        };
        let (steps, ended) = (std::mem::take(steps), *ended);
        let obstacle = begun.reader.transcript().obstacle();
        let relay = Relay {
            reply,
            claim: &mut begun.claim,
            meter: &mut begun.meter,
            settings: &self.settings,
            movable: self.may_go_on(obstacle).is_ok(),
            elsewhere: Elsewhere::new(
                &self.request.endpoint,
                &self.ticket,
                &self.request.predicted,
                self.settings.routing.kappa,
            ),
            upstream: &mut begun.upstream,
            reader: &mut begun.reader,
        };
        let relayed = relay.run(steps, ended).await;
        Box::pin(self.given(reply, begun, relayed)).await
    }

    /// An answer that is here whole.
    async fn give_at_once(
        &mut self,
        reply: &mut Reply<'_>,
        begun: Box<Begun>,
    ) -> Result<bool, Stop> {
        let Begun {
            claim: _claim,
            meter,
            upstream,
            first,
            ..
        } = *begun;
        match first {
            First::Stream { .. } => {}
            First::Empty { steps, mut ending } => {
                for events in steps.into_iter().filter_map(|step| step.forward) {
                    reply.deliver(events).await?;
                }
                reply.end(ending.tail.take()).await?;
                self.done(upstream, &meter, &ending).await;
            }
            First::Whole { body, ending } => {
                self.done(upstream, &meter, &ending).await;
                reply.whole(body).await?;
            }
        }
        Ok(true)
    }

    /// A worker's part of a stream is over.
    async fn given(
        &mut self,
        reply: &mut Reply<'_>,
        begun: Box<Begun>,
        relayed: Relayed,
    ) -> Result<bool, Stop> {
        let Begun {
            claim,
            meter,
            upstream,
            mut reader,
            ..
        } = *begun;
        match relayed {
            Relayed::Whole(ending) => {
                self.done(upstream, &meter, &ending).await;
                Ok(true)
            }
            Relayed::ClientLeft => {
                upstream.abort().await;
                self.client_left(&meter, reader.finish())
            }
            Relayed::Broke { ending, why, place } => {
                upstream.abort().await;
                self.place = place;
                self.broke(reply, claim, &meter, reader, ending, why).await
            }
        }
    }

    fn may_go_on(&self, obstacle: Option<Obstacle>) -> Result<(), NotResumed> {
        let samples = self.request.call.samples();
        may_resume(obstacle, samples, self.resumes, &self.settings.resume)
    }

    async fn done(&self, upstream: Upstream, meter: &AnswerMeter, ending: &Ending) {
        upstream.release(&self.gateway.connector).await;
        self.settle(meter, ending);
    }

    /// Many clients close on the terminal event and do not wait for the end of the body.
    fn client_left(&self, meter: &AnswerMeter, ending: Ending) -> Result<bool, Stop> {
        let had_all = ending.complete && ending.tail.is_none();
        let ending = Ending {
            complete: had_all,
            ..ending
        };
        self.settle(meter, &ending);
        if had_all {
            Ok(true)
        } else {
            Err(Stop::ClientLeft)
        }
    }

    /// A stream broke off after its first byte.
    async fn broke(
        &mut self,
        reply: &mut Reply<'_>,
        claim: Claim,
        meter: &AnswerMeter,
        reader: AnswerReader,
        mut ending: Ending,
        broke: BreakOff,
    ) -> Result<bool, Stop> {
        let (endpoint, worker) = (&self.request.endpoint, Arc::clone(claim.worker()));
        let why = broke.in_words();
        tracing::warn!(endpoint = %endpoint.name, worker = %worker.id(), why, "a stream broke off");
        if let Some(outcome) = broke.blame() {
            endpoint.note_outcome(worker.id(), outcome);
            // A probe will tell whether it is fit for others.
            // What the engine reports may be the request's doing.
            if broke != BreakOff::Reported {
                endpoint.doubt(&worker);
            }
        }
        let event = ending.error_event.take();
        if let Err(not) = self.may_go_on(reader.transcript().obstacle()) {
            self.count_broken(not.as_str());
            self.settle(meter, &ending);
            return Err(Stop::Broken { why, event });
        }
        if engines::is_at_limit(&reader) {
            let mut ending = engines::end_at_limit(reader);
            self.settle(meter, &ending);
            if !ending.complete {
                self.count_broken("not_understood");
                return Err(Stop::Broken { why, event });
            }
            self.count_broken("ended");
            reply.end(ending.tail.take()).await?;
            return Ok(true);
        }
        meter.finished(ending.prompt_tokens, ending.output_tokens);
        self.given = Some(Given {
            prompt_tokens: ending.prompt_tokens,
            output_tokens: ending.output_tokens,
        });
        self.resumes += 1;
        self.attempts = 0;
        self.ticket.tried.clear();
        self.ticket.cost = self.remaining(&reader);
        self.ticket.resumed = true;
        self.patience = Patience::new(&self.settings.waiting);
        self.broken = Some(Box::new(Broken {
            reader,
            group: worker.spec.group.clone(),
            why,
        }));
        self.event = event;
        drop(claim);
        Ok(false)
    }

    /// The work that is left: a longer prompt and a shorter answer.
    fn remaining(&self, reader: &AnswerReader) -> crate::domain::PredictedCost {
        let given = reader.output_tokens();
        rest(&self.request.predicted, given, self.settings.routing.kappa)
    }

    /// A broken stream goes on from another worker.
    fn note_gone_on(&mut self) {
        if self.given.take().is_some() {
            self.count_broken("resumed");
            self.request.record.resumed();
        }
    }

    /// Nobody went on with a stream, or its client left meanwhile: what was given was given.
    fn settle_unfinished(&mut self, result: &Result<(), Stop>) {
        let Some(given) = self.given.take() else {
            return;
        };
        self.count_broken(match result {
            Err(Stop::ClientLeft) => "client_left",
            _ => "no_worker",
        });
        self.charge(given.prompt_tokens, given.output_tokens);
    }

    /// Counts what the request really cost, and learns from it if it ran to its end.
    fn settle(&self, meter: &AnswerMeter, ending: &Ending) {
        let (request, output) = (self.request, ending.output_tokens);
        meter.finished(ending.prompt_tokens, output);
        self.charge(ending.prompt_tokens, output);
        if !ending.complete {
            return;
        }
        let endpoint = &request.endpoint;
        endpoint.note_outcome(meter.worker.id(), RequestOutcome::Succeeded);
        let prompt_tokens = ending.prompt_tokens.map(f64::from);
        endpoint.learn(&request.shape, prompt_tokens, f64::from(output));
        let (name, metrics) = (endpoint.name.as_str(), &self.gateway.metrics);
        metrics.prediction(name, &request.predicted, output, ending.prompt_tokens);
    }

    /// To the key, to the endpoint's demand and in the metrics.
    fn charge(&self, prompt_tokens: Option<u32>, output: u32) {
        let request = self.request;
        request.settled.store(true, Relaxed);
        request.record.counted(prompt_tokens, output);
        let prompt = prompt_tokens.map_or(request.predicted.prompt_tokens, f64::from);
        self.gateway
            .took(&request.admitted, prompt + f64::from(output));
        let endpoint = &request.endpoint;
        let kappa = self.settings.routing.kappa;
        endpoint.settled(&request.predicted, &cost(prompt, f64::from(output), kappa));
        let (name, metrics) = (endpoint.name.as_str(), &self.gateway.metrics);
        let count = |counter: &prometheus::IntCounterVec, tokens: u32| {
            counter.with_label_values(&[name]).inc_by(u64::from(tokens));
        };
        count(&metrics.output_tokens, output);
        count(&metrics.prompt_tokens, prompt_tokens.unwrap_or(0));
    }

    fn count_broken(&self, outcome: &str) {
        let name = self.request.endpoint.name.as_str();
        let counter = &self.gateway.metrics.streams_broken;
        counter.with_label_values(&[name, outcome]).inc();
    }
}

impl Broken {
    fn stop(self, event: Option<bytes::Bytes>) -> Stop {
        Stop::Broken {
            why: self.why,
            event,
        }
    }
}
