"""Evaluation of the global model on the server's test set."""

from dataclasses import dataclass

import torch
from torch.nn.functional import cross_entropy

from fl.workspace import Workspace


@dataclass(frozen=True)
class Scores:
    """Mean cross entropy (nats), accuracy and macro-averaged F1, the last two in [0, 1]."""

    loss: float
    accuracy: float
    macro_f1: float


@torch.no_grad()
def evaluate(work: Workspace) -> Scores:
    """Score the weights that the workspace's model holds, over the whole test set."""
    from sklearn.metrics import f1_score  # the import takes a second, and clients never need it

    work.model.eval()
    test = work.data.test
    loss = 0.0
    predicted = []
    batch = work.plan.config.server.evaluate_batch
    for images, labels in zip(torch.split(test.images, batch), torch.split(test.labels, batch), strict=True):
        logits = work.model(work.data.normalise(images.to(work.device)))
        loss += float(cross_entropy(logits, labels.to(work.device), reduction="sum"))
        predicted.append(logits.argmax(1).cpu())
    answers = torch.cat(predicted)
    accuracy = float((answers == test.labels).float().mean())
    macro_f1 = float(f1_score(test.labels.numpy(), answers.numpy(), average="macro", zero_division=0.0))
    return Scores(loss / len(test.labels), accuracy, macro_f1)
