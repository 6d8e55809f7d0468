"""Trust assumptions of a secure sum: the keys and shares of its parties, and the coalitions that can read an update."""

from collections.abc import Mapping
from dataclasses import dataclass, field

Coalition = tuple[str, ...]  # parties that would have to combine their keys and shares, in words


@dataclass(frozen=True)
class Trust:
    """The trust assumptions in words. `holds` gives the keys and shares, `sees` the knowledge, of each party.

    `coalitions` are the smallest ones that can read one client's update: each of them can, if all its members collude.
    `drop_out` is a whole sentence about the effect of a drop-out.
    """

    coalitions: tuple[Coalition, ...]
    drop_out: str
    holds: Mapping[str, str] = field(default_factory=dict)
    sees: Mapping[str, str] = field(default_factory=dict)


SERVER_ALONE: tuple[Coalition, ...] = (("the server",),)
LEFT_OUT = "A client that drops out is left out of the round."
EVERYTHING = Trust(SERVER_ALONE, LEFT_OUT, sees={"the server": "each client's update"})


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
