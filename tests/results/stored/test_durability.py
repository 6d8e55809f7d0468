"""The files of a run's folder are never written in place, and are on the disk once they have their names."""

from pathlib import Path

import pytest

from results.measurements import Row
from results.rows import to_frame
from results.store import CONFIG, ROWS, STATUS, SUMMARY, RunDirectory, open_run
from tests.results.samples import canonical, configuration
from tests.scenery.durability import assert_durable, disk_events

TEXT = canonical(configuration())
FRAME = to_frame("r", [Row(1, "server", "round", "wall", 0.5, "s")])


def write(folder: Path) -> None:
    with open_run(folder, TEXT, "seed: 1\n", False) as run:
        run.write_rows(FRAME)
        run.write_environment({"python": "3"})
        run.write_summary({"accuracy": 0.5})
        run.write_status("running")


@pytest.mark.parametrize("name", [CONFIG, "config.yaml", ROWS, "environment.json", SUMMARY, STATUS])
def test_each_file_of_a_run_is_synced_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    events = disk_events(monkeypatch)
    write(tmp_path / "run")
    assert_durable(events, tmp_path / "run" / name)


@pytest.mark.parametrize("name", [ROWS, SUMMARY, STATUS])
def test_who_reads_a_file_while_it_is_replaced_reads_the_old_one(tmp_path: Path, name: str) -> None:
    write(tmp_path / "run")
    old = (tmp_path / "run" / name).read_bytes()
    run = RunDirectory(tmp_path / "run")
    with (tmp_path / "run" / name).open("rb") as reader:
        run.write_rows(FRAME[:0])
        run.write_summary({"accuracy": 0.75})
        run.write_status("finished")
        assert reader.read() == old
    assert (tmp_path / "run" / name).read_bytes() != old
