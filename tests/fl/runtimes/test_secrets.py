"""No secret reaches the server: not in a message, nor in a setting, a log, a checkpoint, or a file that it opens.

The secrets are those of the roles' files, and the keys of masks, which are derived anew from them and proved by the
tags that they explain.
"""

import base64
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest

from fl.keys import folders as keys
from fl.runtimes import deployment, inprocess
from fl.runtimes.committee import attended
from fl.runtimes.inprocess import InProcessGrid
from fl.runtimes.serving import serve
from fl.server import Errand
from fl.training.given import given_digest
from fl.transport import ENVELOPE, MODEL, read_array, unpack
from fl.workspace import Workspace, workspace
from privacy.addresses import Address
from privacy.sealing import Header, Identity, Roster, check_mac, mac
from privacy.secure_sums.he.ring import ring
from tests.composed import canonical
from tests.experiments.command import Here, read
from tests.fl.runtimes.leaks import leaks
from tests.fl.runtimes.opened_sums import hidden
from tests.fl.runtimes.recording import Recorder, recorded
from tests.scenery.paths import some

CLIENTS = 3
ROUNDS = 2


def roles_secrets(identities: Mapping[Address, Identity], stores: Mapping[Address, Path]) -> dict[str, bytes]:
    """Private keys, whole and by half, secret keys of SEAL, and those of the linear check, as they are stored."""
    found: dict[str, bytes] = {}
    for address, identity in identities.items():
        found[f"{address} signing"], found[f"{address} exchange"] = (identity.to_bytes()[i : i + 32] for i in (0, 32))
        for name in ("he.secret", "he.check"):
            file = stores[address] / name
            if file.exists():
                found[f"{address} {name}"] = file.read_bytes()
    return found


def as_numbers(work: Workspace, secrets: Mapping[str, bytes]) -> dict[str, bytes]:
    """The secret keys of SEAL without its compression."""
    parameters = work.plan.backend.secure_sum.scheme(work.spec).parameters  # type: ignore[attr-defined]
    files = {name: data for name, data in secrets.items() if name.endswith("he.secret")}
    assert (parameters is None) == (not files)
    assert any(name.endswith("he.check") for name in secrets) == bool(files)
    return {
        f"{name} as numbers": ring(parameters).secret_key.parse(data).residues_PKN.tobytes()
        for name, data in files.items()
    }


def mask_keys(folder: Path, identities: Mapping[Address, Identity], roster: Roster) -> dict[str, bytes]:
    """The key of each mask of the run, and the seed that the mask expands from."""
    found: dict[str, bytes] = {}
    for file in some(folder.glob("*-collect-*.received")):
        request = recorded(file.with_suffix(".sent"))
        records = unpack(recorded(file))
        envelope = request[ENVELOPE]
        opener = str(unpack(request)["opener"])
        client = str(request["address"]["address"])
        given = given_digest(read_array(MODEL, request[MODEL][MODEL]), {})
        when = (envelope[part] for part in ("run", "round", "attempt"))
        header = Header("mask", *when, "", client, opener, given)
        key = identities[client].shared(roster[opener], header, records["salt"])
        tag, sealed = (records["tag"][place] for place in (slice(32), slice(32, None)))
        check_mac(key, [hashlib.sha256(records["message"]).digest(), sealed], tag, client)
        found[f"{file.stem} mask key"] = key
        found[f"{file.stem} mask seed"] = mac(key, [b"mask"])
    return found


def contents(folder: Path, but: str) -> Iterator[tuple[Path, bytes]]:
    """The contents of all files below a folder, except those in one subfolder."""
    for path in some(folder.rglob("*")):
        if path.is_file() and path.relative_to(folder).parts[0] != but:
            yield path, path.read_bytes()


def assert_nothing_leaks(directory: Path, secrets: Mapping[str, bytes]) -> None:
    for path, content in contents(directory, but="keys"):
        assert not leaks(content, secrets), path
        assert not leaks(str(path).encode(), secrets)


def all_secrets(
    work: Workspace, directory: Path, identities: Mapping[Address, Identity], stores: Mapping[Address, Path]
):
    roster = Roster({address: identity.public for address, identity in identities.items()})
    held = roles_secrets(identities, stores)
    masks = mask_keys(directory / "recorded", identities, roster)
    assert len(masks) == 2 * CLIENTS * ROUNDS, "every contribution was masked"
    return held | as_numbers(work, held) | masks


