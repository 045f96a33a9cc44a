//! How many connections there are, in all and of each address.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;

use crate::domain::ConnectionLimits;
use crate::telemetry::Metrics;

pub(super) struct Connections {
    all: AtomicUsize,
    by_address: DashMap<IpAddr, usize>,
    gauge: prometheus::Gauge,
}

/// Which bound is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Full {
    All,
    Address,
}

impl Full {
    pub(super) fn rule(self) -> &'static str {
        match self {
            Full::All => "max_connections",
            Full::Address => "max_connections_per_address",
        }
    }
}

/// A connection's place, until it is dropped.
pub(super) struct Place {
    connections: Arc<Connections>,
    address: Option<IpAddr>,
}

impl Connections {
    pub(super) fn new(metrics: &Metrics) -> Self {
        let none: [&str; 0] = [];
        Self {
            all: AtomicUsize::new(0),
            by_address: DashMap::new(),
            gauge: metrics.connections.with_label_values(&none),
        }
    }

    pub(super) fn enter(
        self: &Arc<Self>,
        address: Option<IpAddr>,
        limits: &ConnectionLimits,
    ) -> Result<Place, Full> {
        if self.all.fetch_add(1, Relaxed) >= limits.connections_max {
            self.all.fetch_sub(1, Relaxed);
            return Err(Full::All);
        }
        let address = address.map(network_of);
        if let Some(address) = address {
            let mut count = self.by_address.entry(address).or_insert(0);
            if *count >= limits.per_address_max {
                self.all.fetch_sub(1, Relaxed);
                return Err(Full::Address);
            }
            *count += 1;
        }
        self.show();
        Ok(Place {
            connections: Arc::clone(self),
            address,
        })
    }

    fn show(&self) {
        self.gauge.set(self.all.load(Relaxed) as f64);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let connections = &self.connections;
        connections.all.fetch_sub(1, Relaxed);
        if let Some(address) = self.address
            && let Entry::Occupied(mut count) = connections.by_address.entry(address)
        {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
        connections.show();
    }
}

/// Whoever has one IPv6 address has all of its network.
fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn limits(connections_max: usize, per_address_max: usize) -> ConnectionLimits {
        ConnectionLimits {
            connections_max,
            per_address_max,
            header_timeout: Duration::ZERO,
            idle_timeout: Duration::ZERO,
            write_timeout: Duration::ZERO,
            requests_max: 0,
            header_bytes_max: 0,
            header_count_max: 0,
            uri_bytes_max: 0,
            send_buffer_bytes: 0,
            http2_streams_max: 0,
            http2_idle_timeout: Duration::ZERO,
        }
    }

    fn connections() -> Arc<Connections> {
        Arc::new(Connections::new(&Metrics::new().expect("metrics")))
    }

    fn address(text: &str) -> Option<IpAddr> {
        Some(text.parse().expect("an address"))
    }

    #[test]
    fn one_address_leaves_room_for_others() {
        let (connections, limits) = (connections(), limits(3, 2));
        let enter = |text| connections.enter(address(text), &limits);
        let first = enter("10.0.0.1").expect("room");
        let _second = enter("10.0.0.1").expect("room");
        assert_eq!(enter("10.0.0.1").err(), Some(Full::Address));
        let _other = enter("10.0.0.2").expect("room");
        assert_eq!(enter("10.0.0.3").err(), Some(Full::All));
        drop(first);
        assert!(enter("10.0.0.1").is_ok());
        assert_eq!(
            connections.by_address.len(),
            2,
            "nothing is kept of who left"
        );
    }

    #[test]
    fn an_ipv6_network_counts_as_one() {
        let (connections, limits) = (connections(), limits(9, 1));
        let _place = connections.enter(address("2001:db8::1"), &limits);
        let same = connections.enter(address("2001:db8::ffff:2"), &limits);
        assert_eq!(same.err(), Some(Full::Address));
        let _other = connections
            .enter(address("2001:db8:0:1::1"), &limits)
            .expect("room");
        let _v4 = connections
            .enter(address("::ffff:10.0.0.1"), &limits)
            .expect("room");
        let same = connections.enter(address("10.0.0.1"), &limits);
        assert_eq!(same.err(), Some(Full::Address));
    }
}
