"""Commands, and the processes of a deployment's messages, load only the libraries that they need."""

import json
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from experiments.benchmarks.startup import MESSAGE, prepare
from fl.config.schema import DataConfig
from fl.data.image_data import load_data
from fl.transport import RESIDENT, ROLE
from privacy.errors import RuntimeFailure

ROOT = Path(__file__).parents[2]
AT_THE_END = "import atexit, json, sys; atexit.register(lambda: print(json.dumps([*sys.modules]), file=sys.stderr))\n"
COMMAND = "from experiments.cli import main; sys.exit(main(sys.argv[1:]))"
RELAY = f"""
from flwr.app import Context, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity
from fl.apps import client_app
TaskIdentity.task_id = TaskIdentity.run_id = 1
TaskIdentity.node_id = 7
context = Context(1, 7, {{"{ROLE}": "keyholder", "{RESIDENT}": "/nowhere/socket"}}, RecordDict(), {{}})
reply = client_app(Message(RecordDict(), 7, "train"), context)
assert reply.content["failure"]["type"] == "{RuntimeFailure.__name__}", reply.content
"""

PLOTS = {"matplotlib", "plotly", "seaborn"}
DATA = {"PIL", "datasets", "flwr_datasets", "huggingface_hub", "kymatio", "pandas", "pyarrow", "sklearn"}
PROTECTION = {"crypten", "dp_accounting", "opacus", "scipy", "tenseal"}
COMPILER = {"sympy", "torch._dynamo", "torch._inductor"}
NEVER = PLOTS | DATA | PROTECTION | COMPILER | {"joblib", "mlflow", "playwright", "ray", "tensorboard", "transformers"}
ROWS = {"polars"}
HEAVY = NEVER | ROWS | {"flwr", "torch"}  # what no command needs that only reads a configuration


def loaded(script: str, *arguments: str, status: int = 0) -> set[str]:
    """The modules that a process of its own holds at its end."""
    command = [sys.executable, "-c", AT_THE_END + script, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == status, done.stderr
    return set(json.loads(done.stderr.splitlines()[-1]))


@cache
def digits() -> None:
    """Put the digits into the cache, because scikit-learn reads them the first time."""
    load_data(DataConfig(name="digits"))


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("startup") / "run"


def test_a_run_on_digits(run):
    digits()
    modules = loaded(COMMAND, "run", "rounds=1", f"out={run}")
    assert {"torch", "flwr", "polars"} <= modules
    assert not modules & NEVER


def test_a_table(run):
    digits()
    if not run.exists():
        loaded(COMMAND, "run", "rounds=1", f"out={run}")
    modules = loaded(COMMAND, "table", str(run))
    assert "polars" in modules
    assert not modules & (HEAVY - ROWS - {"scipy"})  # Student's interval


@pytest.mark.parametrize("privacy", ["plain", "secagg"])
def test_a_threat_card(privacy):
    digits()
    modules = loaded(COMMAND, "explain", f"privacy={privacy}")
    assert "torch" in modules
    assert not modules & (HEAVY - {"torch"})


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (0, ["--help"]),
        (0, ["run", "--help"]),
        (0, ["run", "privacy=ckks", "--cfg", "job"]),
        (0, ["hash"]),
        (0, ["hash", "privacy=dp_sgd_secagg", "rounds=3"]),
        (0, ["configuration", "privacy=crypten"]),
        (2, ["run", "nosuch=1"]),
        (2, ["run", "data=nosuch"]),
        (2, ["run", "clients=many"]),
        (2, ["run", "clients=0"]),
        (2, ["run", "cohort=11"]),
        (2, ["explain", "nosuch=1"]),
        (2, ["explain", "cohort=11"]),
        (2, ["hash", "server.nosuch=1"]),
        (2, ["nosuch"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_configuration_and_its_errors(status, words):
    assert not loaded(COMMAND, *words, status=status) & HEAVY


def test_the_process_of_a_clients_message(tmp_path):
    digits()
    approved = prepare(tmp_path / "message")
    modules = loaded(MESSAGE, str(tmp_path / "message"), approved)
    assert "torch" in modules
    assert not modules & (NEVER | ROWS)


def test_the_process_of_a_message_to_a_role():
    modules = loaded(RELAY)
    assert "flwr" in modules
    assert not modules & (HEAVY - {"flwr"})


def test_a_library_would_be_seen():
    assert {"torch", "torch._dynamo", "sympy"} <= loaded("import torch._dynamo")
