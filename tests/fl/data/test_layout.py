"""Folders that hold several data sets, or a part of one: exactly one whole set is read, or none."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fl.data import image_data
from fl.data.image_data import load_data
from tests.fl.data.image_sets import examples, message, node, write_idx, write_parquet

pytestmark = pytest.mark.usefixtures("machine_without_data")


def write_set(folder: Path, seed: int = 1, name: str = "{}.parquet", count: int = 20, **columns: Any) -> None:
    """Write both splits; the images of a seed are those of `examples(count, seed=seed)`, and `seed + 100` tests."""
    for split, number in (("train", seed), ("test", seed + 100)):
        images, labels = examples(count, seed=number)
        write_parquet(folder / name.format(split), images, labels=labels, **columns)


def write_idx_set(folder: Path, seed: int = 1, names: str = "{}-{}-idx{}-ubyte") -> None:
    for split, number in (("train", seed), ("t10k" if "emnist" not in names else "test", seed + 100)):
        images, labels = examples(20, seed=number)
        write_idx(folder / names.format(split, "images", 3), images)
        write_idx(folder / names.format(split, "labels", 1), np.array(labels))


def is_of_seed(path: Path, seed: int, **keys: Any) -> bool:
    data = load_data(node(path=str(path), **keys))
    train = np.array_equal(data.train.images[:, 0].numpy(), examples(20, seed=seed)[0])
    return train and np.array_equal(data.test.images[:, 0].numpy(), examples(20, seed=seed + 100)[0])


# Several sets


def test_a_root_of_torchvision_with_two_sets(tmp_path: Path) -> None:
    write_idx_set(tmp_path / "FashionMNIST" / "raw", 1)
    write_idx_set(tmp_path / "MNIST" / "raw", 2)
    text = message(node(path=str(tmp_path)))
    assert text.startswith(f"data.config=None: {tmp_path} holds several sets, choose one of FashionMNIST (t10k-images-")
    assert "; MNIST (t10k-images-" in text
    assert is_of_seed(tmp_path, 1, config="FashionMNIST")
    assert is_of_seed(tmp_path, 2, config="MNIST")


@pytest.mark.parametrize("name", ["{}-00000-of-00001.parquet", "{}/0000.parquet"])
def test_two_configurations_of_the_hub(name: str, tmp_path: Path) -> None:
    write_set(tmp_path / "cropped_digits", 1, name)
    write_set(tmp_path / "full_numbers", 2, name, natural=["a"] * 20)
    text = message(node(path=str(tmp_path)))
    assert text.startswith(f"data.config=None: {tmp_path} holds several sets, choose one of cropped_digits (")
    assert "; full_numbers (" in text
    assert is_of_seed(tmp_path, 2, config="full_numbers")
    data = load_data(node(path=str(tmp_path), config="cropped_digits"))
    assert data.origin == f"{tmp_path}, configuration cropped_digits"
    assert message(node(path=str(tmp_path), config="extra")) == (
        f"data.config=extra: {tmp_path} holds cropped_digits, full_numbers"
    )


def test_the_splits_of_two_configurations_are_not_joined(tmp_path: Path) -> None:
    write_set(tmp_path / "one", 1)
    write_set(tmp_path / "two", 2)
    (tmp_path / "one" / "test.parquet").unlink()
    (tmp_path / "two" / "train.parquet").unlink()
    assert "holds several sets, choose one of one (train.parquet); two (test.parquet)" in message(
        node(path=str(tmp_path))
    )


def test_a_folder_of_data_sets_given_by_mistake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seed in (("mnist", 1), ("cifar10", 2)):
        write_set(tmp_path / name, seed)
    assert "choose one of cifar10 (test.parquet, train.parquet); mnist (" in message(node(path=str(tmp_path)))
    monkeypatch.setenv("FEDVEIL_DATA", str(tmp_path.parent))
    assert "holds several sets" in message(node(tmp_path.name))


def test_an_old_copy_beside_the_set(tmp_path: Path) -> None:
    write_set(tmp_path, 1)
    write_set(tmp_path / "old", 2)
    assert f"{tmp_path} holds several sets, choose one of . (test.parquet, train.parquet); old (" in message(
        node(path=str(tmp_path))
    )
    assert is_of_seed(tmp_path, 1, config=".")


@pytest.mark.parametrize("second", ["train/train.parquet", "train-00000-of-00001.parquet", "train/0000.parquet"])
def test_two_copies_of_a_split_under_two_names(second: str, tmp_path: Path) -> None:
    write_set(tmp_path, 1)
    (tmp_path / second).parent.mkdir(exist_ok=True)
    shutil.copy(tmp_path / "train.parquet", tmp_path / second)
    assert f"{tmp_path}: several copies of the split train: " in message(node(path=str(tmp_path)))


def test_parquet_beside_idx_files(tmp_path: Path) -> None:
    write_set(tmp_path / "a", 1)
    write_idx_set(tmp_path / "b", 2)
    assert "choose one of a (test.parquet, train.parquet); b (t10k-images" in message(node(path=str(tmp_path)))
    assert is_of_seed(tmp_path, 2, config="b")
    write_idx_set(tmp_path / "a", 3)
    assert "parquet and IDX files side by side" in message(node(path=str(tmp_path), config="a"))


def test_the_names_of_emnist(tmp_path: Path) -> None:
    write_idx_set(tmp_path, 1, "emnist-balanced-{}-{}-idx{}-ubyte.gz")
    assert is_of_seed(tmp_path, 1)
    image_data._load.cache_clear()
    write_idx_set(tmp_path, 2, "emnist-letters-{}-{}-idx{}-ubyte.gz")
    assert "choose one of emnist-balanced (emnist-balanced-test-images-" in message(node(path=str(tmp_path)))
    assert is_of_seed(tmp_path, 2, config="emnist-letters")


def test_the_embedded_digits_have_no_configuration() -> None:
    assert message(node("digits", config="x")) == "data.config=x: the embedded digits are one set: leave it out"


@pytest.mark.usefixtures("hub_cache")
def test_the_configuration_reaches_the_hub(tmp_path: Path) -> None:
    for name, seed in (("one", 1), ("two", 2)):
        write_set(tmp_path / "set" / name, seed, "{}-00000-of-00001.parquet")
    listed = "\n".join(
        f"- config_name: {name}\n  data_files:\n  - split: train\n    path: {name}/train-*\n"
        f"  - split: test\n    path: {name}/test-*"
        for name in ("one", "two")
    )
    (tmp_path / "set" / "README.md").write_text(f"---\nconfigs:\n{listed}\n---\n")
    data = load_data(node(hub=str(tmp_path / "set"), config="two"))
    assert np.array_equal(data.train.images[:, 0].numpy(), examples(20, seed=2)[0])
    assert "Config name is missing" in message(node(hub=str(tmp_path / "set")))


# Parts of a set


def test_hidden_files_are_no_splits(tmp_path: Path) -> None:
    write_set(tmp_path, 1)
    (tmp_path / "._train.parquet").write_bytes(b"\0\5\x16\7")
    write_set(tmp_path / ".cache" / "huggingface", 2)
    write_set(tmp_path / "__MACOSX", 3)
    assert is_of_seed(tmp_path, 1)


def write_shards(folder: Path, present: list[int], of: int, name: str = "train-{:05}-of-{:05}.parquet") -> None:
    for shard in present:
        images, labels = examples(10, seed=shard)
        write_parquet(folder / name.format(shard, of), images, labels=labels)


@pytest.mark.parametrize(
    ("present", "of", "absent"), [([0, 2], 3, "1 of 3"), ([1, 2], 3, "0 of 3"), ([0], 4, "1, 2, 3 of 4")]
)
def test_missing_shards_are_named(present: list[int], of: int, absent: str, tmp_path: Path) -> None:
    write_shards(tmp_path, present, of)
    text = message(node(path=str(tmp_path)))
    assert text.startswith(f"{tmp_path}: the split train lacks shard {absent} (from 0): train-0000{present[0]}-of-")


def test_missing_shards_of_the_hubs_conversion_are_named(tmp_path: Path) -> None:
    write_shards(tmp_path / "train", [0, 2], 3, "{:04}.parquet")
    assert "the split train lacks shard 1 of 3 (from 0): 0000.parquet, 0002.parquet" in message(
        node(path=str(tmp_path))
    )


def test_a_missing_shard_of_the_test_split_is_named_too(tmp_path: Path) -> None:
    write_shards(tmp_path, [0, 1], 2)
    write_shards(tmp_path, [0], 2, "test-{:05}-of-{:05}.parquet")
    assert "the split test lacks shard 1 of 2" in message(node(path=str(tmp_path)))


def test_shards_of_two_downloads_are_not_joined(tmp_path: Path) -> None:
    write_shards(tmp_path, [0, 1], 2)
    write_shards(tmp_path, [0, 1, 2], 3)
    assert "several copies of the split train: train-00000-of-00002.parquet" in message(node(path=str(tmp_path)))


def test_one_shard_under_two_numbers(tmp_path: Path) -> None:
    write_shards(tmp_path, [0, 1], 2)
    shutil.copy(tmp_path / "train-00000-of-00002.parquet", tmp_path / "train-00001-of-00002.parquet")
    assert message(node(path=str(tmp_path))) == (
        f"{tmp_path}: train-00000-of-00002.parquet and train-00001-of-00002.parquet of the split train hold the same; "
        "keep one"
    )


def test_shards_with_labels_of_two_types_are_not_joined(tmp_path: Path) -> None:
    for shard, labels in enumerate(([0, 1] * 5, ["0", "1"] * 5)):
        write_parquet(tmp_path / f"train-0000{shard}-of-00002.parquet", examples(10, seed=shard)[0], labels=labels)
    assert message(node(path=str(tmp_path))) == (
        f"{tmp_path}: shards of one split differ in the column label: train-00000-of-00002.parquet has int64, "
        "train-00001-of-00002.parquet has string"
    )


def test_shards_with_other_columns_are_not_joined(tmp_path: Path) -> None:
    for shard, column in enumerate(("label", "digit")):
        file = tmp_path / f"train-0000{shard}-of-00002.parquet"
        write_parquet(file, examples(10, seed=shard)[0], label=column, labels=[0, 1] * 5)
    told = "differ in the column label: train-00000-of-00002.parquet has int64, train-00001-of-00002.parquet has none"
    assert told in message(node(path=str(tmp_path)))


@pytest.mark.parametrize("test", [["dog", "cat"], ["cat", "dog", "cow"]])
def test_classes_that_are_numbered_in_two_ways(test: list[str], tmp_path: Path) -> None:
    """The hub's files name their classes; the same number means the same class in all of them."""
    from datasets import ClassLabel, Dataset, Features
    from datasets import Image as ImageFeature
    from PIL import Image

    for split, names in (("train", ["cat", "dog"]), ("test", test)):
        cells = [Image.fromarray(pixels) for pixels in examples(10, seed=len(split))[0]]
        features = Features({"image": ImageFeature(), "label": ClassLabel(names=names)})
        table = Dataset.from_dict({"image": cells, "label": [0, 1] * 5}, features=features)
        table.to_parquet(tmp_path / f"{split}.parquet")
    assert message(node(path=str(tmp_path))) == (
        f"data.label_column=label: {tmp_path} names its classes differently in train.parquet and test.parquet"
    )


