import gzip
import io
import os
import socket
import struct
import subprocess
import sys
import time
from dataclasses import MISSING, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from PIL import Image

from fl import data as fl_data
from fl import decoding, hub
from fl.config import DataConfig
from fl.data import load_data
from fl.sources import DEBIAN_FASHION_MNIST, read_idx
from privacy.errors import ConfigError

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "configs" / "data"
Examples = tuple[np.ndarray[Any, Any], list[Any]]


def node(name: str = "toy", **keys: Any) -> DataConfig:
    """A `data` node; of one of the project's own sets if its YAML is there."""
    file = CONFIGS / f"{name}.yaml"
    own = OmegaConf.load(file) if file.exists() else OmegaConf.create({"name": name})
    config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(DataConfig), own, keys))
    assert isinstance(config, DataConfig)
    return config


@pytest.fixture(autouse=True)
def machine_without_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No data set but those that a test makes, and an empty cache."""
    monkeypatch.setenv("FEDVEIL_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("FEDVEIL_DATA", raising=False)


def examples(count: int, size: tuple[int, ...] = (6, 5), seed: int = 0, labels: int = 3) -> Examples:
    """Random images (count, *size) and labels that all occur."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, *size), dtype=np.uint8), [int(i % labels) for i in range(count)]


def write_idx(file: Path, values: np.ndarray[Any, Any]) -> None:
    header = struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape)
    content = header + values.astype(np.uint8).tobytes()
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(gzip.compress(content) if file.suffix == ".gz" else content)


def write_parquet(file: Path, images: Any, label: str = "label", image: str = "image", **columns: Any) -> None:
    """By the writer that the hub's own files come from; `images` may be encoded already."""
    from datasets import Dataset, Features, Value
    from datasets import Image as ImageFeature

    cells = [Image.fromarray(pixels) if isinstance(pixels, np.ndarray) else pixels for pixels in images]
    values = {image: cells, label: columns.pop("labels"), **columns}
    kinds = {name: Value("string" if isinstance(cells[0], str) else "int64") for name, cells in values.items()}
    file.parent.mkdir(parents=True, exist_ok=True)
    Dataset.from_dict(values, features=Features(kinds | {image: ImageFeature()})).to_parquet(file)


def encoded(pixels: np.ndarray[Any, Any], encoding: str) -> dict[str, Any]:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, encoding)
    return {"bytes": buffer.getvalue(), "path": None}


def message(config: DataConfig) -> str:
    with pytest.raises(ConfigError) as caught:
        load_data(config)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# What is on the machine


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
    """What FEDVEIL_DATA was before these tests."""
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


# Parquet files, in a folder or as a repository of the hub


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
    write_parquet(tmp_path / "test.parquet", images[:5], labels=labels[:5])
    assert np.array_equal(load_data(node(path=str(tmp_path))).train.images[:, 0].numpy(), images)


def write_femnist(folder: Path) -> Examples:
    """60 images by 4 writers with labels like the hub's `flwrlabs/femnist`, in one split."""
    images, _ = examples(60)
    letters = [["7", "a", "B"][i % 3] for i in range(60)]
    writers = [f"f{i % 4:04}_{i % 4}" for i in range(60)]
    file = folder / "data" / "train-00000-of-00001.parquet"
    write_parquet(file, images, label="character", labels=letters, writer_id=writers)
    return images, list(zip(letters, writers, strict=True))


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub's libraries write into the test's own folder."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "hub_cache"))


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


def test_jpeg_is_said_so(tmp_path: Path) -> None:
    images, labels = examples(20, (8, 8, 3))
    for split in ("train", "test"):
        cells = [encoded(pixels, "JPEG") for pixels in images]
        write_parquet(tmp_path / f"{split}.parquet", cells, image="img", labels=labels)
    data = load_data(node("cifar10", path=str(tmp_path)))
    assert data.origin == f"{tmp_path}; JPEG re-encoding, not the original pixels"
    other = load_data(node(path=str(tmp_path), image_column="img"))  # whose original this may be
    assert other.origin == f"{tmp_path}; JPEG images"
    with Image.open(io.BytesIO(encoded(images[3], "JPEG")["bytes"])) as image:
        assert np.array_equal(data.train.images[3].permute(1, 2, 0).numpy(), np.asarray(image))


