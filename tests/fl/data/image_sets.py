"""Image sets that a test makes: random pixels, in the files that the project reads."""

import gzip
import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import OmegaConf
from PIL import Image

from fl.config.schema import DataConfig
from fl.data.image_data import load_data
from privacy.errors import ConfigError

ROOT = Path(__file__).parents[3]
CONFIGS = ROOT / "configs" / "data"
Examples = tuple[np.ndarray[Any, Any], list[Any]]


def node(name: str = "toy", **keys: Any) -> DataConfig:
    """A `data` node; that of the project's own set where its YAML exists."""
    file = CONFIGS / f"{name}.yaml"
    own = OmegaConf.load(file) if file.exists() else OmegaConf.create({"name": name})
    config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(DataConfig), own, keys))
    assert isinstance(config, DataConfig)
    return config


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
    """Write Parquet with the writer of the hub's own files; `images` may be encoded already."""
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
