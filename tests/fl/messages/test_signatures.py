"""Signed replies through the transport: changed or replayed ones are refused."""

from collections.abc import Callable, Iterable

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Message, RecordDict
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from flwr.proto.recorddict_pb2 import RecordDict as ProtoRecordDict
from hypothesis import assume, given

from fl.keys import folders as keys
from fl.runtimes import inprocess
from fl.runtimes.inprocess import InProcessGrid
from fl.server import Errand, Server
from fl.transport import ARRAYS, pack, unpack
from privacy.errors import BadSignature, ConfigError, PrivacyRefusal
from privacy.secure_sums.signed_replies import SIGNATURE, signed, verified
from tests.composed import PROBE, server_of, workspace_of
from tests.fl.grids import Tampered, sender, untouched, with_content
from tests.fl.known_sums import EVERYBODY, exact_sum
from tests.privacy.sealing.people import ROSTER
from tests.privacy.secure_sums.records import HEADER, party, records, same

# three stages, only clients: they elect an opener, send, and the opener opens
PAD = (*PROBE, "secure_sum=pad", "secure_sum.keys=clients", "secure_sum.bound=4")


class Meddled(Tampered):
    """A grid that passes replies with sender and stage to `meddle`, and keeps the originals."""

    def __init__(self, work) -> None:
        super().__init__(work, lambda who, reply: self.meddle(who, self.stage_of(reply), reply))
        self.meddle: Callable[[str, str, Message], Iterable[Message]] = lambda who, stage, reply: [reply]
        self.seen: dict[tuple[str, str], RecordDict] = {}

    def stage_of(self, reply: Message) -> str:
        stages = {m.metadata.message_id: str(m.content["envelope"]["stage"]) for m in self.pushed}
        stage = stages[reply.metadata.reply_to_message_id]
        self.seen.setdefault((sender(reply), stage), reply.content)
        return stage


@pytest.fixture
def work(tmp_path, monkeypatch):
    monkeypatch.setenv(keys.KEYS_VARIABLE, "")  # so that the test's own goes with it
    return workspace_of(*PAD, "server.min_contributors=2")


def server(work, tmp_path, grid) -> Server:
    roster = keys.set_up(tmp_path / "keys", work.plan.everybody)
    return Server(work, grid, inprocess.locate(grid, work.plan), Errand(tmp_path / "checkpoints", roster=roster))


def rows(server: Server) -> dict[tuple[str, str, str], float]:
    return {(r.where, r.stage, r.metric): r.value for r in server.meter.take()}


def assert_sum(work, total, survivors):
    assert total.survivors == survivors
    error_D = np.abs(total.update_D - exact_sum(work, survivors)[:-1])
    assert error_D.max() <= 4 * work.plan.backend.secure_sum.tolerance(work.spec)


def unsigned(content: RecordDict, _: Meddled) -> RecordDict:
    return RecordDict({ARRAYS: ArrayRecord({n: a for n, a in content[ARRAYS].items() if n != SIGNATURE})})


def one_bit(content: RecordDict, _: Meddled) -> RecordDict:
    arrays = dict(content[ARRAYS].items())
    message = arrays["message"]
    data = bytes([message.data[0] ^ 1]) + message.data[1:]
    return RecordDict({ARRAYS: ArrayRecord({**arrays, "message": Array("uint8", (len(data),), message.stype, data)})})


def of_another(_: RecordDict, grid: Meddled) -> RecordDict:
    return grid.seen["client/0", "collect"]


def of_another_stage(_: RecordDict, grid: Meddled) -> RecordDict:
    return grid.seen["client/1", "elect"]


@pytest.mark.parametrize("change", [unsigned, one_bit, of_another, of_another_stage])
def test_a_reply_that_its_sender_did_not_sign_is_left_out(work, tmp_path, change):
    grid = Meddled(work)
    one = server(work, tmp_path, grid)

    def meddle(who, stage, reply):
        return (
            [with_content(reply, change(reply.content, grid))] if (who, stage) == ("client/1", "collect") else [reply]
        )

    grid.meddle = meddle
    total = one.aggregate(1, range(4))
    assert_sum(work, total, ("client/0", "client/2", "client/3"))
    assert one.transport.dropped == {"client/1": "client/1 did not sign this"}
    assert rows(one)["client/1", "collect", "rejected"] == 1