# IDX files


def test_an_idx_file_twice_is_read_once_where_both_say_the_same(tmp_path: Path) -> None:
    write_idx_set(tmp_path / "raw", 1)
    write_idx_set(tmp_path / "raw", 1, "{}-{}-idx{}-ubyte.gz")
    assert is_of_seed(tmp_path, 1)
    image_data._load.cache_clear()
    write_idx(tmp_path / "raw" / "train-labels-idx1-ubyte.gz", np.array([2, 1, 0, 1] * 5))
    assert "train-labels-idx1-ubyte, train-labels-idx1-ubyte.gz differ; keep one" in message(node(path=str(tmp_path)))


def test_two_test_splits_in_idx_files(tmp_path: Path) -> None:
    write_idx_set(tmp_path, 1)
    write_idx(tmp_path / "test-images-idx3-ubyte", examples(20, seed=5)[0])
    assert "several files with images of the split test, t10k-images-idx3-ubyte, test-images" in message(
        node(path=str(tmp_path))
    )


@pytest.mark.parametrize("key", ["train_split", "test_split"])
def test_a_split_that_idx_files_do_not_have(key: str, tmp_path: Path) -> None:
    write_idx_set(tmp_path, 1)
    assert message(node(path=str(tmp_path), **{key: "validation"})).startswith(f"data.{key}=validation: {tmp_path} has")


