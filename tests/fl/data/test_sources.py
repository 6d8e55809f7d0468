"""Lookup of image files, and the IDX format."""

import os
import socket
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fl.data import hub
from fl.data.idx import read_idx
from fl.data.image_data import load_data
from fl.data.sources import DEBIAN_FASHION_MNIST
from tests.fl.data.image_sets import examples, message, node, write_idx, write_parquet

pytestmark = pytest.mark.usefixtures("machine_without_data")


# Files on the machine


def test_digits_are_those_of_scikit_learn() -> None:
    from sklearn.datasets import load_digits

    data = load_data(node("digits"))
    assert (data.shape, data.classes, data.pixel_max) == ((1, 8, 8), 10, 16)
    assert (len(data.train.labels), len(data.test.labels)) == (1437, 360)
    pixels, labels = load_digits(return_X_y=True)
    ours = torch.cat([data.train.images, data.test.images]).reshape(-1, 64).numpy()
    our_labels = torch.cat([data.train.labels, data.test.labels]).numpy()
    assert sorted(map(tuple, np.c_[ours, our_labels])) == sorted(map(tuple, np.c_[pixels, labels].astype(int)))
    assert torch.bincount(data.test.labels).min() >= 34  # stratified: a fifth of 174 to 183
    assert data.train.images.dtype == torch.uint8
    assert data.train.labels.dtype == torch.int64


