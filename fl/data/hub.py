"""Images from the Hugging Face hub, by way of flwr-datasets."""

import contextlib
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from fl.data.decoding import BATCH_ROWS, DecodingRequest, RawImages, Table, choose_splits, decode_table
from fl.data.images import one_line
from privacy.errors import ConfigError

DATA_VARIABLE = "FEDVEIL_DATA"
PROBE_S = 5.0

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")  # flwr_datasets reads the variable at import


def not_found(request: DecodingRequest, looked: list[str]) -> ConfigError:
    """Return the error that names the places searched and the ways to get the set."""
    ways = [f"give data.path=FOLDER with parquet or IDX files, or {DATA_VARIABLE}=FOLDER that holds {request.name}/"]
    if request.name == "fashion_mnist":
        ways.append("install Debian's package dataset-fashion-mnist")
    if request.hub is None:
        ways.append("give data.hub=OWNER/NAME")
    else:
        ways.append(f"where there is a network, hf download {request.hub} --repo-type dataset --local-dir FOLDER")
    return ConfigError.of("data.name", request.name, f"not found, looked in {', '.join(looked)}; {'; or '.join(ways)}")


@dataclass(frozen=True)
class Hub:
    """A data set on the hub, or the copy of an earlier download in the hub's own cache."""

    request: DecodingRequest
    looked: list[str]  # the places searched before, for the error
    pixel_max: ClassVar[int] = 255

    @property
    def place(self) -> str:
        """The data set's name on the hub."""
        return f"Hugging Face hub {self.request.hub}"

    def identity(self) -> list[Any]:
        """Return the cache key, made from the data set's name: published images are taken not to change."""
        return ["hub", self.request.hub, *self.request.reading()]

    def read(self) -> tuple[RawImages, RawImages | None]:
        """Download and decode both splits; see `Source.read` in fl/data/sources.py."""
        train, test = self._download()
        names = self.request.train_split, self.request.test_split
        return self._decode(train, names[0], True), (None if test is None else self._decode(test, names[1], False))

    def _download(self) -> tuple[Any, Any]:
        from flwr_datasets import FederatedDataset

        chosen: list[Any] = []

        def choose(splits: Any) -> Any:
            train, test = choose_splits(self.request, splits, self.place)
            chosen.extend((splits[train], splits[test] if test else None))
            return splits

        assert self.request.hub is not None
        hub = FederatedDataset(
            dataset=self.request.hub, subset=self.request.config, partitioners={}, shuffle=False, preprocessor=choose
        )
        with _quiet_hub() as trouble:
            try:
                hub.load_split(self.request.train_split)
            except ConfigError:
                raise
            except Exception as error:  # the hub's libraries raise errors of many unrelated classes
                why = trouble or one_line(error)
                raise not_found(self.request, [*self.looked, f"{self.place} ({why})"]) from error
        return chosen[0], chosen[1]

    def _decode(self, dataset: Any, split: str, owned: bool) -> RawImages:
        def batches(columns: list[str]) -> Any:
            return dataset.select_columns(columns).with_format("arrow").iter(BATCH_ROWS)

        table = Table(self.place, split, dataset.column_names, owned)
        return decode_table(self.request, table, batches, len(dataset))


@contextlib.contextmanager
def _quiet_hub() -> Iterator[str]:
    """Silence the hub's libraries, and set them offline where the hub does not answer: they would retry for minutes.

    Yields:
        The reason that the hub does not answer, or an empty string. A copy in the hub's own cache can still be loaded.
    """
    import datasets

    level = datasets.logging.get_verbosity()
    datasets.logging.set_verbosity_error()
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    before = datasets.config.HF_HUB_OFFLINE
    trouble = "" if before else _hub_trouble()
    datasets.config.HF_HUB_OFFLINE = before or bool(trouble)
    try:
        yield trouble
    finally:
        datasets.config.HF_HUB_OFFLINE = before
        datasets.logging.set_verbosity(level)


def _hub_trouble() -> str:
    import huggingface_hub

    try:
        huggingface_hub.get_session().head(huggingface_hub.constants.ENDPOINT, timeout=PROBE_S)
    except Exception as error:  # an error of requests or of httpx, depending on the release of huggingface_hub
        return f"out of reach, {one_line(error)}"
    return ""