# Sets with a name of their own

MNIST = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]  # training examples of each digit


def write_sized(folder: Path, counts: tuple[list[int], list[int]], bright: float, size: tuple[int, ...]) -> None:
    """Write both splits of a set with these numbers of each label, and pixels around a mean of `bright`."""
    for split, numbers in zip(("train", "t10k"), counts, strict=True):
        labels = np.repeat(np.arange(len(numbers)), numbers)
        rng = np.random.default_rng(len(split))
        images = (rng.random((len(labels), *size)) < bright).astype(np.uint8) * 255
        write_idx(folder / f"{split}-images-idx3-ubyte", images)
        write_idx(folder / f"{split}-labels-idx1-ubyte", labels)


@pytest.mark.parametrize(
    ("name", "counts", "told"),
    [
        ("mnist", ([6000] * 10, [1000] * 10), "other numbers of each label among its train examples"),
        ("fashion_mnist", ([6000] * 10, [1000] * 10), "pixels whose mean is 0.10"),  # KMNIST has these numbers, too
        ("fashion_mnist", ([5000] * 10, [1000] * 10), "50000 train examples, not 60000"),
        ("mnist", (MNIST, [1000] * 10), "other numbers of each label among its test examples"),
        ("femnist", ([10] * 63, [1] * 63), "63 classes, not 62"),
        ("cifar10", ([50] * 10, [10] * 10), "images of the shape 1x28x28, not 3x32x32"),
        ("digits", ([50] * 10, [10] * 10), "images of the shape 1x28x28, not 1x8x8"),
    ],
)
def test_another_set_under_the_name_of_a_published_one(
    name: str, counts: tuple[list[int], list[int]], told: str, tmp_path: Path
) -> None:
    write_sized(tmp_path, counts, 0.1, (28, 28))
    text = message(node(name, path=str(tmp_path), natural_column=None))
    assert text.startswith(f"data.name={name}: {tmp_path} holds ")
    assert told in text
    assert "give it a name of its own (data.name=NAME)" in text


def test_a_set_with_a_name_of_its_own_is_what_it_is(tmp_path: Path) -> None:
    write_sized(tmp_path, ([6] * 10, [2] * 10), 0.5, (28, 28))
    assert load_data(node("small_mnist", path=str(tmp_path))).name == "small_mnist"
