import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score

from fl.evaluation import evaluate, macro_f1
from fl.training import vectors
from fl.workspace import Workspace
from tests.composed import examples_of, workspace_of


def with_weights(scale: float = 0.3, **overrides: object) -> Workspace:
    work = workspace_of(*(f"server.{key}={value}" for key, value in overrides.items()))
    flat_D = scale * torch.randn(vectors.Layout(work.model).length, generator=torch.Generator().manual_seed(5))
    vectors.load(work.model, flat_D)
    return work


def by_hand(work: Workspace) -> tuple[float, float, float]:
    """Loss, accuracy and macro-F1 in float64, from the logits of softmax regression and a confusion matrix."""
    train = examples_of(work)[0]
    test = work.data.test
    raw = work.data.train.images.numpy() / work.data.pixel_max
    assert train.std() == pytest.approx(1)
    inputs = (test.images.numpy() / work.data.pixel_max - raw.mean()) / raw.std()
    linear = work.model[1]
    logits = inputs.reshape(len(inputs), -1) @ linear.weight.detach().numpy().T.astype(np.float64)
    logits += linear.bias.detach().numpy()
    labels = test.labels.numpy()
    answers = logits.argmax(axis=1)
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    confusion = np.zeros((10, 10))
    np.add.at(confusion, (labels, answers), 1)
    hits = np.diag(confusion)
    f1 = [2 * h / (row + column) for h, row, column in zip(hits, confusion.sum(1), confusion.sum(0), strict=True)]
    return -log_p[np.arange(len(labels)), labels].mean(), hits.sum() / len(labels), float(np.mean(f1))


def test_scores_are_those_by_hand():
    work = with_weights()
    scores = evaluate(work)
    loss, accuracy, macro_f1 = by_hand(work)
    assert scores.loss == pytest.approx(loss, rel=1e-5)
    assert scores.accuracy == pytest.approx(accuracy, abs=1e-7)
    assert scores.macro_f1 == pytest.approx(macro_f1, abs=1e-7)
    assert 0 < scores.macro_f1 != scores.accuracy


@pytest.mark.parametrize("batch", [1, 7, 100_000])
def test_the_batch_changes_no_score(batch):
    one = evaluate(with_weights())
    other = evaluate(with_weights(evaluate_batch=batch))
    assert (one.accuracy, one.macro_f1) == (other.accuracy, other.macro_f1)
    assert one.loss == pytest.approx(other.loss, rel=1e-5)


def test_a_model_that_answers_one_class_has_a_low_f1_and_no_warning():
    work = with_weights(scale=0.0)
    with torch.no_grad():
        work.model[1].bias[4] = 100.0
    share = float((work.data.test.labels == 4).float().mean())
    scores = evaluate(work)
    assert scores.accuracy == pytest.approx(share, abs=1e-7)
    assert scores.macro_f1 == pytest.approx(2 * share / (1 + share) / 10, rel=1e-6)
    assert scores.loss == pytest.approx(100 * (1 - share), rel=1e-5)


def test_evaluating_changes_nothing():
    work = with_weights()
    before = vectors.sha256(vectors.flatten(work.model))
    random = torch.get_rng_state()
    evaluate(work)
    assert vectors.sha256(vectors.flatten(work.model)) == before
    assert torch.equal(torch.get_rng_state(), random)
    assert all(parameter.grad is None for parameter in work.model.parameters())


def test_the_model_is_asked_in_evaluation_mode():
    work = with_weights()
    modes = []
    work.model.register_forward_hook(lambda module, *_: modes.append(module.training))
    work.model.train()
    evaluate(work)
    assert set(modes) == {False}


@pytest.mark.parametrize("seed", range(20))
def test_macro_f1_is_that_of_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    kinds = int(rng.integers(1, 12))
    labels, answers = (rng.choice(kinds + 3, kinds)[rng.integers(0, kinds, 200)] for _ in range(2))
    expected = f1_score(labels, answers, average="macro", zero_division=0.0)
    assert macro_f1(torch.from_numpy(labels), torch.from_numpy(answers)) == expected
