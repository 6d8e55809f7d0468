import pytest

from experiments.benchmarks import BenchFigure, he, main
from experiments.benchmarks.he import SETS, SchemeCost, Sizes, Subject
from privacy.errors import ConfigError

PARAMETERS = 5000  # two ciphertexts of 4,095 values


@pytest.mark.parametrize(
    ("name", "ciphertexts", "up", "down"),
    [
        ("fp32", 0, 4 * 5001, 4 * 5001),
        ("lean keyholder", 2, 2 * 2 * 4096 * 54 // 8, 2 * 2 * 4096 * 54 // 8),
        ("lean clients", 2, 2 * (4096 * 54 // 8 + 64), 2 * 2 * 4096 * 54 // 8),  # a seed for half of each
        ("bfv keyholder", 1, 2 * 4096 * 54 // 8, 2 * 4096 * 54 // 8),  # two values of 16 bits and carries in a slot
        ("bfv clients", 1, 4096 * 54 // 8 + 64, 2 * 4096 * 54 // 8),
        ("pad", 0, -(-5002 // 8) * 20, -(-5002 // 8) * 20),  # 16 times 16 bits take 20
    ],
)
def test_sizes_are_what_the_parameters_say(name: str, ciphertexts: int, up: int, down: int) -> None:
    sizes, cost = Subject(name, PARAMETERS).repeat()
    assert sizes.ciphertexts == ciphertexts
    assert sizes.up_bytes == pytest.approx(up, rel=2e-3)
    assert sizes.down_bytes == pytest.approx(down, rel=2e-3)
    assert cost.open_s >= cost.unmask_s >= 0
    assert (cost.check_s > 0) == (cost.open_check_s > 0) == (ciphertexts > 0)
    protecting = {"fp32": set(), "pad": {"encode", "mask", "serialise"}}.get(name, set(he.CLIENT_STEPS))
    assert cost.steps_s.keys() == protecting | (set(he.OPENER_STEPS) if protecting else set())
    assert all(seconds >= 0 for seconds in cost.steps_s.values())


@pytest.mark.parametrize(("name", "bits"), [("tutorial", 140), ("nvflare", 100), ("fedml_he", 112)])
def test_published_sets_send_what_seal_compresses(name: str, bits: int) -> None:
    sizes, cost = Subject(name, PARAMETERS).repeat()
    packed = 2 * 2 * 8192 * bits / 8
    assert packed < sizes.up_bytes < 1.2 * packed
    assert cost.encrypt_s > 0
    assert cost.check_s == cost.open_check_s == 0, "whoever opens decrypts whatever it gets"
    assert cost.steps_s.keys() == {"encode", "encrypt", "serialise", "open", "decode"}, "nothing is masked"


class Wrong(Subject):
    """A subject that encrypts a vector other than the one it compares with."""

    def _encrypt(self) -> bytes:
        message = super()._encrypt()
        self.vector_D = self.vector_D[::-1].copy()
        return message


@pytest.mark.parametrize("name", ["fp32", "nvflare", "lean clients", "bfv keyholder", "pad"])
def test_a_sum_that_is_another_is_no_measurement(name: str) -> None:
    with pytest.raises(AssertionError):
        Wrong(name, 100).repeat()


def steps(factor: float) -> dict[str, float]:
    return {"encrypt": 0.2 * factor, "open": 0.1 / factor}


def cost(second: float, factor: float) -> SchemeCost:
    return SchemeCost(factor * second, 0.1, 2.0, 1.5, 0.05 * factor, 0.04, steps(factor))


def by_name(size: int) -> dict[str, BenchFigure]:
    sizes = Sizes(245, 15 * size, 16 * size)
    first = SchemeCost(9.0, 9.0, 9.0, 9.0, 9.0, 9.0, {"encrypt": 9.0, "open": 9.0})
    costs = {"fp32": 0.01, "nvflare": 1.0, "lean keyholder": 0.5, "lean clients": 0.4}
    measured = {name: (sizes, [first, *(cost(second, f) for f in (1, 1.1, 5))]) for name, second in costs.items()}
    return {figure.name: figure for figure in he.compare(size, measured)}


def test_medians_leave_the_first_repeat_out_and_bars_apply() -> None:
    figures = by_name(1_000_000)
    lean = "1,000,000, lean keyholder: "
    assert figures[lean + "client"].value == pytest.approx(1 / 0.55)
    assert figures[lean + "client, first"].value == pytest.approx(1 / 9)
    assert figures[lean + "client time, nvflare's /"].value == pytest.approx(2)
    assert figures[lean + "client time, / fp32's"].value == pytest.approx(50)
    assert figures[lean + "open, with the masks of 16"].value == pytest.approx(0.5)
    assert figures[lean + "open, masks already added"].value == pytest.approx(2)
    assert figures[lean + "down, to the opener"].value == 16
    assert figures[lean + "client: encrypt"].value == pytest.approx(1 / 0.22)
    assert figures[lean + "opener: open"].value == pytest.approx(1.1 / 0.1)
    assert figures[lean + "client: linear check"].value == pytest.approx(1 / 0.055)
    assert figures[lean + "opener: linear check"].value == pytest.approx(1 / 0.04)
    assert figures[lean + "linear check, / client time"].value == pytest.approx(0.1)
    assert lean + "client: mask" not in figures, "nothing measured it"
    assert [figures[lean + name].met for name in ("up", "client", "client time, nvflare's /")] == [True] * 3
    clients = "1,000,000, lean clients: "
    assert [figures[clients + name].met for name in ("up", "client", "client time, nvflare's /")] == [False] * 3
    nvflare = figures["1,000,000, nvflare: up, from the published 57"]
    assert (nvflare.value, nvflare.met) == (42, False)


def test_bars_do_not_apply_to_a_small_model() -> None:
    figures = by_name(999_999)
    assert {figure.met for figure in figures.values()} == {None}
    assert "999,999, lean clients: open, masks already added" in figures


def test_sets_take_turns_in_processes_of_their_own() -> None:
    turns: list[str] = []
    measured = he.alternate(["fp32", "pad"], 50, 1, turns.append)
    assert turns == ["fp32", "pad", "fp32", "pad"]
    assert {name: len(costs) for name, (_, costs) in measured.items()} == {"fp32": 2, "pad": 2}


def test_the_command_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    assert main(["he", "--sizes", "300", "--sets", "pad", "--repeats", "1"]) == 0
    printed = capsys.readouterr().out
    for name in ("fp32", "nvflare", "pad"):
        assert f"300, {name}: client" in printed
    assert "300, lean" not in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--sets", "pad,nope"), f"--sets=nope: allowed are {', '.join(SETS)}"),
        (("--sizes", "10,x"), "--sizes=10,x: must be positive whole numbers, with commas between them"),
        (("--sizes", "0"), "--sizes=0: must be positive whole numbers, with commas between them"),
        (("--repeats", "0"), "--repeats=0: must be at least 1"),
    ],
)
def test_wrong_words_are_refused(arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        main(["he", *arguments])
    assert str(refusal.value) == message
