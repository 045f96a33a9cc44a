//! The body of a create call: what the user wrote, our label, and what a machine needs to know of us.

use serde_json::{Map, Value, json};

use super::preamble::{self, Preamble};
use crate::domain::{LaunchOptions, RentalLabel, VastLaunch, VolumeMount};

/// Names the container's port in the listing, whatever the configuration says later.
pub(super) const PORT: &str = "TIDEGATE_PORT";
const GATEWAY_URL: &str = "TIDEGATE_URL";
/// Which rental asks.
const WORKER: &str = "TIDEGATE_WORKER";
const MARKET_URL: &str = "TIDEGATE_MARKET_URL";

/// `price`: dollars an hour bid; there makes it interruptible.
pub(super) fn body(
    vast: &VastLaunch,
    price: Option<f64>,
    label: &RentalLabel,
    preamble: Option<&Preamble>,
) -> Value {
    let launch = &vast.launch;
    let preamble = preamble.filter(|_| launch.takes_preamble().is_ok());
    let mut body = json!({
        "client_id": "me",
        "image": launch.image,
        "env": env(vast, label, preamble),
        "price": price,
        "disk": launch.disk_gb,
        "label": label.to_string(),
        "extra": launch.extra,
        "onstart": onstart(launch, label, preamble),
        "image_login": launch.image_login,
        "python_utf8": launch.python_utf8,
        "lang_utf8": launch.lang_utf8,
        "use_jupyter_lab": launch.jupyter_lab,
        "jupyter_dir": launch.jupyter_dir,
        "force": launch.force,
        "cancel_unavail": launch.cancel_unavail,
        "template_hash_id": launch.template_hash,
        "user": launch.user,
    });
    if let Value::Object(body) = &mut body {
        let run_type = launch.run_type.map(|run_type| run_type.as_str().into());
        body.extend(run_type.map(|run_type| ("runtype".to_owned(), run_type)));
        let args = launch.args.clone().map(Value::from);
        body.extend(args.map(|args| ("args".to_owned(), args)));
        let volume = launch.volume.as_ref().map(volume);
        body.extend(volume.map(|volume| ("volume_info".to_owned(), volume)));
    }
    body
}

fn env(vast: &VastLaunch, label: &RentalLabel, preamble: Option<&Preamble>) -> Value {
    let given = vast.launch.env.iter();
    let mut env: Map<String, Value> = given
        .map(|(name, value)| (name.clone(), value.as_str().into()))
        .collect();
    env.insert(PORT.to_owned(), vast.port.to_string().into());
    if let Some(preamble) = preamble {
        env.insert(WORKER.to_owned(), label.worker.as_str().into());
        env.insert(GATEWAY_URL.to_owned(), preamble.gateway_url.as_str().into());
        if let Some(url) = &preamble.market_url {
            env.insert(MARKET_URL.to_owned(), url.as_str().into());
        }
    }
    Value::Object(env)
}

/// Our part comes first, behind the line that names the shell.
fn onstart(
    launch: &LaunchOptions,
    label: &RentalLabel,
    preamble: Option<&Preamble>,
) -> Option<String> {
    let Some(preamble) = preamble else {
        return launch.onstart.clone();
    };
    let ours = preamble::script(&label.installation, preamble.orphan_after);
    let theirs = launch.onstart.as_deref().unwrap_or_default();
    if theirs.starts_with("#!") {
        let (line, rest) = theirs.split_once('\n').unwrap_or((theirs, ""));
        return Some(format!("{line}\n{ours}{rest}"));
    }
    Some(format!("{ours}{theirs}"))
}

fn volume(volume: &VolumeMount) -> Value {
    let mut info = json!({
        "mount_path": volume.mount_path,
        "create_new": volume.create,
        "volume_id": volume.id,
    });
    if let Value::Object(info) = &mut info {
        let name = volume.name.clone().map(Value::from);
        info.extend(name.map(|name| ("name".to_owned(), name)));
        let size = volume.size_gb.map(Value::from);
        info.extend(size.map(|size| ("size".to_owned(), size)));
    }
    info
}