# ---- The search finds planted secrets


def test_what_leaks_is_found():
    secret = bytes(range(100, 132))
    large = np.random.default_rng(1).bytes(5000)
    for spelt in (secret, secret.hex().encode(), base64.b64encode(b"x" + secret), base64.b64encode(secret + b"yz")):
        assert leaks(b"before" + spelt + b"after", {"small": secret}) == {"small"}
    assert leaks(b"before" + large[1000:3000], {"large": large, "small": secret}) == {"large"}
    assert not leaks(secret[1:] + large[:20], {"large": large, "small": secret})


# ---- In process, where the transport carries the server's view


@hidden
def test_the_server_of_a_simulation_sees_no_secret(tmp_path, monkeypatch, name, holder):
    monkeypatch.setenv(keys.KEYS_VARIABLE, "")
    work = Workspace(canonical(f"secure_sum={name}", f"secure_sum.keys={holder}", f"clients={CLIENTS}"))
    roster = keys.set_up(tmp_path / "keys", work.plan.everybody)
    inner = InProcessGrid(work.plan.hash, CLIENTS)
    with attended(work.plan, inner) as (wider, parties):
        nodes = {**inprocess.locate(inner, work.plan), **parties}
        recorder = Recorder(wider, tmp_path / "recorded")
        serve(work, recorder, nodes, Errand(tmp_path / "checkpoints", roster=roster))
    identities = {address: keys.simulated(address, work.plan.everybody).identity for address in work.plan.everybody}
    stores = {address: keys.folder_of(tmp_path / "keys", address) for address in work.plan.everybody}
    master = (tmp_path / "keys" / keys.MASTER).read_bytes()
    assert_nothing_leaks(tmp_path, {**all_secrets(work, tmp_path, identities, stores), "master": master})


# ---- In a deployment


@pytest.fixture
def here(here: Here, monkeypatch: pytest.MonkeyPatch) -> Here:
    """The command line in this process, whose apps record what they get and send."""
    monkeypatch.setattr(deployment, "APPS", "tests.fl.runtimes.recording_apps")
    return here


@pytest.mark.slow
@pytest.mark.deployment
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("name", "holder", "roster"),
    [("ckks", "keyholder", "pinned"), ("bfv", "clients", "pinned"), ("ckks", "keyholder", "relayed")],
)
def test_the_server_of_a_deployment_has_no_secret(
    here: Here, tmp_path: Path, name: str, holder: str, roster: str
) -> None:
    options = ("out=run", f"clients={CLIENTS}", f"rounds={ROUNDS}", "model=logistic", "runtime=deployment")
    ended = here("run", *options, f"secure_sum={name}", f"secure_sum.keys={holder}", f"runtime.roster={roster}")
    assert ended.status == 0, ended
    run = tmp_path / "run"
    work = workspace((run / "config.json").read_text())
    folders = {address: keys.folder_of(run / "keys", address) for address in work.plan.everybody}
    identities = {address: keys.own_identity(folder) for address, folder in folders.items()}
    stores = {address: folder / "runs" / work.plan.hash for address, folder in folders.items()}
    secrets = all_secrets(work, run, identities, stores)
    assert_nothing_leaks(run, secrets)
    assert not leaks(f"{ended.out}{ended.err}".encode(), secrets)
    seen = json.loads((run / "recorded" / "seen.json").read_text())
    public = Roster({address: identity.public for address, identity in identities.items()}).to_bytes()
    assert seen["run_config"]["roster"] == ("" if roster == "relayed" else public.decode())
    if roster == "relayed":
        assert {(store / "roster").read_bytes() for store in stores.values()} == {public}
        assert any("(runtime.roster=relayed)" in line for line in read(run, "summary")["threat_card"])
    assert keys.KEYS_VARIABLE not in seen["environment"]
    last = f"{run}/checkpoints/.round-{ROUNDS:06d}.ckpt"
    assert any(path.startswith(last) for path in seen["opened"]), "the files that it opens are noted"
    own = str(run / "keys")
    assert not [path for path in seen["opened"] if path.startswith(own)]
    assert own not in json.dumps(seen["run_config"])
