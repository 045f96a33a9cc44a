//! Why a continued text differs from the undisturbed one: the text cut there has other tokens than were generated, or it has
//! the same and the arithmetic of reading them at once differs in its last bits from making them one by one.

use anyhow::{Context, Result};
use reqwest::Client;
use serde_json::{Value, json};

use super::Case;
use super::engines::Engine;
use crate::soak::ask::Route;
use crate::soak::told::Told;

/// In words, with the position of the cut.
pub async fn explain(
    engine: &Engine,
    client: &Client,
    case: &Case,
    undisturbed: &Told,
    asked: &[Value],
) -> Result<String> {
    let [first, .., last] = asked else {
        return Ok("nothing was asked a second time".to_owned());
    };
    let prompt = prompt_of(engine, client, case.route, first).await?;
    let Some(given) = given_to(case.route, first, last) else {
        return Ok("continued from token ids: numerics of the batch".to_owned());
    };
    let at = format!("cut after {} characters", given.chars().count());
    if !undisturbed.text().starts_with(&given) {
        return Ok(format!(
            "{at}: what was given on is not how the undisturbed text begins"
        ));
    }
    let before = engine.tokenize(client, &prompt).await?;
    let made = engine.tokens_after(client, &prompt, case.tokens).await?;
    let read = engine.tokenize(client, &(prompt + &given)).await?;
    let generated: Vec<u64> = before.into_iter().chain(made).collect();
    let differs = read
        .iter()
        .zip(&generated)
        .position(|(read, made)| read != made);
    Ok(match differs {
        Some(token) => format!(
            "{at}: the text has other tokens there, from token {token} of {}",
            read.len()
        ),
        None => format!(
            "{at}: the same {} tokens, so numerics of the batch",
            read.len()
        ),
    })
}

/// The text that the model was given first.
async fn prompt_of(
    engine: &Engine,
    client: &Client,
    route: Route,
    first: &Value,
) -> Result<String> {
    if route != Route::Chat {
        return Ok(first["prompt"]
            .as_str()
            .context("a prompt that is no text")?
            .to_owned());
    }
    let body = json!({"messages": first["messages"]});
    let answer = engine.post(client, "/apply-template", &body).await?;
    Ok(answer["prompt"].as_str().context("no template")?.to_owned())
}

/// The text that the last worker was given to go on from; `None` where it was given tokens.
fn given_to(route: Route, first: &Value, last: &Value) -> Option<String> {
    if route == Route::Chat {
        let turns = |body: &Value| body["messages"].as_array().map_or(0, Vec::len);
        let turn = last["messages"].as_array()?.last()?;
        let continued = turns(last) > turns(first);
        return continued
            .then(|| turn["content"].as_str().map(str::to_owned))
            .flatten();
    }
    let given = last["prompt"].as_str()?;
    given
        .strip_prefix(first["prompt"].as_str()?)
        .map(str::to_owned)
}
