//! Bounds on what a client's connections may hold and on how slow a client may be.

use std::time::Duration;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionLimits {
    pub connections_max: usize,
    /// Of one IPv4 address or one IPv6 network of 64 bits.
    pub per_address_max: usize,
    /// For a TLS handshake, and from a request's first byte to the end of its header.
    pub header_timeout: Duration,
    /// A connection without a request is kept this long.
    pub idle_timeout: Duration,
    /// Longest a client may take to accept one piece of an answer.
    pub write_timeout: Duration,
    /// Requests on one connection of HTTP/1.1.
    pub requests_max: u32,
    /// Names and values together.
    pub header_bytes_max: usize,
    pub header_count_max: usize,
    pub uri_bytes_max: usize,
    /// What the system keeps of an answer that its client does not read.
    pub send_buffer_bytes: usize,
    /// Requests at once on one connection of HTTP/2.
    pub http2_streams_max: u32,
    pub http2_idle_timeout: Duration,
}
