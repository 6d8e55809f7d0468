from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from results.naming.labels import flatten, label_parts, text_of
from tests.results.samples import CKKS, configuration


def labels(*configurations: dict[str, Any]) -> list[str]:
    return [text_of(parts) for parts in label_parts(configurations)]


def test_only_what_differs() -> None:
    assert labels(configuration(), configuration(secure_sum=CKKS), configuration(clients=20)) == [
        "clients=10 secure_sum=plain",
        "clients=10 secure_sum=ckks",
        "clients=20 secure_sum=plain",
    ]


def test_one_alone_gets_its_main_keys() -> None:
    assert labels(configuration()) == ["data=digits model=mlp clients=10 rounds=4 mechanism=none secure_sum=plain"]
    assert labels() == []


def test_what_follows_from_a_groups_name_is_left_out() -> None:
    mnist = {"name": "mnist", "image_column": "img", "alpha": 0.5}
    assert labels(configuration(), configuration(data=mnist)) == ["data=digits", "data=mnist"]
    skewed = mnist | {"alpha": 0.1}
    assert labels(configuration(), configuration(data=mnist), configuration(data=skewed)) == [
        "data=digits",
        "data=mnist data.alpha=0.5",
        "data=mnist data.alpha=0.1",
    ]


def test_groups_within_groups() -> None:
    def training(name: str, momentum: float) -> dict[str, Any]:
        return {"lr": 0.1, "optimizer": {"_target_": f"torch.optim.{name}", "momentum": momentum}}

    runs = [configuration(training=training(*choice)) for choice in (("SGD", 0.0), ("SGD", 0.9), ("Adam", 0.0))]
    assert labels(*runs) == [
        "training.optimizer=sgd training.optimizer.momentum=0.0",
        "training.optimizer=sgd training.optimizer.momentum=0.9",
        "training.optimizer=adam",
    ]
    without = configuration(training={"lr": 0.1, "optimizer": {}})
    assert labels(runs[0], without) == ["training.optimizer=sgd", "training.optimizer=none"]


def test_mechanisms_by_their_names() -> None:
    def dp(sigma: float) -> dict[str, Any]:
        return {"dp_sgd": {"_target_": "privacy.DpSgd", "noise_multiplier": sigma}}

    runs = [configuration(), configuration(mechanism=dp(1.0)), configuration(mechanism=dp(2.0), secure_sum=CKKS)]
    assert labels(*runs) == [
        "mechanism=none secure_sum=plain",
        "mechanism=dp_sgd mechanism.dp_sgd.noise_multiplier=1.0 secure_sum=plain",
        "mechanism=dp_sgd mechanism.dp_sgd.noise_multiplier=2.0 secure_sum=ckks",
    ]


def test_two_classes_of_one_name_are_told_apart() -> None:
    other = configuration(secure_sum={"_target_": "elsewhere.PlainSum"})
    assert labels(configuration(), other) == [
        "secure_sum._target_=privacy.PlainSum",
        "secure_sum._target_=elsewhere.PlainSum",
    ]


def test_keys_that_some_lack_and_values_that_are_null() -> None:
    assert labels(configuration(cohort=None), configuration(cohort=5)) == ["cohort=null", "cohort=5"]
    assert labels(configuration(), configuration(cohort=5)) == ["", "cohort=5"]


values = st.one_of(st.none(), st.booleans(), st.integers(-3, 3), st.sampled_from(["a", "b c", "", "x=y"]))
group = st.one_of(values, st.dictionaries(st.sampled_from(["_target_", "name", "p", "q"]), values, max_size=3))
trees = st.dictionaries(st.sampled_from(["data", "mechanism", "model", "seed", "z"]), group, min_size=1, max_size=4)


@given(st.lists(trees, min_size=2, max_size=4))
def test_configurations_that_differ_have_labels_that_differ(configurations: list[dict[str, Any]]) -> None:
    flats = [flatten(one) for one in configurations]
    shown = labels(*configurations)
    for flat, label in zip(flats, shown, strict=True):
        for other, other_label in zip(flats, shown, strict=True):
            assert (flat == other) == (label == other_label)


def test_numbers_that_are_equal_and_read_differently_are_told_apart():
    labels = [text_of(parts) for parts in label_parts([{"a": 1, "b": 2}, {"a": 1.0, "b": 2}, {"a": True, "b": 2}])]
    assert labels == ["a=1", "a=1.0", "a=true"]
