"""What is measured, on the machine the tests run on."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent import servwatch_agent as agent


def key_paths(value: object, *, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], object]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from key_paths(inner, path=(*path, key))
    else:
        yield path, value


@pytest.fixture(scope="module")
def metrics() -> dict[str, Any]:
    return agent.Collector(log=agent.Log()).collect()


def test_it_measures_every_room_of_this_machine(metrics: dict[str, Any]) -> None:
    assert {
        "cpu",
        "load",
        "memory",
        "swap",
        "disks",
        "uptime_s",
        "processes",
        "clock",
        "agent",
    } <= metrics.keys()


def test_every_value_is_a_finite_number_below_a_usable_key(metrics: dict[str, Any]) -> None:
    paths = list(key_paths(metrics))
    assert all(type(value) in (int, float) for _, value in paths)
    assert all(key and "\0" not in key for path, _ in paths for key in path)
    assert json.loads(json.dumps(metrics, allow_nan=False)) == metrics


def test_cpu_is_in_percent_and_says_how_idle(metrics: dict[str, Any]) -> None:
    cpu = metrics["cpu"]
    assert 0 <= cpu["idle"] <= 100
    shares = [value for name, value in cpu.items() if name not in ("total", "count")]
    assert sum(shares) == pytest.approx(100, abs=0.1)
    assert cpu["count"] == os.cpu_count()


def test_load_comes_with_a_figure_per_core(metrics: dict[str, Any]) -> None:
    load = metrics["load"]
    assert load["load1_per_core"] == pytest.approx(load["load1"] / (os.cpu_count() or 1), abs=0.01)


def test_memory_and_disks_add_up(metrics: dict[str, Any]) -> None:
    assert 0 < metrics["memory"]["available_bytes"] <= metrics["memory"]["total_bytes"]
    root = metrics["disks"]["/"]
    assert root["used_bytes"] + root["free_bytes"] <= root["total_bytes"]
    assert 0 <= root["used_pct"] <= 100


def test_processes_are_counted(metrics: dict[str, Any]) -> None:
    assert metrics["processes"]["total"] >= 2
    assert metrics["processes"]["threads"] >= metrics["processes"]["running"] >= 1


def test_loopback_and_containers_ends_are_left_out(metrics: dict[str, Any]) -> None:
    assert "lo" not in metrics.get("network", {})
    skipped = ("lo", "veth1a2b", "docker0", "br-0f1e", "virbr0", "cali123", "ifb0", "sit0", "gretap0")
    measured = ("eth0", "enp3s0", "wlan0", "bond0", "br0", "wg0", "lan0", "green0", "tun0")
    assert [name for name in skipped if not agent.SKIPPED_INTERFACES.match(name)] == []
    assert [name for name in measured if agent.SKIPPED_INTERFACES.match(name)] == []


def test_rates_are_growth_per_second() -> None:
    before = {"eth0": {"rx_bytes_s": 1000.0, "tx_bytes_s": 50.0}}
    after = {"eth0": {"rx_bytes_s": 3000.0, "tx_bytes_s": 50.0}}
    assert agent.rates_between(before, after=after, elapsed_s=10) == {
        "eth0": {"rx_bytes_s": 200.0, "tx_bytes_s": 0.0}
    }


def test_a_counter_that_fell_or_is_new_has_no_rate() -> None:
    before = {"eth0": {"rx_bytes_s": 1000.0}}
    after = {"eth0": {"rx_bytes_s": 5.0}, "eth1": {"rx_bytes_s": 7.0}}
    assert agent.rates_between(before, after=after, elapsed_s=10) == {}


def test_no_time_between_two_readings_makes_no_rates_but_still_a_cpu() -> None:
    group = {"sda": {"reads_s": 1.0}}
    assert agent.rates_between(group, after=group, elapsed_s=0) == {}
    times = {"user": 25.0, "idle": 75.0}
    assert agent.cpu_metrics(times, after=times)["idle"] == 75.0


def test_a_machine_with_hundreds_of_everything_stays_below_a_thousand_paths(metrics: dict[str, Any]) -> None:
    names = [f"device-{number:03d}" for number in range(500)]
    disks = agent.names_picked(names, limit=agent.DISKS_MAX)
    devices = agent.names_picked(names, limit=agent.DISK_DEVICES_MAX)
    interfaces = agent.names_picked(names, limit=agent.INTERFACES_MAX)
    disk = agent.disk_usage(os.statvfs("/"))
    fixed = {name: metrics[name] for name in ("cpu", "load", "memory", "swap", "uptime_s", "processes")}
    full = {
        **fixed,
        "disks": dict.fromkeys(disks, disk),
        "disk_io": dict.fromkeys(devices, dict.fromkeys("abcde", 1.0)),
        "network": dict.fromkeys(interfaces, dict.fromkeys("abcdefgh", 1.0)),
        "temperatures": dict.fromkeys(names[: agent.TEMPERATURES_MAX], 1.0),
    }
    assert len(list(key_paths(full))) < 1000
    assert len(agent.envelope_encode(full, at_us=0)) < agent.BATCH_BYTES_MAX


def test_what_is_dropped_at_the_limit_are_the_mapped_devices() -> None:
    names = ["sdb", "dm-1", "nvme0n1", "dm-0", "sda"]
    assert agent.names_picked(names, limit=4, last=("dm-",)) == ["nvme0n1", "sda", "sdb", "dm-0"]


def test_the_version_can_be_compared(metrics: dict[str, Any]) -> None:
    assert metrics["agent"] == {"version_number": 200}
    assert agent.VERSION == "0.2.0"


def test_the_kernel_says_how_far_the_clock_may_be_off(metrics: dict[str, Any]) -> None:
    assert 0 <= metrics["clock"]["error_s"] < 3600


def test_only_another_boot_than_the_first_is_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    boot_id = tmp_path / "boot_id"
    monkeypatch.setattr(agent, "uptime_s", lambda: 30.0)
    said = []
    for boot in ("first", "first", "second", "second"):  # the agent is restarted once in each
        boot_id.write_text(boot)
        said.append(agent.BootWatch(tmp_path, boot_id=boot_id).metrics())
    assert said == [{"rebooted": 0}, {"rebooted": 0}, {"rebooted": 1}, {"rebooted": 1}]
    monkeypatch.setattr(agent, "uptime_s", lambda: 600.0)
    assert agent.BootWatch(tmp_path, boot_id=boot_id).metrics() == {"rebooted": 0}
    assert agent.BootWatch(tmp_path / "none", boot_id=boot_id).metrics() == {}


def test_a_file_system_that_is_gone_is_left_out() -> None:
    assert agent.disk_metrics(["/", "/there/is/no/such/mount"]).keys() == {"/"}


def test_keys_made_of_any_bytes_can_be_stored() -> None:
    mount = os.fsdecode(b"/mnt/\xff\xfe\x01 name:with\\signs")
    key = agent.key_clean(mount)
    assert key == "/mnt/??? name:with\\signs"
    assert key.encode("utf-8")
    assert len(agent.key_clean("x" * 5000)) == agent.KEY_LENGTH_MAX


def test_a_reading_that_fails_is_said_once_and_the_others_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken() -> None:
        raise RuntimeError("odd sensor")

    monkeypatch.setattr(agent, "temperature_metrics", broken)
    collector = agent.Collector(log=agent.Log())
    first, second = collector.collect(), collector.collect()
    assert "temperatures" not in first
    assert first.keys() & second.keys() >= {"cpu", "memory", "disks"}
    assert capsys.readouterr().err.count("Cannot read temperatures: odd sensor.") == 1
