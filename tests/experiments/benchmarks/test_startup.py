import subprocess
import sys
from pathlib import Path

import pytest

from experiments.benchmarks import startup
from experiments.benchmarks.processes import Timed
from experiments.benchmarks.startup import Case


def times(*processor_s: float) -> list[Timed]:
    """A repetition: the processor times of the baseline and of each command; all wait as long again."""
    return [Timed(2 * one, one, 1) for one in processor_s]


def test_a_ratio_is_that_of_neighbours_in_time():
    """The machine is twice as slow in the second repetition, and once a command is disturbed."""
    cases = [Case("baseline", []), Case("quick", [], 0.6), Case("slow", [], 1.5)]
    figures = startup.ratios(cases, [times(2, 1, 4), times(4, 2, 8), times(2, 50, 4)])
    found = {figure.name: (figure.value, figure.met) for figure in figures}
    assert found == {"quick": (0.5, True), "quick, wall": (0.5, None), "slow": (2, False), "slow, wall": (2, None)}


def test_seconds_are_medians():
    cases = [Case("baseline", []), Case("slow", [])]
    figures = startup.seconds(cases, [times(2, 4), times(3, 9), times(2, 5)])
    assert [(figure.name, figure.value) for figure in figures] == [("baseline, processor", 2), ("slow, processor", 5)]


def test_a_process_is_timed_to_its_end():
    busy = "import time; end = time.process_time() + 0.3\nwhile time.process_time() < end: pass\ntime.sleep(0.2)"
    took = Timed.of([sys.executable, "-c", busy])
    assert took.processor_s >= 0.3
    assert took.wall_s >= 0.5
    assert took.peak_bytes > 2**20


@pytest.mark.parametrize(("ended", "expected"), [(1, 0), (0, 2)])
def test_a_command_that_ends_otherwise_is_not_measured(ended, expected):
    with pytest.raises(subprocess.CalledProcessError):
        Timed.of([sys.executable, "-c", f"raise SystemExit({ended})"], status=expected, quiet=True)


@pytest.mark.slow
def test_every_command_ends_as_it_should(tmp_path: Path):
    cases = startup.commands(tmp_path)
    assert [case.bar for case in cases] == [None, 2.0, 1.3, 0.6, 1.5, 0.5, None, None, None]
    took = [startup._time(case, tmp_path) for case in cases]
    assert min(one.processor_s for one in took) > 0


@pytest.mark.slow
def test_a_sweep_is_measured_without_its_training(tmp_path: Path):
    processor, wall = startup.sweep(tmp_path / "sweep", 2)
    assert 0 < processor.value < wall.value + 10
    assert processor.bar == "<= 0.25"
