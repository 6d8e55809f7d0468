from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from results.comparison import compare
from results.runs import collect
from tests.results.samples import CKKS, configuration, store, summary

SEEDS = (1, 3, 5)
ACCURACY = {"plain": [0.94, 0.95, 0.93], "ckks": [0.938, 0.951, 0.925]}
ROUND_S = {"plain": [0.10, 0.12, 0.11], "ckks": [0.31, 0.33, 0.36]}
UPLOAD = {"plain": [4.0, 4.0, 4.0], "ckks": [15.07, 15.07, 15.07]}


def two_by_three(root: Path) -> list[Path]:
    paths = []
    for name, secure_sum in (("plain", {}), ("ckks", {"secure_sum": CKKS})):
        for index, seed in enumerate(SEEDS):
            figures = summary(
                accuracy=ACCURACY[name][index],
                round_s=ROUND_S[name][index],
                upload_bytes_per_parameter=UPLOAD[name][index],
                backend=name,
                assumption=f"{name} is trusted",
            )
            paths.append(store(root, configuration(seed=seed, **secure_sum), "finished", figures))
    return paths


def rows_of(paths: list[Path]) -> tuple[dict[str, Any], dict[str, Any]]:
    plain, other = sorted(compare(collect(paths)).to_dicts(), key=lambda row: not row["plain"])
    return plain, other


def t_interval(values: list[float]) -> tuple[float, float]:
    low, high = stats.t.interval(0.95, len(values) - 1, loc=np.mean(values), scale=stats.sem(values))
    return float(low), float(high)


def test_means_and_intervals_over_seeds(tmp_path: Path) -> None:
    for row, name in zip(rows_of(two_by_three(tmp_path)), ("plain", "ckks"), strict=True):
        assert row["seeds"] == 3
        assert row["accuracy"] == pytest.approx(np.mean(ACCURACY[name]))
        assert (row["accuracy_low"], row["accuracy_high"]) == pytest.approx(t_interval(ACCURACY[name]))
        assert row["round_s"] == pytest.approx(np.mean(ROUND_S[name]))
        assert (row["backend"], row["assumption"]) == (name, f"{name} is trusted")


def test_the_interval_against_a_textbook(tmp_path: Path) -> None:
    # 4.303 is the 97.5 % point of Student's t with two degrees of freedom in every printed table.
    plain, _ = rows_of(two_by_three(tmp_path))
    assert (plain["accuracy_high"] - plain["accuracy_low"]) / 2 == pytest.approx(4.303 * 0.01 / 3**0.5, rel=1e-4)


def test_ratios_are_geometric_means_of_pairs(tmp_path: Path) -> None:
    plain, ckks = rows_of(two_by_three(tmp_path))
    ratios = [31 / 10, 33 / 12, 36 / 11]
    assert ckks["round_ratio"] == pytest.approx(stats.gmean(ratios))
    assert ckks["round_ratio"] != pytest.approx(np.mean(ratios), rel=1e-4)
    low, high = t_interval([float(np.log(ratio)) for ratio in ratios])
    assert (ckks["round_ratio_low"], ckks["round_ratio_high"]) == pytest.approx((np.exp(low), np.exp(high)))
    assert ckks["upload_ratio"] == pytest.approx(15.07 / 4)
    assert (plain["round_ratio"], plain["upload_ratio"], plain["accuracy_points"]) == (1, 1, 0)


def test_differences_are_paired_and_in_points(tmp_path: Path) -> None:
    _, ckks = rows_of(two_by_three(tmp_path))
    differences = [-0.2, 0.1, -0.5]
    assert ckks["accuracy_points"] == pytest.approx(-0.2)
    assert (ckks["accuracy_points_low"], ckks["accuracy_points_high"]) == pytest.approx(t_interval(differences))
    low, high = stats.ttest_rel(ACCURACY["ckks"], ACCURACY["plain"]).confidence_interval(0.95)
    assert (ckks["accuracy_points_low"], ckks["accuracy_points_high"]) == pytest.approx((100 * low, 100 * high))


def test_the_order_of_the_runs_does_not_matter(tmp_path: Path) -> None:
    paths = two_by_three(tmp_path)
    for forwards, backwards in zip(rows_of(paths), rows_of(paths[::-1]), strict=True):
        for key in ("accuracy", "round_ratio", "round_ratio_low", "accuracy_points_high", "seeds"):
            assert forwards[key] == pytest.approx(backwards[key])


def test_a_pair_rests_on_the_seeds_that_have_a_twin(tmp_path: Path) -> None:
    paths = two_by_three(tmp_path)
    plain, ckks = rows_of(paths[1:])  # the plain run of seed 1 is missing
    assert (plain["seeds"], ckks["seeds"], ckks["round_ratio_n"], ckks["accuracy_n"]) == (2, 3, 2, 3)
    assert ckks["round_ratio"] == pytest.approx(stats.gmean([33 / 12, 36 / 11]))
    (alone,) = compare(collect(paths[3:])).to_dicts()
    assert (alone["round_ratio"], alone["round_ratio_n"], alone["accuracy_points"]) == (None, 0, None)


def test_one_seed_has_no_interval(tmp_path: Path) -> None:
    paths = two_by_three(tmp_path)
    plain, ckks = rows_of([paths[0], paths[3]])
    assert (plain["accuracy"], plain["accuracy_low"], plain["accuracy_high"]) == (0.94, None, None)
    assert ckks["round_ratio"] == pytest.approx(3.1)
    assert ckks["round_ratio_low"] is None


