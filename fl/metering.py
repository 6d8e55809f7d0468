"""The four seams of measurement, as tidy rows: no protocol and no mechanism knows of them.

Metrics and units: `wall` and `cpu` in seconds, `peak_rss` and `peak_cuda` in bytes, `up_bytes` and `down_bytes` of
protocol records, `envelope_bytes` of routing and configuration.
"""

import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import NamedTuple

import torch
from flwr.app import Array, RecordDict

from fl import devices
from privacy.secure_sum import Contribution, Records, Vector
from results.rows import Row

UNITS = {"wall": "s", "cpu": "s", "peak_rss": "bytes", "peak_cuda": "bytes"}
_RESET_HIGH_WATER = b"5"  # proc(5): writing 5 resets the peak resident set size


class _HighWater:
    """The kernel's mark of this process's peak memory. The files stay open: opening them costs four times a reading."""

    def __init__(self) -> None:
        try:
            self._status: int | None = os.open("/proc/self/status", os.O_RDONLY)
            self._clear: int | None = os.open("/proc/self/clear_refs", os.O_WRONLY)
        except OSError:  # no such kernel, or not allowed
            self._status = self._clear = None

    def reset(self) -> None:
        if self._clear is not None:
            os.pwrite(self._clear, _RESET_HIGH_WATER, 0)

    def read_bytes(self) -> int | None:
        if self._status is None:
            return None
        return int(os.pread(self._status, 8192, 0).split(b"VmHWM:", 1)[1].split(None, 1)[0]) * 1024


@lru_cache(maxsize=1)
def _high_water(_pid: int) -> _HighWater:
    return _HighWater()


def reset_peak_rss() -> None:
    """Start a new high-water mark of this process's memory."""
    _high_water(os.getpid()).reset()


def peak_rss_bytes() -> int | None:
    """The high-water mark since the last reset; None where the kernel has none that can be reset."""
    return _high_water(os.getpid()).read_bytes()


class Clock(NamedTuple):
    """A reading of both clocks, in seconds."""

    wall: float
    cpu: float

    @classmethod
    def read(cls, device: torch.device) -> "Clock":
        """Both clocks now, after the device has finished what it was given."""
        devices.synchronize(device)
        return cls(time.perf_counter(), time.process_time())


class Phases:
    """Time and peak memory of the phases of one reply, kept apart from one another."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.metrics: dict[str, float] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Measure the block as one phase."""
        self._reset_peaks()
        start = Clock.read(self.device)
        yield
        end = Clock.read(self.device)
        self._record(name, end.wall - start.wall, end.cpu - start.cpu)

    def protect(self, respond: Callable[[Contribution], Records], contribution: Contribution) -> Records:
        """Run `respond` and call what it spends outside the contribution the phase `protect`."""
        inside = Clock(0.0, 0.0)
        before: dict[str, float] = {}  # peaks that the contribution's own phases will reset

        def contribute() -> Vector:
            nonlocal inside
            before.update(self._peaks())
            start = Clock.read(self.device)
            vector = contribution()
            end = Clock.read(self.device)
            inside = Clock(inside.wall + end.wall - start.wall, inside.cpu + end.cpu - start.cpu)
            self._reset_peaks()
            return vector

        self._reset_peaks()
        start = Clock.read(self.device)
        records = respond(contribute)
        end = Clock.read(self.device)
        self._record("protect", end.wall - start.wall - inside.wall, end.cpu - start.cpu - inside.cpu)
        for metric, value in before.items():
            self.metrics[f"protect.{metric}"] = max(value, self.metrics[f"protect.{metric}"])
        return records

    def _reset_peaks(self) -> None:
        reset_peak_rss()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)

    def _record(self, name: str, wall_s: float, cpu_s: float) -> None:
        self.metrics[f"{name}.wall"] = wall_s
        self.metrics[f"{name}.cpu"] = cpu_s
        self.metrics |= {f"{name}.{metric}": value for metric, value in self._peaks().items()}

    def _peaks(self) -> dict[str, float]:
        peaks: dict[str, float] = {}
        peak_bytes = peak_rss_bytes()
        if peak_bytes is not None:
            peaks["peak_rss"] = float(peak_bytes)
        if self.device.type == "cuda":
            peaks["peak_cuda"] = float(torch.cuda.max_memory_allocated(self.device))
        return peaks


class Meter:
    """Collects the rows of one round at the server: sums what repeats, and keeps the highest of peaks."""

    def __init__(self) -> None:
        self.round = 0
        self._values: dict[tuple[str, str, str, str], float] = {}

    def add(self, where: str, stage: str, metric: str, value: float, unit: str) -> None:
        """One measurement."""
        key = (where, stage, metric, unit)
        before = self._values.get(key, 0.0)
        self._values[key] = max(before, value) if metric.startswith("peak") else before + float(value)

    @contextmanager
    def span(self, where: str, stage: str, metric: str = "wall") -> Iterator[None]:
        """Wall time of the block, in seconds; recorded also when it raises."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.add(where, stage, metric, time.perf_counter() - start, "s")

    def phases(self, where: str, metrics: Mapping[str, object]) -> None:
        """Rows of what a client reports about its own phases."""
        for name, value in metrics.items():
            stage, _, metric = name.rpartition(".")
            if metric in UNITS and isinstance(value, float) and math.isfinite(value):
                self.add(where, stage, metric, value, UNITS[metric])

    def take(self) -> list[Row]:
        """The rows of the round, which the meter forgets."""
        values, self._values = self._values, {}
        return [Row(self.round, where, stage, metric, v, unit) for (where, stage, metric, unit), v in values.items()]


def serialised_bytes(content: RecordDict, names: tuple[str, ...]) -> int:
    """Bytes of the named records: names, and values as they are serialised for the wire (a number takes 8 bytes)."""
    # not Flower's count_bytes: it refuses empty strings, and counts characters
    records = (content[name] for name in names if name in content)
    return sum(_size(key) + _size(value) for record in records for key, value in record.items())


def _size(value: object) -> int:
    if isinstance(value, Array):
        return len(value.data)
    if isinstance(value, list):
        return sum(map(_size, value))
    return len(value.encode() if isinstance(value, str) else value) if isinstance(value, str | bytes) else 8
