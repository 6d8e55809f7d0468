"""A run with a roster relayed by the server: nodes with separate folders, as in a deployment, in one process."""

import stat
from collections.abc import Iterable
from pathlib import Path

import pytest
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict

from fl import runtimes
from fl.apps import client_app
from fl.checkpoint import Checkpoints
from fl.keys import folders as keys
from fl.node import APPROVED, KEYS, PARTITION
from fl.runtimes.inprocess import FIRST_CLIENT_NODE
from fl.runtimes.serving import serve
from fl.server import Errand, Server
from fl.transport import ADDRESS, ARRAYS, ENVELOPE, FAILURE, ROLE, pack, unpack
from fl.workspace import Workspace
from privacy.errors import ConfigError, PrivacyRefusal
from privacy.sealing import Roster
from privacy.secure_sums.signed_replies import reply_header, verified
from privacy.testing.harness import identity_of
from tests.composed import canonical, workspace_of
from tests.fl.grids import Tampered, untouched, with_content
from tests.fl.runtimes.leaks import leaks
from tests.scenery.paths import some

PAD = ("secure_sum=pad", "secure_sum.keys=clients", "training.weighting=uniform")
DEPLOYED = ("runtime=deployment", "runtime.federation=lab")
RELAYED = (*DEPLOYED, "runtime.roster=relayed")
KEYHOLDER = "keyholder"


class Nodes(Tampered):
    """A grid with a folder for each node; the last node is the keyholder."""

    def __init__(self, work: Workspace, folder: Path) -> None:
        super().__init__(work, untouched)
        self.folder = folder
        self.nodes = dict(zip(work.plan.everybody, range(FIRST_CLIENT_NODE, 99), strict=False))
        self.sent: list[bytes] = []  # all that came from a node

    def context(self, node_id: int) -> Context:
        context = super().context(node_id)
        [address] = [name for name, number in self.nodes.items() if number == node_id]
        own = {PARTITION: node_id - FIRST_CLIENT_NODE} if address.startswith("client/") else {ROLE: address}
        context.node_config |= {**own, KEYS: str(keys.folder_of(self.folder, address))}
        return context

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        replies = super().pull_messages(message_ids)
        self.sent += [
            value for reply in replies for value in unpack(reply.content).values() if isinstance(value, bytes)
        ]
        return replies


class Swapping(Nodes):
    """A grid that gives one client a different roster, as a server that swaps keys would."""

    def __init__(self, work: Workspace, folder: Path, victim: str, roster: Roster) -> None:
        super().__init__(work, folder)
        self.victim = victim
        self.roster = roster

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        return super().push_messages([self._swapped(message) for message in messages])

    def _swapped(self, message: Message) -> Message:
        content = message.content
        if content[ENVELOPE]["stage"] == "roster" and message.metadata.dst_node_id == self.nodes[self.victim]:
            content = RecordDict({**content, **pack({"roster": self.roster.to_bytes()})})
        return with_content(message, content)


def server(work: Workspace, folder: Path, grid: Nodes | None = None) -> Server:
    grid = grid or Nodes(work, folder / "keys")
    return Server(work, grid, grid.nodes, Errand(folder / "checkpoints"))


def weights(folder: Path) -> bytes:
    state = Checkpoints(folder / "checkpoints", 2).latest()
    assert state is not None
    return state.weights_D.numpy().tobytes()


def rosters(work: Workspace, folder: Path) -> set[bytes]:
    """The rosters that roles keep."""
    kept = Path("runs") / work.plan.hash / "roster"
    return {(keys.folder_of(folder / "keys", address) / kept).read_bytes() for address in work.plan.everybody}


# ---- whole runs


