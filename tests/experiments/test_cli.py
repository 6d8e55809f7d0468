"""The command line: its output, its refusals, and the features of Hydra below it."""

import hashlib
import json
import re
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import polars as pl
import pytest

from experiments import cli
from experiments.hydra.error_lines import CONFIGS
from results import index
from results.store import open_run
from tests.experiments.command import FEDVEIL, QUICK, Here, environment, fedveil, read, refused

# (overrides, start of the line, other words of the line)
BAD: list[tuple[list[str], str, str]] = [
    # unknown keys
    (["qqqq=1"], "qqqq=1: Key 'qqqq' not in", "allowed are .*clients, cohort, rounds"),
    (["trainig.lr=1"], "trainig.lr=1: Key 'trainig' not in", "did you mean training?"),
    (["training.batchsize=1"], "training.batchsize=1: Key 'batchsize' not in", "did you mean batch_size?"),
    (["+rounds=3"], "Could not append", "'rounds=3'"),
    # wrong types
    (["rounds=abc"], "rounds=abc: Value 'abc' of type 'str'", "Integer"),
    (["rounds=1.5"], "rounds=1.5: Value '1.5' of type 'float'", "Integer"),
    (["training.lr=fast"], "training.lr=fast: Value 'fast' of type 'str'", "Float"),
    (["data.allow_empty=perhaps"], "data.allow_empty=perhaps: Value 'perhaps'", "bool"),
    (["clients=null"], "clients=null: field 'clients'", "not Optional"),
    (["rounds=${nope}"], "rounds=${nope}: ", "Interpolation key 'nope' not found"),
    # out of range
    (["rounds=0"], "rounds=0: ", "at least 1"),
    (["seed=-1"], "seed=-1: ", "at least 0"),
    (["training.lr=-1"], "training.lr=-1.0: ", "above 0"),
    (["training.lr=nan"], "training.lr=nan: ", "finite"),
    (["training.optimizer.momentum=-1"], "training.optimizer (", "momentum=-1.*Invalid momentum value"),
    (["data.partition=random"], "data.partition=random: ", "allowed are iid, dirichlet, shards, natural"),
    (["runtime.name=mpi"], "runtime.name=mpi: ", "allowed are inprocess, ray, deployment"),
    # keys that contradict each other
    (["cohort=5"], "cohort=5: ", "at most clients=4"),
    (["server.min_contributors=5"], "server.min_contributors=5: ", "at most the cohort, 4"),
    (["training.steps=3"], "training.steps=3: ", "set the other to null"),
    (["training.max_weight=3"], "training.max_weight=3: ", "a client holds 360 examples"),
    (["model=cnn"], "model=cnn: ", "images of 8x8, needs 14x14"),
    # missing things
    (["data=cifar10"], "data.name=cifar10: ", "looked in data.path .*FEDVEIL_DATA .*give data.path=FOLDER"),
    (["data.path=/nowhere"], "data.path=/nowhere: ", "no such folder"),
    (["device=cuda:64"], "device=cuda:64: ", r"there are \d+ CUDA devices; use device=cpu"),
    (["device=tpu"], "device=tpu: ", "allowed are auto, cpu, cuda and cuda:N"),
    # partitions
    (["data.partition=dirichlet", "data.alpha=0.05", "clients=60"], "data.alpha=0.05: ", "some of clients=60 empty"),
    (["clients=2000"], "clients=2000: ", "at most the 1437 examples of digits"),
    (["data.partition=natural"], "data.partition=natural: ", "names no owners"),
    # options of a group
    (["model=nope"], "model=nope: ", "allowed are cnn, .*, mlp, moderate_cnn, resnet18_gn"),
    (["training/optimizer=nope"], "training/optimizer=nope: ", "allowed are adam, adamw, sgd"),
    (["model=null"], "model=null: ", "allowed are cnn, .*, mlp, moderate_cnn, resnet18_gn"),
    # objects
    (
        ["secure_sum._target_=privacy.he.CkksSum"],
        "secure_sum._target_=privacy.he.CkksSum: ",
        "is called privacy.CkksSum now: name it so$",
    ),
    (
        ["model._target_=fl.private_models.CnnTanh"],
        "model._target_=fl.private_models.CnnTanh: ",
        "is called fl.models.CnnTanh now: name it so$",
    ),
    (["model._target_=fl.models.Nope"], "model (_target_=fl.models.Nope): ", "importable"),
    (
        ["secure_sum._target_=builtins.dict"],
        "secure_sum (_target_=builtins.dict): ",
        "a privacy.SecureSum$",
    ),
    (
        ["+mechanism.x._target_=builtins.dict"],
        "mechanism.x (_target_=builtins",
        "a privacy.Mechanism$",
    ),
    (["model._target_=builtins.dict"], "model (_target_=builtins.dict): ", "must be a torch.nn.modules.module.Module$"),
    (
        ["model._target_=torch.nn.Identity"],
        "model._target_=torch.nn.Identity: ",
        "it has nothing to train: a parameter of it has to require a gradient$",
    ),
    (
        ["training.optimizer={_target_:builtins.dict}"],
        "training.optimizer (",
        "a torch.optim.optimizer.Optimizer$",
    ),
    (["server.optimizer={_target_:builtins.dict}"], "server.optimizer (", "a torch.optim.optimizer.Optimizer$"),
    (["+mechanism.x.a=1"], "mechanism.x (a=1): ", "needs a _target_"),
    (["+model.width=3"], "model (_target_=fl.models.Logistic, width=3): ", "unexpected keyword argument 'width'"),
    # the words themselves
    (["rounds=[1"], "no viable alternative at input '[1'", ""),
    (["rounds=1,2"], "Ambiguous value for argument 'rounds=1,2'", "--multirun"),
    # places
    (["out=/proc/nope"], "/proc/nope cannot be used", "choose another out="),
]


