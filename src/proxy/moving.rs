//! A stream whose worker is drained takes a place elsewhere first and leaves then: while all others are full it goes on
//! where it is.

use std::sync::Arc;

use crate::domain::PredictedCost;
use crate::fleet::{Admission, Claim, EndpointFleet, Held, News, Ticket, Worker};
use crate::policy::cost::rest;
use crate::telemetry::now;

/// The place another worker has for a stream, or the wait for it.
pub(super) struct Elsewhere<'r> {
    endpoint: &'r Arc<EndpointFleet>,
    ticket: &'r Ticket,
    predicted: &'r PredictedCost,
    kappa: f64,
    held: Option<Box<Held>>,
    found: Option<Claim>,
    /// There will be none: it stays to the end.
    closed: bool,
}

impl<'r> Elsewhere<'r> {
    pub(super) fn new(
        endpoint: &'r Arc<EndpointFleet>,
        ticket: &'r Ticket,
        predicted: &'r PredictedCost,
        kappa: f64,
    ) -> Self {
        Self {
            endpoint,
            ticket,
            predicted,
            kappa,
            held: None,
            found: None,
            closed: false,
        }
    }

    pub(super) fn may_ask(&self) -> bool {
        self.held.is_none() && !self.closed
    }

    pub(super) fn waits(&self) -> bool {
        self.held.is_some()
    }

    /// Asks for a place for what is left after `given` tokens; true if there is one now.
    pub(super) fn ask(&mut self, from: &Worker, given: u32) -> bool {
        let ticket = Ticket {
            cost: rest(self.predicted, given, self.kappa),
            tried: vec![from.id().clone()],
            resumed: true,
            ..self.ticket.clone()
        };
        match self.endpoint.admit(&ticket, now()) {
            Admission::Assigned(claim) => self.found = Some(claim),
            Admission::Held(held) => self.held = Some(Box::new(held)),
            Admission::AllTried | Admission::Closed | Admission::Refused { .. } => {
                self.closed = true;
            }
        }
        self.found.is_some()
    }

    /// Returns when there is a place, or will never be one. Cancel-safe.
    pub(super) async fn wait(&mut self) {
        while let Some(held) = &mut self.held {
            match held.news().await {
                News::Assigned(claim) => {
                    self.found = Some(claim);
                    self.held = None;
                }
                News::Closed => {
                    self.closed = true;
                    self.held = None;
                }
                News::ReasonChanged => {}
            }
        }
    }

    pub(super) fn has_place(&self) -> bool {
        self.found.is_some()
    }

    /// It need not leave after all.
    pub(super) fn give_back(&mut self) {
        self.found = None;
    }

    pub(super) fn take(self) -> Option<Box<Claim>> {
        self.found.map(Box::new)
    }
}
