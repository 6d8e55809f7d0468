"""Image sets in memory: their cache on disk, and the data that a run gets."""

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import MISSING, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from fl.config.schema import DataConfig
from fl.data import decoding
from fl.data import image_data as fl_data
from fl.data.image_data import load_data
from tests.fl.data.image_sets import CONFIGS, ROOT, examples, node, write_idx, write_parquet
from tests.scenery.paths import some

pytestmark = pytest.mark.usefixtures("machine_without_data")


# The cache


@pytest.fixture
def kept(tmp_path: Path) -> DataConfig:
    """A set that is decoded on disk, but no longer in memory."""
    images, labels = examples(30)
    write_parquet(tmp_path / "set" / "train.parquet", images, labels=labels)
    config = node(path=str(tmp_path / "set"))
    load_data(config)
    fl_data._load.cache_clear()
    return config


@pytest.fixture
def decodings(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A list that grows with each split that is really decoded."""
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
    images = data.train.images.clone()
    std_C = data.std_C
    fl_data._load.cache_clear()
    victim = cached(tmp_path) / file
    content = bytearray(victim.read_bytes())
    # A digit in the index: the file is still JSON, with another standard deviation.
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


@pytest.fixture
def no_cache(machine_without_data: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache that cannot be written."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("FEDVEIL_CACHE", str(tmp_path / "file" / "below"))


@pytest.mark.usefixtures("no_cache")
def test_a_cache_that_cannot_be_written_is_done_without() -> None:
    with pytest.warns(UserWarning, match="set FEDVEIL_CACHE"):
        assert load_data(node("digits")).classes == 10


@pytest.fixture
def every_warning() -> Iterator[None]:
    """Make torch repeat warnings, which it otherwise gives once a process."""
    torch.set_warn_always(True)
    yield
    torch.set_warn_always(False)


@pytest.mark.usefixtures("no_cache", "every_warning")
@pytest.mark.parametrize("splits", [("train", "t10k"), ("train",)])
def test_images_of_idx_files_that_no_cache_keeps_can_be_written_to(splits: tuple[str, ...], tmp_path: Path) -> None:
    for split in splits:
        images, labels = examples(30, seed=len(split))
        write_idx(tmp_path / "set" / f"{split}-images-idx3-ubyte", images)
        write_idx(tmp_path / "set" / f"{split}-labels-idx1-ubyte", np.array(labels))
    with pytest.warns() as told:
        data = load_data(node(path=str(tmp_path / "set")))
    assert ["set FEDVEIL_CACHE" in str(warning.message) for warning in told] == [True]
    assert data.train.images.numpy().flags.writeable


@pytest.mark.slow
def test_processes_at_once_decode_once(tmp_path: Path) -> None:
    images, labels = examples(2000, (28, 28))
    write_parquet(tmp_path / "set" / "train.parquet", images, labels=labels)
    script = (
        "import sys; from fl.data import decoding, image_data; from fl.config.schema import DataConfig\n"
        "seen, decode = [], decoding._decode_images\n"
        "decoding._decode_images = lambda *a: (seen.append(1), decode(*a))[1]\n"
        "d = image_data.load_data(DataConfig(name='toy', path=sys.argv[1]))\n"
        "print(len(seen), int(d.train.images.long().sum()))"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "set")]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) for _ in range(2)]
    told = [process.communicate(timeout=60)[0].split() for process in started]
    assert sorted(count for count, _ in told) == ["0", "1"]
    assert len({total for _, total in told}) == 1


# The result


def test_normalise_is_what_its_name_says(tmp_path: Path) -> None:
    """By the mean and the deviation of the training images alone: those of the test images are far off."""
    images, labels = examples(200, (6, 6, 3))
    images[..., 1] //= 4
    darker = examples(100, (6, 6, 3), seed=1)[0] // 5 + 9
    write_parquet(tmp_path / "train.parquet", images, labels=labels)
    write_parquet(tmp_path / "test.parquet", darker, labels=labels[:100])
    data = load_data(node(path=str(tmp_path)))
    pixels = images.transpose(0, 3, 1, 2).astype(np.float64) / 255
    mean = pixels.mean(axis=(0, 2, 3))
    std = pixels.std(axis=(0, 2, 3))
    assert data.mean_C.tolist() == pytest.approx(mean.tolist())
    assert data.std_C.tolist() == pytest.approx(std.tolist())
    out = data.normalise(data.train.images)
    assert out.dtype == torch.float32
    expected = (pixels - mean[:, None, None]) / std[:, None, None]
    assert np.allclose(out.numpy(), expected, atol=1e-5)
    tested = darker.transpose(0, 3, 1, 2).astype(np.float64) / 255
    expected = (tested - mean[:, None, None]) / std[:, None, None]
    assert np.allclose(data.normalise(data.test.images).numpy(), expected, atol=1e-5)
    assert (np.abs(expected.mean(axis=(0, 2, 3))) > 0.1).all(), "the two splits would be the same"


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
    script = "import sys, fl.data.image_data, fl.data.partition, fl.models.plain; print(*sys.modules)"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    loaded = ran.stdout.split()
    assert {"torch", "fl.data.image_data"} <= set(loaded)
    assert not {"datasets", "flwr_datasets", "sklearn", "pyarrow", "PIL", "rich"} & set(loaded)


@pytest.mark.parametrize("file", some(CONFIGS.glob("*.yaml")), ids=lambda file: file.stem)
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
