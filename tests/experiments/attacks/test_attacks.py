"""Attacks succeed without a defence, fail with it, and show where one is broken."""

import io
import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from experiments import attacks
from experiments.attacks import (
    ATTACKS,
    AttackCase,
    Finding,
    double_count,
    key_oracle,
    key_recovery,
    single_update,
    swapped_keys,
    wrapped_sum,
)
from experiments.attacks.scene import VICTIM, close, scene
from fl import plan
from fl.keys import folders as keys
from privacy.errors import RuntimeFailure
from privacy.secure_sums.he import codecs as masked_sums
from privacy.secure_sums.he.ckks import Ckks
from privacy.secure_sums.he.codecs import Mask
from privacy.secure_sums.he.protocol import OpenedSum
from privacy.secure_sums.vectors import VectorSpec
from tests.experiments.command import Ended, Here, refused

MODULES = {
    "key_recovery": key_recovery,
    "key_oracle": key_oracle,
    "single_update": single_update,
    "double_count": double_count,
    "swapped_keys": swapped_keys,
    "wrapped_sum": wrapped_sum,
}
WEAK = "secure_sum=ckks secure_sum.masks=false secure_sum.flooding_bits=0"
UNMASKED = "secure_sum=ckks secure_sum.masks=false"
DEPLOYED = "runtime=deployment clients=3 runtime.roster="


def case_of(name: str, setting: str) -> AttackCase:
    (case,) = [case for case in MODULES[name].CASES if case.setting == setting]
    return case


def mounted(name: str, setting: str) -> Finding:
    case = case_of(name, setting)
    return case.mount(case.overrides)


def only(monkeypatch: pytest.MonkeyPatch, name: str, *cases: AttackCase) -> None:
    """Limit the attack to these cases; all of them take too long for a quick test."""
    monkeypatch.setattr(MODULES[name], "CASES", cases)


# ---- the whole tables


WEAKEST = {
    "key_recovery": [WEAK, f"{WEAK} secure_sum.keys=clients"],
    "key_oracle": [
        UNMASKED,
        "secure_sum=bfv secure_sum.masks=false",
        "secure_sum=ckks secure_sum._target_=experiments.attacks.key_oracle.UncheckedCkks",
    ],
    "single_update": [WEAK, UNMASKED, "privacy=flare", "secure_sum=bfv secure_sum.masks=false"],
    "double_count": [WEAK, UNMASKED, "privacy=flare", "secure_sum=bfv secure_sum.masks=false"],
    "swapped_keys": [f"secure_sum={name} {DEPLOYED}relayed" for name in ("ckks", "bfv", "pad")],
    "wrapped_sum": ["secure_sum=ckks secure_sum._target_=experiments.attacks.wrapped_sum.CkksForOne (values up to 1)"],
}
DEFAULTS = {
    "key_recovery": ["secure_sum=ckks", "secure_sum=bfv"],
    "key_oracle": [f"secure_sum={name}{keys}" for name in ("ckks", "bfv") for keys in ("", " secure_sum.keys=clients")],
    "single_update": ["secure_sum=ckks", "secure_sum=bfv", "secure_sum=pad", "secure_sum=ckks (named alone)"],
    "double_count": ["secure_sum=ckks", "secure_sum=bfv", "secure_sum=pad"],
    "swapped_keys": [f"secure_sum={name} {DEPLOYED}pinned" for name in ("ckks", "bfv", "pad")],
    "wrapped_sum": [f"secure_sum={name} (values up to {value})" for name in ("ckks", "bfv", "pad") for value in (1, 5)],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ATTACKS)
def test_every_attack_works_on_the_weak_setting_and_on_no_default(here: Here, name: str) -> None:
    ended = here("attack", name, "--json", "found.json")
    found = json.loads(Path("found.json").read_text())
    assert ended.status == 0, ended.out
    assert found["environment"]["packages"]["tenseal"]
    outcomes = {row["setting"]: row["outcome"] for row in found["attacks"]}
    assert {outcomes[setting] for setting in WEAKEST[name]} == {"succeeds"}
    assert {outcomes[setting] for setting in DEFAULTS[name]} == {"fails"}
    for row in found["attacks"]:
        cells = [row["attack"], row["setting"], row["holds"], row["outcome"], row["evidence"], "yes"]
        assert cells in table_of(ended)


