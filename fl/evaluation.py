"""Evaluation of the global model: on the server's test set, on its public examples, and at clients on their own."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch.nn.functional import cross_entropy

from fl.data.image_data import Split
from fl.workspace import Workspace
from privacy.errors import refusal

Watch = Callable[[str], None]


@dataclass(frozen=True)
class Scores:
    """Mean cross entropy (nats), accuracy and macro-averaged F1, the last two in [0, 1]."""

    loss: float
    accuracy: float
    macro_f1: float


def evaluate(work: Workspace, watch: Watch | None = None) -> Scores:
    """Score the weights that the workspace's model holds, over the test examples that are scored.

    `watch` is told how far it has come.
    """
    test = work.tests.scored
    loss, answers = _answers(work, test, watch)
    accuracy = float((answers == test.labels).float().mean())
    return Scores(loss, accuracy, macro_f1(test.labels, answers))


def macro_f1(labels: torch.Tensor, answers: torch.Tensor) -> float:
    """Return the mean of 2 hits / (examples + answers) over the classes that occur in either; both are int64, (N,).

    It equals scikit-learn's, whose import takes longer than a round.
    """
    classes = int(max(labels.max(), answers.max())) + 1
    hits_K = torch.bincount(labels[labels == answers], minlength=classes).numpy()
    told_K = (torch.bincount(labels, minlength=classes) + torch.bincount(answers, minlength=classes)).numpy()
    occurs_K = told_K > 0
    return float((2.0 * hits_K[occurs_K] / told_K[occurs_K]).mean())


def score(work: Workspace, examples: Split) -> dict[str, float]:
    """Return `loss` (nats) and `accuracy` of the weights that the workspace's model holds, over some examples."""
    loss, answers = _answers(work, examples)
    return {"loss": loss, "accuracy": float((answers == examples.labels).float().mean())}


@torch.no_grad()
def _answers(work: Workspace, examples: Split, watch: Watch | None = None) -> tuple[float, torch.Tensor]:
    """Return the mean loss, and the class that the model gives to each example."""
    work.model.eval()
    loss = 0.0
    predicted = []
    for images, labels in _batches(examples, work.plan.config.server.evaluate_batch):
        logits = work.model(work.data.normalise(images.to(work.device)))
        if logits.shape != (len(labels), work.data.classes):
            told = f"its outputs on a batch of {len(labels)} test examples are of the shape {tuple(logits.shape)}"
            raise refusal(work.model, f"{told}: they must be logits, ({len(labels)}, {work.data.classes})")
        loss += float(cross_entropy(logits.float(), labels.to(work.device), reduction="sum"))
        predicted.append(logits.argmax(1).cpu())
        if watch is not None:
            watch(f"evaluating, {sum(map(len, predicted)):,} of {len(examples.labels):,} examples")
    return loss / len(examples.labels), torch.cat(predicted)


def _batches(examples: Split, size: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    return zip(torch.split(examples.images, size), torch.split(examples.labels, size), strict=True)
