"""Parquet files, in a folder or as a repository of the hub."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fl.data.image_data import load_data
from tests.fl.data.image_sets import Examples, encoded, examples, message, node, write_parquet

pytestmark = pytest.mark.usefixtures("machine_without_data")


@pytest.mark.parametrize(
    "layout",
    [
        "{}.parquet",
        "data/{}-00000-of-00001.parquet",
        "plain_text/{}-00000-of-00001-0123456789abcdef.parquet",
        "default/{}/0000.parquet",
    ],
)
@pytest.mark.parametrize("size", [(6, 5), (5, 6, 3)])
def test_parquet_layouts(layout: str, size: tuple[int, ...], tmp_path: Path) -> None:
    wanted = {"train": examples(30, size, seed=1), "test": examples(10, size, seed=2)}
    for name, (images, labels) in wanted.items():
        write_parquet(tmp_path / layout.format(name), images, labels=labels)
    data = load_data(node(path=str(tmp_path)))
    for split, (images, labels) in ((data.train, wanted["train"]), (data.test, wanted["test"])):
        channels_last = images.reshape(*images.shape[:3], -1)
        assert np.array_equal(split.images.permute(0, 2, 3, 1).numpy(), channels_last)
        assert split.labels.tolist() == labels
    assert data.shape == (1 if len(size) == 2 else 3, *size[:2])
    assert data.origin == str(tmp_path)


def test_a_split_in_several_files_keeps_its_order(tmp_path: Path) -> None:
    images, labels = examples(30)
    for part in range(3):
        rows = slice(10 * part, 10 * part + 10)
        write_parquet(tmp_path / f"train-{part:05}-of-00003.parquet", images[rows], labels=labels[rows])
    write_parquet(tmp_path / "test.parquet", examples(5, seed=1)[0], labels=labels[:5])
    assert np.array_equal(load_data(node(path=str(tmp_path))).train.images[:, 0].numpy(), images)


def write_femnist(folder: Path) -> Examples:
    """60 images by 4 writers with labels like the hub's `flwrlabs/femnist`, in one split."""
    images, _ = examples(60, (28, 28))
    letters = [["7", "a", "B"][i % 3] for i in range(60)]
    writers = [f"f{i % 4:04}_{i % 4}" for i in range(60)]
    file = folder / "data" / "train-00000-of-00001.parquet"
    write_parquet(file, images, label="character", labels=letters, writer_id=writers)
    return images, list(zip(letters, writers, strict=True))


@pytest.mark.usefixtures("hub_cache")
@pytest.mark.parametrize("through", ["path", "hub"])
def test_femnist_labels_owners_and_held_out_examples(through: str, tmp_path: Path) -> None:
    images, truth = write_femnist(tmp_path / "femnist")
    data = load_data(node("femnist", **{through: str(tmp_path / "femnist")}))
    assert (data.classes, len(data.train.labels), len(data.test.labels)) == (3, 54, 6)
    assert "10% of the examples were held out" in data.origin
    rows = [int(np.flatnonzero((images == image).all(axis=(1, 2)))[0]) for image in data.train.images[:, 0].numpy()]
    assert rows == sorted(rows)
    assert [["7", "B", "a"][label] for label in data.train.labels] == [truth[row][0] for row in rows]
    assert data.natural_ids is not None
    assert [f"f{owner:04}_{owner}" for owner in data.natural_ids] == [truth[row][1] for row in rows]


@pytest.mark.usefixtures("hub_cache")
def test_the_hub_reads_what_a_folder_reads(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for split, seed in (("train", 1), ("test", 2)):
        images, labels = examples(20, (4, 4, 3), seed)
        write_parquet(tmp_path / "set" / f"{split}-00000-of-00001.parquet", images, image="img", labels=labels)
    columns = {"image_column": "img"}
    one, other = (load_data(node(**{through: str(tmp_path / "set")}, **columns)) for through in ("path", "hub"))
    assert torch.equal(one.train.images, other.train.images)
    assert torch.equal(one.test.labels, other.test.labels)
    assert other.origin == f"Hugging Face hub {tmp_path / 'set'}"
    assert capfd.readouterr() == ("", "")


@pytest.mark.usefixtures("small_sets")
def test_jpeg_is_said_so(tmp_path: Path) -> None:
    for split, seed in (("test", 1), ("train", 2)):
        images, labels = examples(20, (8, 8, 3), seed)
        cells = [encoded(pixels, "JPEG") for pixels in images]
        write_parquet(tmp_path / f"{split}.parquet", cells, image="img", labels=labels)
    data = load_data(node("cifar10", path=str(tmp_path)))
    assert data.origin == f"{tmp_path}; JPEG re-encoding, not the original pixels"
    other = load_data(node(path=str(tmp_path), image_column="img"))  # of which it could be the original
    assert other.origin == f"{tmp_path}; JPEG images"
    with Image.open(io.BytesIO(encoded(images[3], "JPEG")["bytes"])) as image:
        assert np.array_equal(data.train.images[3].permute(1, 2, 0).numpy(), np.asarray(image))


def test_missing_columns_and_splits_are_named(tmp_path: Path) -> None:
    for split in ("train", "validation"):
        images, labels = examples(6, seed=len(split))
        write_parquet(tmp_path / f"{split}.parquet", images, labels=labels)
    path = str(tmp_path)
    assert message(node(path=path)) == f"data.test_split=test: {path} has the splits train, validation"
    assert message(node(path=path, train_split="x")) == f"data.train_split=x: {path} has the splits train, validation"
    there = {"path": path, "test_split": "validation"}
    assert len(load_data(node(**there)).test.labels) == 6
    for key in ("image_column", "label_column", "natural_column"):
        expected = f"data.{key}=img: {path} has the columns image, label"
        assert message(node(**there, **{key: "img"})) == expected
    assert "not integers or strings" in message(node(**there, label_column="image"))
    assert "no encoded images" in message(node(**there, image_column="label"))


def test_images_that_do_not_fit_together(tmp_path: Path) -> None:
    small = examples(3)[0]
    large = examples(3, (7, 5))[0]
    write_parquet(tmp_path / "train.parquet", [*small, *large], labels=[0] * 6)
    assert "images of train differ in size, 6x5x1 in row 0 and 7x5x1 in row 3: resize them" in message(
        node(path=str(tmp_path))
    )
    write_parquet(tmp_path / "train.parquet", small, labels=[0] * 3)
    write_parquet(tmp_path / "test.parquet", large, labels=[0] * 3)
    assert "training images have the shape (3, 1, 6, 5)" in message(node(path=str(tmp_path)))
    deep = np.zeros((6, 5), np.uint16)
    write_parquet(tmp_path / "train.parquet", [encoded(deep, "PNG")], labels=[0])
    assert "use less than a sixteenth of their range" in message(node(path=str(tmp_path)))
