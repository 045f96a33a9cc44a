//! From the text a user pastes to the bytes on the wire: the same requests as captured from vastai 1.9.1.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::config::{self, Config, SourceFile};
use crate::domain::{Offer, OfferId, RentalLabel, UsdPerHour, WorkerId};
use crate::market::vast::stand_in::{Reply, StandIn};
use crate::market::{Market, Order, VastMarket};
use crate::telemetry::Metrics;

/// Method, path and body of each request, by the command that made it.
const CAPTURED: &str = include_str!("testdata/vastai_1.9.1.jsonl");

fn captured(case: &str) -> Value {
    let cases = CAPTURED.lines().map(serde_json::from_str::<Value>);
    cases
        .map(|line| line.expect("JSON"))
        .find(|line| line["case"] == case)
        .unwrap_or_else(|| panic!("{case} is not there"))
}

fn parsed(search_params: &str, launch_args: &str) -> Config {
    let text = json!({
        "endpoint_name": "llama",
        "market": "vast",
        "worker_groups": [{"name": "g", "engine": "tgi", "search_params": search_params, "launch_args": launch_args}],
    });
    let file = |name: &str, text: String| SourceFile {
        name: name.to_owned(),
        text,
    };
    let key = |name: &str| (name == "VAST_API_KEY").then(|| "testkey".to_owned());
    let endpoint = file("e.yaml", text.to_string());
    let server = "vast: {interval_scale: 0}\n".to_owned();
    config::parse(&file("tidegate.yaml", server), &[endpoint], &key)
        .unwrap_or_else(|mistakes| panic!("{mistakes}"))
}

/// What a gateway with this group searches for, and how it rents what it finds.
async fn requests(search_params: &str, launch_args: &str, interruptible: bool) -> Vec<Value> {
    let vast = StandIn::start(|asked, _| match asked.method.as_str() {
        "POST" => Reply::Json(200, json!({"offers": [{"id": 555, "dph_total": 0.5}]})),
        _ => Reply::Json(200, json!({"success": true, "new_contract": 1})),
    })
    .await;
    let config = parsed(search_params, launch_args);
    let mut group = config.endpoints[0].groups[0].clone();
    group.interruptible = interruptible;
    let installation = crate::domain::InstallationId::new("mine");
    let settings = super::vast::settings(&config.server, &config.endpoints);
    let metrics = Arc::new(Metrics::new().expect("metrics"));
    let market = VastMarket::new(&vast.url, installation.clone(), settings, metrics);
    let market = market.expect("a market");
    let mut offers = market.offers(&group).await.expect("offers");
    let offer: Offer = offers.pop().expect("an offer");
    let label = RentalLabel {
        installation,
        endpoint: config.endpoints[0].name.clone(),
        worker: WorkerId::new("g-1"),
    };
    let rented = market
        .rent(&Order::settled(&offer, None, &group, &label))
        .await;
    rented.expect("rented");
    assert_ne!(offer.id, OfferId::new(""));
    assert!(offer.usd_per_hour > UsdPerHour::ZERO);
    let asked = vast.asked().into_iter();
    asked
        .map(|asked| json!({"method": asked.method, "path": asked.path, "body": asked.body}))
        .collect()
}

/// Field by field, numbers by value, except what is ours: `but` and variables that begin with TIDEGATE_.
#[track_caller]
fn same(sent: &Value, captured: &Value, but: &[&str]) {
    assert_eq!(sent["method"], captured["method"]);
    assert_eq!(sent["path"], captured["path"]);
    let (sent, captured) = (fields(&sent["body"], but), fields(&captured["body"], but));
    assert_eq!(sent, captured);
}

fn fields(body: &Value, but: &[&str]) -> BTreeMap<String, Value> {
    let body = body.as_object().expect("an object");
    let others = body
        .iter()
        .filter(|(name, _)| !but.contains(&name.as_str()));
    others
        .map(|(name, value)| {
            let mut value = numbers(value);
            if let (Value::Object(env), "env") = (&mut value, name.as_str()) {
                env.retain(|name, _| !name.starts_with("TIDEGATE_") && name != "-p 80:80");
            }
            (name.clone(), value)
        })
        .collect()
}

/// 10 and 10.0 are one number.
fn numbers(value: &Value) -> Value {
    match value {
        Value::Number(number) => json!(number.as_f64()),
        Value::Array(items) => items.iter().map(numbers).collect(),
        Value::Object(fields) => fields
            .iter()
            .map(|(name, value)| (name.clone(), numbers(value)))
            .collect(),
        other => other.clone(),
    }
}

const LAUNCH: &str = "--image foo/bar --env '-p 80:80'";

#[tokio::test]
async fn searches_are_those_of_the_command_line() {
    for (case, query, interruptible) in [
        (
            "search_offers_seed",
            "gpu_ram>=23 num_gpus=4 gpu_name=RTX_4090 inet_down>128 direct_port_count>3 disk_space>=192 \
             driver_version>=535086005 rented=False",
            false,
        ),
        (
            "search_offers_opts",
            "verified=False external=any reliability>0.99 dph<2 cuda_vers>=12.1 geolocation in [SE,US] \
             gpu_name in [RTX_4090,RTX_3090] duration>3 cpu_ram>=64 driver_version>=535.86.05 \
             machine_id not in [1,2]",
            true,
        ),
        (
            "search_offers_n",
            "verified=any external=any rentable=any num_gpus=1",
            false,
        ),
        ("search_offers_badfield", "bogus=1", false),
    ] {
        let sent = requests(query, LAUNCH, interruptible).await;
        let kind = if interruptible { "bid" } else { "on-demand" };
        let search = sent.iter().find(|sent| sent["body"]["type"] == kind);
        // The order and the number of rows are options beside the query.
        let options = ["allocated_storage", "order", "limit"];
        let but = if interruptible {
            &options
        } else {
            &options[..1]
        };
        same(search.expect("a search"), &captured(case), but);
    }
}

#[tokio::test]
async fn create_calls_are_those_of_the_command_line() {
    for (case, launch_args) in [
        (
            "create_instance_seed",
            "--onstart-cmd 'wget -O - https://example.invalid/launch.sh | bash' --env '-e MODEL_ARGS=\"--model-id \
             TheBloke/Llama-2-70B-chat-GPTQ --quantize gptq\" -e HUGGING_FACE_HUB_TOKEN=TOK -p 3000:3000' \
             --image ghcr.io/huggingface/text-generation-inference:1.0.3 --disk 200 --ssh --direct",
        ),
        (
            "create_instance_bid_args",
            "--image foo/bar --env '-e A=\"b=c\" -p 80:80 -p 70000:70000/udp -h host1 -v /a:/b' --bid_price 0.5 \
             --disk 64 --label w1 --login '-u me -p pw docker.io' --cancel-unavail --args --port 80 x",
        ),
        (
            "create_instance_jupyter",
            "--image foo/bar --env '-p 80:80' --jupyter --direct --jupyter-lab",
        ),
        (
            "create_instance_template",
            "--template_hash abc123 --disk 64",
        ),
        ("create_instance_plain", LAUNCH),
    ] {
        let sent = requests("num_gpus=1", launch_args, false).await;
        let create = sent.iter().find(|sent| sent["method"] == "PUT");
        let create = create.expect("a create call");
        assert_eq!(create["body"]["label"], "tidegate/mine/llama/g-1");
        same(create, &captured(case), &["label"]);
    }
}
