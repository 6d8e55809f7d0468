"""Images of a table: each is read right, or its row is named with what is wrong with it."""

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from fl.data import image_data
from fl.data.image_data import load_data
from tests.fl.data.image_sets import encoded, examples, message, node, write_parquet

pytestmark = pytest.mark.usefixtures("machine_without_data")


def write_cells(folder: Path, cells: list[Any]) -> str:
    """Write training images as they are, and return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(
        pa.table({"image": cells, "label": [row % 2 for row in range(len(cells))]}), folder / "train.parquet"
    )
    return str(folder)


def saved(image: Image.Image, encoding: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, encoding, **options)
    return buffer.getvalue()


GREY = [saved(Image.fromarray(pixels)) for pixels in examples(10)[0]]
PALETTE = saved(Image.fromarray(examples(1)[0][0]).convert("P"), transparency=95)  # the value of its first pixel
COLOUR = [saved(Image.fromarray(pixels)) for pixels in examples(10, (6, 5, 3))[0]]


def test_grey_beside_colour_is_called_so(tmp_path: Path) -> None:
    path = write_cells(tmp_path, [*GREY[:7], COLOUR[7], *GREY[8:]])
    assert message(node(path=path)) == (
        f"{path}: images of train differ in channels, grey in row 0 and colour in row 7: make all grey or all colour"
    )


@pytest.mark.parametrize(
    ("cell", "told"),
    [
        (GREY[3][:-30], "cannot be decoded, "),
        (b"no image at all", "is no image in a known format, 15 bytes"),
        (None, "is empty"),
        (saved(Image.fromarray(np.zeros((6, 5), np.int32)), "TIFF"), "has the mode I, not 8 or 16 bits a channel"),
        (saved(Image.fromarray(np.zeros((6, 5), np.float32)), "TIFF"), "has the mode F, not 8 or 16 bits a channel"),
        (saved(Image.new("LA", (5, 6), (9, 128))), "has transparent pixels: put it on a background"),
        (PALETTE, "has transparent pixels"),
    ],
    ids=["truncated", "text", "null", "32 bits", "floats", "alpha", "palette"],
)
def test_an_image_that_cannot_be_read_right_is_named_by_its_row(cell: bytes | None, told: str, tmp_path: Path) -> None:
    path = write_cells(tmp_path, [*GREY[:3], cell, *GREY[4:]])
    text = message(node(path=path))
    assert text.startswith(f"{path}: the image in row 3 of train {told}")
    assert "0x" not in text


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_grey_of_16_bits_is_scaled(form: str, tmp_path: Path) -> None:
    levels = np.random.default_rng(1).integers(0, 256, (10, 6, 5))
    deep = [saved(Image.fromarray((257 * image).astype(np.uint16)), form) for image in levels]
    data = load_data(node(path=write_cells(tmp_path, deep)))
    expected = {image.astype(np.uint8).tobytes() for image in levels}
    assert {image.numpy().tobytes() for image in data.train.images} <= expected
    assert data.pixel_max == 255


def test_grey_of_16_bits_is_rounded_to_the_nearest_level(tmp_path: Path) -> None:
    values = np.array([[0, 128, 129, 385, 386, 65535]], np.uint16)  # half a level is 128.5
    data = load_data(node(path=write_cells(tmp_path, [saved(Image.fromarray(values))] * 10)))
    assert data.train.images[0].flatten().tolist() == [0, 0, 1, 1, 2, 255]


def test_a_transparent_value_of_16_bits_is_refused(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.array([[0, 257, 65535, 300]], np.uint16)).save(buffer, "PNG", transparency=300)
    path = write_cells(tmp_path, [buffer.getvalue()] * 10)
    assert "the image in row 0 of train has transparent pixels" in message(node(path=path))


def test_12_bits_in_files_of_16_are_refused(tmp_path: Path) -> None:
    deep = [saved(Image.fromarray(np.full((6, 5), 4095 - i, np.uint16))) for i in range(10)]
    path = write_cells(tmp_path, deep)
    assert message(node(path=path)) == (
        f"{path}: images of train have 16 bits, and use less than a sixteenth of their range: scale them to it, or to "
        "8 bits"
    )


def test_opaque_images_with_an_alpha_channel_are_read(tmp_path: Path) -> None:
    pixels = examples(10, (6, 5, 3))[0]
    opaque = [saved(Image.fromarray(image).convert("RGBA")) for image in pixels]
    data = load_data(node(path=write_cells(tmp_path, opaque)))
    assert sorted(map(bytes, data.train.images.permute(0, 2, 3, 1).numpy()))[0] in map(bytes, pixels)


def test_images_lie_as_their_orientation_says(tmp_path: Path) -> None:
    """A camera that was held upright stores a picture on its side, and says so."""
    exif = Image.Exif()
    exif[0x0112] = 6  # the first row is the right side
    pixels = examples(10)[0]
    turned = [saved(Image.fromarray(np.rot90(image)), exif=exif) for image in pixels]
    data = load_data(node(path=write_cells(tmp_path, turned)))
    assert data.shape == (1, 6, 5)
    assert {bytes(image) for image in data.train.images[:, 0].numpy()} <= {bytes(image) for image in pixels}


@pytest.mark.parametrize("form", ["texts", "pairs"])
def test_paths_start_from_the_folder_of_the_table(form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for place, seed in (("set/data/images", 0), ("images", 9)):  # the second lies where the process runs
        (tmp_path / place).mkdir(parents=True)
        for row, pixels in enumerate(examples(10, seed=seed)[0]):
            Image.fromarray(pixels).save(tmp_path / place / f"{row}.png")
    paths = [f"images/{row}.png" for row in range(10)]
    cells = paths if form == "texts" else [{"bytes": None, "path": path} for path in paths]
    write_cells(tmp_path / "set" / "data", cells)
    config = node(path=str(tmp_path / "set"))
    right = {bytes(image) for image in examples(10)[0]}
    assert {bytes(image) for image in load_data(config).train.images[:, 0].numpy()} <= right
    image_data._load.cache_clear()
    Image.fromarray(np.full((6, 5), 77, np.uint8)).save(tmp_path / "set" / "data" / "images" / "0.png")
    both = [*load_data(config).train.images[:, 0].numpy(), *load_data(config).test.images[:, 0].numpy()]
    assert any((image == 77).all() for image in both), "images beside the table are decoded again when they change"


def test_a_path_to_no_image_names_its_row(tmp_path: Path) -> None:
    path = write_cells(tmp_path, [f"images/{row}.png" for row in range(4)])
    expected = f"{path}: the image in row 0 of train names the file {path}/images/0.png, which cannot be read"
    assert message(node(path=path)) == expected
    path = write_cells(tmp_path / "text", ["To be, or not to be " * 50] * 4)
    assert "the image in row 0 of train names the file" in message(node(path=path))


@pytest.mark.usefixtures("hub_cache")
def test_the_split_of_a_damaged_image_is_named(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train.parquet", examples(6)[0], labels=[0, 1] * 3)
    cells = [encoded(pixels, "PNG") for pixels in examples(6, seed=1)[0]]
    cells[4]["bytes"] = cells[4]["bytes"][:60]
    write_parquet(tmp_path / "test.parquet", cells, labels=[0, 1] * 3)
    for through in ("path", "hub"):
        assert "the image in row 4 of test cannot be decoded" in message(node(**{through: str(tmp_path)}))


@pytest.mark.parametrize(
    ("files", "told"),
    [
        (
            ["train/cat/1.png", "train/dog/2.PNG", "README.md"],
            "holds files of single images (2 with .png, 1 with .md),",
        ),
        (["train.arrow"], "holds files of other kinds (1 with .arrow); expected are files like train.parquet"),
        ([".hidden"], "holds no files; expected"),
    ],
)
def test_a_folder_without_a_data_set_says_what_it_holds(files: list[str], told: str, tmp_path: Path) -> None:
    for file in files:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    assert told in message(node(path=str(tmp_path)))


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "it is a pointer of Git LFS: fetch it"),
        (b"PAR1 and then nothing", "ArrowInvalid: "),
    ],
)
def test_a_file_that_is_no_parquet_is_named(content: bytes, told: str, tmp_path: Path) -> None:
    write_parquet(tmp_path / "train.parquet", examples(6)[0], labels=[0, 1] * 3)
    (tmp_path / "test.parquet").write_bytes(content)
    assert message(node(path=str(tmp_path))).startswith(f"{tmp_path}{os.sep}test.parquet: is no parquet file, {told}")


def test_a_column_of_another_type_is_no_column_of_images(tmp_path: Path) -> None:
    path = write_cells(tmp_path, [[1, 2, 3]] * 4)
    expected = f"data.image_column=image: {path} has list<element: int64> there, no encoded images"
    assert message(node(path=path)).startswith(expected)