def test_missing_columns_and_splits_are_named(tmp_path: Path) -> None:
    images, labels = examples(6)
    for split in ("train", "validation"):
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
    small, large = examples(3)[0], examples(3, (7, 5))[0]
    write_parquet(tmp_path / "train.parquet", [*small, *large], labels=[0] * 6)
    assert "images differ in size, 6x5x1 and 7x5x1" in message(node(path=str(tmp_path)))
    write_parquet(tmp_path / "train.parquet", small, labels=[0] * 3)
    write_parquet(tmp_path / "test.parquet", large, labels=[0] * 3)
    assert "training images have the shape (3, 1, 6, 5)" in message(node(path=str(tmp_path)))
    deep = np.zeros((6, 5), np.uint16)
    write_parquet(tmp_path / "train.parquet", [encoded(deep, "PNG")], labels=[0])
    assert "8 bits a channel" in message(node(path=str(tmp_path)))


# Where it looks


def test_a_path_without_images(tmp_path: Path) -> None:
    assert message(node(path=str(tmp_path / "no"))) == f"data.path={tmp_path / 'no'}: there is no such folder"
    (tmp_path / "README.md").touch()
    assert message(node(path=str(tmp_path))).startswith(f"data.path={tmp_path}: holds no images; expected are")


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
    """As if nobody had told the hub's libraries that there is no network."""
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


# The cache


@pytest.fixture
def kept(tmp_path: Path) -> DataConfig:
    """A set that has been decoded, by a process that forgot it."""
    images, labels = examples(30)
    write_parquet(tmp_path / "set" / "train.parquet", images, labels=labels)
    config = node(path=str(tmp_path / "set"))
    load_data(config)
    fl_data._load.cache_clear()
    return config


