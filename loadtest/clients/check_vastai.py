"""The unmodified vastai command line against a fake Vast: check_vastai.py URL"""

import json
import pathlib
import subprocess
import sys
import time
import urllib.request

import checks

url = sys.argv[1]
program = pathlib.Path(sys.executable).parent / "vastai"
query = "gpu_ram>=23 num_gpus=1 gpu_name=RTX_4090 inet_down>128 direct_port_count>3 disk_space>=192 driver_version>=535086005"
ids = {}


def said(*words):
    """What a command printed. What follows `--args` belongs to the container."""
    end = words.index("--args") if "--args" in words else len(words)
    command = [str(program), *words[:end], "--url", url, "--api-key", "testkey", *words[end:]]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, (words, done.stdout, done.stderr)
    return done.stdout + done.stderr


def raw(*words):
    return json.loads(said(words[0], words[1], "--raw", *words[2:]))


def wait(instance, what, holds):
    deadline = time.monotonic() + 60
    while True:
        row = raw("show", "instance", str(instance))
        if holds(row):
            return row
        assert time.monotonic() < deadline, (what, row)
        time.sleep(0.2)


def wait_status(instance, status):
    return wait(instance, status, lambda row: row["actual_status"] == status)


def search_offers():
    offers = raw("search", "offers", query, "--storage", "40", "-o", "dph")
    assert offers, "no offers"
    for offer in offers:
        assert offer["gpu_name"] == "RTX 4090" and offer["num_gpus"] == 1, offer
        assert offer["driver_vers"] >= 535086005 and offer["rentable"] and not offer["rented"], offer
    prices = [offer["dph_total"] for offer in offers]
    assert prices == sorted(prices), prices
    assert str(offers[0]["id"]) in said("search", "offers", query)
    assert raw("search", "offers", query + " reliability>=1.1") == []
    ids["offer"], ids["next"] = offers[0]["id"], offers[1]["id"]


def create_instance():
    made = raw(
        "create", "instance", str(ids["offer"]),
        "--image", "ghcr.io/huggingface/text-generation-inference:1.0.3", "--disk", "40", "--ssh", "--direct",
        "--label", "first", "--onstart-cmd", "wget -O - https://example.invalid/launch.sh | bash",
        "--env", '-e MODEL_ARGS="--model-id some/model --quantize gptq" -e TOKEN=k -p 3000:3000',
    )
    assert made["success"] and made["instance_api_key"], made
    ids["first"] = made["new_contract"]


def offer_is_gone():
    text = said("create", "instance", "99", "--image", "some/image", "--raw")
    assert "no_such_ask" in text, text


def show_instance():
    row = wait_status(ids["first"], "running")
    assert row["label"] == "first" and row["extra_env"]["TOKEN"] == "k", row
    assert row["public_ipaddr"].strip() == "127.0.0.1", row
    port = row["ports"]["3000/tcp"][0]["HostPort"]
    body = json.dumps({"inputs": "hello", "parameters": {"max_new_tokens": 3}}).encode()
    deadline = time.monotonic() + 60
    while True:
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/generate", body, {"content-type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                assert json.load(answer)["generated_text"]
                return
        except OSError:
            assert time.monotonic() < deadline, "the engine never answers"
            time.sleep(0.2)


def show_instances():
    rows = raw("show", "instances")
    assert [row["id"] for row in rows] == [ids["first"]], rows
    # A column as narrow as a pipe's terminal makes it may cut the id, not the status.
    assert "running" in said("show", "instances")


def logs():
    assert "some/model on port 3000" in said("logs", str(ids["first"]), "--tail", "50")


def label_instance():
    said("label", "instance", str(ids["first"]), "tidegate/inst/endpoint/w1")
    assert raw("show", "instance", str(ids["first"]))["label"] == "tidegate/inst/endpoint/w1"


def stop_and_start():
    assert "stopping" in said("stop", "instance", str(ids["first"]))
    row = wait_status(ids["first"], "stopped")
    assert row["intended_status"] == "stopped" and not row["ports"], row
    assert "starting" in said("start", "instance", str(ids["first"]))
    wait_status(ids["first"], "running")


def reboot():
    said("reboot", "instance", str(ids["first"]))
    wait_status(ids["first"], "running")


def bid():
    offers = raw("search", "offers", query, "--type", "bid", "--storage", "40")
    offer = offers[0]
    price = round(offer["min_bid"] * 1.3, 4)
    made = raw(
        "create", "instance", str(offer["id"]), "--image", "vllm/vllm-openai:latest", "--disk", "40",
        "--bid_price", str(price), "--env", "-p 8000:8000", "--args", "--model", "some/model",
    )
    ids["bid"] = made["new_contract"]
    row = wait_status(ids["bid"], "running")
    assert row["is_bid"] and abs(row["dph_base"] - price) < 1e-9, row
    said("change", "bid", str(ids["bid"]), "--price", str(price * 2))
    row = raw("show", "instance", str(ids["bid"]))
    assert abs(row["dph_base"] - 2 * price) < 1e-9, row


def show_user():
    user = raw("show", "user")
    assert 0 < user["credit"] < 100, user


def charges():
    page = raw("show", "invoices-v1", "--charges")
    rows = {row["source"]: row for row in page["results"]}
    row = rows[f"instance-{ids['first']}"]
    parts = {item["type"]: item["amount"] for item in row["items"]}
    assert parts["gpu"] > 0 and parts["disk"] > 0, row
    assert abs(row["amount"] - sum(parts.values())) < 1e-9, row


def wrong_key():
    done = subprocess.run(
        [str(program), "show", "user", "--url", url, "--api-key", "wrong", "--raw"],
        capture_output=True, text=True, timeout=120,
    )
    assert "Invalid user key" in done.stdout + done.stderr, done


def destroy():
    for name in ("first", "bid"):
        assert "destroying" in said("destroy", "instance", str(ids[name]), "-y")
    assert raw("show", "instances") == []
    gone = said("destroy", "instance", str(ids["first"]), "-y", "--raw")
    assert "no such instance" in gone, gone


checks.run([
    search_offers, create_instance, offer_is_gone, show_instance, show_instances, logs, label_instance, stop_and_start,
    reboot, bid, show_user, charges, wrong_key, destroy,
])
