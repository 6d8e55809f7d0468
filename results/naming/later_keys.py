"""Keys that came after configurations had been approved and run, with the values that stand for what was before.

At these values they are left out of a configuration's canonical text, so that those of before keep their hash; tables
put them back.
"""

from collections.abc import Mapping
from typing import Any

LATER: dict[str, dict[str, Any]] = {
    "data": {"config": None, "unseen_labels": "refuse", "public_share": 0.0},
    "training": {"accumulate": 1, "class_weights": None, "label_smoothing": 0.0, "precision": "float32"},
    "server": {"patience": None, "least_gain": 0.0},
    "runtime": {"client_evaluation": False, "together": 1, "prepare_ahead": False, "compile": False},
}
LATER_OF_CLASS: dict[str, dict[str, Any]] = {"privacy.DpSgd": {"swap_layers": False}}  # options of a mechanism


def later_of_mechanism(options: Mapping[str, Any]) -> dict[str, Any]:
    """The later options of a mechanism's class."""
    return LATER_OF_CLASS.get(str(options.get("_target_")), {})


def with_later_keys(configuration: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration as written, with the keys that its text leaves out; groups that it lacks stay away."""
    whole = {
        key: {**LATER[key], **value} if key in LATER and isinstance(value, Mapping) else value
        for key, value in configuration.items()
    }
    if isinstance(whole.get("mechanism"), Mapping):
        whole["mechanism"] = {
            name: {**later_of_mechanism(options), **options} if isinstance(options, Mapping) else options
            for name, options in whole["mechanism"].items()
        }
    return whole
