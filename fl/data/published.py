"""The sets that have a name of their own: what is read under it has to be that set.

A folder may hold another set than its name says, and several have the same shape: MNIST, Fashion-MNIST, KMNIST. The
numbers of each label and the statistics of the pixels tell them apart.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from privacy.errors import ConfigError

WITHIN = 0.02  # of mean and deviation, for other encodings of the same images; the nearest two sets are 0.06 apart
OWN_NAME = "give it a name of its own (data.name=NAME), or the folder of the published set"


@dataclass(frozen=True)
class Published:
    """What is known of a set: shape (C, H, W), and in the order of labels the examples of each in both splits.

    Attributes:
        shape: of an image.
        most_classes: of all of the set.
        train_K: None where parts of the set go by its name, too; then only the shape and the classes are looked at.
        test_K: likewise.
        mean_C: of the training pixels, scaled to [0, 1].
        std_C: likewise.
    """

    shape: tuple[int, int, int]
    most_classes: int
    train_K: tuple[int, ...] | None = None
    test_K: tuple[int, ...] | None = None
    mean_C: tuple[float, ...] = ()
    std_C: tuple[float, ...] = ()


KNOWN = {
    # UCI, Alpaydin and Kaynak 1998, as scikit-learn ships it, in the fixed split of fl/data/sources.py
    "digits": Published(
        (1, 8, 8),
        10,
        (142, 146, 142, 146, 145, 145, 145, 143, 139, 144),
        (36, 36, 35, 37, 36, 37, 36, 36, 35, 36),
        (0.3055,),
        (0.3761,),
    ),
    # LeCun et al. 1998
    "mnist": Published(
        (1, 28, 28),
        10,
        (5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949),
        (980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009),
        (0.1307,),
        (0.3081,),
    ),
    # Xiao et al. 2017
    "fashion_mnist": Published((1, 28, 28), 10, (6000,) * 10, (1000,) * 10, (0.2860,), (0.3530,)),
    # Krizhevsky 2009
    "cifar10": Published(
        (3, 32, 32), 10, (5000,) * 10, (1000,) * 10, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
    ),
    # LEAF (Caldas et al. 2018), of which samples go by this name
    "femnist": Published((1, 28, 28), 62),
}


def require_published(name: str, place: str, facts: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> None:
    """Refuse another set under the name of a published one; sets with other names pass.

    Args:
        name: of the set.
        place: of the set, in messages.
        facts: `classes`, `mean_C` and `std_C`.
        arrays: `train_images` of shape (N, C, H, W), `train_labels` and `test_labels` in 0..classes-1.

    Raises:
        ConfigError: the message says how the set differs from the published one.
    """
    published = KNOWN.get(name)
    if published is None:
        return
    difference = _difference(published, facts, arrays)
    if difference:
        raise ConfigError.of("data.name", name, f"{place} holds {difference}: {OWN_NAME}")


def _difference(published: Published, facts: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> str | None:
    shape = arrays["train_images"].shape[1:]
    if shape != published.shape:
        return f"images of the shape {_sizes(shape)}, not {_sizes(published.shape)}"
    if facts["classes"] > published.most_classes:
        return f"{facts['classes']} classes, not {published.most_classes}"
    for split, known_K in (("train", published.train_K), ("test", published.test_K)):
        counts_K = np.bincount(arrays[f"{split}_labels"], minlength=facts["classes"])
        if known_K is not None and counts_K.sum() != sum(known_K):
            return f"{counts_K.sum()} {split} examples, not {sum(known_K)}"
        if known_K is not None and tuple(counts_K.tolist()) != known_K:
            return f"other numbers of each label among its {split} examples than were published"
    for what, known_C in (("mean", published.mean_C), ("std", published.std_C)):
        values_C = facts[f"{what}_C"]
        if known_C and not np.allclose(values_C, known_C, rtol=0, atol=WITHIN):
            return f"pixels whose {what} is {_figures(values_C)}, not {_figures(known_C)}"
    return None


def _sizes(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _figures(values: Any) -> str:
    return ", ".join(f"{value:.3f}" for value in values)
