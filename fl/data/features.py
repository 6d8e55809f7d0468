"""Frozen features of images: they are not learned, from this data or other data, so they cost no privacy.

Shape suffixes: N images, C channels, H height, W width, h = H // 4, w = W // 4, K coefficients.
"""

from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from privacy.errors import ConfigError
from results.progress import SELDOM_S, progress

# J and L of Tramer and Boneh 2021
SCALES = 2
ANGLES = 8
# One mean, one wavelet a scale and angle, and pairs of wavelets of growing scale.
PER_CHANNEL = 1 + SCALES * ANGLES + SCALES * (SCALES - 1) // 2 * ANGLES**2
STEP = 2**SCALES  # pixels between two positions
BATCH_ROWS = 256  # larger is no faster


def identity() -> list[Any]:
    """Return the cache key of features beside the key of their images, as JSON values."""
    return ["scattering", SCALES, ANGLES, version("kymatio")]


def shape_of(name: str, shape: tuple[int, int, int]) -> tuple[int, int, int]:
    """Return the shape (81 C, H // 4, W // 4) of the scattering features of images (C, H, W).

    Raises:
        ConfigError: the images of the set `name` are too small.
    """
    channels, height, width = shape
    if min(height, width) < STEP:
        allowed = f"needs images of at least {STEP}x{STEP} pixels, {name} has {height}x{width}"
        raise ConfigError.of("data.features", "scattering", f"{allowed}; set data.features=none")
    return PER_CHANNEL * channels, height // STEP, width // STEP


def scatter(name: str, images: torch.Tensor, pixel_max: int) -> NDArray[np.float16]:
    """Compute the scattering coefficients of depth two of each channel of each image.

    Tramer and Boneh 2021 (arXiv:2011.11660) and their code, data.py: the ScatterNet of Oyallon and Mallat 2015
    (arXiv:1412.8659) with J = 2 and L = 8, of pixels in [0, 1]. For colour images, their code subtracts a public mean
    from the pixels; here the pixels of colour images are in [0, 1], too. Speed: some 800 images of 28x28 a second and
    thread. The result does not depend on the number of threads or on the other images of the batch, bit for bit. Half
    precision rounds a coefficient by at most 2^-11 of itself, or by 2^-25.

    Args:
        name: name of the set, for progress and errors.
        images: uint8, shape (N, C, H, W).
        pixel_max: value of a white pixel.

    Returns:
        Shape (N, K, h, w) with K = 81 C; the coefficients of a channel lie together, its mean first.

    Raises:
        ConfigError: the images are too small.
    """
    shape_Khw = shape_of(name, (images.shape[1], images.shape[2], images.shape[3]))
    transform = _transform(images.shape[2], images.shape[3])
    features_NKhw = np.empty((len(images), *shape_Khw), np.float16)
    starts = range(0, len(images), BATCH_ROWS)
    shown = progress(f"scattering {name}, batch", len(starts), every_s=SELDOM_S, passing=True)
    with shown as batches, torch.no_grad():
        for start in starts:
            rows = slice(start, start + BATCH_ROWS)
            features = transform(images[rows].to(torch.float32) / pixel_max)
            features_NKhw[rows] = features.reshape(-1, *shape_Khw).numpy()
            batches.advance()
    return features_NKhw


def _transform(height: int, width: int) -> Any:
    # Not kymatio.torch: it also imports transforms that need a part of SciPy that release 1.17 has removed.
    from kymatio.scattering2d.frontend.torch_frontend import ScatteringTorch2D

    return ScatteringTorch2D(J=SCALES, L=ANGLES, shape=(height, width))