def test_another_configuration_is_no_twin(tmp_path: Path) -> None:
    plain = store(tmp_path, configuration(rounds=5), "finished", summary())
    ckks = store(tmp_path, configuration(secure_sum=CKKS), "finished", summary())
    _, row = rows_of([plain, ckks])
    assert row["round_ratio"] is None


def test_noise_without_a_secure_sum_is_compared_with_plain(tmp_path: Path) -> None:
    noise = {"dp": {"_target_": "privacy.DpSgd"}}
    plain = store(tmp_path, configuration(), "finished", summary(train_s=2.0))
    noised = store(tmp_path, configuration(mechanism=noise), "finished", summary(train_s=3.0, epsilon=1.5))
    _, row = rows_of([plain, noised])
    assert row["train_ratio"] == pytest.approx(1.5)
    assert row["epsilon"] == 1.5


def test_epsilon_is_the_largest_and_missing_where_one_seed_has_none(tmp_path: Path) -> None:
    def run(seed: int, epsilon: float | None) -> Path:
        return store(tmp_path, configuration(seed=seed), "finished", summary(epsilon=epsilon))

    paths = [run(1, 2.0), run(2, 3.0)]
    assert compare(collect(paths))["epsilon"].to_list() == [3.0]
    assert compare(collect([*paths, run(3, None)]))["epsilon"].to_list() == [None]


def test_a_figure_that_one_seed_lacks_is_the_mean_of_the_others(tmp_path: Path) -> None:
    paths = [
        store(tmp_path, configuration(seed=s), "finished", summary(loss=v)) for s, v in ((1, 0.2), (2, 0.4), (3, None))
    ]
    (row,) = compare(collect(paths)).to_dicts()
    assert (row["loss"], row["loss_n"], row["seeds"]) == (pytest.approx(0.3), 2, 3)


def test_a_repetition_is_no_further_seed(tmp_path: Path) -> None:
    first = store(tmp_path / "a", configuration(), "finished", summary(accuracy=0.1))
    last = store(tmp_path / "b", configuration(), "finished", summary(accuracy=0.2))
    for paths in ([first, last], [last, first]):
        (row,) = compare(collect(paths)).to_dicts()
        assert (row["seeds"], row["accuracy"]) == (1, 0.2)


def test_a_twin_of_no_duration_gives_no_ratio(tmp_path: Path) -> None:
    plain = store(tmp_path, configuration(), "finished", summary(train_s=0.0))
    ckks = store(tmp_path, configuration(secure_sum=CKKS), "finished", summary(train_s=1.0))
    _, row = rows_of([plain, ckks])
    assert row["train_ratio"] is None


def test_nothing_finished_is_an_empty_table(tmp_path: Path) -> None:
    assert compare(collect([store(tmp_path, configuration(), "failed", error="x")])).is_empty()


def noisy(root: Path, accuracies: list[float], rounds_s: list[float], uploads: list[float]) -> list[Path]:
    """A plain run and another for each seed; the figures are those of the other, plain has 0.9, 1 s and 4 bytes."""
    paths = []
    for seed, figures in enumerate(zip(accuracies, rounds_s, uploads, strict=True)):
        plain = summary(accuracy=0.9, round_s=1.0, upload_bytes_per_parameter=4.0)
        other = dict(zip(("accuracy", "round_s", "upload_bytes_per_parameter"), figures, strict=True))
        paths.append(store(root, configuration(seed=seed), "finished", plain))
        paths.append(store(root, configuration(seed=seed, secure_sum=CKKS), "finished", plain | other))
    return paths


def test_what_the_seeds_do_not_tell_from_noise_is_marked(tmp_path: Path) -> None:
    plain, ckks = rows_of(noisy(tmp_path, [0.91, 0.88, 0.92], [1.3, 0.8, 1.1], [4.0, 4.1, 4.3]))
    for key, figures, none in (("accuracy_points", [1.0, -2.0, 2.0], 0), ("round_ratio", [0.262, -0.223, 0.095], 0)):
        assert stats.ttest_1samp(figures, none).pvalue > 0.05
        assert ckks[f"{key}_ns"] is True
    assert plain["accuracy_points_ns"] is False
    assert plain["round_ratio_ns"] is False


def test_what_they_tell_is_not(tmp_path: Path) -> None:
    _, ckks = rows_of(noisy(tmp_path, [0.80, 0.81, 0.805], [3.0, 3.1, 2.9], [8.0, 8.0, 8.0]))
    assert [ckks[f"{key}_ns"] for key in ("accuracy_points", "round_ratio", "upload_ratio")] == [False] * 3


def test_the_same_for_all_seeds_is_no_noise_and_one_seed_is_not_judged(tmp_path: Path) -> None:
    paths = noisy(tmp_path, [0.9, 0.9, 0.9], [1.0, 1.0, 1.0], [4.0, 4.0, 4.0])
    _, ckks = rows_of(paths)
    assert [ckks[f"{key}_ns"] for key in ("accuracy_points", "round_ratio", "upload_ratio")] == [False] * 3
    _, single = rows_of(paths[:2])
    assert single["accuracy_points_ns"] is None


@pytest.mark.parametrize(
    "accuracy", [[0.91, 0.88, 0.92], [0.80, 0.81, 0.805], [0.905, 0.903, 0.901], [0.93, 0.91, 0.91]]
)
def test_the_mark_is_the_paired_t_test_at_five_percent(tmp_path: Path, accuracy: list[float]) -> None:
    _, ckks = rows_of(noisy(tmp_path, accuracy, [1.0] * 3, [4.0] * 3))
    assert ckks["accuracy_points_ns"] == (stats.ttest_rel(accuracy, [0.9] * 3).pvalue > 0.05)
