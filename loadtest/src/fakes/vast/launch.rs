//! From a rental to what its container runs: environment, ports, program.

use anyhow::{Context, Result};

use super::Settings;
use super::clock::Clock;
use super::instance::Instance;
use super::processes::{Launch, Program};
use super::stand_ins;
use crate::harness::free_port;

/// Takes ports for the instance, which then are its own until it stops.
pub fn of(instance: &mut Instance, settings: &Settings, clock: &Clock) -> Result<Launch> {
    take_ports(instance)?;
    let mut variables: Vec<(String, String)> = instance
        .rental
        .variables()
        .map(|(name, value)| (name.to_owned(), value))
        .collect();
    let image = instance.rental.image.clone();
    // That image sets its launcher's port itself.
    if image.contains("text-generation-inference")
        && !variables.iter().any(|(name, _)| name == "PORT")
    {
        variables.push(("PORT".into(), "80".into()));
    }
    for (inside, outside) in &instance.ports {
        let name = match inside.split_once('/') {
            Some((port, "udp")) => format!("VAST_UDP_PORT_{port}"),
            Some((port, _)) => format!("VAST_TCP_PORT_{port}"),
            None => continue,
        };
        variables.push((name, outside.to_string()));
    }
    let ours = [
        ("CONTAINER_ID", instance.id.to_string()),
        ("CONTAINER_API_KEY", instance.key.clone()),
        ("PUBLIC_IPADDR", "127.0.0.1".into()),
        ("VAST_CONTAINERLABEL", format!("C.{}", instance.id)),
        ("GPU_COUNT", instance.hardware.gpus.to_string()),
        (
            "FAKE_VAST_WORKER_FLAGS",
            worker_flags(instance, settings, clock),
        ),
        ("FAKE_VAST_LAUNCHER", launcher(&image).into()),
        ("FAKE_VAST_ENGINE_PORT", first_port(instance)),
    ];
    variables.extend(ours.map(|(name, value)| (name.to_owned(), value)));
    Ok(Launch {
        instance: instance.id,
        program: program(instance)?,
        variables,
    })
}

fn take_ports(instance: &mut Instance) -> Result<()> {
    instance.ports.clear();
    let mut wanted: Vec<String> = instance
        .rental
        .ports()
        .iter()
        .map(|(port, protocol)| format!("{port}/{protocol}"))
        .collect();
    if instance.rental.runtype.contains("ssh_direc") {
        wanted.push("22/tcp".into());
    }
    for inside in wanted {
        instance.ports.insert(inside, free_port()?);
    }
    Ok(())
}

/// The first port wanted, inside.
fn first_port(instance: &Instance) -> String {
    let ports = instance.rental.ports();
    ports
        .first()
        .map_or(String::new(), |(port, _)| port.to_string())
}

/// How fast the stand-in worker is on this hardware.
fn worker_flags(instance: &Instance, settings: &Settings, clock: &Clock) -> String {
    let hardware = &instance.hardware;
    let law = hardware
        .class()
        .law_of(hardware.gpus, instance.fate.slowness);
    let load = clock.real(instance.fate.load_s).as_secs_f64() * settings.worker_time_scale;
    format!(
        "--a-ms {:.4} --c-ms {:.5} --k-ms {:.5} --prefill {:.1} --kv-tokens {} --max-batch {} --load-time {load:.3} \
         --time-scale {}",
        law.a_ms,
        law.c_ms,
        law.k_ms,
        law.prefill_tps,
        law.kv_tokens,
        law.max_batch,
        settings.worker_time_scale
    )
}

/// What a downloaded script starts, by the image.
fn launcher(image: &str) -> &'static str {
    match stand_ins::entrypoint(image) {
        Some(["python3", _, module, ..]) if module.starts_with("vllm") => "vllm serve",
        Some(["python3", ..]) => "sglang",
        Some([program, ..]) => program,
        _ => "text-generation-launcher",
    }
}

fn program(instance: &Instance) -> Result<Program> {
    let rental = &instance.rental;
    let onstart = rental.onstart.clone().unwrap_or_default();
    if !rental.runs_entrypoint() {
        return Ok(Program::Onstart(onstart));
    }
    // In this runtype `onstart` is what replaces the image's entrypoint.
    let mut words: Vec<String> = match stand_ins::entrypoint(&rental.image) {
        _ if !onstart.trim().is_empty() => onstart.split_whitespace().map(str::to_owned).collect(),
        Some(words) => words.iter().map(|word| (*word).to_owned()).collect(),
        None => Vec::new(),
    };
    words.extend(rental.args.iter().cloned());
    words
        .first()
        .context("no entrypoint is known of this image")?;
    Ok(Program::Entrypoint(words))
}