@pytest.mark.parametrize("sum_", [PAD, ("secure_sum=ckks",)])
def test_a_run_has_the_weights_of_one_with_pinned_keys(tmp_path, monkeypatch, sum_):
    monkeypatch.setenv(keys.KEYS_VARIABLE, "")
    work = workspace_of(*sum_, *RELAYED)
    grid = Nodes(work, tmp_path / "keys")
    serve(work, grid, grid.nodes, Errand(tmp_path / "checkpoints"))
    [kept] = rosters(work, tmp_path)
    folders = {address: keys.folder_of(tmp_path / "keys", address) for address in work.plan.everybody}
    identities = {address: keys.own_identity(folder) for address, folder in folders.items()}
    assert kept == Roster({address: identity.public for address, identity in identities.items()}).to_bytes()
    for path in some((tmp_path / "keys").rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path
    secrets = {
        f"{address} {i}": identity.to_bytes()[i : i + 32] for address, identity in identities.items() for i in (0, 32)
    }
    assert not any(leaks(sent, secrets) for sent in grid.sent)
    if sum_ is PAD:  # exact, and all in this process
        runtimes.run(workspace_of(*sum_), tmp_path / "pinned", Errand(tmp_path / "pinned" / "checkpoints"))
        assert weights(tmp_path) == weights(tmp_path / "pinned")


def test_the_bytes_of_the_roster_are_metered_like_any_stage(tmp_path):
    work = workspace_of(*PAD, *RELAYED)
    server(work, tmp_path).run()
    frame = Checkpoints(tmp_path / "checkpoints", 2).rows().filter(round=0)
    length = len(rosters(work, tmp_path).pop())
    for address in work.plan.everybody:
        found = {(r["stage"], r["metric"]): r["value"] for r in frame.filter(where=address).iter_rows(named=True)}
        assert length < found["roster", "down_bytes"] < length + 50
        hexadecimal = 2 * 64
        signature = 64
        assert found["introduce", "up_bytes"] > len(f'{{"{address}":[]}}') + hexadecimal + signature
        assert found["roster", "up_bytes"] >= 64
        assert found["protect", "wall"] > 0
    for stage in ("introduce", "roster"):
        [compute] = frame.filter(where="server", stage=stage, metric="compute")["value"]
        assert compute > 0


def stopped(work: Workspace, folder: Path) -> None:
    """A run ended by Ctrl-C in its second round."""
    grid = Nodes(work, folder / "keys")
    one = server(work, folder, grid)

    def stop(_: str, reply: Message) -> list[Message]:
        if one.meter.round == 2:
            raise KeyboardInterrupt
        return [reply]

    grid.tamper = stop
    with pytest.raises(KeyboardInterrupt):
        one.run()


def test_a_run_that_goes_on_does_so_under_the_same_roster(tmp_path):
    work = workspace_of(*PAD, *RELAYED)
    (tmp_path / "whole").mkdir()
    server(work, tmp_path / "whole").run()
    stopped(work, tmp_path)
    before = rosters(work, tmp_path)
    server(work, tmp_path).run()
    assert rosters(work, tmp_path) == before
    assert weights(tmp_path) == weights(tmp_path / "whole")


def test_a_run_does_not_go_on_where_somebodys_keys_are_new(tmp_path):
    work = workspace_of(*PAD, *RELAYED)
    stopped(work, tmp_path)
    before = rosters(work, tmp_path)
    (tmp_path / "keys" / "client-2" / "identity.key").unlink()
    with pytest.raises(PrivacyRefusal) as refusal:
        server(work, tmp_path).run()
    assert str(refusal.value) == (
        "client/0 did not take the roster; client/0 dropped out: the roster from the server has other keys of client/2 "
        "than the first one for this configuration, which client/0 keeps: "
        "bring those keys back, or start anew under another seed"
    )
    assert rosters(work, tmp_path) == before


def test_a_forged_introduction_ends_the_run_before_a_roster_is_handed_out(tmp_path):
    work = workspace_of(*PAD, *RELAYED)
    grid = Nodes(work, tmp_path / "keys")
    forged = Roster({"client/1": identity_of("somebody").public}).to_bytes()

    def forge(who: str, reply: Message) -> list[Message]:
        arrays = reply.content[ARRAYS]
        changed = RecordDict({ARRAYS: ArrayRecord({**arrays, **pack({"keys": forged})[ARRAYS]})})
        return [with_content(reply, changed) if who == "client/1" else reply]

    grid.tamper = forge
    why = r"^client/1 gave no public keys of its own; client/1 dropped out: client/1 did not sign this$"
    with pytest.raises(PrivacyRefusal, match=why):
        server(work, tmp_path, grid).run()
    assert {stage for _, stage in grid.ran} == {"introduce"}


def test_a_client_that_is_handed_other_keys_of_its_own_ends_the_run(tmp_path):
    work = workspace_of(*PAD, *RELAYED)
    other = Roster({address: identity_of(address).public for address in work.plan.everybody})
    grid = Swapping(work, tmp_path / "keys", "client/3", other)
    why = (
        r"^client/3 did not take the roster; client/3 dropped out: "
        r"the roster from the server has keys of client/3 that are not its own$"
    )
    with pytest.raises(PrivacyRefusal, match=why):
        server(work, tmp_path, grid).run()


# ---- a node


CONFIG = canonical(*PAD, *RELAYED)


@pytest.fixture
def work() -> Workspace:
    return Workspace(CONFIG)


def node(work: Workspace, folder: Path | None, client: int = 1) -> Context:
    own = {} if folder is None else {KEYS: str(folder)}
    return Context(1, 7, {APPROVED: work.plan.hash, PARTITION: client, **own}, RecordDict(), {})


def ask(work: Workspace, context: Context, stage: str, **records) -> dict:
    """The reply of a node, or its failure."""
    envelope = {"run": work.plan.hash, "round": 0, "attempt": "first", "stage": stage, "config": work.plan.canonical}
    content = pack(records)
    address = f"client/{context.node_config[PARTITION]}"
    content[ENVELOPE] = ConfigRecord(envelope)
    content[ADDRESS] = ConfigRecord({"address": address})
    Nodes(work, Path())  # Flower makes no message in a process without an identity
    answered = client_app(Message(content, context.node_id, "train"), context).content
    return dict(answered[FAILURE]) if FAILURE in answered else unpack(answered)


def test_a_node_makes_its_keys_once_and_for_itself(work, tmp_path):
    own = tmp_path / "own"
    first = ask(work, node(work, own), "introduce")
    secret = (own / "identity.key").read_bytes()
    public = Roster.from_bytes(first["keys"])
    assert public["client/1"] == keys.own_identity(own).public
    verified(first, public, reply_header(work.plan.hash, 0, "first", "introduce", "client/1"))
    assert (stat.S_IMODE(own.stat().st_mode), stat.S_IMODE((own / "identity.key").stat().st_mode)) == (0o700, 0o600)
    assert ask(work, node(work, own), "introduce") == first
    assert (own / "identity.key").read_bytes() == secret


def test_keys_that_its_owner_made_before_are_used(work, tmp_path):
    public = keys.make(tmp_path / "own", "client/1")
    assert ask(work, node(work, tmp_path / "own"), "introduce")["keys"] == public.to_bytes()


@pytest.mark.parametrize("stage", ["elect", "collect", "open"])
@pytest.mark.parametrize("introduced", [True, False])
def test_who_took_no_roster_takes_no_part(work, tmp_path, stage, introduced):
    if introduced:
        ask(work, node(work, tmp_path / "own"), "introduce")
    refused = ask(work, node(work, tmp_path / "own"), stage)
    assert refused["type"] == "PrivacyRefusal"
    assert refused["message"] == "client/1 has no roster of this configuration: it accepted none at set-up"
    assert (tmp_path / "own" / "identity.key").exists() is introduced


def taken(work: Workspace, own: Path) -> Roster:
    """The roster that a node has taken."""
    mine = Roster.from_bytes(ask(work, node(work, own), "introduce")["keys"])
    roster = Roster({**{a: identity_of(a).public for a in work.plan.everybody}, "client/1": mine["client/1"]})
    assert set(ask(work, node(work, own), "roster", roster=roster.to_bytes())) == {"signature"}
    return roster


def test_who_took_it_takes_part_under_it(work, tmp_path):
    roster = taken(work, tmp_path / "own")
    elected = ask(work, node(work, tmp_path / "own"), "elect")
    verified(elected, roster, reply_header(work.plan.hash, 0, "first", "elect", "client/1"))


def test_a_roster_of_one_configuration_is_none_for_another(work, tmp_path):
    taken(work, tmp_path / "own")
    other = workspace_of(*PAD, *RELAYED, "seed=2")
    assert "has no roster of this configuration" in ask(other, node(other, tmp_path / "own"), "elect")["message"]


def test_who_lost_the_keys_that_it_took_part_with_says_so(work, tmp_path):
    own = tmp_path / "own"
    taken(work, own)
    (own / "identity.key").unlink()
    keys.make(own, "client/1")
    refused = ask(work, node(work, own), "elect")
    assert refused["type"] == "ConfigError"
    assert refused["message"] == f"keys={own}: its keys are not those of client/1 on the roster that it keeps"


def test_a_node_without_a_folder_says_what_it_needs(work):
    refused = ask(work, node(work, None), "introduce")
    assert refused["type"] == "ConfigError"
    assert refused["message"].startswith("keys=None: secure_sum=pad needs the folder of client/1's keys")


@pytest.mark.parametrize("stage", ["introduce", "roster"])
def test_a_node_whose_roster_is_pinned_takes_none_from_the_server(tmp_path, stage):
    pinned = workspace_of(*PAD, *DEPLOYED)
    roster = keys.make_all(tmp_path, pinned.plan.everybody)
    refused = ask(pinned, node(pinned, tmp_path / "client-1"), stage, roster=roster.to_bytes())
    assert (refused["type"], refused["message"]) == ("ProtocolError", f"no stage is called {stage}")


# ---- refusals before any run


@pytest.mark.parametrize("sum_", [("secure_sum=plain",), ("mechanism=dp_sgd", "delta=1e-5")])
def test_a_sum_without_keys_has_none_to_relay(sum_):
    with pytest.raises(ConfigError) as refusal:
        workspace_of(*sum_, *RELAYED)
    assert str(refusal.value) == "runtime.roster=relayed: secure_sum=plain needs no keys, so there are none to relay"
