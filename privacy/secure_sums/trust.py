"""Trust assumptions of a secure sum: the keys and shares of its parties, and the coalitions that can read an update.

The threat card prints them, and the sentences of the mechanisms, under the `TOPICS`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from privacy.secure_sums.vectors import VectorSpec

Coalition = tuple[str, ...]  # parties that would have to combine their keys and shares, in words
Sentences = Mapping[str, Sequence[str]]  # whole sentences by topic

# the topics of the threat card, in reading order
TOPICS = (
    "trust",  # the assumption, and anything that voids it
    "keys",  # the holders of keys
    "sight",  # the view of each party
    "coalition",  # the parties that can read an update together
    "drop-out",  # the effect of a drop-out, and the least number of contributors
    "protocol",  # the limits of the secure sum
    "witness",
    "noise",  # its source, and its limits
    "epsilon",  # the guarantee, and the adversaries against whom it holds
    "in sight",  # anything beside the updates that the server learns
    "beyond",  # risks that no setting removes
)


@dataclass(frozen=True)
class Trust:
    """The trust assumptions in words. `holds` gives the keys and shares, `sees` the knowledge, of each party.

    `coalitions` are the smallest ones that can read `reads`: each of them can, if all its members collude. `drop_out`
    is a whole sentence about the effect of a drop-out. `sentences` are the sum's further sentences for the card.
    `subtracting` is the coalition of `subtracting`, where a sum is opened over clients that the server chooses; what it
    reads is noised as the sum is.
    """

    coalitions: tuple[Coalition, ...]
    drop_out: str
    holds: Mapping[str, str] = field(default_factory=dict)
    sees: Mapping[str, str] = field(default_factory=dict)
    reads: str = "one client's update"
    sentences: Sentences = field(default_factory=dict)
    subtracting: Coalition = ()


def subtracting(spec: VectorSpec) -> Coalition:
    """The smallest coalition that reads an update off an opened sum, by subtracting the updates of its own clients.

    The server chooses whom it asks: one client, and as many of its own as whoever opens the sum insists on
    (`require_contributors`).
    """
    own = spec.least - 1
    return ("the server", f"{own} of the clients in a sum") if own else ("the server",)


SERVER_ALONE: tuple[Coalition, ...] = (("the server",),)
LEFT_OUT = "A client that drops out is left out of the round."
EVERYTHING = Trust(SERVER_ALONE, LEFT_OUT, sees={"the server": "each client's update"})
UNSAID = Trust(
    SERVER_ALONE,
    LEFT_OUT,
    sentences={
        "trust": (
            "The secure sum says that it hides contributions, and not who holds which key or sees what: "
            "the server counts as able to read them.",
        )
    },
)


def of_opener(keyholder: bool, masks: bool, encrypted: bool) -> Trust:
    """The trust assumptions of a sum that one party opens: the keyholder, or a client.

    Without masks, this opener decrypts whatever the server sends it.
    """
    opener = "the keyholder" if keyholder else "any one client"
    secret = ["the secret key"] if encrypted else []
    own = "the key of its own mask"
    if keyholder:
        holds = {opener: " and ".join([*secret, *(["the keys of all masks"] if masks else [])])}
        holds |= {"each client": own} if masks else {}
        drop_out = f"{LEFT_OUT} Without the keyholder a round fails."
    else:
        mask = [f"{own} (the client that is elected to open: the keys of all masks)"] if masks else []
        holds = {"each client": " and ".join([*secret, *mask])}
        drop_out = f"{LEFT_OUT} Without the client that was elected to open, a round fails."
    sees = {"the server": "protected messages, and the sum", opener: "the sum"}
    coalitions = (("the server", opener),) if masks else (("a server that breaks the protocol",),)
    return Trust(coalitions, drop_out, holds, sees)
