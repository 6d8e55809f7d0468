import io
import mmap
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from flwr.common.serde_utils import record_value_dict_to_proto
from flwr.proto.recorddict_pb2 import ConfigRecordValue

from fl.metering import Meter, Phases, peak_rss_bytes, reset_peak_rss, serialised_bytes
from fl.transport import ARRAYS, SCALARS, pack

CPU = torch.device("cpu")
ROOT = Path(__file__).parents[2]
MB = 1_000_000
BLOCK_BYTES = 50 * MB
SLACK_BYTES = 8 * MB
needs_high_water = pytest.mark.skipif(peak_rss_bytes() is None, reason="this kernel has no resettable high-water mark")


def allocate() -> None:
    """Touch pages of the kernel's own, and give them back: malloc may keep what it frees, and serve it from there."""
    with mmap.mmap(-1, BLOCK_BYTES) as block:
        for start in range(0, BLOCK_BYTES, mmap.PAGESIZE):
            block[start] = 1


@needs_high_water
def test_memory_belongs_to_the_phase_that_took_it():
    phases = Phases(CPU)
    phases.end("before")
    allocate()
    phases.end("large")
    phases.end("after")
    before, large, after = (phases.metrics()[f"{name}.peak_rss"] for name in ("before", "large", "after"))
    assert large - before == pytest.approx(BLOCK_BYTES, abs=SLACK_BYTES)
    assert abs(after - before) < SLACK_BYTES


@needs_high_water
def test_the_mark_is_in_bytes_and_is_that_of_the_kernel():
    reset_peak_rss()
    resident_bytes = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    assert peak_rss_bytes() == pytest.approx(resident_bytes, abs=SLACK_BYTES)


@needs_high_water
@pytest.mark.parametrize("early", [True, False])
def test_a_phase_in_two_parts_has_the_memory_of_both(early):
    phases = Phases(CPU)
    for part in (early, not early):
        if part:
            allocate()
        phases.end("protect")
        phases.end("train")
    metrics = phases.metrics()
    assert metrics["protect.peak_rss"] - metrics["train.peak_rss"] == pytest.approx(BLOCK_BYTES, abs=SLACK_BYTES)


