"""Files that must outlive a crash: never written in place, and on the disk before anybody acts on them."""

import os
import stat

import pytest
import torch
from dp_accounting import GaussianDpEvent

from fl.checkpoint import Checkpoints, State
from fl.keys import folders as keys
from fl.keys.folders import FileStore
from fl.ledger import NAME, LedgerFile
from privacy.accounting.charges import Charge
from results.measurements import Row
from tests.scenery.durability import assert_durable, disk_events

CHECKPOINT = "round-000001.ckpt"
ROWS = "round-000001.parquet"


def save(folder, weight=1.0):
    Checkpoints(folder, 2).save(State("r", 1, torch.tensor([weight]), {}, "now"), [Row(1, "server", "a", "b", 1, "s")])


@pytest.mark.parametrize("name", [CHECKPOINT, ROWS])
def test_a_checkpoint_and_its_rows_are_synced_before_they_have_their_names(tmp_path, monkeypatch, name):
    events = disk_events(monkeypatch)
    save(tmp_path)
    assert_durable(events, tmp_path / name)


def test_rows_are_on_the_disk_before_the_checkpoint_that_counts_them(tmp_path, monkeypatch):
    """A checkpoint without its rows would lose them: the run goes on after it."""
    events = disk_events(monkeypatch)
    save(tmp_path)
    named = [("name", (tmp_path / name).stat().st_ino) for name in (ROWS, CHECKPOINT)]
    assert [event for event in events if event in named] == named


@pytest.mark.parametrize("name", [CHECKPOINT, ROWS])
def test_who_reads_a_checkpoint_while_it_is_replaced_reads_the_old_one(tmp_path, name):
    save(tmp_path)
    old = (tmp_path / name).read_bytes()
    with (tmp_path / name).open("rb") as reader:
        save(tmp_path, 2.0)
        assert reader.read() == old
        assert os.fstat(reader.fileno()).st_nlink == 0, "the old file was written over"


@pytest.mark.parametrize("mask", [0o022, 0o000])
def test_a_checkpoint_is_for_its_owner_alone(tmp_path, mask):
    """It may hold noise that nobody may subtract. Also while it is written, and whatever the process's mask."""
    seen = []
    write_bytes = type(tmp_path).write_bytes

    def looking(path, content):
        written = write_bytes(path, content)
        seen.append(stat.S_IMODE(path.stat().st_mode))
        return written

    before = os.umask(mask)
    try:
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(type(tmp_path), "write_bytes", looking)
            save(tmp_path)
            save(tmp_path, 2.0)
    finally:
        os.umask(before)
    assert set(seen) == {0o600}
    assert stat.S_IMODE((tmp_path / CHECKPOINT).stat().st_mode) == 0o600


def test_what_a_role_puts_is_replaced_and_synced(tmp_path, monkeypatch):
    store = FileStore(tmp_path / "own")
    store.put("name", b"old")
    with (tmp_path / "own" / "name").open("rb") as reader:
        events = disk_events(monkeypatch)
        store.put("name", b"new")
        assert_durable(events, tmp_path / "own" / "name")
        assert reader.read() == b"old"
    assert store.get("name") == b"new"


def test_what_a_role_adds_is_synced_before_it_counts(tmp_path, monkeypatch):
    events = disk_events(monkeypatch)
    assert FileStore(tmp_path).add("name", b"value")
    assert_durable(events, tmp_path / "name")


def test_a_claim_is_on_the_disk_before_it_is_granted(tmp_path, monkeypatch):
    events = disk_events(monkeypatch)
    assert FileStore(tmp_path).claim("name")
    assert events == [("sync", tmp_path.stat().st_ino)]


def test_a_charge_is_on_the_disk_before_anything_is_sent_for_it(tmp_path, monkeypatch):
    """The first one with the name of its file; what was appended before stays."""
    charge = Charge("client_dp", "client", "zero_out", GaussianDpEvent(1.0))
    events = disk_events(monkeypatch)
    ledger = LedgerFile(tmp_path)
    for number in (1, 2):
        ledger.charge(number, "a", {0: [charge]})
    file = ("sync", (tmp_path / NAME).stat().st_ino)
    assert events == [file, ("sync", tmp_path.stat().st_ino), file]


def test_keys_of_a_simulation_and_of_a_role_are_on_the_disk_before_they_are_used(tmp_path, monkeypatch):
    monkeypatch.delenv(keys.KEYS_VARIABLE, raising=False)
    events = disk_events(monkeypatch)
    keys.set_up(tmp_path / "simulation", ("client/0",))
    assert_durable(events, tmp_path / "simulation" / keys.MASTER)
    monkeypatch.delenv(keys.KEYS_VARIABLE)
    keys.make_all(tmp_path / "roles", ("client/0",))
    for name in (keys.IDENTITY, keys.ROSTER):
        assert_durable(events, tmp_path / "roles" / "client-0" / name)


def test_a_roster_in_a_file_is_on_the_disk_before_its_digest_is_told(tmp_path, monkeypatch, capsys):
    public = tmp_path / "public"
    public.write_bytes(keys.make(tmp_path / "own", "client/0").to_bytes())
    events = disk_events(monkeypatch)
    assert keys.main(["roster", str(tmp_path / "roster.json"), str(public)]) == 0
    assert_durable(events, tmp_path / "roster.json")
    assert capsys.readouterr().out.endswith(f"  {tmp_path / 'roster.json'}\n")
