"""The dry step: what cannot be trained is refused in one line before the first round, and nothing moves by it."""

import random

import numpy as np
import pytest
import torch

from fl.training import dry_step
from fl.training.local import smallest_batch
from privacy.errors import ConfigError
from tests.composed import run, server_of, workspace_of
from tests.fl.training.test_local import batches_of, labels, numbered

SWAP = "mechanism.dp_sgd.swap_layers=true puts another in its place, with the same weights"
DP = ("mechanism=dp_sgd", "training.weighting=uniform")


def model(name: str) -> str:
    return f"model._target_=tests.fl.models.zoo.{name}"


@pytest.mark.parametrize(
    ("name", "options", "told"),
    [
        ("Tuple", (), r"model=Tuple: its outputs are a tuple: they must be logits, a tensor \(N, 10\)"),
        ("Tuple", DP, "model=Tuple: its outputs are a tuple: they must be logits"),
        ("TwoInputs", DP, "model=TwoInputs: fails on random examples: .*'others'"),
        ("FarTooNarrow", (), r"model=FarTooNarrow: .*\(4, 3\)|Target 3 is out of bounds"),
        ("FarTooNarrow", DP, "model=FarTooNarrow: .*Target 3 is out of bounds"),
        ("TwoInputs", (), "model=TwoInputs: cannot be trained on random examples: .*'others'"),
        ("TooWide", (), r"model=TooWide: its outputs are float32 \(4, 11\) on random examples: they must be logits"),
        ("TooNarrow", (), r"model=TooNarrow: its outputs are float32 \(4, 9\) on random examples"),
        ("AllFrozen", (), "model._target_=.*AllFrozen: it has nothing to train: a parameter of it has to require"),
        ("UnreachedLazy", (), r"model=UnreachedLazy: no input reaches beside\.weight, a lazy layer"),
        (
            "BatchNorm",
            ("training.batch_size=358",),
            "model=BatchNorm: cannot be trained on a batch of one random example: .*training.batch_size that leaves",
        ),
        ("BatchNorm", DP, "model=BatchNorm: BatchNorm cannot .*: take GroupNorm$"),
        ("BatchNorm", ("privacy=client_dp", "clients=20", "delta=1e-3"), r"training changes between\.running_mean"),
        ("SpectralNorm", DP, r"model=SpectralNorm: training changes first\.parametrizations\.weight\.0\._u"),
        ("Lstm", DP, rf"model=Lstm: .*nn\.LSTM .*{SWAP}"),
        ("Gru", DP, rf"model=Gru: .*nn\.GRU .*{SWAP}"),
        ("Attention", DP, f"model=Attention: .*{SWAP}"),
        ("Complex", DP, "model=Complex: turn is complex, and noise is drawn for real values: hold it as pairs"),
        ("Tied", (*DP, "mechanism.dp_sgd.mode=ghost"), r"mechanism.dp_sgd.mode=ghost: .*; choose mode=auto"),
        ("Flat", (*DP, "training.proximal_mu=0.1"), "training.proximal_mu=0.1: FedProx's term is not clipped"),
    ],
)
def test_a_model_that_cannot_be_trained_is_one_line_with_a_remedy(name, options, told):
    with pytest.raises(ConfigError, match=told) as refusal:
        workspace_of(model(name), *options).try_model()
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("name", ["Tied", "Unused", "InPlace", "Narrow", "Lazy", "Frozen"])
@pytest.mark.parametrize("options", [(), DP])
def test_models_that_look_odd_and_can_be_trained_pass(name, options):
    workspace_of(model(name), *options).try_model()


def test_a_lazy_model_has_the_weights_of_its_eager_twin():
    """Its twin draws the last layer first, as the lazy one is drawn when an example comes by: shapes are the same."""
    lazy = workspace_of(model("Lazy"))
    again = workspace_of(model("Lazy"))
    assert torch.equal(lazy.initial_D, again.initial_D)
    assert len(lazy.initial_D) == len(workspace_of(model("Flat")).initial_D)
    assert type(lazy.model.first) is torch.nn.Linear
    assert lazy.initial_D.std() > 0


def state_of(work) -> list[torch.Tensor]:
    """A copy of all that a model and the generators hold."""
    entries = [entry.detach().clone() for entry in (*work.model.parameters(), *work.model.buffers())]
    numbers = np.random.get_state()
    own = random.getstate()[1]
    return [*entries, torch.get_rng_state(), torch.tensor(numbers[1].astype(np.int64)), torch.tensor(own)]


@pytest.mark.parametrize(
    "options", [("model=mlp",), (model("BatchNorm"),), ("model=mlp", *DP), ("model=mlp", "privacy=ckks")]
)
def test_the_dry_step_leaves_weights_and_generators_as_they_were(options):
    work = workspace_of(*options)
    before = state_of(work)
    work.try_model()
    after = state_of(work)
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))
    assert work.model.training
    assert all(parameter.grad is None for parameter in work.model.parameters())


@pytest.mark.parametrize("options", [("model=mlp",), (model("CountingBatchNorm"),), ("model=mlp", *DP, "noise=seeded")])
def test_a_run_has_the_weights_of_one_without_a_dry_step(tmp_path, monkeypatch, options):
    tried = run(tmp_path / "tried", *options)
    monkeypatch.setattr("fl.workspace.Workspace.try_model", lambda self: None)
    assert torch.equal(tried.weights_D, run(tmp_path / "untried", *options).weights_D)


def test_it_runs_once_a_process_and_before_the_first_message(tmp_path, monkeypatch):
    runs = []
    plain = dry_step.DryStep.plain
    monkeypatch.setattr(dry_step.DryStep, "plain", lambda *arguments: (runs.append(1), plain(*arguments)))
    work = workspace_of("model=mlp")
    work.try_model()
    server_of(work, tmp_path).run()
    assert runs == [1]


def test_a_server_refuses_before_any_client_is_asked(tmp_path):
    work = workspace_of(model("Tuple"))
    with pytest.raises(ConfigError, match=r"^model=Tuple: "):
        server_of(work, tmp_path).run()


def test_features_and_few_examples_are_no_obstacle():
    workspace_of("data.features=scattering", "model=scatter_linear").try_model()
    workspace_of("clients=1437", "model=mlp", "cohort=10").try_model()  # one example each


@pytest.mark.parametrize(
    ("examples", "batch_size", "steps", "smallest"),
    [(10, 4, None, 2), (8, 4, None, 4), (3, 4, None, 3), (9, 4, 2, 4), (9, 4, 3, 1), (3, 4, 1, 3), (1, 1, None, 1)],
)
def test_the_smallest_batch_is_that_of_the_batches_by_hand(examples, batch_size, steps, smallest):

    assert smallest_batch(examples, batch_size, steps) == smallest
    shown = labels(batches_of(numbered(examples), batch_size, steps=steps, epochs=1 if steps is None else None))
    assert min(map(len, shown)) == smallest
