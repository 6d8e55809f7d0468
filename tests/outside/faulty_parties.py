"""CrypTen's sum with one fault in round 2: a party that dies, hangs or miscalculates, a server or a client that cheats.

Processes load it by its name in the configuration, so that the fault happens in the right process.
"""

import os
import signal
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from privacy.addresses import Address
from privacy.secure_sums.contract import Contribution, Flow, Participant, Records, Value
from privacy.secure_sums.mpc import protocol as crypten_mpc
from privacy.secure_sums.mpc.aggregates.by_name import Sum
from privacy.secure_sums.mpc.agreement import manifest_bytes
from privacy.secure_sums.mpc.protocol import CryptenSum
from privacy.secure_sums.vectors import VectorSpec

PARTY = "party/1"
CLIENT = "client/0"
WHEN = 2
SIGNALS = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}


_second: dict[str, Value] = {}  # from the client to the server, which is in league with it and in the same process


class FaultySum(CryptenSum):
    """The faults: kill, stop; kill inside, stop inside (after the parties agreed); wrong; box, manifest, left out, two.

    The first five are faults of the party, the next three of the server; `two` is a client that has submitted twice.
    """

    def __init__(self, fault: str, **options: object) -> None:
        super().__init__(**options)  # type: ignore[arg-type]
        self._fault = fault
        self._round = 0

    def respond(self, stage: str, inbound: Records, me: Participant, contribution: Contribution) -> Records:
        if (stage, me.address, me.round) == ("reveal", PARTY, WHEN):
            self._become_faulty()
        records = super().respond(stage, inbound, me, contribution)
        if (stage, me.address, me.round, self._fault) == ("share", CLIENT, WHEN, "two"):
            _second.update(super().respond(stage, inbound, me, contribution))
        return records

    def _become_faulty(self) -> None:
        name = self._fault.removesuffix(" inside")
        original = crypten_mpc.revealed

        def revealed(aggregate: Sum, shares_CD: torch.Tensor) -> NDArray[np.int64]:
            if name in SIGNALS:
                os.kill(os.getpid(), SIGNALS[name])
            return original(aggregate, shares_CD) + (1 if name == "wrong" else 0)

        if name in SIGNALS and self._fault == name:
            os.kill(os.getpid(), SIGNALS[name])
        crypten_mpc.revealed = revealed

    def server(self, cohort: Sequence[Address], spec: VectorSpec) -> Flow:
        self._round += 1
        return super().server(cohort, spec)

    def _handed(
        self, index: int, boxes: Mapping[Address, Sequence[bytes]], manifests: Mapping[Address, bytes]
    ) -> Records:
        handed = dict(super()._handed(index, boxes, manifests))
        if self._round == WHEN and self.parties.roles[index] == PARTY:
            self._tamper(handed)
        return handed

    def _tamper(self, handed: dict[str, Value]) -> None:
        box = handed[CLIENT]
        manifests = handed["manifests"]
        size = manifest_bytes(len(self.parties.roles))
        assert isinstance(box, bytes)
        assert isinstance(manifests, bytes)
        if self._fault == "box":
            handed[CLIENT] = box[:-1] + bytes([box[-1] ^ 1])
        if self._fault == "manifest":
            handed["manifests"] = bytes([manifests[0] ^ 1]) + manifests[1:]
        if self._fault == "left out":
            handed["contributors"] = str(handed["contributors"]).removeprefix(f"{CLIENT},")
            handed["manifests"] = manifests[size:]
        if self._fault == "two":
            handed[CLIENT] = _second[PARTY]
            handed["manifests"] = bytes(_second["manifest"]) + manifests[size:]  # type: ignore[arg-type]