@needs_high_water
def test_the_mark_is_not_that_of_the_process_before_exec():
    """getrusage remembers the parent that a child was forked from, and cannot be reset."""
    parent = np.ones(400 * MB // 8)
    code = "import resource; from fl.metering import peak_rss_bytes; kept = resource.getrusage(resource.RUSAGE_SELF)"
    code += "; print(kept.ru_maxrss * 1024, peak_rss_bytes())"
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    remembered_bytes, peak_bytes = map(int, out.split())
    assert parent.nbytes < remembered_bytes
    assert peak_bytes < remembered_bytes - 50 * MB


def spin(seconds: float) -> None:
    ends = time.process_time() + seconds
    while time.process_time() < ends:
        pass


@pytest.mark.alone
def test_times_belong_to_their_phases_and_those_of_a_name_add_up():
    phases = Phases(CPU)
    spin(0.03)
    phases.end("protect")
    spin(0.2)
    time.sleep(0.2)
    phases.end("train")
    time.sleep(0.05)
    phases.end("protect")
    metrics = phases.metrics()
    assert 0.03 <= metrics["protect.cpu"] < 0.1
    assert 0.08 <= metrics["protect.wall"] < 0.2
    assert metrics["train.cpu"] >= 0.19
    assert metrics["train.wall"] >= 0.39


@pytest.mark.alone
def test_wall_and_cpu_time_are_told_apart():
    phases = Phases(CPU)
    time.sleep(0.1)
    phases.end("sleep")
    spin(0.05)
    phases.end("work")
    metrics = phases.metrics()
    assert metrics["sleep.wall"] >= 0.1
    assert metrics["sleep.cpu"] < 0.05
    assert 0.049 <= metrics["work.cpu"] <= metrics["work.wall"] + 0.01


def test_a_meter_adds_up_what_repeats_and_keeps_the_highest_of_peaks():
    meter = Meter()
    meter.round = 4
    for value in (1.0, 2.5):
        meter.add("client/1", "collect", "up_bytes", value, "bytes")
    for value in (7.0, 9.0, 8.0):
        meter.add("client/1", "train", "peak_rss", value, "bytes")
    meter.add("client/2", "collect", "up_bytes", 5, "bytes")
    assert {(row.where, row.metric): row.value for row in meter.take()} == {
        ("client/1", "up_bytes"): 3.5,
        ("client/1", "peak_rss"): 9.0,
        ("client/2", "up_bytes"): 5.0,
    }


def test_a_meter_forgets_what_was_taken_and_numbers_by_round():
    meter = Meter()
    meter.round = 1
    meter.add("server", "a", "wall", 1.0, "s")
    assert [row.round for row in meter.take()] == [1]
    meter.round = 2
    meter.add("server", "a", "wall", 2.0, "s")
    assert [(row.round, row.value) for row in meter.take()] == [(2, 2.0)]
    assert meter.take() == []


def test_a_span_is_recorded_also_when_it_fails():
    meter = Meter()

    def fail():
        with meter.span("server", "step"):
            time.sleep(0.02)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    (row,) = meter.take()
    assert (row.where, row.stage, row.metric, row.unit) == ("server", "step", "wall", "s")
    assert 0.02 <= row.value < 1


def test_a_clients_report_becomes_rows_with_units_and_nothing_else_does():
    meter = Meter()
    reported = {
        "train.wall": 1.5,
        "train.peak_rss": 10.0,
        "a.b.cpu": 2.0,
        "loss": 3.0,
        "train.up_bytes": 99,
        "x.wall": [1.0],
    }
    meter.phases("client/1", MetricRecord(reported))
    assert {(row.stage, row.metric, row.value, row.unit) for row in meter.take()} == {
        ("train", "wall", 1.5, "s"),
        ("train", "peak_rss", 10.0, "bytes"),
        ("a.b", "cpu", 2.0, "s"),
    }


def npy_bytes(array: np.ndarray) -> int:
    file = io.BytesIO()
    np.save(file, array)
    return len(file.getvalue())


@pytest.mark.parametrize("length", [0, 1, 1000])
@pytest.mark.parametrize("kind", [np.float32, np.uint64])
def test_bytes_of_an_array_are_those_of_its_file(length, kind):
    array = np.zeros(length, kind)
    assert serialised_bytes(pack({"vector": array}), (ARRAYS,)) == npy_bytes(array) + len("vector")


def protobuf_bytes(record: ConfigRecord) -> int:
    """Bytes of Flower's wire format, without its framing of keys and types (at most 12 bytes a value)."""
    values = record_value_dict_to_proto(record, [bool, int, float, str, bytes], ConfigRecordValue)
    return sum(len(key.encode()) + value.ByteSize() for key, value in values.items())


@pytest.mark.parametrize("value", ["", "short", "größer" * 50, 0, 1, -(2**62), 2.5])
def test_bytes_of_scalars_are_those_of_the_wire_within_its_framing(value):
    content = pack({"name": value})
    assert abs(serialised_bytes(content, (SCALARS,)) - protobuf_bytes(content[SCALARS])) <= 12


@pytest.mark.parametrize("value", [b"", b"x", bytes(1000)])
def test_bytes_count_as_they_are(value):
    assert serialised_bytes(pack({"blob": value}), (ARRAYS,)) == len(value) + len("blob")


def test_only_the_named_records_count():
    content = RecordDict(
        {"arrays": ArrayRecord({"a": Array(np.zeros(2))}), "model": ArrayRecord({"m": Array(np.zeros(9))})}
    )
    content["scalars"] = ConfigRecord({"s": "abc"})
    content["metrics"] = MetricRecord({"x": 1.0})
    assert serialised_bytes(content, ("arrays", "scalars", "missing")) == npy_bytes(np.zeros(2)) + 1 + 3 + 1


def test_quartiles_are_of_what_clients_told_and_not_of_the_servers_own():
    meter = Meter()
    for client, norm in enumerate([4.0, 1.0, 3.0, 2.0, 5.0]):
        meter.add(f"client/{client}", "client_dp", "update_norm", norm, "1")
    meter.add("server", "client_dp", "update_norm", 1000.0, "1")
    meter.add("client/0", "client_dp", "clip", 900.0, "1")
    meter.quantiles("update_norm")
    told = {row.metric: row.value for row in meter.take() if row.where == "server"}
    assert told == {"update_norm": 1000.0, "update_norm_q25": 2.0, "update_norm_q50": 3.0, "update_norm_q75": 4.0}
