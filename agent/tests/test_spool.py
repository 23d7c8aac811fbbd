"""Measurements wait on disk, in order and bounded, until they are acknowledged."""

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent import servwatch_agent as agent

MAX_BYTES = agent.MIB


def entry(number: int, *, size: int = 0) -> bytes:
    return agent.envelope_encode({"n": number, "padding": "x" * size}, at_us=agent.CLOCK_EARLIEST_US + number)


def numbers_of(batch: agent.Batch | None) -> list[int]:
    assert batch
    content = json.loads(batch.payload)
    return [envelope["value"]["n"] for envelope in (content if isinstance(content, list) else [content])]


def drain(spool: agent.Spool) -> list[int]:
    numbers: list[int] = []
    while batch := spool.take():
        assert len(batch.payload) < 200 * 1024
        assert batch.entries <= agent.BATCH_ENTRIES_MAX
        numbers += numbers_of(batch)
        spool.acknowledge()
    return numbers


def segments(folder: Path) -> list[Path]:
    return sorted(folder.glob("measurements-*"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "spool"


@pytest.fixture
def spool(folder: Path) -> Iterator[agent.Spool]:
    spool = agent.Spool(folder, max_bytes=MAX_BYTES)
    yield spool
    spool.close()


def reopened(spool: agent.Spool) -> agent.Spool:
    spool.close()
    return agent.Spool(spool.folder, max_bytes=MAX_BYTES)


def test_one_entry_goes_as_an_object_and_several_as_an_array(spool: agent.Spool) -> None:
    spool.append(entry(1))
    batch = spool.take()
    assert batch
    assert batch.payload == entry(1)
    spool.append(entry(2))
    spool.append(entry(3))
    spool.acknowledge()
    assert numbers_of(spool.take()) == [2, 3]


def test_it_gives_everything_back_in_order_and_leaves_no_file(spool: agent.Spool, folder: Path) -> None:
    for number in range(1050):
        spool.append(entry(number, size=500))
    assert spool.waiting == 1050
    assert drain(spool) == list(range(1050))
    assert spool.waiting == 0
    assert segments(folder) == []


def test_nothing_is_removed_before_the_acknowledgement(spool: agent.Spool, folder: Path) -> None:
    spool.append(entry(1))
    spool.take()
    assert spool.take() is None
    assert spool.waiting == 1
    assert segments(folder)[0].read_bytes() == entry(1) + b"\n"
    spool.acknowledge()
    assert segments(folder) == []


def test_what_was_not_acknowledged_is_sent_again_after_a_restart_with_the_same_bytes(
    spool: agent.Spool,
) -> None:
    spool.append(entry(1))
    before = spool.take()
    spool.append(entry(2))
    again = reopened(spool)
    assert again.waiting == 2
    assert again.take() == before
    again.acknowledge()
    assert drain(again) == [2]
    again.close()


def test_a_torn_last_line_is_counted_and_does_not_spoil_its_neighbours(
    spool: agent.Spool, folder: Path
) -> None:
    spool.append(entry(1))
    spool.append(entry(2))
    spool.close()
    with segments(folder)[0].open("ab") as file:
        file.write(entry(3)[:20])
    again = agent.Spool(folder, max_bytes=MAX_BYTES)
    again.append(entry(4))
    assert drain(again) == [1, 2, 4]
    assert again.damaged == 1
    again.close()


@pytest.mark.parametrize(
    "rubbish", [b"\0" * 300, b"[1,2]", b'{"at":1}', b"\xff\xfe", b"{" * 5000, b"[" * 100_000, b""]
)
def test_rubbish_between_two_entries_is_left_out(folder: Path, rubbish: bytes) -> None:
    folder.mkdir()
    (folder / "measurements-000000000007.ndjson").write_bytes(
        entry(1) + b"\n" + rubbish + b"\n" + entry(2) + b"\n"
    )
    spool = agent.Spool(folder, max_bytes=MAX_BYTES)
    assert drain(spool) == [1, 2]
    assert spool.damaged == 1
    spool.close()


def test_a_file_longer_than_a_batch_is_sent_in_parts(folder: Path) -> None:
    folder.mkdir()
    (folder / "measurements-000000000001.ndjson").write_bytes(
        b"".join(entry(number, size=3000) + b"\n" for number in range(150))
    )
    spool = agent.Spool(folder, max_bytes=MAX_BYTES)
    assert drain(spool) == list(range(150))
    spool.close()


def test_the_oldest_are_dropped_first_and_counted_also_over_restarts(
    spool: agent.Spool, folder: Path
) -> None:
    for number in range(700):
        spool.append(entry(number, size=2000))
    assert sum(path.stat().st_size for path in segments(folder)) <= MAX_BYTES
    again = reopened(spool)
    assert again.dropped == spool.dropped > 0
    assert drain(again) == list(range(again.dropped, 700))
    again.close()


def test_a_batch_under_way_is_not_dropped(spool: agent.Spool) -> None:
    spool.append(entry(0))
    spool.take()
    for number in range(1, 700):
        spool.append(entry(number, size=2000))
    assert spool.dropped > 0
    spool.acknowledge()
    assert drain(spool) == list(range(1 + spool.dropped, 700))


def test_two_agents_do_not_share_a_spool(spool: agent.Spool, folder: Path) -> None:
    with pytest.raises(agent.AgentError, match="Another agent uses the spool folder"):
        agent.Spool(folder, max_bytes=MAX_BYTES)


def test_a_folder_that_cannot_be_made_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(agent.AgentError, match="cannot be used: Not a directory"):
        agent.Spool(tmp_path / "file" / "spool", max_bytes=MAX_BYTES)


def test_a_folder_removed_underneath_is_counted_and_made_again(spool: agent.Spool, folder: Path) -> None:
    spool.append(entry(1))
    spool.append(entry(2))
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    assert spool.take() is None
    assert spool.damaged == 2
    spool.append(entry(3))
    assert drain(spool) == [3]


def test_an_unreadable_file_does_not_hold_up_the_others(spool: agent.Spool, folder: Path) -> None:
    spool.append(entry(1))
    spool.take()
    spool.append(entry(2))
    spool.acknowledge()
    path = segments(folder)[0]
    path.unlink()
    path.mkdir()
    assert spool.take() is None
    assert spool.damaged == 1
    path.rmdir()
    spool.append(entry(3))
    assert drain(spool) == [3]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 256 KiB."""
    mounted = tmp_path / "disk"
    mounted.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(mounted)], capture_output=True, check=False
    )
    if made.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {made.stderr.decode().strip()}")
    yield mounted
    subprocess.run(["umount", str(mounted)], check=True)


def test_a_full_disk_keeps_the_newest_in_memory_and_later_writes_them(small_disk: Path) -> None:
    filler = small_disk / "filler"
    spool = agent.Spool(small_disk / "spool", max_bytes=MAX_BYTES)
    filler.write_bytes(b"x" * 150_000)
    for number in range(200):
        spool.append(entry(number, size=2000))
    assert spool.trouble == "No space left on device"
    assert spool.dropped == 0
    assert spool.take() is not None
    filler.unlink()
    spool.acknowledge()
    spool.append(entry(200))
    spool.take()
    spool.acknowledge()
    spool.append(entry(201))
    waiting = spool.waiting
    assert spool.trouble == ""
    spool.close()
    again = agent.Spool(small_disk / "spool", max_bytes=MAX_BYTES)
    assert drain(again) == list(range(202 - waiting, 202))
    assert again.damaged == 0
    again.close()


def test_a_disk_full_for_long_drops_the_oldest_and_stays_in_order(small_disk: Path) -> None:
    spool = agent.Spool(small_disk / "spool", max_bytes=16 * MAX_BYTES)
    for number in range(1500):
        spool.append(entry(number, size=2000))
    assert spool.dropped > 0
    assert drain(spool) == list(range(spool.dropped, 1500))
    spool.close()


def test_a_disk_full_from_the_start_still_passes_measurements_on(small_disk: Path) -> None:
    (small_disk / "filler").write_bytes(
        b"x" * os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_bsize
    )
    spool = agent.Spool(small_disk / "spool", max_bytes=MAX_BYTES)
    spool.append(entry(1))
    assert spool.trouble
    assert drain(spool) == [1]
    spool.close()


def test_files_are_for_their_owner_alone(folder: Path) -> None:
    before = os.umask(0o077)
    try:
        spool = agent.Spool(folder, max_bytes=MAX_BYTES)
        spool.append(entry(1))
    finally:
        os.umask(before)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert segments(folder)[0].stat().st_mode & 0o777 == 0o600
    spool.close()


def test_a_clock_that_was_never_set_holds_measurements_and_dates_them_later() -> None:
    dater = agent.Dater()
    assert dater.envelopes({"n": 1}, at_us=5_000_000, running_s=5.0) == []
    assert dater.envelopes({"n": 2}, at_us=15_000_000, running_s=15.0) == []
    assert dater.held == 2
    set_us = agent.CLOCK_EARLIEST_US + 60_000_000
    lines = dater.envelopes({"n": 3}, at_us=set_us, running_s=25.0)
    assert [json.loads(line)["at"] for line in lines] == [
        "2026-01-01T00:00:40.000000Z",
        "2026-01-01T00:00:50.000000Z",
        "2026-01-01T00:01:00.000000Z",
    ]
    assert dater.held == 0


def test_a_jump_of_the_clock_is_noticed_and_drift_is_not() -> None:
    dater = agent.Dater()
    assert dater.jump_s(at_us=100_000_000, running_s=10.0) == 0
    assert dater.jump_s(at_us=110_400_000, running_s=20.0) == 0
    assert dater.jump_s(at_us=3_720_400_000, running_s=30.0) == pytest.approx(3600)
    assert dater.jump_s(at_us=130_400_000, running_s=40.0) == pytest.approx(-3600)


def test_times_are_utc_with_microseconds() -> None:
    assert agent.time_iso(1_767_225_600_000_007) == "2026-01-01T00:00:00.000007Z"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", agent.time_iso(agent.now_us()))
