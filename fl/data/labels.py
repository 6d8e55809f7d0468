"""Labels of two splits as indices of classes: the classes are the labels of the training split.

Shape suffixes: N examples, K classes.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fl.config.schema import LEAVE_OUT
from fl.data.decoding import DecodingRequest
from privacy.errors import ConfigError

UNLABELLED = -1  # as the hub's ClassLabel marks an example without a label
LISTED = 10  # labels that a message lists
WAYS = "choose another split, or data.unseen_labels=leave_out leaves these examples out"


@dataclass(frozen=True)
class Indexed:
    """The labels of two splits as int64 indices in 0..K-1.

    Attributes:
        classes_K: the labels of the training split, sorted.
        train_N: one index an example.
        test_N: one index an example that is kept.
        kept_N: bool, one value an example of the test split as read; the others are left out.
        note: on test examples that are left out, and on test labels that are all the same; empty where neither is so.
    """

    classes_K: NDArray[Any]
    train_N: NDArray[np.int64]
    test_N: NDArray[np.int64]
    kept_N: NDArray[np.bool_]
    note: str


def indexed(request: DecodingRequest, place: str, train_N: NDArray[Any], test_N: NDArray[Any]) -> Indexed:
    """Number the labels of both splits by the classes of the training split.

    Args:
        request: names the splits, and says whether unseen labels are left out.
        place: the name of the source in messages.
        train_N: labels as read, integers or strings.
        test_N: likewise.

    Raises:
        ConfigError: the labels of the splits have different types, mark unlabelled examples, are all the same in
            training, or a test label is no label of the training split; the message names labels and counts.
    """
    if kind(train_N) != kind(test_N):
        told = f"{place} has {kind(train_N)} in training and {kind(test_N)} in the test split"
        raise ConfigError.of("data.label_column", request.label_column, f"{told}: write both alike")
    classes_K, indices_N = np.unique(train_N, return_inverse=True)
    _refuse_unlabelled_training(request, place, train_N, classes_K)
    if len(classes_K) == 1:
        told = f"{place} has one label in training, {_text(classes_K[0])}: choose a column with several"
        raise ConfigError.of("data.label_column", request.label_column, told)
    kept_N = np.isin(test_N, classes_K)
    if not kept_N.all() and request.unseen_labels != LEAVE_OUT:
        raise ConfigError.of("data.test_split", request.test_split, f"{place} has {_unseen(test_N, classes_K)}: {WAYS}")
    if not kept_N.any():
        raise ConfigError.of("data.test_split", request.test_split, f"{place}: no test example has a label of training")
    return Indexed(
        classes_K,
        indices_N.astype(np.int64),
        np.searchsorted(classes_K, test_N[kept_N]).astype(np.int64),
        kept_N,
        "; ".join(filter(None, (_left_out(test_N, kept_N), _uniform(test_N[kept_N])))),
    )


def kind(labels_N: NDArray[Any]) -> str:
    """Return the type of labels as a word: integers or strings."""
    return "strings" if labels_N.dtype.kind == "U" else "integers"


def _refuse_unlabelled_training(
    request: DecodingRequest, place: str, train_N: NDArray[Any], classes_K: NDArray[Any]
) -> None:
    """Refuse the mark of unlabelled examples among the labels; -1 and 1 alone are two classes."""
    if kind(train_N) == "strings" or UNLABELLED not in classes_K or classes_K.tolist() == [UNLABELLED, 1]:
        return
    told = f"{place} has {_marked(train_N, 'training')}: leave them out of the files, or number the classes from 0"
    raise ConfigError.of("data.train_split", request.train_split, told)


def _unseen(test_N: NDArray[Any], classes_K: NDArray[Any]) -> str:
    unseen_N = test_N[~np.isin(test_N, classes_K)]
    if kind(test_N) == "integers" and UNLABELLED in unseen_N:
        return _marked(test_N, "test")
    return f"test labels that training lacks, {_counts(unseen_N)}, beside {_listed(map(_text, classes_K))}"


def _marked(labels_N: NDArray[Any], split: str) -> str:
    count = int((labels_N == UNLABELLED).sum())
    return f"the label -1, the mark of an unlabelled example, for {count} of {len(labels_N)} {split} examples"


def _left_out(test_N: NDArray[Any], kept_N: NDArray[np.bool_]) -> str:
    if kept_N.all():
        return ""
    out_N = test_N[~kept_N]
    told = f"{len(out_N)} of {len(test_N)} test examples left out, with labels that training lacks"
    return f"{told}: {_counts(out_N)}"


def _uniform(test_N: NDArray[Any]) -> str:
    several = len(test_N) == 1 or (test_N != test_N[0]).any()
    return "" if several else f"all {len(test_N)} test examples have the label {_text(test_N[0])}"


def _counts(labels_N: NDArray[Any]) -> str:
    values, counts = np.unique(labels_N, return_counts=True)
    pairs = zip(values, counts.tolist(), strict=True)
    return _listed(f"{_text(value)} ({count} example{'s' if count > 1 else ''})" for value, count in pairs)


def _listed(texts: Iterable[str]) -> str:
    told = list(texts)
    more = len(told) - LISTED
    return ", ".join(told[:LISTED]) + (f" and {more} more" if more > 0 else "")


def _text(value: Any) -> str:
    text = str(value)
    return text if text and text == " ".join(text.split()) else repr(text)