@pytest.fixture
def decodings(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows with each split that is really decoded."""
    seen: list[int] = []
    original = decoding._decode_images

    def counted(cells: Any, rows: int, *rest: Any) -> Any:
        seen.append(rows)
        return original(cells, rows, *rest)

    monkeypatch.setattr(decoding, "_decode_images", counted)
    return seen


def cached(tmp_path: Path) -> Path:
    """The only entry of the cache."""
    (entry,) = (path for path in (tmp_path / "cache").iterdir() if path.is_dir())
    return entry


def test_decoded_once_a_machine_and_opened_once_a_process(kept: DataConfig, decodings: list[int]) -> None:
    data = load_data(kept)
    assert load_data(replace(kept)) is data
    assert not decodings


def test_pages_are_shared_until_written(kept: DataConfig, tmp_path: Path) -> None:
    data = load_data(kept)
    mine = str(cached(tmp_path) / "train_images.npy")  # other tests may have left theirs mapped
    (mapping,) = [line for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith(mine)]
    low, high = (int(bound, 16) for bound in mapping.split()[0].split("-"))
    assert low <= data.train.images.data_ptr() < high
    data.train.images[0, 0, 0, 0] += 1  # copy on write: the file stays as it is
    fl_data._load.cache_clear()
    assert load_data(kept).train.images[0, 0, 0, 0] == data.train.images[0, 0, 0, 0] - 1


@pytest.mark.parametrize("file", ["train_images.npy", "test_labels.npy", "index.json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_a_damaged_cache_is_rebuilt(
    file: str, damage: str, kept: DataConfig, tmp_path: Path, decodings: list[int]
) -> None:
    data = load_data(kept)
    images, std_C = data.train.images.clone(), data.std_C
    fl_data._load.cache_clear()
    victim = cached(tmp_path) / file
    content = bytearray(victim.read_bytes())
    # In the index, a digit: what is left is JSON, with another standard deviation.
    content[content.find(b"std_C") + 12 if file == "index.json" else -2] ^= 1
    victim.unlink()
    if damage != "remove":
        victim.write_bytes(content if damage == "flip" else content[:-2])
    assert torch.equal(load_data(kept).train.images, images)
    assert torch.equal(load_data(kept).std_C, std_C)
    assert decodings == [30]
    fl_data._load.cache_clear()
    load_data(kept)
    assert decodings == [30]


def test_changed_files_are_decoded_again(kept: DataConfig, tmp_path: Path) -> None:
    images, labels = examples(40, seed=9)
    write_parquet(tmp_path / "set" / "train.parquet", images, labels=labels)
    assert len(load_data(kept).train.labels) == 36


def test_left_overs_of_a_killed_process_do_no_harm(tmp_path: Path, kept: DataConfig) -> None:
    entry = cached(tmp_path)
    entry.rename(entry.with_name(f"{entry.name}.tmp"))
    assert len(load_data(kept).train.labels) == 27
    assert {path.name for path in (tmp_path / "cache").iterdir()} == {entry.name, f"{entry.name}.lock"}


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("FEDVEIL_CACHE", str(tmp_path / "file" / "below"))
    with pytest.warns(UserWarning, match="set FEDVEIL_CACHE"):
        assert load_data(node("digits")).classes == 10


@pytest.mark.slow
def test_processes_at_once_decode_once(tmp_path: Path) -> None:
    images, labels = examples(2000, (28, 28))
    write_parquet(tmp_path / "set" / "train.parquet", images, labels=labels)
    script = (
        "import sys; from fl import data, decoding; from fl.config import DataConfig\n"
        "seen, decode = [], decoding._decode_images\n"
        "decoding._decode_images = lambda *a: (seen.append(1), decode(*a))[1]\n"
        "d = data.load_data(DataConfig(name='toy', path=sys.argv[1]))\n"
        "print(len(seen), int(d.train.images.long().sum()))"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "set")]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) for _ in range(2)]
    told = [process.communicate(timeout=60)[0].split() for process in started]
    assert sorted(count for count, _ in told) == ["0", "1"]
    assert len({total for _, total in told}) == 1


# The result


def test_normalise_is_what_its_name_says(tmp_path: Path) -> None:
    images, labels = examples(200, (6, 6, 3))
    images[..., 1] //= 4
    for split in ("train", "test"):
        write_parquet(tmp_path / f"{split}.parquet", images, labels=labels)
    data = load_data(node(path=str(tmp_path)))
    pixels = images.transpose(0, 3, 1, 2).astype(np.float64) / 255
    mean, std = pixels.mean(axis=(0, 2, 3)), pixels.std(axis=(0, 2, 3))
    assert data.mean_C.tolist() == pytest.approx(mean.tolist())
    assert data.std_C.tolist() == pytest.approx(std.tolist())
    out = data.normalise(data.train.images)
    assert out.dtype == torch.float32
    expected = (pixels - mean[:, None, None]) / std[:, None, None]
    assert np.allclose(out.numpy(), expected, atol=1e-5)


def test_normalise_where_a_channel_is_constant(tmp_path: Path) -> None:
    images = np.full((20, 4, 4), 51, np.uint8)
    write_parquet(tmp_path / "train.parquet", images, labels=[0, 1] * 10)
    data = load_data(node(path=str(tmp_path)))
    assert torch.allclose(data.normalise(data.train.images), torch.zeros(18, 1, 4, 4), atol=1e-6)


@pytest.mark.gpu
def test_normalise_on_the_device() -> None:
    data = load_data(node("digits"))
    images = data.train.images[:50]
    assert torch.allclose(data.normalise(images.cuda()).cpu(), data.normalise(images), atol=1e-6)


def test_slow_libraries_wait_until_they_are_needed() -> None:
    script = "import sys, fl.data, fl.partition, fl.models; print(*sys.modules)"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    loaded = ran.stdout.split()
    assert {"torch", "fl.data"} <= set(loaded)
    assert not {"datasets", "flwr_datasets", "sklearn", "pyarrow", "PIL", "rich"} & set(loaded)


@pytest.mark.parametrize("file", sorted(CONFIGS.glob("*.yaml")), ids=lambda file: file.stem)
def test_configs_are_deltas(file: Path) -> None:
    delta = OmegaConf.to_container(OmegaConf.load(file))
    assert isinstance(delta, dict)
    assert OmegaConf.merge(OmegaConf.structured(DataConfig), delta).name == file.stem
    assert not {field.name for field in fields(DataConfig) if delta.get(field.name, MISSING) == field.default} - {
        "name"
    }


def test_every_set_has_its_config() -> None:
    names = {"digits", "mnist", "fashion_mnist", "cifar10", "femnist", "huggingface"}
    assert {file.stem for file in CONFIGS.glob("*.yaml")} == names
