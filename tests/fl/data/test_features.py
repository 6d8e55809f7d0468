import multiprocessing
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fl.config.schema import DataConfig
from fl.data import features
from fl.data import image_data as fl_data
from fl.data.image_data import ImageData, load_data
from fl.evaluation import evaluate
from fl.training import vectors
from privacy.errors import ConfigError
from tests.composed import compose, run, workspace_of
from tests.fl.data.image_sets import examples, write_idx

DIGITS = DataConfig(name="digits", features="scattering")
# images of the toy set
TRAIN = 40
TEST = 20


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("FEDVEIL_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("FEDVEIL_DATA", raising=False)
    yield
    forget()


def forget() -> None:
    """Empty the caches in memory, as in a new process."""
    fl_data._load.cache_clear()
    fl_data._scattered.cache_clear()


@pytest.fixture
def toy(tmp_path: Path) -> DataConfig:
    """A small set with features."""
    for split, count in (("train", TRAIN), ("test", TEST)):
        images, labels = examples(count, (8, 9), seed=count)
        write_idx(tmp_path / "toy" / f"{split}-images-idx3-ubyte", images)
        write_idx(tmp_path / "toy" / f"{split}-labels-idx1-ubyte", np.array(labels))
    return DataConfig(name="toy", path=str(tmp_path / "toy"), features="scattering")


@pytest.fixture
def transformed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A list that grows by the number of images with each call of the real transform."""
    seen: list[int] = []
    original = features.scatter

    def counted(name: str, images: torch.Tensor, pixel_max: int) -> object:
        seen.append(len(images))
        return original(name, images, pixel_max)

    monkeypatch.setattr(features, "scatter", counted)
    return seen


def entry(tmp_path: Path) -> Path:
    """The only entry with features in the cache."""
    (found,) = (path for path in (tmp_path / "cache").glob("*features*") if path.is_dir())
    return found


def pixels(count: int, *shape: int) -> torch.Tensor:
    return torch.randint(0, 256, (count, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(4))


# The transform


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (1, 8, 8), (3, 11, 18), (1, 4, 4)])
def test_shapes_and_values_are_kymatios(shape: tuple[int, int, int]) -> None:
    from kymatio.scattering2d.frontend.torch_frontend import ScatteringTorch2D

    images = pixels(3, *shape)
    ours = features.scatter("toy", images, 255)
    channels, height, width = shape
    assert ours.shape == (3, 81 * channels, height // 4, width // 4)
    assert ours.shape[1:] == features.shape_of("toy", shape)
    assert ours.dtype == np.float16
    transform = ScatteringTorch2D(J=2, shape=(height, width))
    for channel in range(channels):  # one image and channel at a time
        alone = torch.stack([transform((image[channel] / 255).contiguous()) for image in images]).numpy()
        assert np.allclose(ours[:, 81 * channel : 81 * (channel + 1)], alone, rtol=2**-11, atol=2**-24)


def test_a_constant_image_has_a_mean_and_no_edges() -> None:
    """By definition of scattering: the first coefficient is a local mean, all others are of wavelets with mean 0."""
    values = features.scatter("toy", torch.full((1, 1, 28, 28), 51, dtype=torch.uint8), 255)[0].astype(np.float64)
    assert np.allclose(values[0], 0.2, rtol=1e-3)
    assert np.abs(values[1:]).max() < 1e-3


def test_neither_the_batch_nor_the_threads_change_a_bit() -> None:
    images = pixels(features.BATCH_ROWS + 40, 1, 12, 12)
    whole = features.scatter("toy", images, 255)
    assert np.array_equal(whole[:5], features.scatter("toy", images[:5], 255))
    assert np.array_equal(whole[-5:], features.scatter("toy", images[-5:], 255))
    torch.set_num_threads(2)
    try:
        assert np.array_equal(features.scatter("toy", images[:40], 255), whole[:40])
    finally:
        torch.set_num_threads(1)


def test_pixel_max_is_one() -> None:
    sixteenths = pixels(2, 1, 8, 8) // 16
    one = features.scatter("toy", sixteenths, 16).astype(np.float64)
    other = features.scatter("toy", sixteenths * 15, 240).astype(np.float64)
    assert np.allclose(one, other, rtol=2e-3, atol=1e-6)


@pytest.mark.parametrize("shape", [(1, 3, 28), (3, 9, 2)])
def test_images_that_are_too_small_are_refused(shape: tuple[int, int, int]) -> None:
    with pytest.raises(ConfigError) as refused:
        features.scatter("toy", pixels(1, *shape), 255)
    assert str(refused.value) == (
        f"data.features=scattering: needs images of at least 4x4 pixels, toy has {shape[1]}x{shape[2]}; "
        "set data.features=none"
    )


# The set


def test_features_stand_for_images_and_all_else_stays() -> None:
    plain = load_data(replace(DIGITS, features="none"))
    data = load_data(DIGITS)
    assert data.shape == (81, 2, 2)
    assert (data.classes, data.name) == (plain.classes, plain.name)
    assert data.train.labels is plain.train.labels
    assert data.test.labels is plain.test.labels
    assert data.origin == f"{plain.origin}; scattering features"
    for split, images in ((data.train, plain.train.images), (data.test, plain.test.images)):
        assert split.images.dtype == torch.float16
        assert np.array_equal(split.images.numpy(), features.scatter("digits", images, 16))


def test_no_statistic_of_the_training_set_is_in_what_a_model_sees() -> None:
    data = load_data(DIGITS)
    seen = data.normalise(data.train.images[:7])
    assert seen.dtype == torch.float32
    assert torch.equal(seen, data.train.images[:7].to(torch.float32))
    other = replace(data, train=replace(data.train, images=data.train.images[:3]))
    assert torch.equal(other.normalise(data.train.images[:7]), seen)


@pytest.mark.parametrize("model", ["scatter_linear", "scatter_cnn"])
def test_a_run_learns_from_features(model: str, tmp_path: Path) -> None:
    overrides = (f"model={model}", "training.lr=0.2", "rounds=8")
    state = run(tmp_path / "run", *overrides)
    work = workspace_of(*overrides)
    untrained = evaluate(work).accuracy
    vectors.load(work.model, state.weights_D)
    assert evaluate(work).accuracy > max(0.5, 2 * untrained)


# The cache


def test_computed_once_a_machine_and_opened_once_a_process(toy: DataConfig, transformed: list[int]) -> None:
    data = load_data(toy)
    assert transformed == [TRAIN, TEST]
    assert load_data(replace(toy, partition="shards")) is data
    forget()
    again = load_data(toy)
    assert again is not data
    assert torch.equal(again.train.images, data.train.images)
    assert transformed == [TRAIN, TEST]


def test_pages_are_shared(toy: DataConfig, tmp_path: Path) -> None:
    images = load_data(toy).train.images
    mine = str(entry(tmp_path) / "train.npy")
    (mapping,) = [line for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith(mine)]
    low, high = (int(bound, 16) for bound in mapping.split()[0].split("-"))
    assert low <= images.data_ptr() < high


@pytest.mark.parametrize("file", ["train.npy", "index.json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_damaged_features_are_computed_again(
    file: str, damage: str, toy: DataConfig, tmp_path: Path, transformed: list[int]
) -> None:
    expected = load_data(toy).train.images.clone()
    forget()
    victim = entry(tmp_path) / file
    content = bytearray(victim.read_bytes())
    content[-3] ^= 1
    victim.unlink()
    if damage != "remove":
        victim.write_bytes(content if damage == "flip" else content[:-2])
    assert torch.equal(load_data(toy).train.images, expected)
    assert transformed == [TRAIN, TEST] * 2
    forget()
    load_data(toy)
    assert len(transformed) == 4


@pytest.mark.parametrize("change", ["a training pixel", "a test pixel", "pixel_max"])
def test_other_pixels_have_other_features(change: str, toy: DataConfig, transformed: list[int], tmp_path: Path) -> None:
    data = load_data(replace(toy, features="none"))
    changed: dict[str, ImageData] = {"pixel_max": replace(data, pixel_max=17)}
    for name, split in (("a training pixel", "train"), ("a test pixel", "test")):
        images = getattr(data, split).images.clone()
        images[-1, 0, 0, 0] += 1
        changed[name] = replace(data, **{split: replace(getattr(data, split), images=images)})
    root = tmp_path / "cache"
    fl_data._features(data, root)
    fl_data._features(changed[change], root)
    assert len(transformed) == 4


def test_another_release_of_the_transform_has_other_features(
    toy: DataConfig, transformed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    load_data(toy)
    forget()
    monkeypatch.setattr(features, "version", lambda _: "99")
    load_data(toy)
    assert len(transformed) == 4


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("FEDVEIL_CACHE", str(tmp_path / "file" / "below"))
    with pytest.warns(UserWarning, match="is not kept") as warned:
        assert load_data(DIGITS).shape == (81, 2, 2)
    assert ["digits" in str(warning.message) for warning in warned] == [True, True]
    assert sum("digits_features" in str(warning.message) for warning in warned) == 1


def sum_and_calls(config: DataConfig, queue: "multiprocessing.Queue[tuple[float, int]]") -> None:
    calls: list[int] = []
    original = features.scatter
    features.scatter = lambda *a: (calls.append(1), original(*a))[1]  # type: ignore[assignment]
    queue.put((float(load_data(config).train.images.double().sum()), len(calls)))


@pytest.mark.slow
def test_processes_at_once_compute_once() -> None:
    spawn = multiprocessing.get_context("spawn")
    queue = spawn.Queue()
    processes = [spawn.Process(target=sum_and_calls, args=(DIGITS, queue)) for _ in range(2)]
    for process in processes:
        process.start()
    told = [queue.get(timeout=60) for _ in processes]
    for process in processes:
        process.join(timeout=30)
    assert sorted(calls for _, calls in told) == [0, 2]
    assert len({total for total, _ in told}) == 1


# The configuration


def test_pixels_are_the_default() -> None:
    assert compose().data.features == "none"