def table_of(ended: Ended) -> list[list[str]]:
    """The cells of a Markdown table."""
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in ended.out.splitlines()]


def test_no_setting_is_tried_twice() -> None:
    for module in MODULES.values():
        settings = [case.setting for case in module.CASES]
        assert len(set(settings)) == len(settings)
        assert {case.succeeds for case in module.CASES} == {True, False}


# ---- findings


@pytest.mark.parametrize("suffix", ["", " secure_sum.keys=clients"])
def test_the_key_comes_out_whole_and_reads_an_upload(suffix: str) -> None:
    finding = mounted("key_recovery", WEAK + suffix)
    assert finding.succeeded
    assert finding.evidence.startswith("4,096 of 4,096 key coefficients; client/1's own upload decrypts with them")


def test_what_is_stolen_is_the_update_that_the_victim_trained() -> None:
    case = case_of("single_update", WEAK)
    with scene(case.overrides) as here:
        attempt = here.attempt(forge=lambda request, uploads: single_update.copies(here, request, uploads))
        trained_D = here.vectors[VICTIM]
    assert attempt.opened is not None
    assert len(trained_D) > 2 * 4096
    assert np.abs(trained_D[:-1]).max() > 1e-3
    np.testing.assert_allclose(attempt.opened / 10, trained_D, atol=1e-9)


@pytest.mark.parametrize(
    ("found", "same"), [([1.0, 0.5, 9.0], True), ([1.009, 0.5, 1.0], True), ([1.02, 0.5, 1.0], False)]
)
def test_an_update_is_taken_for_another_by_its_own_size(found: Sequence[float], same: bool) -> None:
    """The weight, behind the update, is a public number where all weigh the same."""
    assert close(np.array(found), np.array([1.0, 0.5, 1.0]))[0] is same


def test_a_sum_that_wraps_is_off_by_its_modulus() -> None:
    """q / scale of 2^54 / 2^51 is 8."""
    finding = mounted("wrapped_sum", WEAKEST["wrapped_sum"][0])
    assert finding == (True, "a sum of 10 decodes to 2; what the opener checks is as it should be")


# ---- broken defences


def no_mask(scheme: Any, key: bytes) -> Mask:
    """A mask of zeros."""
    drawn: Mask = np.zeros_like(DRAW(scheme, key))
    return drawn


DRAW = masked_sums._CkksScheme.draw_mask


def mask_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(masked_sums._CkksScheme, "draw_mask", no_mask)


def check_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OpenedSum, "linear_check", lambda *_: None)


# what stops an attack on the default: each of these alone does
DEFENCES = {
    "key_recovery": [mask_nothing],
    "key_oracle": [check_nothing],
    "single_update": [mask_nothing, check_nothing],
    "double_count": [mask_nothing, check_nothing],
}


@pytest.mark.parametrize("name", DEFENCES)
def test_without_its_defences_the_default_is_broken(here: Here, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    only(monkeypatch, name, case_of(name, "secure_sum=ckks"))
    *others, last = DEFENCES[name]
    for leave_out in others:
        leave_out(monkeypatch)
    assert here("attack", name).status == 0
    last(monkeypatch)
    ended = here("attack", name)
    assert ended.status == 1
    assert table_of(ended)[-1][3] == "succeeds"
    assert table_of(ended)[-1][5] == "NO"


@pytest.mark.parametrize("name", ["single_update", "double_count"])
def test_without_the_check_masks_stop_an_attack_alone(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    check_nothing(monkeypatch)
    finding = mounted(name, "secure_sum=ckks")
    assert not finding.succeeded
    assert "another sum" in finding.evidence


@pytest.fixture
def fresh_schemes() -> Any:
    """Clear the cache of schemes, so that the changed schemes of a test do not reach other tests."""
    masked_sums.ckks_scheme.cache_clear()
    yield
    masked_sums.ckks_scheme.cache_clear()


@pytest.mark.usefixtures("fresh_schemes")
def test_without_flooding_the_unmasked_sum_gives_its_key_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Ckks, "flooding_deviation", lambda *_: 0.0)
    assert mounted("key_recovery", UNMASKED).succeeded


def test_without_a_minimum_one_client_can_be_named_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "HIDDEN_AMONG", 1)
    monkeypatch.setattr(plan.RunPlan, "least_by_share", 1)
    assert mounted("single_update", "secure_sum=ckks (named alone)").succeeded


