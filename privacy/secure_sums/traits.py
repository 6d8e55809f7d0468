"""The traits of a secure sum in four groups: its needs before a round, vectors, parties, and what it withstands."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from privacy.addresses import Address
from privacy.secure_sums.meeting import Meeting

if TYPE_CHECKING:
    from privacy.noise.parties import PartyNoise


@dataclass(frozen=True)
class Needs:
    """The needs of a protocol before its first round.

    `roster`: the public keys of all roles, so that roles have credentials and sign their replies. `survey`: each
    client's contribution at set-up, the sensitivities of its data.
    """

    roster: bool = False
    survey: bool = False


@dataclass(frozen=True)
class Carries:
    """The vectors that a protocol takes, and the result that it opens.

    `exact`: it adds residues modulo a power of two exactly. `bound`: the largest value of an update. `uniform`: all
    clients have the same weight. `additive`: the opened value is the sum, and not another aggregate.
    """

    exact: bool = False
    bound: float = math.inf
    uniform: bool = False
    additive: bool = True


@dataclass(frozen=True)
class Parties:
    """The parties beside clients and server.

    `roles`: those that the server asks. `meeting`: their connection to one another. `noise`: the noise that they add to
    the sum.
    """

    roles: tuple[Address, ...] = ()
    meeting: Meeting | None = None
    noise: "PartyNoise | None" = None


@dataclass(frozen=True)
class Withstands:
    """What a protocol that hides contributions withstands. By default nothing: its server follows the protocol.

    `malicious`: a server that breaks the protocol. `several_models`: one that gives clients different models, too. Its
    masks or keys are bound to `Participant.given`, so only contributions to one model add up to anything.
    """

    malicious: bool = False
    several_models: bool = False


MALICIOUS_SERVER = Withstands(malicious=True, several_models=True)
