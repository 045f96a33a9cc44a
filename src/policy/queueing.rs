//! The order in which held requests are served: start-time fair queueing between clients, first come
//! first served within one. A client's flood delays the client, not the others.
//!
//! Goyal, Vin, Cheng: Start-time Fair Queueing (SIGCOMM 1996). Virtual time is counted in
//! thousandths of an output-equivalent token.

use std::collections::{BTreeMap, HashMap};

use crate::domain::{ClientKey, Tokens};

/// Clients remembered beyond twice those who wait, before the past is cleared of them.
const FINISHES_KEPT: usize = 64;

/// Where an entry stands; smaller goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    start: u64,
    arrival: u64,
}

#[derive(Debug)]
pub struct WaitingOrder<T> {
    entries: BTreeMap<Place, Entry<T>>,
    finish_of: HashMap<ClientKey, u64>,
    virtual_time: u64,
    arrivals: u64,
}

#[derive(Debug)]
struct Entry<T> {
    client: ClientKey,
    finish: u64,
    what: T,
}

impl<T> Default for WaitingOrder<T> {
    fn default() -> Self {
        Self {
            entries: BTreeMap::new(),
            finish_of: HashMap::new(),
            virtual_time: 0,
            arrivals: 0,
        }
    }
}

impl<T> WaitingOrder<T> {
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub fn push(&mut self, client: &ClientKey, cost: Tokens, entry: T) -> Place {
        let start = self
            .finish_of
            .get(client)
            .copied()
            .unwrap_or(0)
            .max(self.virtual_time);
        let work = (cost.0.max(0.0) * 1_000.0) as u64;
        let finish = start.saturating_add(work.max(1));
        self.finish_of.insert(client.clone(), finish);
        self.arrivals += 1;
        let place = Place {
            start,
            arrival: self.arrivals,
        };
        let entry = Entry {
            client: client.clone(),
            finish,
            what: entry,
        };
        self.entries.insert(place, entry);
        place
    }

    /// Entries in the order they are to be served.
    pub fn iter(&self) -> impl Iterator<Item = (Place, &T)> {
        self.entries
            .iter()
            .map(|(place, entry)| (*place, &entry.what))
    }

    /// Takes an entry to be served: virtual time moves on.
    pub fn serve(&mut self, place: Place) -> Option<T> {
        let entry = self.entries.remove(&place)?;
        self.virtual_time = self.virtual_time.max(place.start);
        self.forget_the_past();
        Some(entry.what)
    }

    /// Takes an entry that left unserved. The last of its client is not charged for; earlier ones are
    /// below what came after them.
    pub fn leave(&mut self, place: Place) -> Option<T> {
        let entry = self.entries.remove(&place)?;
        if let Some(finish) = self.finish_of.get_mut(&entry.client)
            && *finish == entry.finish
        {
            *finish = place.start;
        }
        self.forget_the_past();
        Some(entry.what)
    }

    fn forget_the_past(&mut self) {
        if self.entries.is_empty() {
            self.finish_of.clear();
            self.virtual_time = 0;
        } else if self.finish_of.len() > 2 * self.entries.len() + FINISHES_KEPT {
            let now = self.virtual_time;
            self.finish_of.retain(|_, finish| *finish > now);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn served<T: Copy>(order: &mut WaitingOrder<T>) -> Vec<T> {
        let mut out = Vec::new();
        loop {
            let Some(place) = order.iter().map(|(place, _)| place).next() else {
                return out;
            };
            out.extend(order.serve(place));
        }
    }

    #[test]
    fn one_client_is_served_in_order_of_arrival() {
        let mut order = WaitingOrder::default();
        for n in 0..5 {
            order.push(&ClientKey::new("a"), Tokens(10.0), n);
        }
        assert_eq!(served(&mut order), [0, 1, 2, 3, 4]);
    }

    #[test]
    fn a_flood_of_one_client_does_not_delay_another() {
        let mut order = WaitingOrder::default();
        for _ in 0..100 {
            order.push(&ClientKey::new("loud"), Tokens(10.0), "loud");
        }
        order.push(&ClientKey::new("quiet"), Tokens(10.0), "quiet");
        let place = served(&mut order).iter().position(|who| *who == "quiet");
        assert_eq!(place, Some(1));
    }

    #[test]
    fn clients_share_by_work_not_by_requests() {
        let mut order = WaitingOrder::default();
        for _ in 0..40 {
            order.push(&ClientKey::new("small"), Tokens(10.0), 10);
            order.push(&ClientKey::new("large"), Tokens(40.0), 40);
        }
        let first: Vec<_> = served(&mut order).into_iter().take(25).collect();
        let large: i32 = first.iter().filter(|cost| **cost == 40).sum();
        let small: i32 = first.iter().filter(|cost| **cost == 10).sum();
        assert!((large - small).abs() <= 40, "{large} against {small}");
    }

    #[test]
    fn a_client_that_left_is_not_served() {
        let mut order = WaitingOrder::default();
        let gone = order.push(&ClientKey::new("a"), Tokens(1.0), 0);
        order.push(&ClientKey::new("a"), Tokens(1.0), 1);
        assert_eq!(order.leave(gone), Some(0));
        assert_eq!(order.leave(gone), None);
        assert_eq!(served(&mut order), [1]);
    }

    #[test]
    fn who_gives_up_and_comes_again_is_not_charged_for_what_it_did_not_get() {
        let mut order = WaitingOrder::default();
        for _ in 0..5 {
            order.push(&ClientKey::new("steady"), Tokens(10.0), "steady");
        }
        for _ in 0..20 {
            let place = order.push(&ClientKey::new("hasty"), Tokens(10.0), "hasty");
            order.leave(place);
        }
        order.push(&ClientKey::new("hasty"), Tokens(10.0), "hasty");
        let place = served(&mut order).iter().position(|who| *who == "hasty");
        assert_eq!(place, Some(1));
    }

    #[test]
    fn clients_of_the_past_are_forgotten_while_others_wait() {
        let mut order = WaitingOrder::default();
        order.push(&ClientKey::new("patient"), Tokens(1e9), 0);
        order.push(&ClientKey::new("patient"), Tokens(1.0), 0);
        for n in 0..10_000 {
            let place = order.push(&ClientKey::new(n.to_string()), Tokens(1.0), 1);
            order.leave(place);
        }
        assert!(order.finish_of.len() < 200, "{}", order.finish_of.len());
    }

    proptest! {
        #[test]
        fn every_entry_is_served_once_and_clients_keep_their_own_order(
            pushes in proptest::collection::vec((0u8..4, 0.0f64..1e6), 0..60)
        ) {
            let mut order = WaitingOrder::default();
            for (n, (client, cost)) in pushes.iter().enumerate() {
                order.push(&ClientKey::new(client.to_string()), Tokens(*cost), (*client, n));
            }
            let out = served(&mut order);
            prop_assert_eq!(out.len(), pushes.len());
            for client in 0u8..4 {
                let own: Vec<_> = out.iter().filter(|(c, _)| *c == client).collect();
                prop_assert!(own.windows(2).all(|pair| pair[0].1 < pair[1].1));
            }
        }
    }
}
