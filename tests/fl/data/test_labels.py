"""Labels of two splits: classes are those of training, and a test label that training lacks is never scored."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fl.data.image_data import load_data
from tests.fl.data.image_sets import examples, message, node, write_idx, write_parquet

pytestmark = pytest.mark.usefixtures("machine_without_data")


def write_splits(folder: Path, train: list[Any], test: list[Any], **columns: Any) -> str:
    """Write two splits with these labels, and random images; return the folder."""
    for split, labels, seed in (("train", train, 1), ("test", test, 2)):
        write_parquet(folder / f"{split}.parquet", examples(len(labels), seed=seed)[0], labels=labels, **columns)
    return str(folder)


def test_a_test_label_that_training_lacks_is_refused_with_its_count(tmp_path: Path) -> None:
    path = write_splits(tmp_path, [0, 1] * 10, [0, 1, 7, 7, 5])
    assert message(node(path=path)) == (
        f"data.test_split=test: {path} has test labels that training lacks, 5 (1 example), 7 (2 examples), beside "
        "0, 1: choose another split, or data.unseen_labels=leave_out leaves these examples out"
    )


def test_unseen_labels_can_be_left_out_and_are_counted(tmp_path: Path) -> None:
    path = write_splits(tmp_path, [3, 8] * 10, [8, 3, 7, 7, 5, 3])
    data = load_data(node(path=path, unseen_labels="leave_out"))
    assert data.classes == 2
    assert data.train.labels.tolist() == [0, 1] * 10
    assert data.test.labels.tolist() == [1, 0, 0]
    images, _ = examples(6, seed=2)
    assert np.array_equal(data.test.images[:, 0].numpy(), images[[0, 1, 5]])
    left_out = "3 of 6 test examples left out, with labels that training lacks: 5 (1 example), 7 (2 examples)"
    assert data.origin == f"{path}; {left_out}"


def test_no_example_is_left_to_test(tmp_path: Path) -> None:
    path = write_splits(tmp_path, [0, 1] * 10, [2, 2])
    assert "no test example has a label of training" in message(node(path=path, unseen_labels="leave_out"))


@pytest.mark.parametrize("test", [[-1] * 6, [0, -1, 1, -1]])
def test_unlabelled_test_examples_are_called_so(test: list[int], tmp_path: Path) -> None:
    path = write_splits(tmp_path, [0, 1] * 10, test)
    assert message(node(path=path)) == (
        f"data.test_split=test: {path} has the label -1, the mark of an unlabelled example, for {test.count(-1)} of "
        f"{len(test)} test examples: choose another split, or data.unseen_labels=leave_out leaves these examples out"
    )


def test_unlabelled_training_examples_are_called_so(tmp_path: Path) -> None:
    path = write_splits(tmp_path, [0, 1, -1] * 10, [0, 1, 0])
    assert message(node(path=path)) == (
        f"data.train_split=train: {path} has the label -1, the mark of an unlabelled example, for 10 of 30 training "
        "examples: leave them out of the files, or number the classes from 0"
    )


def test_signs_are_two_classes(tmp_path: Path) -> None:
    data = load_data(node(path=write_splits(tmp_path, [1, -1] * 10, [1, -1, -1])))
    assert (data.classes, data.test.labels.tolist()) == (2, [1, 0, 0])


@pytest.mark.parametrize(
    ("train", "test", "kinds"),
    [(["cat", "dog"] * 5, [0, 1] * 5, ("strings", "integers")), ([0, 1] * 5, ["0", "1"] * 5, ("integers", "strings"))],
)
def test_types_of_labels_agree(train: list[Any], test: list[Any], kinds: tuple[str, str], tmp_path: Path) -> None:
    path = write_splits(tmp_path, train, test)
    expected = f"data.label_column=label: {path} has {kinds[0]} in training and {kinds[1]} in the test split"
    assert message(node(path=path)).startswith(expected)
    assert message(node(path=path, unseen_labels="leave_out")).startswith(expected)


def test_a_class_that_only_training_has_is_no_fault(tmp_path: Path) -> None:
    data = load_data(node(path=write_splits(tmp_path, [0, 1, 2] * 5, [0, 1] * 5)))
    assert data.classes == 3


def test_idx_labels_are_looked_at_too(tmp_path: Path) -> None:
    for split, labels in (("train", [0, 1] * 5), ("t10k", [0, 2] * 5)):
        write_idx(tmp_path / f"{split}-images-idx3-ubyte", examples(10, seed=len(split))[0])
        write_idx(tmp_path / f"{split}-labels-idx1-ubyte", np.array(labels))
    assert "test labels that training lacks, 2 (5 examples), beside 0, 1" in message(node(path=str(tmp_path)))


def test_an_example_of_a_class_of_its_own_is_not_held_out(tmp_path: Path) -> None:
    """Where the set has no test split; each of 20 labels occurs once, so nothing of them can be tested."""
    labels = [*range(20), *[20] * 180]
    write_parquet(tmp_path / "train.parquet", examples(200)[0], labels=labels)
    data = load_data(node(path=str(tmp_path)))
    assert set(data.train.labels.tolist()) == set(range(21))
    assert set(data.test.labels.tolist()) == {20}
    assert len(data.train.labels) + len(data.test.labels) == 200


def test_truth_values_are_integers(tmp_path: Path) -> None:
    data = load_data(node(path=write_splits(tmp_path, [0, 1] * 10, [True, False, True])))
    assert (data.classes, data.test.labels.tolist()) == (2, [1, 0, 1])


def test_one_class_alone_is_refused(tmp_path: Path) -> None:
    path = write_splits(tmp_path, [4] * 10, [4, 4])
    expected = f"data.label_column=label: {path} has one label in training, 4: choose a column with several"
    assert message(node(path=path)) == expected


def test_test_labels_that_are_all_the_same_are_noted(tmp_path: Path) -> None:
    """As in sets whose publisher keeps the test labels, and fills their column with zeros."""
    path = write_splits(tmp_path, [0, 1] * 10, [0, 0, 0])
    assert load_data(node(path=path)).origin == f"{path}; all 3 test examples have the label 0"


def test_labels_that_differ_in_blanks_are_told_apart(tmp_path: Path) -> None:
    path = write_splits(tmp_path, ["cat", "dog"] * 5, ["cat ", "dog"])
    assert "test labels that training lacks, 'cat ' (1 example), beside cat, dog" in message(node(path=path))


def test_labels_that_all_occur_once_leave_nothing_to_test(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train.parquet", examples(10)[0], labels=list(range(10)))
    expected = f"data.label_column=label: {tmp_path} has no label twice, so there is no example to hold out as a test"
    assert message(node(path=str(tmp_path))) == expected


@pytest.mark.parametrize("keys", [{"test_split": "train"}, {"train_split": "test"}])
def test_a_split_is_not_tested_on_itself(keys: dict[str, str], tmp_path: Path) -> None:
    path = write_splits(tmp_path, [0, 1] * 5, [0, 1] * 5)
    assert "must be another split than data.train_split" in message(node(path=path, **keys))


def test_a_test_split_that_was_asked_for_is_not_replaced_by_held_out_examples(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train.parquet", examples(10)[0], labels=[0, 1] * 5)
    assert message(node(path=str(tmp_path), test_split="validation")) == (
        f"data.test_split=validation: {tmp_path} has the splits train"
    )


def test_a_test_split_that_is_the_training_split_again_is_refused(tmp_path: Path) -> None:
    for split in ("train", "test"):
        write_parquet(tmp_path / f"{split}.parquet", examples(10)[0], labels=[0, 1] * 5)
    assert message(node(path=str(tmp_path))).startswith(
        f"data.test_split=test: {tmp_path} has the same images in training and in the test split"
    )
