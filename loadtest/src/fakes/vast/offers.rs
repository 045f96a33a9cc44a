//! An offer as a search answers it.

use serde_json::{Value, json};

use super::market::Machine;

/// The market's time and this machine's, in seconds.
#[derive(Clone, Copy, Debug)]
pub struct Dates {
    pub market_s: f64,
    pub epoch_s: f64,
    pub speed: f64,
}

/// What a search wants of each row beside the machine: how it would be rented.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    pub bid: bool,
    /// GB of disk that the price includes.
    pub storage_gb: f64,
}

/// The row; `end_date` is of this machine's time, `duration` of the market's.
pub fn row(machine: &Machine, terms: Terms, dates: Dates) -> Value {
    let mut row = hardware(machine);
    let base = if terms.bid {
        machine.min_bid
    } else {
        machine.price
    };
    let storage = machine.storage_usd_per_hour(terms.storage_gb);
    let total = base + storage;
    let left_s = (machine.until_s - dates.market_s).max(0.0);
    let flops = machine.class().tflops * f64::from(machine.gpus);
    let price = json!({
        "gpuCostPerHour": base, "diskHour": storage, "totalHour": total,
        "discountTotalHour": 0.0, "discountedTotalPerHour": total,
    });
    let more = json!({
        "id": machine.ask, "ask_contract_id": machine.ask, "bundle_id": machine.ask * 3,
        "bundled_results": 1, "is_bid": terms.bid, "rentable": machine.is_listed(), "rented": false,
        "dph_base": base, "dph_total": total, "dph_total_adj": total, "discount_rate": 0.0,
        "discounted_hourly": 0.0, "discounted_dph_total": total, "min_bid": machine.min_bid,
        "storage_cost": machine.storage_cost, "storage_total_cost": storage,
        "vram_costperhour": base / (machine.class().gpu_ram_mb as f64 * f64::from(machine.gpus)),
        "dlperf_per_dphtotal": machine.dlperf() / total, "flops_per_dphtotal": flops / total,
        "score": machine.dlperf() / total * machine.reliability,
        "duration": left_s, "time_remaining": "", "time_remaining_isbid": "",
        "start_date": dates.epoch_s - 86_400.0, "end_date": dates.epoch_s + left_s / dates.speed,
        "search": price, "instance": price,
    });
    merge(&mut row, more);
    row
}

/// What does not depend on how it is rented; in rows of instances too.
pub fn hardware(machine: &Machine) -> Value {
    let class = machine.class();
    let (gpus, (major, minor, patch)) = (machine.gpus, machine.driver);
    let ram = class.gpu_ram_mb;
    let mut row = json!({
        "machine_id": machine.id, "host_id": machine.host, "num_gpus": gpus,
        "gpu_name": class.gpu_name, "gpu_ram": ram, "gpu_total_ram": ram * u64::from(gpus), "gpu_frac": 1.0,
        "gpu_ids": (0..gpus).collect::<Vec<_>>(), "gpu_arch": "nvidia", "gpu_lanes": 16,
        "gpu_mem_bw": class.memory_bandwidth, "gpu_max_power": class.watts, "gpu_max_temp": 90.0,
        "gpu_display_active": false, "compute_cap": class.compute_cap, "cuda_max_good": machine.cuda,
        "bw_nvlink": if class.datacenter { 300.0 } else { 0.0 },
        "total_flops": class.tflops * f64::from(gpus), "dlperf": machine.dlperf(),
        "driver_version": format!("{major}.{minor:02}.{patch:02}"),
        "driver_vers": major * 1_000_000 + minor * 1_000 + patch,
        "geolocation": machine.location, "geolocode": 0,
    });
    merge(&mut row, host(machine));
    row
}

fn host(machine: &Machine) -> Value {
    let class = machine.class();
    let reliability = machine.reliability;
    json!({
        "hosting_type": u8::from(class.datacenter), "hostname": null, "static_ip": class.datacenter,
        "cpu_name": "EPYC", "cpu_arch": "amd64", "cpu_cores": machine.cpu_cores, "cpu_ghz": machine.cpu_ghz,
        "cpu_cores_effective": f64::from(machine.cpu_cores), "cpu_ram": machine.ram_mb, "has_avx": 1,
        "disk_space": machine.disk_gb, "disk_bw": machine.disk_mb_s, "disk_name": "nvme",
        "inet_up": machine.up_mbit_s, "inet_down": machine.down_mbit_s,
        "inet_up_cost": machine.up_usd_per_gb, "inet_down_cost": machine.down_usd_per_gb,
        "internet_up_cost_per_tb": machine.up_usd_per_gb * 1e3,
        "internet_down_cost_per_tb": machine.down_usd_per_gb * 1e3,
        "direct_port_count": machine.ports, "pci_gen": 4.0, "pcie_bw": 24.0, "mobo_name": "H12SSL",
        "os_version": "22.04", "ubuntu_version": "22.04", "resource_type": "gpu",
        "reliability": reliability, "reliability2": reliability, "reliability_mult": reliability,
        "expected_reliability": reliability,
        "verification": if machine.verified { "verified" } else { "unverified" }, "vericode": 1,
        "external": false, "vms_enabled": false, "is_vm_deverified": false, "cluster_id": null,
        "logo": "", "webpage": null, "rn": 1,
    })
}

/// Adds the members of one object to another.
pub fn merge(row: &mut Value, more: Value) {
    if let (Value::Object(row), Value::Object(more)) = (row, more) {
        row.extend(more);
    }
}
