import random
from pathlib import Path

import numpy as np
import pytest
import torch

from fl.checkpoint import Checkpoints, State, decode, encode
from fl.transport import ARRAYS
from privacy.errors import RunRefused
from results.measurements import Row
from tests.composed import MASKED, server_of, workspace_of
from tests.fl.grids import Tampered
from tests.scenery.paths import some

LENGTH = 40


def state_of(number: int, **optimizer: object) -> State:
    weights_D = torch.randn(LENGTH, generator=torch.Generator().manual_seed(number))
    return State("ab" * 32, number, weights_D, dict(optimizer), "2026-11-22T10:00:00+00:00")


def rows_of(number: int) -> list[Row]:
    return [Row(number, "server", "round", "wall", 0.5 + number, "s")]


def saved(folder: Path, rounds: int, keep: int = 2) -> Checkpoints:
    checkpoints = Checkpoints(folder, keep)
    for number in range(rounds):
        checkpoints.save(state_of(number), rows_of(number))
    return checkpoints


def names(folder: Path, suffix: str) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.suffix == suffix)


def assert_is(state: State | None, number: int) -> None:
    assert state is not None
    expected = state_of(number)
    assert torch.equal(state.weights_D, expected.weights_D)
    assert (state.run, state.round, state.started) == (expected.run, number, expected.started)


def test_a_state_comes_back_bit_for_bit(tmp_path):
    weights_D = torch.tensor([0.0, -0.0, 1e-45, 3e38, float("inf"), 1 / 3])
    optimizer = {"state": {0: {"step": torch.tensor(3.0), "exp_avg": weights_D / 7}}, "param_groups": [{"lr": 0.1}]}
    Checkpoints(tmp_path, 1).save(State("r", 3, weights_D, optimizer, "now"), [])
    back = Checkpoints(tmp_path, 1).latest()
    assert back.weights_D.numpy().tobytes() == weights_D.numpy().tobytes()
    assert torch.equal(back.optimizer["state"][0]["exp_avg"], weights_D / 7)
    assert back.optimizer["param_groups"] == [{"lr": 0.1}]


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW", "Adagrad", "RMSprop", "Adadelta", "NAdam"])
def test_every_optimizer_goes_on_as_if_nothing_had_happened(tmp_path, name):
    def step(optimizer, weights):
        weights.grad = torch.arange(5.0) * weights.detach()
        optimizer.step()

    weights = torch.nn.Parameter(torch.ones(5))
    optimizer = getattr(torch.optim, name)([weights])
    step(optimizer, weights)
    Checkpoints(tmp_path, 1).save(State("r", 1, weights.detach(), optimizer.state_dict(), ""), [])
    step(optimizer, weights)
    back = Checkpoints(tmp_path, 1).latest()
    resumed = torch.nn.Parameter(back.weights_D)
    again = getattr(torch.optim, name)([resumed])
    again.load_state_dict(back.optimizer)
    step(again, resumed)
    assert torch.equal(resumed, weights)


def draw() -> tuple[float, ...]:
    drawn = torch.rand(1).item(), np.random.rand(), np.random.standard_normal(), random.random(), random.gauss(0, 1)
    return (*drawn, torch.randn(3)[2].item())


def test_all_random_states_are_restored(tmp_path):
    torch.manual_seed(1)
    draw()  # an odd number of normals: NumPy and Python keep the second of a pair
    Checkpoints(tmp_path, 1).save(state_of(1), [])
    first = draw()
    torch.manual_seed(2)
    np.random.seed(2)
    random.seed(2)
    assert draw() != first
    Checkpoints(tmp_path, 1).latest()
    assert draw() == first


def test_nothing_is_there_at_first(tmp_path):
    checkpoints = Checkpoints(tmp_path / "deep" / "er", 2)
    assert checkpoints.latest() is None
    assert checkpoints.rows().is_empty()
    assert checkpoints.rows().columns == ["run", "round", "where", "stage", "metric", "value", "unit"]


@pytest.mark.parametrize("keep", [1, 2, 5])
def test_only_the_last_are_kept_and_the_rows_of_all(tmp_path, keep):
    checkpoints = saved(tmp_path, 4, keep)
    assert names(tmp_path, ".ckpt") == [f"round-{n:06d}.ckpt" for n in range(max(0, 4 - keep), 4)]
    assert checkpoints.rows()["value"].to_list() == [0.5, 1.5, 2.5, 3.5]
    assert set(checkpoints.rows()["run"]) == {"ab" * 32}
    assert_is(checkpoints.latest(), 3)


