//! The nodes of routes and of clients. Clients may be addresses, which nobody can count: those that were not
//! seen for longest are forgotten.

use std::collections::HashMap;

use super::node::Node;
use crate::domain::{Api, ClientKey, RequestShape};

/// Clients' nodes remembered; about 300 bytes each.
const CLIENT_NODES_MAX: usize = 4_096;

/// An interface, and how many tokens were asked for as the power of two that holds them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Route {
    pub(super) api: Api,
    pub(super) size: Option<u32>,
}

impl Route {
    fn of(shape: &RequestShape) -> Self {
        let size = |max: u32| u32::BITS - max.saturating_sub(1).leading_zeros();
        Self {
            api: shape.api,
            size: shape.max_new_tokens.map(size),
        }
    }
}

#[derive(Clone, Debug, Default)]
pub(super) struct Memory {
    routes: HashMap<Route, Node>,
    of_clients: HashMap<(ClientKey, Route), (Node, u64)>,
    learned: u64,
}

impl Memory {
    pub(super) fn of(&self, shape: &RequestShape) -> [Option<&Node>; 2] {
        let route = Route::of(shape);
        let own = self.of_clients.get(&(shape.client.clone(), route));
        [self.routes.get(&route), own.map(|(node, _)| node)]
    }

    /// The route's node and the client's, made if they are new.
    pub(super) fn nodes_for(&mut self, shape: &RequestShape) -> [&mut Node; 2] {
        self.learned += 1;
        let route = Route::of(shape);
        let key = (shape.client.clone(), route);
        if self.of_clients.len() >= CLIENT_NODES_MAX && !self.of_clients.contains_key(&key) {
            self.forget_a_quarter();
        }
        let of_route = self.routes.entry(route).or_insert_with(Node::unseen);
        let own = self.of_clients.entry(key);
        let (own, last) = own.or_insert_with(|| (Node::unseen(), 0));
        *last = self.learned;
        [of_route, own]
    }

    fn forget_a_quarter(&mut self) {
        let mut last: Vec<u64> = self.of_clients.values().map(|(_, last)| *last).collect();
        let (_, quarter, _) = last.select_nth_unstable(CLIENT_NODES_MAX / 4);
        let quarter = *quarter;
        self.of_clients.retain(|_, (_, last)| *last > quarter);
    }

    pub(super) fn clients(&self) -> usize {
        self.of_clients.len()
    }

    /// All routes, then the clients that were seen last.
    pub(super) fn rows(&self, clients_max: usize) -> Vec<(Option<ClientKey>, Route, &Node)> {
        let mut routes: Vec<_> = self
            .routes
            .iter()
            .map(|(route, node)| (None, *route, node))
            .collect();
        routes.sort_by_key(|(_, route, _)| *route);
        let mut clients: Vec<_> = self.of_clients.iter().collect();
        clients.sort_by_key(|(_, (_, last))| std::cmp::Reverse(*last));
        let clients = clients
            .into_iter()
            .take(clients_max)
            .map(|((client, route), (node, _))| (Some(client.clone()), *route, node));
        routes.into_iter().chain(clients).collect()
    }
}
