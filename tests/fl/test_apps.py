import logging

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict

from fl.apps import client_app
from fl.config.identity import hash_of
from fl.keys import folders as keys
from fl.node import APPROVED, APPROVED_VARIABLE, DATA_READ, KEYS, PARTITION
from fl.runtimes.inprocess import InProcessGrid
from fl.transport import ADDRESS, ARRAYS, ENVELOPE, FAILURE, METRICS, MODEL, read_report, unpack
from fl.workspace import workspace
from privacy.secure_sums.plain import PlainSum
from privacy.secure_sums.signed_replies import reply_header, verified
from tests.composed import MASKED, PROBE, canonical

CLIENT = "client/1"


@pytest.fixture(autouse=True)
def a_process_that_approved_nothing(monkeypatch):
    monkeypatch.delenv(APPROVED_VARIABLE, raising=False)
    InProcessGrid("0" * 64, 1)  # Flower makes no message in a process without an identity


def node(config: str | None, **more: object) -> Context:
    """A node of a deployment: it approved a configuration, and holds a partition."""
    approved = {} if config is None else {APPROVED: hash_of(config)}
    return Context(1, 7, approved | {PARTITION: 1} | more, RecordDict(), {})


def ask(config: str, context: Context, stage: str = "collect", round_: int = 1, **changes: object) -> RecordDict:
    """The content of a node's reply to one stage."""
    asked = {"address": CLIENT, "stage": stage, "round": round_, "attempt": "first", "config": config, "run": "r"}
    asked |= changes
    to = ConfigRecord({"address": asked.pop("address")})
    content = RecordDict({ENVELOPE: ConfigRecord(asked), ADDRESS: to})
    if stage in ("collect", "mask"):
        content[MODEL] = ArrayRecord({MODEL: Array(np.zeros(650, np.float32))})
    return client_app(Message(content, context.node_id, "train"), context).content


def failure_of(content: RecordDict) -> tuple[str, str]:
    assert set(content) == {FAILURE}, "more than an error leaves"
    return str(content[FAILURE]["type"]), str(content[FAILURE]["message"])


PLAIN = canonical(*PROBE)
TWO_STAGES = canonical(*PROBE, *MASKED)


def test_a_node_answers_a_configuration_that_it_approved():
    content = ask(PLAIN, node(PLAIN))
    assert unpack(content)["vector"].shape == (651,)


def test_a_client_whose_data_change_during_a_run_refuses(monkeypatch):
    context = node(PLAIN)
    assert FAILURE not in ask(PLAIN, context)
    assert FAILURE not in ask(PLAIN, context, round_=2)
    monkeypatch.setitem(workspace(PLAIN).data.fingerprint, "sha256", "f" * 64)
    kind, message = failure_of(ask(PLAIN, context, round_=3))
    assert (kind, message) == (
        "ConfigError",
        "data.name=digits: the data of this node changed during the run: put them back, or start the run afresh",
    )
    assert FAILURE not in ask(PLAIN, node(PLAIN)), "another run"


@pytest.mark.parametrize("changes", [("seed=2",), ("training.lr=0.051",), MASKED, ("+mechanism.probe.double=true",)])
def test_a_node_refuses_every_other(changes):
    other = canonical(*PROBE, *changes)
    kind, message = failure_of(ask(other, node(PLAIN)))
    assert kind == "ConfigError"
    assert hash_of(PLAIN) in message
    assert hash_of(other) in message


def test_a_space_more_is_another_configuration():
    assert failure_of(ask(PLAIN + " ", node(PLAIN)))[0] == "ConfigError"


@pytest.mark.parametrize("approved", [{}, {APPROVED: ""}, {APPROVED: "0" * 64}, {APPROVED: hash_of(PLAIN)[:-1]}])
def test_a_node_that_approved_nothing_or_something_else_refuses(approved):
    kind, message = failure_of(ask(PLAIN, node(None, **approved)))
    assert kind == "ConfigError"
    assert "refuses the configuration" in message


def test_a_refused_configuration_is_not_even_built():
    evil = PLAIN.replace("tests.outside.probe.Probe", "tests.fl.test_apps.Opened")
    assert evil != PLAIN
    failure_of(ask(evil, node(PLAIN)))
    assert not Opened.built
    failure_of(ask(evil, node(evil)))
    assert Opened.built, "the test would have seen it"


class Opened:
    built = False

    def __init__(self, **_: object) -> None:
        type(self).built = True


def test_a_simulation_approves_by_its_environment(monkeypatch):
    monkeypatch.setenv(APPROVED_VARIABLE, hash_of(PLAIN))
    simulated = Context(1, 9, {PARTITION: 5, "num-partitions": 9}, RecordDict(), {})
    assert "vector" in unpack(ask(PLAIN, simulated))  # Flower's simulated nodes play whichever client is asked


def test_the_environment_does_not_overrule_a_nodes_own_configuration(monkeypatch):
    monkeypatch.setenv(APPROVED_VARIABLE, hash_of(TWO_STAGES))
    assert failure_of(ask(TWO_STAGES, node(PLAIN)))[0] == "ConfigError"


PINNED = canonical(*PROBE, "secure_sum=pad", "secure_sum.keys=clients", "secure_sum.bound=4")
CLIENTS = tuple(f"client/{client}" for client in range(4))


