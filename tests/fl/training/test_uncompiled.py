"""Optimizers step to the same bits without torch's compiler, and are torch's own where it is loaded."""

import json
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
STEPS = """
import hashlib, io, json, sys, torch
if sys.argv[1] != "torch": from fl.training.uncompiled import without_compiler; without_compiler()
if sys.argv[1] == "loaded": import torch._dynamo
found = {}
for name in ("SGD", "Adam", "AdamW", "Adagrad", "RMSprop", "Adadelta", "NAdam", "Rprop"):
    weights = [torch.nn.Parameter(torch.linspace(-1, 1, 7)), torch.nn.Parameter(torch.ones(2, 3))]
    optimizer = getattr(torch.optim, name)(weights[:1], lr=0.1, foreach=False)
    optimizer.add_param_group({"params": weights[1:], "lr": 0.3})
    hooks = []
    optimizer.register_step_pre_hook(lambda *_: hooks.append("before"))
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    grads = []
    def closure():
        grads.append(torch.is_grad_enabled())
        return sum((weight ** 3).sum() for weight in weights)
    for _ in range(3):
        optimizer.zero_grad()
        with torch.enable_grad(): closure().backward()
        optimizer.step()
        schedule.step()
    optimizer.load_state_dict(optimizer.state_dict())
    optimizer.step(lambda: grads.append(torch.is_grad_enabled()) or 0.0)
    values = torch.cat([weight.detach().flatten() for weight in weights])
    state = json.dumps(str(optimizer.state_dict()))
    digest = hashlib.sha256(values.numpy().tobytes() + state.encode()).hexdigest()
    found[name] = [digest, len(hooks), grads, torch.is_grad_enabled()]
print(json.dumps([found, "torch._dynamo" in sys.modules]))
"""


@cache
def stepped(how: str) -> tuple[dict[str, object], bool]:
    """Each optimizer's weights and state after some steps in a process of its own, and whether it has the compiler."""
    command = [sys.executable, "-c", STEPS, how]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=True)
    found, compiler = json.loads(done.stdout)
    return found, compiler


@pytest.mark.parametrize(
    ("how", "compiler"), [("without", False), pytest.param("loaded", True, marks=pytest.mark.slow)]
)
def test_optimizers_step_to_the_same_bits(how, compiler):
    assert stepped(how) == (stepped("torch")[0], compiler)


def test_torch_alone_loads_its_compiler():
    """If this fails, torch has changed, and `fl.training.uncompiled` may have become superfluous."""
    assert stepped("torch")[1]