def test_an_attack_that_another_defence_stops_is_not_as_expected(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client lets any value pass; CKKS itself still refuses to encrypt it."""
    setting = "secure_sum=ckks (values up to 5)"
    only(monkeypatch, "wrapped_sum", case_of("wrapped_sum", setting))
    assert here("attack", "wrapped_sum").status == 0
    monkeypatch.setattr(VectorSpec, "check", lambda _, vector: vector)
    ended = here("attack", "wrapped_sum")
    assert ended.status == 1
    assert table_of(ended)[-1][3:] == [
        "fails",
        "a value to encrypt reaches 5, over the bound of 1 (nothing leaves the client)",
        "NO",
    ]


def test_a_setting_on_which_nothing_works_shows_nothing() -> None:
    overrides = case_of(
        "wrapped_sum", WEAKEST["wrapped_sum"][0].replace("ckks", "pad").replace("Ckks", "Pad")
    ).overrides
    with scene(overrides) as here, pytest.raises(RuntimeFailure, match="pad: the sum of an honest round is off by"):
        here.honest_round()


# ---- the command


def test_the_list_and_the_help(here: Here) -> None:
    listed = here("attack", "--list")
    assert listed.status == 0
    assert [line.split()[0] for line in listed.out.splitlines()] == list(ATTACKS)
    assert all(line.strip() in here("attack", "--help").out for line in listed.out.splitlines())
    assert "attack        NAME" in here("--help").out


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["nope"], f"attack=nope: allowed are all, {', '.join(ATTACKS)}"),
        ([], f"NAME: give one of all, {', '.join(ATTACKS)}"),
        (["all", "--seed=1"], "fedveil attack: unrecognized arguments: --seed=1"),
        (["all", "--json"], "fedveil attack: argument --json: expected one argument"),
        (["all", "--json", "missing/file.json"], "--json=missing/file.json: there is no folder missing"),
    ],
)
def test_wrong_words_are_one_line(here: Here, arguments: list[str], line: str) -> None:
    assert refused(here("attack", *arguments)) == line


def test_all_are_mounted_in_turn(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    case = AttackCase(
        ("a=1", "b=[2, 3]"), True, lambda overrides: Finding(True, " ".join(overrides)), "nothing", "b=[2, 3]"
    )
    for name in MODULES:
        only(monkeypatch, name, case)
    ended = here("attack", "all")
    assert ended.status == 0
    loading, *lines = ended.err.splitlines()
    assert loading == f"loading {', '.join(ATTACKS)}"
    assert lines[0] == "attack 0 of 6"
    assert [line.split(" on ")[0] for line in lines[1:]] == [f"attack {i} of 6: {n}" for i, n in enumerate(ATTACKS, 1)]
    assert [row[0] for row in table_of(ended)[2:]] == list(ATTACKS)
    assert table_of(ended)[2][1:] == ["a=1 'b=[2, 3]'", "nothing", "succeeds", "a=1 b=[2, 3]", "yes"]
    only(monkeypatch, "double_count", replace(case, succeeds=False))
    assert here("attack", "all").status == 1


def test_a_narrow_terminal_shows_every_word() -> None:
    line = attacks.AttackLine(
        "single_update", f"{WEAK} (alone)", "all uploads, and an opener", "fails", "a" * 50, False
    )
    console = Console(file=io.StringIO(), width=80)
    console.print(attacks._table([line]))
    assert isinstance(console.file, io.StringIO)
    printed = console.file.getvalue()
    assert max(map(len, printed.splitlines())) == 80
    assert printed.count("a") > 50
    cells = [row.split("│")[2].strip() for row in printed.splitlines() if "│" in row]
    assert "".join(cells) == line.setting.replace(" ", "")


@pytest.mark.parametrize("before", [None, "elsewhere"])
def test_no_key_is_left_behind(monkeypatch: pytest.MonkeyPatch, before: str | None) -> None:
    monkeypatch.delenv(keys.KEYS_VARIABLE, raising=False)
    if before is not None:
        monkeypatch.setenv(keys.KEYS_VARIABLE, before)
    with scene(("secure_sum=pad",)):
        folder = Path(os.environ[keys.KEYS_VARIABLE])
        assert (folder / keys.MASTER).exists()
    assert not folder.exists()
    assert os.environ.get(keys.KEYS_VARIABLE) == before