def test_a_node_signs_with_the_keys_that_its_own_configuration_names(tmp_path):
    roster = keys.make_all(tmp_path, CLIENTS)
    content = ask(PINNED, node(PINNED, **{KEYS: str(keys.folder_of(tmp_path, CLIENT))}), "elect")
    verified(unpack(content), roster, reply_header(hash_of(PINNED), 1, "first", "elect", CLIENT))
    kind, message = failure_of(ask(PINNED, node(PINNED, **{KEYS: str(keys.folder_of(tmp_path, "client/0"))}), "elect"))
    assert kind == "ConfigError"
    assert "its keys are not those of client/1" in message


def test_a_node_without_keys_takes_those_of_no_simulation(tmp_path, monkeypatch):
    monkeypatch.setenv(keys.KEYS_VARIABLE, "")
    keys.set_up(tmp_path, CLIENTS)
    kind, message = failure_of(ask(PINNED, node(PINNED), "elect"))
    assert kind == "ConfigError"
    assert message == "keys=None: secure_sum=pad needs the folder of client/1's keys, in its --node-config"
    simulated = Context(1, 7, {APPROVED: hash_of(PINNED)}, RecordDict(), {})
    assert "signature" in unpack(ask(PINNED, simulated, "elect"))


@pytest.mark.parametrize("address", ["client/0", "client/10", "client/01", "party/1", "", "client/1 "])
def test_a_message_for_another_client_is_refused(address):
    kind, message = failure_of(ask(PLAIN, node(PLAIN), address=address))
    assert kind == "ProtocolError"
    assert message == f"a message for {address} came to client/1"


@pytest.mark.parametrize("address", ["client/99", "party/1", ""])
def test_a_simulated_node_plays_clients_alone(address):
    simulated = Context(1, 7, {APPROVED: hash_of(PLAIN)}, RecordDict(), {})
    assert failure_of(ask(PLAIN, simulated, address=address))[0] == "ProtocolError"


@pytest.mark.parametrize(
    "content", [RecordDict(), RecordDict({ENVELOPE: ArrayRecord()}), RecordDict({ENVELOPE: ConfigRecord()})]
)
def test_a_message_in_bad_form_is_answered_with_an_error(content):
    context = node(PLAIN)
    failure_of(client_app(Message(content, 7, "train"), context).content)


def test_a_damaged_model_is_answered_with_an_error():
    context = node(PLAIN)
    content = RecordDict()
    envelope = {"stage": "collect", "round": 1, "attempt": "a", "config": PLAIN, "run": "r"}
    content[ENVELOPE] = ConfigRecord(envelope)
    content[ADDRESS] = ConfigRecord({"address": CLIENT})
    content[MODEL] = ArrayRecord({MODEL: Array("float32", (650,), "numpy.ndarray", b"\x93NUMPY...")})
    assert failure_of(client_app(Message(content, 7, "train"), context).content)[0] == "MalformedContribution"


def test_memory_waits_for_the_next_stage_of_the_round():
    context = node(TWO_STAGES)
    ask(TWO_STAGES, context, "mask")
    kept = unpack(context.state)["seed"]
    assert unpack(ask(TWO_STAGES, context, "unmask")) == {"seed": kept}


@pytest.mark.parametrize("later", [{"round_": 2}, {"attempt": "second"}, {"round_": 0}])
def test_memory_lasts_one_attempt_at_one_round(later):
    """Else a server could run a round again and have a secret of the first attempt opened in the second."""
    context = node(TWO_STAGES)
    ask(TWO_STAGES, context, "mask")
    kept = unpack(context.state)["seed"]
    assert failure_of(ask(TWO_STAGES, context, "unmask", **later))[0] == "KeyError"
    assert set(context.state) == {DATA_READ}, "the secret of an earlier attempt is still there"
    assert failure_of(ask(TWO_STAGES, context, "unmask"))[0] == "KeyError"
    ask(TWO_STAGES, context, "mask")
    assert unpack(context.state)["seed"] != kept


def test_memory_is_no_part_of_the_reply():
    context = node(TWO_STAGES)
    content = ask(TWO_STAGES, context, "mask")
    assert set(content) == {ARRAYS, ENVELOPE, METRICS}
    assert set(unpack(content)) == {"masked"}
    assert unpack(context.state)["seed"] not in unpack(content)["masked"].tobytes()


def test_a_client_reports_times_and_memory():
    metrics = read_report(ask(PLAIN, node(PLAIN)))
    assert {"train.wall", "train.cpu", "protect.wall", "transfer.cpu"} <= set(metrics)


def test_a_client_reports_nothing_where_that_is_asked():
    told = canonical(*PROBE, "runtime.client_metrics=true")
    quiet = canonical(*PROBE, "runtime.client_metrics=false")
    assert set(ask(told, node(told))) == {ARRAYS, ENVELOPE, METRICS}
    assert set(ask(quiet, node(quiet))) == {ARRAYS, ENVELOPE}


def test_a_refusal_is_no_defect_and_a_defect_shows_where(caplog):
    with caplog.at_level(logging.WARNING, "fedveil"):
        ask(TWO_STAGES, node(PLAIN))
        assert not caplog.records
        crashing = canonical(*PROBE, "+mechanism.probe.faults={client/1: crash}")
        assert failure_of(ask(crashing, node(crashing))) == ("RuntimeError", "crashed on purpose")
    assert "crashed on purpose" in caplog.text
    assert "probe.py" in caplog.text


def test_an_error_without_words_is_told_by_its_name():
    silent = canonical("secure_sum._target_=tests.fl.test_apps.Silent")
    assert failure_of(ask(silent, node(silent))) == ("AssertionError", "AssertionError")


class Silent(PlainSum):
    def respond(self, *_):
        raise AssertionError
