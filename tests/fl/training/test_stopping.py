"""Early stopping on public examples, and its epsilon."""

import math

import numpy as np
import pytest

from experiments.hydra.error_lines import one_line
from fl.data.image_data import divided
from fl.training.stopping import stops
from privacy.errors import ConfigError
from tests.composed import rows_in, run, state_in, workspace_of

EARLY = ("data.public_share=0.5", "server.patience=1", "server.least_gain=100", "server.evaluate_every=1")
PRIVATE = ("mechanism=dp_sgd", "noise=seeded", "accountant=rdp")


@pytest.mark.parametrize(
    ("losses", "patience", "least_gain", "ends"),
    [
        ([], 1, 0.0, False),
        ([2.0], 1, 0.0, False),
        ([2.0, 1.0], 1, 0.0, False),
        ([2.0, 2.0], 1, 0.0, True),
        ([2.0, 2.1, 1.9, 2.0], 2, 0.0, False),
        ([2.0, 1.9, 1.95, 1.92], 2, 0.0, True),
        ([2.0, 1.95, 1.9], 2, 0.2, True),
        ([2.0, 1.95, 1.7], 2, 0.2, False),
        ([math.nan, math.nan], 2, 0.0, True),
        ([math.nan, 2.0, math.nan], 2, 0.0, False),
        ([2.0, 2.0, 1.0], 1, 0.0, True),
        ([2.0] * 9, None, 0.0, False),
    ],
)
def test_a_run_ends_when_the_lowest_loss_has_not_fallen(losses, patience, least_gain, ends):
    assert stops(losses, patience, least_gain) == ends


def test_the_public_examples_are_not_scored():
    test = workspace_of().data.test
    parts = divided(test, 0.25, 1)
    assert len(parts.public.labels) == round(len(test.labels) / 4)
    assert len(parts.public.labels) + len(parts.scored.labels) == len(test.labels)
    rows = {image.numpy().tobytes() for image in parts.public.images}
    assert not rows & {image.numpy().tobytes() for image in parts.scored.images}
    other = divided(test, 0.25, 2)
    assert not (other.public.images == parts.public.images).all()


def test_an_ended_run_does_not_go_on(tmp_path):
    first = run(tmp_path, *EARLY, "rounds=6")
    assert first.round == 2
    assert run(tmp_path, *EARLY, "rounds=6").round == 2


def test_a_budget_ends_what_is_charged(tmp_path):
    budget = ("epsilon_budget=6.5", "training.weighting=uniform")
    spent = run(tmp_path / "whole", *PRIVATE, *budget, "rounds=9")
    early = run(tmp_path / "early", *PRIVATE, *budget, *EARLY, "rounds=9")
    assert 2 == early.round < spent.round < 9

    def told(name):
        rows = rows_in(tmp_path / name).filter(metric="epsilon_record", where="client/0")
        return rows["value"].max()

    assert told("early") == told("whole") <= 6.5
    assert state_in(tmp_path / "early").round == 2


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (("server.patience=2",), "data.public_share=0.0: belongs to server.patience, and that to it"),
        (("data.public_share=0.5",), "data.public_share=0.5: belongs to server.patience, and that to it"),
        (("server.least_gain=1",), "server.least_gain=1.0: belongs to server.patience"),
        ((*EARLY[:2], "server.evaluate_every=0"), "server.evaluate_every=0: evaluates nothing that server.patience"),
        (("data.public_share=1", "server.patience=1"), "data.public_share=1.0: must be at least 0 and below 1"),
        (
            ("data.public_share=0.0001", "server.patience=1", "server.evaluate_every=1"),
            "data.public_share=0.0001: leaves one part of 360 test examples empty",
        ),
    ],
)
def test_what_would_have_no_effect_is_refused(overrides, said):
    with pytest.raises(ConfigError) as refusal:
        workspace_of(*overrides)
    assert one_line(refusal.value).startswith(said)


def test_accuracy_is_of_the_examples_that_are_not_public(tmp_path):
    early = ("data.public_share=0.5", "server.patience=9", "server.evaluate_every=1", "rounds=1")
    weights_D = run(tmp_path, *early).weights_D.numpy().astype(np.float64)
    work = workspace_of(*early)
    rows = rows_in(tmp_path).filter(stage="evaluate")
    told = dict(rows.select("metric", "value").iter_rows())
    by_hand = {}
    for name, part in vars(work.tests).items():
        inputs_NP = work.data.normalise(part.images).reshape(len(part.labels), -1).numpy().astype(np.float64)
        logits_NK = inputs_NP @ weights_D[:640].reshape(10, -1).T + weights_D[640:]
        own_N = logits_NK[range(len(part.labels)), part.labels]
        by_hand[name] = (
            (logits_NK.argmax(axis=1) == part.labels.numpy()).mean(),
            (np.log(np.exp(logits_NK).sum(axis=1)) - own_N).mean(),
        )
    assert (told["accuracy"], told["loss"]) == pytest.approx(by_hand["scored"], abs=1e-5)
    assert told["public_loss"] == pytest.approx(by_hand["public"][1], abs=1e-5)
    assert by_hand["scored"][0] != by_hand["public"][0]
