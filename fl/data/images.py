"""Decoding of one image: encoded bytes, or a file that a table names.

Shape suffixes: C channels, H height, W width.
"""

import io
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from privacy.errors import ConfigError, shown

GREY_MODES = ("1", "L", "LA")
DEEP_MODES = ("I;16", "I;16B", "I;16L", "I;16N")  # grey of 16 bits
DEEP_RANGE = 2**16 - 1
COLOUR_MODES = ("RGB", "RGBA", "P", "CMYK", "YCbCr")
DEEP = ("I", "F")
PREVIEWED = "MPO"  # of cameras: a photograph, then its previews
OPAQUE = 255


class Decoded(NamedTuple):
    """An image as (H, W, C), one channel for grey and three for colour, its encoding, and whether it had 16 bits."""

    pixels_HWC: NDArray[np.uint8]
    encoding: str | None
    deep: bool


def pixels_of(cell: Any, folder: Path | None) -> Decoded:
    """Decode an image.

    It lies as its EXIF orientation says. Grey of 16 bits is scaled from 0..65535 to 0..255 and rounded; of colour of 16
    bits Pillow takes the higher bytes.

    Args:
        cell: bytes, a path, or the hub's {bytes, path}.
        folder: the place from which relative paths start; None where there is none.

    Raises:
        ConfigError: the reason, for a message that names the row.
    """
    from PIL import Image, UnidentifiedImageError

    content = _content(cell, folder)
    try:
        with Image.open(io.BytesIO(content)) as image:
            return Decoded(_pixels(image), image.format, image.mode in DEEP_MODES)
    except ConfigError:
        raise
    except UnidentifiedImageError:  # its message is the address of an object
        raise ConfigError(f"is no image in a known format, {len(content)} bytes") from None
    except Exception as error:  # Pillow raises errors of many unrelated classes
        raise ConfigError(f"cannot be decoded, {one_line(error)}") from error


def file_of(cell: Any, folder: Path | None) -> Path | None:
    """Return the file that a cell names, where the cell does not hold the image itself.

    Raises:
        ConfigError: the path is relative, and there is no folder from which it starts.
    """
    if isinstance(cell, dict):
        cell = cell["path"] if cell["bytes"] is None else None
    if not isinstance(cell, str):
        return None
    path = Path(cell)
    if folder is None and not path.is_absolute():
        raise ConfigError(f"names the file {shown(cell)}, relative to no known folder")
    return path if folder is None else folder / path


def one_line(error: BaseException) -> str:
    """Format a library's error for use inside a one-line message."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def _content(cell: Any, folder: Path | None) -> bytes:
    file = file_of(cell, folder)
    if file is not None:
        try:
            return file.read_bytes()
        except (OSError, ValueError) as error:  # for instance a text that is no path at all
            raise ConfigError(f"names the file {shown(file, 120)}, which cannot be read") from error
    content = cell["bytes"] if isinstance(cell, dict) else cell
    if content is None:
        raise ConfigError("is empty")
    return bytes(content)


def _pixels(image: Any) -> NDArray[np.uint8]:
    from PIL import ImageOps

    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != PREVIEWED:
        raise ConfigError(f"holds {frames} frames, of which one would be read: write each into a row of its own")
    if image.mode not in GREY_MODES + COLOUR_MODES + DEEP_MODES:
        told = (
            "not 8 or 16 bits a channel: scale it to 8 bits"
            if image.mode.startswith(DEEP)
            else "neither grey nor RGB: convert"
        )
        raise ConfigError(f"has the mode {image.mode}, {told}")
    if _is_transparent(image):
        raise ConfigError("has transparent pixels: put it on a background")
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode in DEEP_MODES:
        scaled = np.rint(np.asarray(image).astype(np.float64) * (255 / DEEP_RANGE))
        return scaled.astype(np.uint8).reshape(image.height, image.width, 1)
    mode = "L" if image.mode in GREY_MODES else "RGB"
    pixels: NDArray[np.uint8] = np.asarray(image if image.mode == mode else image.convert(mode))
    return pixels.reshape(image.height, image.width, -1)


def _is_transparent(image: Any) -> bool:
    if image.mode in DEEP_MODES:  # their conversion loses the value that stands for transparent pixels
        return "transparency" in image.info and bool((np.asarray(image) == image.info["transparency"]).any())
    return bool(image.has_transparency_data and image.convert("RGBA").getchannel("A").getextrema()[0] < OPAQUE)
