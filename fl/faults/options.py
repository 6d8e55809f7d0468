"""The kinds of faults, and the keys of `faults` in the configuration; `fl.config.checks` checks them."""

from dataclasses import dataclass

LATE = "late"
DUPLICATED = "duplicated"
REPLAYED = "replayed"
WIRE = (LATE, DUPLICATED)  # on a message's way
TAMPERED = ("flipped", "truncated", "oversized", REPLAYED)  # as a message leaves its client
ZERO = "zero"  # to its training, which changes nothing
VECTORS = ("not_finite", "misshapen", "retyped")  # to what a client contributes
WEIGHTS = ("weightless", "lying")  # to what it says of its number of examples
MESSAGES = WIRE + TAMPERED
KINDS = (*MESSAGES, ZERO, *VECTORS, *WEIGHTS)


@dataclass
class FaultsConfig:
    """The faults to inject on purpose. The seed determines the clients that they strike."""

    scaled_clients: int = 0  # clients that send their updates multiplied by `scale`, whatever a mechanism clipped
    scale: float = -100.0
    dropout_rate: float = 0.0  # of the clients that are asked, each by itself, in each round
    dropout_stage: str | None = None  # of the secure sum, where they fall silent; null: from the first
    kind: str | None = None  # what befalls those whom `rate` strikes: one of KINDS
    rate: float = 0.0  # of the clients that are asked, each by itself, in each round
    stage: str | None = None  # of the secure sum, whose messages a fault of messages befalls; null: all
    delay_s: float = 5.0  # by which a late message is held up; within server.deadline_s it still counts
    claimed_weight: float = 1.0  # of a lying client, as a part of the largest allowed
    killed: str | None = None  # the server, keyholder or a party, whose process ends by SIGKILL, once
    killed_round: int | None = None  # in this round, when it is asked