@pytest.mark.parametrize("same_round", [True, False])
def test_what_was_right_before_is_left_out_now(work, tmp_path, same_round):
    """A reply of an earlier attempt at the same round, or of an earlier round."""
    grid = Meddled(work)
    one = server(work, tmp_path, grid)
    assert_sum(work, one.aggregate(1, range(4)), EVERYBODY)
    old = grid.seen["client/2", "collect"]
    grid.meddle = lambda who, stage, reply: [
        with_content(reply, old) if (who, stage) == ("client/2", "collect") else reply
    ]
    if same_round:  # a different set then, and no round is opened for two sets
        with pytest.raises(PrivacyRefusal, match="round 1 was opened for client/0,client/1,client/2,client/3 before"):
            one.aggregate(1, range(4))
    else:
        assert one.aggregate(2, range(4)).survivors == ("client/0", "client/1", "client/3")
    assert one.transport.dropped["client/2"] == "client/2 did not sign this"


def test_an_old_opening_opens_nothing(work, tmp_path):
    grid = Meddled(work)
    one = server(work, tmp_path, grid)
    one.aggregate(1, range(4))
    old = grid.seen["client/0", "open"]
    grid.meddle = lambda who, stage, reply: [with_content(reply, old) if stage == "open" else reply]
    why = r"^client/0 did not open the sum; client/0 dropped out: client/0 did not sign this$"
    with pytest.raises(PrivacyRefusal, match=why):
        one.aggregate(1, range(4))


def test_a_run_ends_where_that_is_asked(tmp_path, monkeypatch):
    monkeypatch.setenv(keys.KEYS_VARIABLE, "")
    work = workspace_of(*PAD, "server.on_invalid=abort")
    grid = Meddled(work)
    grid.meddle = lambda who, stage, reply: [with_content(reply, unsigned(reply.content, grid))]
    with pytest.raises(BadSignature, match=r"^client/0: client/0 did not sign this$"):
        server(work, tmp_path, grid).aggregate(1, range(4))


def test_set_up_is_signed_too(tmp_path, monkeypatch):
    monkeypatch.setenv(keys.KEYS_VARIABLE, "")
    work = workspace_of(*PROBE, "secure_sum=bfv", "secure_sum.keys=clients", "secure_sum.bound=4")
    grid = Meddled(work)
    grid.meddle = lambda who, stage, reply: [
        with_content(reply, unsigned(reply.content, grid)) if stage == "keys" else reply
    ]
    why = r"^client/0 made no key; client/0 dropped out: client/0 did not sign this$"
    with pytest.raises(PrivacyRefusal, match=why):
        server(work, tmp_path, grid).run()


def test_the_signature_is_counted_and_its_time_is_that_of_protection(work, tmp_path):
    one = server(work, tmp_path, Meddled(work))
    one.aggregate(1, range(4))
    found = rows(one)
    assert found["client/3", "elect", "up_bytes"] == len("signature") + 64, "nothing else is in this reply"
    assert found["client/3", "protect", "wall"] > 0
    assert found["server", "elect", "compute"] > 0


def test_sums_without_a_roster_sign_nothing(tmp_path):
    work = workspace_of(*PROBE)
    grid = Tampered(work, untouched)
    replies = []
    grid.tamper = lambda who, reply: [replies.append(set(reply.content[ARRAYS])) or reply]
    server_of(work, tmp_path, grid).aggregate(1, range(4))
    assert replies == [{"vector"}] * 4


def test_a_roster_without_a_client_is_refused_before_anybody_is_asked(work, tmp_path):
    grid = InProcessGrid(work.plan.hash, 4)
    roster = keys.set_up(tmp_path / "keys", work.plan.everybody[:-1])
    with pytest.raises(ConfigError, match=r"^roster=[0-9a-f]{64}: client/3 is not on it"):
        Server(work, grid, inprocess.locate(grid, work.plan), Errand(tmp_path, roster=roster))


@given(records)
def test_the_wire_changes_nothing_that_is_signed(found):
    assume(SIGNATURE not in found)
    sent = recorddict_to_proto(pack(signed(found, party(), "collect"))).SerializeToString()
    arrived = unpack(recorddict_from_proto(ProtoRecordDict.FromString(sent)))
    assert same(verified(arrived, ROSTER, HEADER), found)