def test_the_order_is_that_of_numbers_beyond_six_digits(tmp_path):
    checkpoints = Checkpoints(tmp_path, 2)
    for number in (999_998, 999_999, 1_000_000, 1_000_001):
        checkpoints.save(state_of(number), rows_of(number))
    assert_is(checkpoints.latest(), 1_000_001)
    assert checkpoints.rows()["round"].to_list() == [999_998, 999_999, 1_000_000, 1_000_001]
    assert len(names(tmp_path, ".ckpt")) == 2


def truncated(length: int):
    return lambda content: content[:length]


def flipped(position: int):
    def flip(content: bytes) -> bytes:
        damaged = bytearray(content)
        damaged[position] ^= 1
        return bytes(damaged)

    return flip


DAMAGES = {
    **{f"cut at {length}": truncated(length) for length in (0, 1, 20, 21, 50, 86, 87, 200, -1)},
    **{f"bit {position}": flipped(position) for position in (0, 20, 21, 60, 84, 85, 86, 87, 500, -1)},
    "longer": lambda content: content + b"\0",
    "zeros": lambda content: bytes(len(content)),
    "another file": lambda content: b"PK" + content[2:],
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_checkpoint_is_refused_and_the_one_before_it_used(tmp_path, damage, caplog):
    checkpoints = saved(tmp_path, 3)
    newest = tmp_path / "round-000002.ckpt"
    newest.write_bytes(damage(newest.read_bytes()))
    assert_is(checkpoints.latest(), 1)
    assert "round-000002.ckpt is damaged" in caplog.text
    assert checkpoints.rows()["round"].to_list() == [0, 1]
    checkpoints.save(state_of(2), rows_of(2))
    assert_is(checkpoints.latest(), 2)
    assert checkpoints.rows()["round"].to_list() == [0, 1, 2]


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_what_is_damaged_restores_nothing(damage):
    content = encode(state_of(2))
    before = torch.get_rng_state(), random.getstate()
    torch.rand(1)
    random.random()
    with pytest.raises(RunRefused, match="checksum"):
        decode(damage(content))
    assert not torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() != before[1]


def test_when_all_are_damaged_the_run_starts_afresh(tmp_path):
    checkpoints = saved(tmp_path, 3)
    for path in some(tmp_path.glob("*.ckpt")):
        path.write_bytes(b"")
    assert checkpoints.latest() is None
    assert checkpoints.rows().is_empty()
    assert list(tmp_path.iterdir()) == []


def test_rows_of_a_round_whose_checkpoint_was_not_written_are_forgotten(tmp_path):
    checkpoints = saved(tmp_path, 2)
    Checkpoints(tmp_path / "other", 1).save(state_of(2), rows_of(2))
    (tmp_path / "other" / "round-000002.parquet").rename(tmp_path / "round-000002.parquet")
    assert_is(checkpoints.latest(), 1)
    assert checkpoints.rows()["round"].to_list() == [0, 1]


def test_what_a_killed_process_left_half_written_is_removed(tmp_path):
    checkpoints = saved(tmp_path, 2)
    (tmp_path / ".round-000002.ckpt.4711.tmp").write_bytes(b"half")
    assert_is(checkpoints.latest(), 1)
    assert all(path.suffix != ".tmp" for path in some(tmp_path.iterdir()))


def test_a_state_that_cannot_be_written_leaves_the_one_before(tmp_path):
    checkpoints = saved(tmp_path, 2)
    with pytest.raises((AttributeError, TypeError)):
        checkpoints.save(state_of(2, oops=lambda: None), rows_of(2))
    assert_is(checkpoints.latest(), 1)
    assert all(path.suffix != ".tmp" for path in some(tmp_path.iterdir()))


def test_saving_a_round_again_replaces_it(tmp_path):
    checkpoints = saved(tmp_path, 2)
    checkpoints.save(state_of(1), [Row(1, "server", "round", "wall", 99.0, "s")])
    assert checkpoints.rows()["value"].to_list() == [0.5, 99.0]


def test_no_secret_of_a_round_is_ever_written(tmp_path):
    """The masks' seeds, which wait in the clients' memory between two stages, are nowhere in a run's checkpoints."""
    work = workspace_of(*MASKED)
    seeds: list[bytes] = []

    def listen(_, reply):
        content = reply.content.get(ARRAYS, {})
        seeds.extend(array.data for name, array in content.items() if name == "seed")
        return [reply]

    server = server_of(work, tmp_path, Tampered(work, listen))
    server.run()
    assert len(set(seeds)) == len(seeds) == 4 * 2
    written = b"".join(path.read_bytes() for path in sorted(tmp_path.rglob("*")))
    assert server.weights.detach().numpy().tobytes() in written, "the search would find what is there"
    for seed in seeds:
        assert seed not in written
        assert seed.hex().encode() not in written
