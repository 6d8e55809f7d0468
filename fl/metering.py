"""The four seams of measurement, as tidy rows: no protocol and no mechanism knows of them.

Metrics and units: `wall` and `cpu` in seconds, `peak_rss` and `peak_cuda` in bytes, `up_bytes` and `down_bytes` of
protocol records, `envelope_bytes` of routing and configuration. Each party of a committee reports its own `comm_bytes`,
sent and received, `comm_rounds` and `comm_wall`, for the messages between parties.

The steps that protocols report (`privacy.spans`) split these times. A step's stage is PHASE/STEP, its metric `part`:
`protect/encrypt` lies inside `protect`'s `wall` at the same client, `collect/add` inside `collect`'s `compute` at the
server. Parts do not overlap, so the parts of a phase add up to at most the phase. The metric `part` is distinct from
`wall` and `compute`, so sums over these count no time twice. `ciphertexts` and `ciphertext_bytes` count the ciphertexts
that a participant made in a phase.
"""

import math
import os
import resource
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from importlib import import_module
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from flwr.app import Array, RecordDict

from privacy.spans import Recorder, recording
from results.measurements import COMPILE, EVALUATE, PART, WITNESS, Row

if TYPE_CHECKING:
    import torch

T = TypeVar("T")
_METRICS = {
    "s": ("wall", "cpu", "comm_wall", PART),
    "bytes": ("peak_rss", "peak_cuda", "ciphertext_bytes", "comm_bytes"),
    "1": ("clipped_values", "noised_values_cut", "ciphertexts", "comm_rounds"),
}
UNITS = {metric: unit for unit, metrics in _METRICS.items() for metric in metrics}
# diagnostics of mechanisms: the first three are exact figures about private values, which no epsilon covers; the others
# are computed from noised values
DIAGNOSTICS = dict.fromkeys(("clipped_fraction", "update_norm", "not_finite", "signal_to_noise", "clip"), "1")
SCORES = dict.fromkeys((f"{EVALUATE}.accuracy", f"{EVALUATE}.loss"), "1")  # of a client, on its own examples
_RESET_HIGH_WATER = b"5"  # proc(5): writing 5 resets the peak resident set size


class _HighWater:
    """The kernel's mark of this process's peak memory. The files stay open: to open one costs four times a reading."""

    def __init__(self) -> None:
        try:
            self._status: int | None = os.open("/proc/self/status", os.O_RDONLY)
            self._clear: int | None = os.open("/proc/self/clear_refs", os.O_WRONLY)
        except OSError:  # the kernel has no such files, or denies access
            self._status = self._clear = None
        self.reset()
        self._floor_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def reset(self) -> None:
        if self._clear is not None:
            os.pwrite(self._clear, _RESET_HIGH_WATER, 0)

    def read_bytes(self, usage: resource.struct_rusage) -> int | None:
        if self._status is None:
            return None
        # getrusage returns the greater of the mark and the peak before exec, in a tenth of the time
        if usage.ru_maxrss > self._floor_kib:
            return usage.ru_maxrss * 1024
        return int(os.pread(self._status, 8192, 0).split(b"VmHWM:", 1)[1].split(None, 1)[0]) * 1024


@lru_cache(maxsize=1)
def _high_water(_pid: int) -> _HighWater:
    return _HighWater()


def reset_peak_rss() -> None:
    """Start a new high-water mark of this process's memory."""
    _high_water(os.getpid()).reset()


def peak_rss_bytes() -> int | None:
    """Return the high-water mark since the last reset; None where the kernel has no mark that can be reset."""
    return _high_water(os.getpid()).read_bytes(resource.getrusage(resource.RUSAGE_SELF))


def parts(phase: str, recorder: Recorder) -> dict[str, float]:
    """Return the measurements recorded within a phase, by `stage.metric`."""
    steps = {f"{phase}/{step}.{PART}": seconds for step, seconds in recorder.seconds.items()}
    return steps | {f"{phase}.{name}": float(value) for name, value in recorder.notes.items()}


