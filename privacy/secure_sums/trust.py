"""Who could read one client's update: what a secure sum says of the keys and shares that its parties hold."""

from collections.abc import Mapping
from dataclasses import dataclass, field

Coalition = tuple[str, ...]  # who would have to put together what they hold, in words


@dataclass(frozen=True)
class Trust:
    """`holds` says who has which key or share, `sees` what each party learns; both by party, in words.

    `coalitions` are the smallest ones that read one client's update: any one of them can, and nobody short of all of
    them. `drop_out` is a whole sentence about somebody who is gone.
    """

    coalitions: tuple[Coalition, ...]
    drop_out: str
    holds: Mapping[str, str] = field(default_factory=dict)
    sees: Mapping[str, str] = field(default_factory=dict)


SERVER_ALONE: tuple[Coalition, ...] = (("the server",),)
LEFT_OUT = "A client that is gone is left out of the round."
EVERYTHING = Trust(SERVER_ALONE, LEFT_OUT, sees={"the server": "each client's update"})


def of_opener(keyholder: bool, masks: bool, encrypted: bool) -> Trust:
    """Of a sum that one party opens: the keyholder, or a client. Without masks, it decrypts whatever it is sent."""
    opener = "the keyholder" if keyholder else "any one client"
    secret = ["the secret key"] if encrypted else []
    own = "the key of its own mask"
    if keyholder:
        holds = {opener: " and ".join([*secret, *(["the keys of all masks"] if masks else [])])}
        holds |= {"each client": own} if masks else {}
        drop_out = f"{LEFT_OUT} Without the keyholder a round fails."
    else:
        mask = [f"{own} (whoever is elected to open: those of all)"] if masks else []
        holds = {"each client": " and ".join([*secret, *mask])}
        drop_out = f"{LEFT_OUT} Without the client that was elected to open, a round fails."
    sees = {"the server": "protected messages, and the sum", opener: "the sum"}
    coalitions = (("the server", opener),) if masks else (("a server that breaks the protocol",),)
    return Trust(coalitions, drop_out, holds, sees)
