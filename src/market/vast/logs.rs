//! What an instance wrote: asked for, then fetched from where Vast puts it.

use std::time::Duration;

use http::Method;
use serde_json::json;

use super::failure::Failure;
use super::limiter::Kind;
use super::rows;
use super::transport::{Account, Call, Transport};
use crate::domain::InstanceId;

const LOOKS: u32 = 30;
const BETWEEN_LOOKS: Duration = Duration::from_millis(300);
const LOG_BYTES_MAX: usize = 4 << 20;

pub(super) async fn logs(
    transport: &Transport,
    account: &Account,
    scale: f64,
    id: &InstanceId,
    lines: u32,
) -> Result<String, Failure> {
    let path = format!("/api/v0/instances/request_logs/{id}/");
    let body = json!({"tail": lines.to_string()});
    let mut call = Call::new(Kind::Logs, Method::PUT, &path);
    call.body = Some(&body);
    let answer = transport.call(account, &call, scale).await?;
    let url = rows::text(&answer, "result_url")
        .ok_or_else(|| Failure::Strange("the answer does not say where the log is".into()))?;
    for _ in 0..LOOKS {
        tokio::time::sleep(BETWEEN_LOOKS).await;
        match transport.fetch(url, LOG_BYTES_MAX).await {
            Ok(Some(log)) => return Ok(log),
            Ok(None) => {}
            Err(why) => return Err(Failure::Lost(why)),
        }
    }
    Err(Failure::Lost("the log did not come in time".into()))
}
