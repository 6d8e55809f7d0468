"""A role's part in a roster that comes through the server: keys that it makes on first use, and what it keeps.

The folder is that of any deployment (`fl.keys.folders`); the roster is kept in the store of the configuration.
"""

from pathlib import Path

from fl.keys import folders as keys
from fl.metering import Phases
from fl.participant import PROTECT, Request
from fl.workspace import Workspace
from privacy.addresses import Address
from privacy.errors import ConfigError, PrivacyRefusal
from privacy.randomness import OsRandomness
from privacy.sealing import Roster
from privacy.secure_sums.contract import Credentials, Party, Records
from privacy.secure_sums.relayed_roster import KEPT, STAGES, RelayedRoster
from privacy.secure_sums.signed_replies import require_everybody


def introduced(folder: Path, address: Address, run: str) -> Credentials:
    """Those of a role that knows nobody else yet; its keys are made where there are none.

    Raises:
        ConfigError: the keys are damaged, or others may read them.
    """
    if not (folder / keys.IDENTITY).exists():
        keys.make(folder, address)
    identity = keys.own_identity(folder)
    return Credentials(identity, Roster({address: identity.public}), keys.store_of(folder, run))


def credentials(folder: Path, address: Address, work: Workspace, stage: str) -> Credentials:
    """Those of the role whose folder this is, at a stage of a run.

    Raises:
        ConfigError: as `introduced`, or its keys are others than when it took the roster.
        PrivacyRefusal: it took none.
    """
    if stage in STAGES:
        return introduced(folder, address, work.hash)
    store = keys.store_of(folder, work.hash)
    kept = store.get(KEPT)
    if kept is None:
        raise PrivacyRefusal(f"{address} has no roster of this configuration: it took none at set-up")
    identity = keys.own_identity(folder)
    roster = Roster.from_bytes(kept)
    require_everybody(roster, work.everybody)
    if roster[address] != identity.public:
        raise ConfigError.of("keys", folder, f"its keys are not those of {address} on the roster that it keeps")
    return Credentials(identity, roster, store)


def join(work: Workspace, request: Request, own: Credentials) -> tuple[Records, dict[str, float]]:
    """The signed records that answer a stage of the roster, and what it cost by phase.

    Raises:
        ProtocolError, PrivacyRefusal: a roster that this role does not take.
    """
    phases = Phases(work.device)
    attempt = work.hash, request.round, request.attempt
    me = Party(request.address, *attempt, work.spec, {}, OsRandomness(), own)
    records = RelayedRoster(work.everybody).respond(request.stage, request.inbound, me)
    phases.end(PROTECT)
    return records, phases.metrics()