class Phases:
    """Time and peak memory of one reply: each phase starts where the phase before it ends."""

    def __init__(self, device: "torch.device") -> None:
        self._device = device
        self._cuda = import_module("torch.cuda") if device.type == "cuda" else None  # who relays needs no torch
        self._mark = _high_water(os.getpid())
        self.diagnostics: Mapping[str, float] = {}
        self.scores: Mapping[str, float] = {}  # of the model that a client got, on its own examples
        self.cut: dict[str, int] = {}  # number of values that were cut to the bound of the range, by metric
        self._closed: list[tuple[str, float, float, float | None, float | None]] = []
        usage = self._read()
        self._begin(usage)

    def _read(self) -> resource.struct_rusage:
        if self._cuda is not None:  # work that is queued on the device belongs to the phase
            self._cuda.synchronize(self._device)
        self._now_s = time.perf_counter()
        return resource.getrusage(resource.RUSAGE_SELF)

    def _begin(self, usage: resource.struct_rusage) -> None:
        self._wall_s = self._now_s
        self._cpu_s = usage.ru_utime + usage.ru_stime
        self._mark.reset()
        if self._cuda is not None:
            self._cuda.reset_peak_memory_stats(self._device)

    def end(self, name: str, share: Mapping[str, float] | None = None) -> None:
        """Close a phase and begin the next. A name may occur more than once.

        `share` replaces what was measured, by metric, where the phase did the work of several participants.
        """
        usage = self._read()
        if share is not None:
            self._closed.append((name, share["wall"], share["cpu"], share.get("peak_rss"), share.get("peak_cuda")))
            self._begin(usage)
            return
        wall_s = self._now_s - self._wall_s
        cpu_s = usage.ru_utime + usage.ru_stime - self._cpu_s
        taken_bytes = None if self._cuda is None else float(self._cuda.max_memory_allocated(self._device))
        self._closed.append((name, wall_s, cpu_s, self._mark.read_bytes(usage), taken_bytes))
        self._begin(usage)

    def compiled(self, wall_s: float) -> None:
        """Add a phase of compilation, which no other phase counts."""
        if wall_s:
            self._closed.append((COMPILE, wall_s, 0.0, None, None))

    def metrics(self) -> dict[str, float]:
        """Return all phases by `name.metric`: sums of times, the highest peaks, and the mechanisms' diagnostics."""
        found: dict[str, float] = dict(self.diagnostics)
        found |= {f"{EVALUATE}.{metric}": value for metric, value in self.scores.items()}
        found |= {f"flatten.{metric}": float(number) for metric, number in self.cut.items() if number}
        for name, wall_s, cpu_s, peak_bytes, taken_bytes in self._closed:
            found[f"{name}.wall"] = found.get(f"{name}.wall", 0.0) + wall_s
            found[f"{name}.cpu"] = found.get(f"{name}.cpu", 0.0) + cpu_s
            for metric, value in (("peak_rss", peak_bytes), ("peak_cuda", taken_bytes)):
                if value is not None:
                    found[f"{name}.{metric}"] = max(found.get(f"{name}.{metric}", 0.0), float(value))
        return found


def measured(device: "torch.device", work: Callable[[], T]) -> tuple[T, dict[str, float]]:
    """Return the result of a call, and its costs by metric."""
    phases = Phases(device)
    result = work()
    phases.end("work")
    return result, {name.removeprefix("work."): value for name, value in phases.metrics().items()}


class Meter:
    """The collector of one round's rows at the server: it sums repeated measurements, and keeps the highest peaks."""

    def __init__(self) -> None:
        self.round = 0
        self._values: dict[tuple[str, str, str, str], float] = {}

    def add(self, where: str, stage: str, metric: str, value: float, unit: str) -> None:
        """Add one measurement."""
        key = (where, stage, metric, unit)
        before = self._values.get(key, 0.0)
        self._values[key] = max(before, value) if metric.startswith("peak") else before + float(value)

    @contextmanager
    def span(self, where: str, stage: str, metric: str = "wall") -> Iterator[None]:
        """Record the wall time of the block, in seconds, also when it raises."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.add(where, stage, metric, time.perf_counter() - start, "s")

    @contextmanager
    def compute(self, stage: str) -> Iterator[None]:
        """Record the server's time in a protocol, and the parts that it reports, also when the block raises."""
        recorder = Recorder()
        try:
            with self.span("server", stage, "compute"), recording(recorder):
                yield
        finally:
            self.phases("server", parts(stage, recorder))

    def phases(self, where: str, metrics: Mapping[str, object]) -> None:
        """Add rows from a client's report about its own phases."""
        for name, value in metrics.items():
            stage, _, metric = name.rpartition(".")
            unit = UNITS.get(metric) or DIAGNOSTICS.get(metric) or SCORES.get(name)
            if unit and isinstance(value, float) and math.isfinite(value):
                self.add(where, stage, metric, value, unit)

    def quantiles(self, metric: str) -> None:
        """Add rows of the server with the quartiles of the clients' values of a metric, by stage."""
        told: dict[str, list[float]] = defaultdict(list)
        for (where, stage, name, _), value in self._values.items():
            if name == metric and where != "server":
                told[stage].append(value)
        for stage, values in told.items():
            for percent in (25, 50, 75):
                self.add("server", stage, f"{metric}_q{percent}", float(np.percentile(values, percent)), "1")

    def values(self, metrics: Collection[str]) -> dict[str, float]:
        """Return what each participant told in this round of any of some metrics, at any stage, summed."""
        told: dict[str, float] = defaultdict(float)
        for (where, _, name, _), value in self._values.items():
            if name in metrics:
                told[where] += value
        return dict(told)

    def witnessing_s(self, lanes: int) -> float:
        """Return how long a round waited for its clients' witnesses, in seconds, where `lanes` clients ran at once.

        The result is exact where the clients ran in turn; elsewhere it is a lower bound.
        """
        each = [value for (_, stage, name, _), value in self._values.items() if (stage, name) == (WITNESS, "wall")]
        return max(max(each, default=0.0), sum(each) / lanes)

    def take(self) -> list[Row]:
        """Return the rows of the round, and remove them from the meter."""
        values = self._values
        self._values = {}
        return [Row(self.round, where, stage, metric, v, unit) for (where, stage, metric, unit), v in values.items()]


def serialised_bytes(content: RecordDict, names: tuple[str, ...]) -> int:
    """Count the bytes of the named records: names, and values as serialised for the wire (a number takes 8 bytes)."""
    # not Flower's count_bytes: that refuses empty strings, and counts characters
    records = (content[name] for name in names if name in content)
    return sum(_size(key) + _size(value) for record in records for key, value in record.items())


def _size(value: object) -> int:
    if isinstance(value, Array):
        return len(value.data)
    if isinstance(value, list):
        return sum(map(_size, value))
    return len(value.encode() if isinstance(value, str) else value) if isinstance(value, str | bytes) else 8
