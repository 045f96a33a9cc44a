//! The ways to misbehave, on request of a test: by header, by the body's `user` field, or by a standing order on `/control`.
//!
//! `name=n` strikes after n tokens (0: after the response header, where there is one). Without `=n` a hang, freeze, reset or
//! exit strikes before anything is answered, the others in the middle of the answer.

use std::str::FromStr;
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fault {
    /// The connection ends in the middle of the answer.
    DieMidStream(Option<u32>),
    /// The request keeps its place and gets no more tokens.
    Hang(Option<u32>),
    /// The request gets a token only every so many iterations.
    Slow(f64),
    /// This status instead of an answer.
    Status(u16),
    /// The connection is reset.
    Reset(Option<u32>),
    /// The body ends properly, the final event missing.
    CloseEarly(Option<u32>),
    /// The process ends without a goodbye.
    Exit(Option<u32>),
    /// The process stops (SIGSTOP) until somebody lets it go on.
    Freeze(Option<u32>),
    /// The connection ends within an event.
    CutEvent(Option<u32>),
    /// An event that is no JSON, then a proper end of the body.
    Garbage(Option<u32>),
    /// All but the last event: OpenAI's `[DONE]`, TGI's event with the whole text.
    NoFinalEvent,
}

/// When a fault strikes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strike {
    BeforeHeader,
    AfterTokens(u32),
    Never,
}

impl Fault {
    /// When it strikes in an answer of `length` tokens.
    pub fn strike(self, length: u32) -> Strike {
        match self {
            Fault::Slow(_) | Fault::NoFinalEvent => Strike::Never,
            Fault::Status(_) => Strike::BeforeHeader,
            Fault::DieMidStream(after)
            | Fault::CloseEarly(after)
            | Fault::CutEvent(after)
            | Fault::Garbage(after) => Strike::AfterTokens(after.unwrap_or(length / 2)),
            Fault::Hang(after)
            | Fault::Reset(after)
            | Fault::Exit(after)
            | Fault::Freeze(after) => after.map_or(Strike::BeforeHeader, Strike::AfterTokens),
        }
    }

    /// After how many tokens the engine must stop serving the sequence.
    pub fn stall_after(self) -> Option<u32> {
        match self {
            Fault::Hang(after) => Some(after.unwrap_or(0)),
            _ => None,
        }
    }

    pub fn slowness(self) -> f64 {
        if let Fault::Slow(factor) = self {
            factor
        } else {
            1.0
        }
    }
}

impl FromStr for Fault {
    /// What is wrong with the text.
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, value) = match text.trim().split_once('=') {
            Some((name, value)) => (name.trim(), Some(value.trim())),
            None => (text.trim(), None),
        };
        let tokens = || value.map(|n| number::<u32>(name, n)).transpose();
        let needed = || value.ok_or_else(|| format!("{name} needs =value"));
        match name {
            "die-mid-stream" => Ok(Fault::DieMidStream(tokens()?)),
            "hang" => Ok(Fault::Hang(tokens()?)),
            "reset" => Ok(Fault::Reset(tokens()?)),
            "close-early" => Ok(Fault::CloseEarly(tokens()?)),
            "exit" => Ok(Fault::Exit(tokens()?)),
            "freeze" => Ok(Fault::Freeze(tokens()?)),
            "cut-event" => Ok(Fault::CutEvent(tokens()?)),
            "garbage" => Ok(Fault::Garbage(tokens()?)),
            "no-final-event" => Ok(Fault::NoFinalEvent),
            "slow" => slowness(number(name, needed()?)?).map(Fault::Slow),
            "status" => error_status(number(name, needed()?)?).map(Fault::Status),
            _ => Err(format!("unknown fault {name:?}")),
        }
    }
}

fn number<T: FromStr>(name: &str, value: &str) -> Result<T, String> {
    value
        .parse()
        .map_err(|_| format!("{name}={value}: not a suitable number"))
}

fn slowness(factor: f64) -> Result<f64, String> {
    if factor.is_finite() && factor > 0.0 {
        Ok(factor)
    } else {
        Err(format!("slow={factor}: must be above 0"))
    }
}

fn error_status(status: u16) -> Result<u16, String> {
    if (400..600).contains(&status) {
        Ok(status)
    } else {
        Err(format!("status={status}: not an error"))
    }
}