@pytest.mark.skipif(not DEBIAN_FASHION_MNIST.is_dir(), reason="Debian's package dataset-fashion-mnist is not installed")
def test_fashion_mnist_of_debian() -> None:
    data = load_data(node("fashion_mnist"))
    assert (data.shape, data.classes, len(data.train.labels), len(data.test.labels)) == ((1, 28, 28), 10, 60000, 10000)
    assert torch.bincount(data.train.labels).tolist() == [6000] * 10
    assert (data.mean_C.item(), data.std_C.item()) == pytest.approx((0.2860, 0.3530), abs=5e-5)  # the figures in use
    assert data.train.labels[:5].tolist() == [9, 0, 0, 3, 0]
    assert data.origin == str(DEBIAN_FASHION_MNIST)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "shape", "mean", "std", "within"),
    [
        ("mnist", (1, 28, 28), [0.1307], [0.3081], 5e-5),
        ("cifar10", (3, 32, 32), [0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616], 5e-3),
    ],
)
def test_sets_of_the_hub(
    name: str, shape: Any, mean: Any, std: Any, within: float, outer_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not (outer_data / name).is_dir():
        pytest.skip(f"FEDVEIL_DATA has no {name}")
    monkeypatch.setenv("FEDVEIL_DATA", str(outer_data))
    data = load_data(node(name))
    assert (data.shape, data.classes, len(data.test.labels)) == (shape, 10, 10000)
    assert data.mean_C.tolist() == pytest.approx(mean, abs=within)
    assert data.std_C.tolist() == pytest.approx(std, abs=within)


@pytest.fixture(scope="module")
def outer_data() -> Path:
    """The value of FEDVEIL_DATA before these tests."""
    if "FEDVEIL_DATA" not in os.environ:
        pytest.skip("FEDVEIL_DATA is not set")
    return Path(os.environ["FEDVEIL_DATA"])


# IDX files


@pytest.mark.parametrize(
    ("names", "suffix"),
    [
        (("train-images-idx3-ubyte", "t10k-images-idx3-ubyte"), ".gz"),
        (("train-images.idx3-ubyte", "test-images.idx3-ubyte"), ""),
    ],
)
@pytest.mark.parametrize("below", ["", "raw"])
def test_idx_folder(names: tuple[str, str], suffix: str, below: str, tmp_path: Path) -> None:
    expected = {}
    for name, seed in zip(names, (1, 2), strict=True):
        images, labels = expected[name] = examples(30, seed=seed)
        write_idx(tmp_path / "set" / below / f"{name}{suffix}", images)
        labels_name = name.replace("images", "labels").replace("idx3", "idx1")
        write_idx(tmp_path / "set" / below / f"{labels_name}{suffix}", np.array(labels))
    data = load_data(node(path=str(tmp_path / "set")))
    for split, name in zip((data.train, data.test), names, strict=True):
        assert np.array_equal(split.images.numpy(), expected[name][0][:, None])
        assert split.labels.tolist() == expected[name][1]
    assert data.origin == str(tmp_path / "set")


@settings(deadline=None)
@given(shape=st.lists(st.integers(0, 4), min_size=1, max_size=4), cut=st.integers(1, 50))
def test_idx_files_are_read_or_refused(shape: list[int], cut: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    values = np.arange(np.prod(shape)).reshape(shape)
    file = tmp_path_factory.mktemp("idx") / "file"
    write_idx(file, values)
    assert np.array_equal(read_idx(file), values)
    content = file.read_bytes()
    file.write_bytes(content[: -min(cut, len(content) - 4)])
    with pytest.raises(ValueError, match=r"its header says|buffer|offset"):
        read_idx(file)


def test_damaged_files_are_named(tmp_path: Path) -> None:
    images, labels = examples(4)
    write_idx(tmp_path / "train-labels-idx1-ubyte", np.array(labels))
    assert "needs images and labels of the split train" in message(node(path=str(tmp_path)))
    write_idx(tmp_path / "train-images-idx3-ubyte.gz", images)
    file = tmp_path / "train-images-idx3-ubyte.gz"
    file.write_bytes(file.read_bytes()[:-20])
    assert message(node(path=str(tmp_path))).startswith(f"data.name=toy: {tmp_path} cannot be read, ")


# Searched places


def test_a_path_without_images(tmp_path: Path) -> None:
    assert message(node(path=str(tmp_path / "no"))) == f"data.path={tmp_path / 'no'}: there is no such folder"
    (tmp_path / "README.md").touch()
    assert message(node(path=str(tmp_path))).startswith(
        f"data.path={tmp_path}: holds files of other kinds (1 with .md); "
    )


@pytest.mark.usefixtures("small_sets")
def test_path_comes_before_the_variable_and_that_before_debian(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder, count in (("path", 10), ("root/fashion_mnist", 20)):
        images, labels = examples(count)
        write_parquet(tmp_path / folder / "train.parquet", images, labels=labels)
    monkeypatch.setenv("FEDVEIL_DATA", str(tmp_path / "root"))
    assert len(load_data(node("fashion_mnist", path=str(tmp_path / "path"))).train.labels) == 9
    assert len(load_data(node("fashion_mnist")).train.labels) == 18


def test_what_is_nowhere_says_where_was_looked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = message(node())
    assert text.startswith("data.name=toy: not found, looked in data.path (not set), FEDVEIL_DATA (not set), data.hub")
    assert "give data.hub=OWNER/NAME" in text
    monkeypatch.setenv("FEDVEIL_DATA", str(tmp_path))
    text = message(node("mnist"))
    assert f"{tmp_path / 'mnist'} (no parquet or IDX files)" in text
    assert "Hugging Face hub ylecun/mnist (" in text
    assert "hf download ylecun/mnist" in text


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch) -> None:
    """Undo the offline setting of the hub's libraries."""
    import datasets
    import huggingface_hub

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "PROBE_S", 0.3)


@pytest.mark.usefixtures("online", "hub_cache")
@pytest.mark.parametrize("listening", [True, False], ids=["silent", "closed"])
def test_a_hub_out_of_reach_fails_soon_and_in_one_line(
    listening: bool, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    import datasets
    import huggingface_hub

    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        if listening:
            server.listen()
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        start = time.perf_counter()
        text = message(node("mnist"))
    assert time.perf_counter() - start < 8
    assert "Hugging Face hub ylecun/mnist (out of reach, " in text
    assert capfd.readouterr() == ("", "")
    assert datasets.config.HF_HUB_OFFLINE is False  # the next run may have a network
