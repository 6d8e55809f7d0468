"""For whom a round was opened: whoever opens a sum, alone or with others, keeps it, and refuses another set."""

from collections.abc import Sequence

from privacy.addresses import Address
from privacy.errors import PrivacyRefusal, shown
from privacy.secure_sums.contract import Credentials, Participant


def note_set(contributors: Sequence[Address], me: Participant, own: Credentials) -> None:
    """A round that is tried again is opened for the same clients or not at all: a difference of sets is an update.

    Raises:
        PrivacyRefusal: it was opened for others.
    """
    if not require_no_other_set(contributors, me, own):
        own.store.put(_name(me), _text(contributors))


def require_no_other_set(contributors: Sequence[Address], me: Participant, own: Credentials) -> bool:
    """Whether the round was opened before, which can have been for these clients alone.

    Raises:
        PrivacyRefusal: it was opened for others.
    """
    before = own.store.get(_name(me))
    if before in (None, _text(contributors)):
        return before is not None
    assert before is not None
    raise PrivacyRefusal(
        f"round {me.round} was opened for {shown(before.decode())} before, and not for "
        f"{shown(_text(contributors).decode())}: "
        "the difference would tell an update; let the same clients answer, or start the run anew"
    )


def _name(me: Participant) -> str:
    return f"set-{me.run}-{me.round}"


def _text(contributors: Sequence[Address]) -> bytes:
    return ",".join(sorted(contributors)).encode()
