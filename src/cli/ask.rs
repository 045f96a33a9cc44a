//! Asking the running gateway over its admin port, and telling clearly why it did not answer.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use serde::de::DeserializeOwned;

use super::exit::Trouble;
use crate::app::provide_tls;

const CONNECT_WITHIN: Duration = Duration::from_secs(3);
/// A plan may search a market, which answers a search every few seconds only.
const ANSWER_WITHIN: Duration = Duration::from_secs(75);

pub(super) struct Gateway {
    client: reqwest::Client,
    url: String,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoAnswer {
    /// Nobody listens there: no gateway runs.
    #[error("no gateway runs at {0}: the connection was refused")]
    NotRunning(String),
    /// One listens and does not speak.
    #[error("the gateway at {0} does not answer: {1}")]
    Silent(String, String),
    /// Something before it guards it: its own reading calls need no token.
    #[error(
        "what answers at {0} asks for a password or token, which reading a gateway needs none of"
    )]
    Guarded(String),
    #[error("{0}")]
    No(String),
    #[error("what answers at {0} is no gateway of this version: {1}")]
    NotUnderstood(String, String),
}

impl From<NoAnswer> for Trouble {
    fn from(why: NoAnswer) -> Self {
        match why {
            NoAnswer::No(_) | NoAnswer::Guarded(_) => Trouble::No(why.to_string()),
            _ => Trouble::Unreachable(why.to_string()),
        }
    }
}

impl Gateway {
    pub(super) fn at(url: &str) -> Result<Self, Trouble> {
        provide_tls();
        let client = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_WITHIN)
            .timeout(ANSWER_WITHIN)
            .build()
            .map_err(anyhow::Error::from)?;
        Ok(Self {
            client,
            url: url.trim_end_matches('/').to_owned(),
        })
    }

    pub(super) async fn json<T: DeserializeOwned>(&self, path: &str) -> Result<T, NoAnswer> {
        let text = self.text(path).await?;
        serde_json::from_str(&text)
            .map_err(|error| NoAnswer::NotUnderstood(self.url.clone(), error.to_string()))
    }

    pub(super) async fn text(&self, path: &str) -> Result<String, NoAnswer> {
        let request = self.client.get(format!("{}{path}", self.url));
        let answer = request.send().await.map_err(|error| self.why(&error))?;
        let status = answer.status();
        let text = answer.text().await.map_err(|error| self.why(&error))?;
        match status.as_u16() {
            200 => Ok(text),
            401 | 403 => Err(NoAnswer::Guarded(self.url.clone())),
            // Of a path that is known, what is named in it is not.
            404 if !text.starts_with('/') => Err(NoAnswer::No(text.trim_end().to_owned())),
            404 => Err(NoAnswer::NotUnderstood(
                self.url.clone(),
                format!("it knows no {path}"),
            )),
            502 | 504 => Err(NoAnswer::Silent(
                self.url.clone(),
                text.trim_end().to_owned(),
            )),
            _ => Err(NoAnswer::No(format!("{status}: {}", text.trim_end()))),
        }
    }

    fn why(&self, error: &reqwest::Error) -> NoAnswer {
        let url = self.url.clone();
        if error.is_timeout() {
            return NoAnswer::Silent(url, "timed out".into());
        }
        if error.is_builder() {
            return NoAnswer::No(format!("{url} is no URL such as http://127.0.0.1:9464"));
        }
        let cause = innermost(error);
        let refused = cause
            .downcast_ref::<std::io::Error>()
            .is_some_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused);
        match refused {
            true => NoAnswer::NotRunning(url),
            false => NoAnswer::Silent(url, cause.to_string()),
        }
    }
}

/// What went wrong in the end: reqwest's own words say only that something did.
fn innermost<'a>(
    error: &'a (dyn std::error::Error + 'static),
) -> &'a (dyn std::error::Error + 'static) {
    let mut error = error;
    while let Some(cause) = error.source() {
        error = cause;
    }
    error
}

/// Where to reach what listens on `address`: one that stands for every address is asked for on this machine.
pub(super) fn url_of(address: SocketAddr) -> String {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    format!("http://{}", SocketAddr::new(ip, address.port()))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    fn gateway(url: &str) -> Gateway {
        Gateway::at(url).expect("a client")
    }

    /// Answers one request with `answer`, then closes.
    async fn server(answer: &'static str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = url_of(listener.local_addr().expect("an address"));
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            let mut request = [0; 4_096];
            let _ = stream.read(&mut request).await;
            let _ = stream.write_all(answer.as_bytes()).await;
        });
        url
    }

    async fn said(answer: &'static str) -> NoAnswer {
        let url = server(answer).await;
        gateway(&url).text("/logs/w1").await.expect_err("no answer")
    }

    #[tokio::test]
    async fn nobody_listening_is_told_from_somebody_silent() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = url_of(listener.local_addr().expect("an address"));
        drop(listener);
        let error = gateway(&url).text("/fleet").await.expect_err("nobody");
        assert!(matches!(error, NoAnswer::NotRunning(_)), "{error}");
        let error = said("").await;
        assert!(matches!(error, NoAnswer::Silent(..)), "{error}");
    }

    #[tokio::test]
    async fn a_guard_before_it_an_unknown_worker_and_another_program_are_told_apart() {
        let error = said("HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n").await;
        assert!(matches!(error, NoAnswer::Guarded(_)), "{error}");
        let error = said("HTTP/1.1 404 Not Found\r\ncontent-length: 8\r\n\r\nno such\n").await;
        assert!(
            matches!(&error, NoAnswer::No(text) if text == "no such"),
            "{error}"
        );
        let error = said("HTTP/1.1 404 Not Found\r\ncontent-length: 9\r\n\r\n/metrics\n").await;
        assert!(matches!(error, NoAnswer::NotUnderstood(..)), "{error}");
        let url = server("HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\n<html>").await;
        let error = gateway(&url).json::<u32>("/plan").await.expect_err("html");
        assert!(matches!(error, NoAnswer::NotUnderstood(..)), "{error}");
    }

    #[test]
    fn a_listener_on_every_address_is_asked_on_this_machine() {
        let check = |address: &str, expected| {
            assert_eq!(url_of(address.parse().expect("an address")), expected);
        };
        check("0.0.0.0:9464", "http://127.0.0.1:9464");
        check("[::]:9464", "http://[::1]:9464");
        check("10.0.0.5:1", "http://10.0.0.5:1");
    }
}
