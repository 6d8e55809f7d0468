"""A role's part in a roster that comes through the server: the role makes its keys on first use, and keeps the roster.

The folder is laid out as in any deployment (`fl.keys.folders`); the roster is kept in the store of the configuration.
"""

from pathlib import Path

from fl.keys import folders as keys
from fl.metering import Phases
from fl.participant import PROTECT, Request, participant
from fl.plan import RunPlan
from fl.workspace import Workspace
from privacy.addresses import Address
from privacy.errors import ConfigError, PrivacyRefusal
from privacy.sealing import Roster
from privacy.secure_sums.contract import Credentials, Records
from privacy.secure_sums.relayed_roster import KEPT, STAGES, RelayedRoster
from privacy.secure_sums.signed_replies import require_everybody


def introduced(folder: Path, address: Address, run: str) -> Credentials:
    """Return the credentials of a role before it has a roster; make its keys where there are none.

    Raises:
        ConfigError: the keys are damaged, or other users may read them.
    """
    if not (folder / keys.IDENTITY).exists():
        keys.make(folder, address)
    identity = keys.own_identity(folder)
    return Credentials(identity, Roster({address: identity.public}), keys.store_of(folder, run))


def credentials(folder: Path, address: Address, plan: RunPlan, stage: str) -> Credentials:
    """Return the credentials of the role that owns `folder`, at a stage of a run.

    Raises:
        ConfigError: as `introduced`, or the role's keys have changed since it accepted the roster.
        PrivacyRefusal: the role accepted no roster.
    """
    if stage in STAGES:
        return introduced(folder, address, plan.hash)
    store = keys.store_of(folder, plan.hash)
    kept = store.get(KEPT)
    if kept is None:
        raise PrivacyRefusal(f"{address} has no roster of this configuration: it accepted none at set-up")
    identity = keys.own_identity(folder)
    roster = Roster.from_bytes(kept)
    require_everybody(roster, plan.everybody)
    if roster[address] != identity.public:
        raise ConfigError.of("keys", folder, f"its keys are not those of {address} on the roster that it keeps")
    return Credentials(identity, roster, store)


def join(work: Workspace, request: Request, own: Credentials) -> tuple[Records, dict[str, float]]:
    """Return the signed records that answer a stage of the roster's exchange, and the costs by phase.

    Raises:
        ProtocolError, PrivacyRefusal: this role does not accept the roster.
    """
    phases = Phases(work.device)
    me = participant(work, request, {}, own)
    records = RelayedRoster(work.plan.everybody).respond(request.stage, request.inbound, me)
    phases.end(PROTECT)
    return records, phases.metrics()
