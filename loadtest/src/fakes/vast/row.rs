//! An instance as listings show it.

use serde_json::{Value, json};

use super::clock::{At, Clock};
use super::instance::{Instance, Phase};
use super::offers::{hardware, merge};

/// Columns that may be filtered by: those that are stored.
pub const FILTERED: [&str; 10] = [
    "id",
    "actual_status",
    "intended_status",
    "label",
    "gpu_name",
    "verification",
    "machine_id",
    "host_id",
    "geolocation",
    "image_uuid",
];

/// `min_bid`: the lowest that wins its machine now.
pub fn row(instance: &Instance, min_bid: f64, clock: &Clock, now: At) -> Value {
    let mut row = hardware(&instance.hardware);
    merge(&mut row, state(instance, clock, now));
    merge(&mut row, container(instance));
    merge(&mut row, price(instance, min_bid));
    row
}

fn state(instance: &Instance, clock: &Clock, now: At) -> Value {
    let running_s = instance
        .running_since
        .map(|since| clock.market_s(now.since(since)));
    let left = instance.ends.since(now);
    json!({
        "id": instance.id, "actual_status": instance.actual_status(), "cur_state": instance.cur_state(),
        "next_state": instance.intended_status(), "intended_status": instance.intended_status(),
        "status_msg": instance.status_msg, "label": instance.rental.label,
        "start_date": clock.epoch_s(instance.created), "end_date": clock.epoch_s(instance.ends),
        "duration": clock.market_s(left), "time_remaining": "", "uptime_mins": running_s.map(|s| s / 60.0),
        "gpu_util": running_s.map(|_| 0.0), "gpu_temp": running_s.map(|_| 60.0), "cpu_util": 0.0,
        "disk_usage": 10.0, "disk_util": 0.1, "mem_usage": null, "mem_limit": null, "vmem_usage": null,
        "is_bid": instance.is_bid(), "rentable": false, "rented": true, "credit_balance": null,
    })
}

fn container(instance: &Instance) -> Value {
    let rental = &instance.rental;
    let (shown, hardware) = (instance.phase == Phase::Running, &instance.hardware);
    let ports: serde_json::Map<String, Value> = instance
        .ports
        .iter()
        .map(|(inside, outside)| {
            let outside = json!([{ "HostIp": "0.0.0.0", "HostPort": outside.to_string() }]);
            (inside.clone(), outside)
        })
        .collect();
    // Some hosts report their address with a line's end.
    let end = if hardware.host % 2 == 1 { "\n" } else { "" };
    json!({
        "image_uuid": rental.image, "image_args": rental.args, "image_runtype": rental.runtype,
        "extra_env": rental.env.iter().map(|(key, value)| json!([key, value])).collect::<Vec<_>>(),
        "onstart": rental.onstart, "disk_space": rental.disk_gb,
        "public_ipaddr": format!("127.0.0.1{end}"), "local_ipaddrs": "127.0.0.1\n",
        "ssh_host": "ssh1.vast.ai", "ssh_port": 10_000 + instance.id % 10_000, "ssh_idx": "1",
        "ports": if shown { Value::Object(ports) } else { Value::Null },
        "direct_port_start": -1, "direct_port_end": -1, "direct_port_count": hardware.ports,
        "jupyter_token": "", "template_id": null, "template_hash_id": null, "template_name": null,
        "volume_info": [],
    })
}

fn price(instance: &Instance, min_bid: f64) -> Value {
    let (gpu, disk) = (instance.gpu_usd_per_hour, instance.storage_usd_per_hour);
    let total = gpu + disk;
    let flops = instance.hardware.class().tflops * f64::from(instance.hardware.gpus);
    let parts = json!({
        "gpuCostPerHour": gpu, "diskHour": disk, "totalHour": total,
        "discountTotalHour": 0.0, "discountedTotalPerHour": total,
    });
    json!({
        "dph_base": gpu, "dph_total": total, "storage_cost": instance.hardware.storage_cost,
        "storage_total_cost": disk, "min_bid": min_bid,
        "dlperf_per_dphtotal": instance.hardware.dlperf() / total, "flops_per_dphtotal": flops / total,
        "score": instance.hardware.dlperf() / total, "search": parts, "instance": parts,
    })
}
