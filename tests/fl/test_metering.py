import io
import os
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
MB = 1_000_000
BLOCK_BYTES = 50 * MB
SLACK_BYTES = 8 * MB
needs_high_water = pytest.mark.skipif(peak_rss_bytes() is None, reason="this kernel has no resettable high-water mark")


def allocate() -> None:
    assert np.ones(BLOCK_BYTES // 8).sum() > 0  # touched, and gone at once


@needs_high_water
def test_memory_belongs_to_the_phase_that_took_it():
    phases = Phases(CPU)
    with phases.phase("before"):
        pass
    with phases.phase("large"):
        allocate()
    with phases.phase("after"):
        pass
    before, large, after = (phases.metrics[f"{name}.peak_rss"] for name in ("before", "large", "after"))
    assert large - before == pytest.approx(BLOCK_BYTES, abs=SLACK_BYTES)
    assert abs(after - before) < SLACK_BYTES


@needs_high_water
def test_the_mark_is_in_bytes_and_is_that_of_the_kernel():
    reset_peak_rss()
    resident_bytes = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    assert peak_rss_bytes() == pytest.approx(resident_bytes, abs=SLACK_BYTES)


@needs_high_water
@pytest.mark.parametrize("early", [True, False])
def test_protection_has_the_memory_of_both_its_halves(early):
    phases = Phases(CPU)

    def respond(contribution):
        if early:
            allocate()
        contribution()
        if not early:
            allocate()
        return {}

    def contribution():
        with phases.phase("train"):
            pass
        return np.zeros(1, np.float32)

    phases.protect(respond, contribution)
    taken = phases.metrics["protect.peak_rss"] - phases.metrics["train.peak_rss"]
    assert taken == pytest.approx(BLOCK_BYTES, abs=SLACK_BYTES)


@needs_high_water
def test_protection_does_not_have_the_memory_of_the_contribution():
    phases = Phases(CPU)

    def contribution():
        with phases.phase("train"):
            allocate()
        return np.zeros(1, np.float32)

    phases.protect(lambda contribute: {"vector": contribute()}, contribution)
    taken = phases.metrics["train.peak_rss"] - phases.metrics["protect.peak_rss"]
    assert taken == pytest.approx(BLOCK_BYTES, abs=SLACK_BYTES)


def spin(seconds: float) -> None:
    ends = time.process_time() + seconds
    while time.process_time() < ends:
        pass


def test_protection_excludes_the_time_of_the_contribution():
    phases = Phases(CPU)

    def respond(contribution):
        spin(0.03)
        vector = contribution()
        time.sleep(0.05)
        return {"vector": vector}

    def contribution():
        spin(0.2)
        time.sleep(0.2)
        return np.arange(3, dtype=np.float32)

    started = time.perf_counter()
    records = phases.protect(respond, contribution)
    whole = time.perf_counter() - started
    assert records["vector"].tolist() == [0, 1, 2]
    assert 0.03 <= phases.metrics["protect.cpu"] < 0.1
    assert 0.08 <= phases.metrics["protect.wall"] <= whole - 0.4


def test_a_protocol_that_asks_for_nothing_is_all_protection():
    phases = Phases(CPU)
    phases.protect(lambda _contribute: spin(0.03) or {}, lambda: pytest.fail("trained"))
    assert phases.metrics["protect.cpu"] >= 0.03


def test_wall_and_cpu_time_are_told_apart():
    phases = Phases(CPU)
    with phases.phase("sleep"):
        time.sleep(0.1)
    with phases.phase("work"):
        spin(0.05)
    assert phases.metrics["sleep.wall"] >= 0.1
    assert phases.metrics["sleep.cpu"] < 0.05
    assert 0.05 <= phases.metrics["work.cpu"] <= phases.metrics["work.wall"] + 0.01


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
    """What Flower puts on the wire, less its own framing of keys and types (at most 12 bytes a value)."""
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


def test_measuring_a_phase_costs_little():
    phases = Phases(CPU)
    times_s = []
    for _ in range(5):
        started = time.perf_counter()
        for _ in range(20):
            with phases.phase("empty"):
                pass
        times_s.append((time.perf_counter() - started) / 20)
    assert min(times_s) < 0.002  # a client's round has some five phases
