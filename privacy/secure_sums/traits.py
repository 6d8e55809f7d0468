"""The traits of a secure sum in three groups: its needs before a round, its vectors, and its parties."""

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