@pytest.mark.parametrize(("overrides", "start", "rest"), BAD, ids=[" ".join(bad[0]) for bad in BAD])
def test_a_value_that_is_not_allowed_is_refused_in_one_line(
    here: Here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overrides: list[str], start: str, rest: str
) -> None:
    monkeypatch.delenv("FEDVEIL_DATA", raising=False)
    place = [] if overrides[0].startswith("out=") else ["out=run"]
    line = refused(here.run(*place, *overrides))
    assert line.startswith(start), line
    assert re.search(rest, line), line
    assert not list(tmp_path.iterdir()), "a mistyped command leaves nothing behind"


def test_a_server_optimizer_that_torch_does_not_allow_is_refused_in_one_line(here: Here) -> None:
    line = refused(here.run("out=run", "server.optimizer.lr=-1"))
    assert line == "server.optimizer (_target_=torch.optim.SGD, lr=-1): Invalid learning rate: -1"


def test_a_folder_that_no_run_made_is_left_alone(here: Here, tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("years of work")
    for force in ("force=false", "force=true"):
        assert "no run made it: choose another out=" in refused(here.run("out=thesis", force))
    assert [path.name for path in (tmp_path / "thesis").rglob("*")] == ["chapter.tex"]


def test_a_folder_that_another_run_holds_is_refused(here: Here, tmp_path: Path) -> None:
    with open_run(tmp_path / "run", "{}", "", force=False) as run:
        run.write_status("running")
        line = refused(here.run("out=run"))
    assert line.startswith("run: another run holds it (pid ")
    assert line.endswith("; wait, or choose another out=")


@pytest.mark.parametrize("name", ["config.json", "status.json", "summary.json"])
def test_a_damaged_run_is_refused_until_forced(here: Here, tmp_path: Path, name: str) -> None:
    first = here.run("out=run")
    assert first.status == 0, first
    sha256 = read(tmp_path / "run", "summary")["weights_sha256"]
    (tmp_path / "run" / name).write_text('{"clients": ')
    line = refused(here.run("out=run"))
    assert f"run/{name} is damaged" in line
    assert "force=true" in line
    assert here.run("out=run", "force=true").status == 0
    assert read(tmp_path / "run", "summary")["weights_sha256"] == sha256


def test_a_mistake_under_force_costs_no_earlier_run(here: Here, tmp_path: Path) -> None:
    assert here.run("out=run").status == 0
    before = (tmp_path / "run" / "summary.json").read_bytes()
    refused(here.run("out=run", "force=true", "device=cuda:64"))
    assert (tmp_path / "run" / "summary.json").read_bytes() == before


def test_a_defect_shows_where_and_exits_with_1(here: Here, tmp_path: Path) -> None:
    ended = here.run("out=run", "+mechanism.x._target_=tests.outside.probe.Defect", "rounds=1")
    assert ended.status == 1
    assert "Traceback" in ended.err
    assert ended.err.splitlines()[-1].startswith("fedveil: error: ")


def test_interpolations_may_be_typed(here: Here, tmp_path: Path) -> None:
    ended = here.run("out=run", "cohort=${clients}", "rounds=1")
    assert ended.status == 0, ended
    assert '"cohort":4' in (tmp_path / "run" / "config.json").read_text()


# ---- Commands


def test_usage(here: Here) -> None:
    for arguments in ((), ("-h",), ("--help",)):
        ended = here(*arguments)
        assert ended.status == 0
        assert all(f"\n  {command} " in ended.out for command in cli.COMMANDS)


def test_an_unknown_command_is_refused(here: Here) -> None:
    assert refused(here("rum")) == f"rum: allowed are {', '.join(cli.COMMANDS)}; did you mean run?"


def test_a_threat_card_is_printed_by_topic(here: Here) -> None:
    told = here("explain", "secure_sum=pad", "secure_sum.keys=clients").out
    assert "\ncoalition:\n  The server and any one client together read one client's update.\n" in told
    assert refused(here("explain", "rounds=0")) == "rounds=0: must be at least 1"


def test_a_configuration_is_printed_as_its_hash_is_taken_of_it(here: Here) -> None:
    printed = here("configuration", "seed=3")
    told = here("hash", "seed=3")
    assert hashlib.sha256(printed.out.strip().encode()).hexdigest() == told.out.strip()
    assert json.loads(printed.out)["seed"] == 3


def test_the_hash_is_that_of_the_canonical_configuration(here: Here, tmp_path: Path) -> None:
    assert here.run("out=run", "seed=3").status == 0
    written = hashlib.sha256((tmp_path / "run" / "config.json").read_bytes()).hexdigest()
    hashed = here("hash", *QUICK, "seed=3")
    assert (hashed.status, hashed.out, hashed.err) == (0, f"{written}\n", "")
    # the output folder and the display are no part of the identity; everything else is
    assert here("hash", *QUICK, "seed=3", "out=x", "force=true", "output.progress=false").out == hashed.out
    others = [here("hash", *QUICK, "seed=3", override).out for override in ("rounds=3", "device=auto", "runtime=ray")]
    assert len({hashed.out, *others}) == 4


def test_a_hash_of_a_bad_configuration_is_refused(here: Here) -> None:
    assert refused(here("hash", "rounds=0")) == "rounds=0: must be at least 1"
    assert here.run("rounds=1", "out=run").status == 0, "a run after it is a run"


def test_hydras_help_and_configuration(here: Here, tmp_path: Path) -> None:
    helped = here("run", "--help")
    assert helped.status == 0
    assert "model: cnn, cnn_mcmahan, cnn_tanh, " in helped.out
    composed = here("run", "--cfg", "job", "model=logistic", "rounds=7")
    assert composed.status == 0
    assert "\nrounds: 7\n" in composed.out
    assert "_target_: fl.models.Logistic\n" in composed.out
    about = here("run", "--info", "searchpath")
    assert about.status == 0
    assert str(CONFIGS) in about.out + about.err
    assert not list(tmp_path.iterdir())


def test_an_unknown_flag_exits_with_2(here: Here) -> None:
    ended = here("run", "--nope")
    assert ended.status == 2
    assert "unrecognized arguments: --nope" in ended.err


def test_the_benchmarks_are_listed(here: Here) -> None:
    ended = here("bench", "--help")
    assert ended.status == 0
    assert "runtime" in ended.out
    assert "--json" in ended.out
    assert "allowed are" in refused(here("bench", "no-such-benchmark"))


# ---- The console script itself


def test_the_console_script_and_the_module_are_the_same(tmp_path: Path) -> None:
    first = fedveil("run", *QUICK, "out=run", folder=tmp_path)
    assert first.status == 0, first
    assert [line.split(":")[0] for line in first.err.splitlines()] == [
        *("loading PyTorch, Flower and data=digits", "plain, round 0 of 2", "plain, round 1 of 2"),
        "plain, round 2 of 2",
    ]
    assert first.out.startswith("plain: 2 rounds, accuracy 0.")
    assert first.out.endswith(" in run\n")
    module = (sys.executable, "-m", "experiments.run")
    second = fedveil(*QUICK, "out=run", "output.progress=false", folder=tmp_path, program=module)
    assert (second.status, second.err) == (0, ""), second
    assert second.out == first.out.rstrip("\n") + " (finished earlier; force=true runs it again)\n"


def test_the_table_is_of_the_runs_that_are_named(here: Here) -> None:
    assert here.run("out=run", "rounds=1").status == 0
    table = here("table", "run")
    assert (table.status, table.err) == (0, "")
    assert "model=logistic" in table.out
    assert here("table", "no-such-run").status == 2


def test_a_reader_that_has_seen_enough_is_no_error(tmp_path: Path) -> None:
    for words in ("run --help", "run --info"):
        done = subprocess.run(
            f"{FEDVEIL} {words} | head -1", shell=True, cwd=tmp_path, env=environment(), capture_output=True, text=True
        )
        assert done.stdout
        assert done.stderr == ""


COMPLETE = """
eval "$(fedveil -sc install=bash)"
COMP_LINE=$1
COMP_POINT=${#COMP_LINE}
read -ra COMP_WORDS <<< "$COMP_LINE"
COMP_CWORD=$(( ${#COMP_WORDS[@]} - 1 ))
if [[ $COMP_LINE == *" " ]]; then COMP_WORDS+=(""); COMP_CWORD=$(( COMP_CWORD + 1 )); fi
function=$(complete -p fedveil | sed -E 's/.*-F ([^ ]+).*/\\1/')
$function
echo "${COMPREPLY[@]}"
"""


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize(
    ("line", "completions"),
    [
        pytest.param("fedveil run mod", ["model.", "model="], marks=pytest.mark.slow),
        ("fedveil run seed=3 model=l", ["model=lenet", "model=logistic"]),
        pytest.param("fedveil sweep training.ba", ["training.batch_size="], marks=pytest.mark.slow),
        ("fedveil r", ["run", "report", "reproduce"]),
        ("fedveil table re", []),
    ],
)
def test_bash_completes(tmp_path: Path, line: str, completions: list[str]) -> None:
    env = environment()
    env["PATH"] = f"{FEDVEIL.parent}:{env['PATH']}"
    done = subprocess.run(
        ["bash", "-c", COMPLETE, "bash", line], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.split() == completions, done.stderr


def test_a_sweep_leaves_its_index(here: Here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "refresh", partial(index.refresh, least=2))
    assert here("hash", "-m", *QUICK, "seed=1,2", f"out={tmp_path}").status == 0
    assert here("sweep", *QUICK, "seed=1", f"out={tmp_path}").status == 0
    assert not (tmp_path / index.NAME).exists(), "one run needs none"
    assert here("sweep", *QUICK, "seed=2", f"out={tmp_path}").status == 0
    assert pl.read_parquet(tmp_path / index.NAME)["seed"].sort().to_list() == ["1", "2"]
