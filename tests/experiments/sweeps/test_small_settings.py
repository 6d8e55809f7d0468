"""Published tables in their small setting and as published, ratios to plain twins, and reasons."""

from pathlib import Path

import pytest

from privacy.errors import ConfigError
from results.published import registry
from tests.experiments.command import Here, read, refused
from tests.experiments.published.tables import RUNS, cells, verdict

TABLE = """
title: Ours
source: https://example.org
hardware: two cores
seeds: [1, 2]
small: {says: one seed, seeds: [1]}
overrides: [model=logistic, clients=4, device=cpu, rounds=3, server.evaluate_every=0]
rows:
  - name: masked
    overrides: [secure_sum=pad]
    small: {says: 1 round of 3, overrides: [rounds=1]}
    reason: four bytes are not two
    figures:
      - {figure: rounds, published: 3, absolute: 0.5, full_only: true}
      - {figure: upload_bytes_per_parameter, compare: ratio, published: PUBLISHED, factor: 1.1}
      - {figure: upload_bytes_per_parameter, compare: difference}
      - {figure: accuracy, compare: difference, published: 0, absolute: 1}
  - name: long
    small: {says: three days, skip: true}
    figures: [{figure: rounds, published: 3, at_most: 3}]
  - name: a half encrypted
    kind: modelled
    compute: {function: selective_size, values: 1048576, slots: 4096, ciphertext_bytes: 262144, fraction: 0.5}
    small: {says: a tenth as many, compute: {values: 104857}}
    figures: [{figure: upload (MiB), published: 34.0, relative: 0.01}]
"""


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A registry with one small table, whose ratio is reproduced."""
    folder = tmp_path / "tables"
    folder.mkdir()
    monkeypatch.setattr(registry, "FOLDER", folder)
    publish(folder, 0.68)
    return folder


def publish(folder: Path, ratio: float) -> None:
    """Write the table with another published ratio."""
    (folder / "ours.yaml").write_text(TABLE.replace("PUBLISHED", str(ratio)))


def summaries() -> dict[str, dict[str, object]]:
    """The summaries of the runs, by backend."""
    found = [read(path.parent, "summary") for path in RUNS.glob("*/summary.json")]
    return {str(summary["backend"]): summary for summary in found}


@pytest.mark.usefixtures("table")
def test_the_usual_setting_is_small_and_says_so(here: Here) -> None:
    ended = here("reproduce", "ours")
    assert ended.status == 0, ended
    rounds = cells(ended.out, "masked", "rounds")
    assert rounds[:3] == ["3", "1", "1"]
    assert rounds[-3:] == [
        *("small: one seed; 1 round of 3", "within 0.5", "not judged: nothing is published for the small setting")
    ]
    assert verdict(ended.out, "long", "rounds") == "not run: three days (--full)"
    half = cells(ended.out, "a half encrypted", "upload (MiB)")
    assert half[-3] == "small: a tenth as many"
    assert half[1] == f"{(13 * 262144 + 4 * 52429) / 2**20:.4g}"  # 52,428 values take 13 ciphertexts
    assert half[-1] == "not reproduced"
    assert "Took " in ended.out


@pytest.mark.slow
@pytest.mark.usefixtures("table")
def test_given_seeds_are_not_told_as_few(here: Here) -> None:
    ended = here("reproduce", "ours", "--only", "masked", "--seeds", "1,2")
    rounds = cells(ended.out, "masked", "rounds")
    assert (rounds[2], rounds[-3]) == ("2", "small: 1 round of 3")


@pytest.mark.slow
@pytest.mark.usefixtures("table")
def test_full_is_as_published(here: Here) -> None:
    ended = here("reproduce", "ours", "--full")
    assert ended.status == 0, ended
    assert cells(ended.out, "masked", "rounds")[1:3] == ["3", "2"]
    assert verdict(ended.out, "masked", "rounds") == "reproduced"
    assert verdict(ended.out, "long", "rounds") == "reproduced"
    assert cells(ended.out, "a half encrypted", "upload (MiB)")[-3:] == ["full", "within 1 %", "reproduced"]


@pytest.mark.slow
def test_a_ratio_is_told_beside_the_published_one_and_its_verdict_flips_with_it(here: Here, table: Path) -> None:
    ended = here("reproduce", "ours", "--only", "masked")
    sent = {name: summary["upload_bytes_per_parameter"] for name, summary in summaries().items()}
    assert sent.keys() == {"plain", "pad"}
    ratio = float(str(sent["pad"])) / float(str(sent["plain"]))
    shown = cells(ended.out, "masked", "upload / plain")
    assert (shown[0], shown[1], shown[4]) == ("0.68", f"{ratio:.4g}", f"{ratio / 0.68:.3g}")
    assert shown[-2] == "within a factor of 1.1"
    difference = float(cells(ended.out, "masked", "upload (B/param) less plain")[1])
    assert difference == pytest.approx(float(str(sent["pad"])) - float(str(sent["plain"])), rel=1e-3)
    for published, said in ((ratio * 1.11, False), (ratio / 1.11, False), (ratio * 1.09, True), (ratio / 1.09, True)):
        publish(table, published)
        out = here("reproduce", "ours", "--only", "masked").out
        expected = "reproduced" if said else "not reproduced: four bytes are not two"
        assert verdict(out, "masked", "upload / plain") == expected, published


@pytest.mark.usefixtures("table")
def test_the_commands_of_a_dry_run_are_the_pairs(here: Here) -> None:
    small, full = (here("reproduce", "ours", "--dry-run", *more).out.splitlines() for more in ((), ("--full",)))
    assert [line.split()[0] for line in small] == ["fedveil", "fedveil", "#", "#"]
    assert ["secure_sum=pad" in line for line in small[:2]] == [False, True]
    assert small[2] == "# long: three days (--full)"
    assert len([line for line in full if line.startswith("fedveil")]) == 2 * 2 + 2


def test_an_unknown_function_is_told(here: Here, table: Path) -> None:
    (table / "ours.yaml").write_text(TABLE.replace("PUBLISHED", "1").replace("selective_size", "guessed"))
    said = verdict(here("reproduce", "ours", "--only", "half").out, "a half encrypted", "upload (MiB)")
    assert said.startswith("not run: compute.function=guessed: allowed are ")


def test_no_such_setting(here: Here) -> None:
    assert refused(here("reproduce", "all", "--small")) == "fedveil reproduce: unrecognized arguments: --small"


def test_functions_are_there() -> None:
    from experiments.published import by_name as computed

    for name in computed.MODULES:
        assert callable(computed.function(name))
    with pytest.raises(ConfigError, match="allowed are"):
        computed.function("none")