/// Standing orders, given by `POST /control`.
#[derive(Debug, Default)]
pub struct Control(Mutex<Orders>);

#[derive(Debug, Default)]
struct Orders {
    fault: Option<Fault>,
    /// Requests it still applies to; `None`: all.
    left: Option<u64>,
    slow: Option<f64>,
    health: Option<u16>,
    /// As written, for display.
    fault_text: Option<String>,
}

/// The body of `POST /control`.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Order {
    pub fault: Option<String>,
    pub count: Option<u64>,
    pub slow: Option<f64>,
    /// Status that `/health` answers; 200 is healthy again.
    pub health: Option<u16>,
    pub clear: bool,
}

impl Control {
    /// Carries out an order, all or nothing; returns the slowness the engine must take on.
    pub fn give(&self, order: Order) -> Result<f64, String> {
        let fault = order.fault.as_deref().map(Fault::from_str).transpose()?;
        let slow = order.slow.map(slowness).transpose()?;
        if let Some(status) = order.health.filter(|status| !(200..600).contains(status)) {
            return Err(format!("health {status}: not a status"));
        }
        let mut orders = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if order.clear {
            *orders = Orders::default();
        }
        if fault.is_some() {
            (orders.fault, orders.left, orders.fault_text) = (fault, order.count, order.fault);
        }
        orders.slow = slow.or(orders.slow);
        orders.health = order.health.or(orders.health);
        Ok(orders.slow.unwrap_or(1.0))
    }

    /// The fault of the next request, counted down.
    pub fn take_fault(&self) -> Option<Fault> {
        let mut orders = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut orders.left {
            Some(0) => return None,
            Some(left) => *left -= 1,
            None => {}
        }
        orders.fault
    }

    /// A status that `/health` must answer.
    pub fn health(&self) -> Option<u16> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).health
    }

    pub fn show(&self) -> Value {
        let orders = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        json!({
            "fault": orders.fault_text, "count": orders.left,
            "slow": orders.slow, "health": orders.health,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_read_as_written() {
        assert_eq!("die-mid-stream=5".parse(), Ok(Fault::DieMidStream(Some(5))));
        assert_eq!(" hang ".parse(), Ok(Fault::Hang(None)));
        assert_eq!("slow=2.5".parse(), Ok(Fault::Slow(2.5)));
        assert_eq!("status=503".parse(), Ok(Fault::Status(503)));
        for wrong in [
            "",
            "explode",
            "status",
            "status=200",
            "slow=0",
            "slow=nan",
            "hang=-1",
        ] {
            assert!(wrong.parse::<Fault>().is_err(), "{wrong:?} was taken");
        }
        assert_eq!("no-final-event".parse(), Ok(Fault::NoFinalEvent));
        assert_eq!("garbage=3".parse(), Ok(Fault::Garbage(Some(3))));
    }

    #[test]
    fn a_counted_order_applies_to_that_many_requests() {
        let control = Control::default();
        let order = Order {
            fault: Some("reset".into()),
            count: Some(2),
            ..Order::default()
        };
        assert_eq!(control.give(order), Ok(1.0));
        assert_eq!(control.take_fault(), Some(Fault::Reset(None)));
        assert_eq!(control.take_fault(), Some(Fault::Reset(None)));
        assert_eq!(control.take_fault(), None);
    }

    #[test]
    fn clearing_takes_back_everything() {
        let control = Control::default();
        let order = Order {
            fault: Some("hang".into()),
            slow: Some(2.0),
            health: Some(500),
            ..Order::default()
        };
        assert_eq!(control.give(order), Ok(2.0));
        assert_eq!(
            (control.take_fault(), control.health()),
            (Some(Fault::Hang(None)), Some(500))
        );
        assert_eq!(
            control.give(Order {
                clear: true,
                ..Order::default()
            }),
            Ok(1.0)
        );
        assert_eq!((control.take_fault(), control.health()), (None, None));
    }

    #[test]
    fn a_wrong_order_changes_nothing() {
        let control = Control::default();
        let order = Order {
            fault: Some("hang".into()),
            slow: Some(-1.0),
            ..Order::default()
        };
        assert!(control.give(order).is_err());
        assert_eq!(control.take_fault(), None);
    }
}
