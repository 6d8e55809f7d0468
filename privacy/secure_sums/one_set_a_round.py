"""The set of clients for which a round was opened: each role that opens sums stores it, and refuses another set."""

from collections.abc import Sequence

from privacy.addresses import Address
from privacy.errors import PrivacyRefusal, shown
from privacy.secure_sums.contract import Credentials, Participant


def note_set(contributors: Sequence[Address], me: Participant, own: Credentials) -> None:
    """Store the clients for which a round is opened. A later attempt may be opened only for the same clients.

    The difference of the sums of two sets of clients could be one client's update.

    Raises:
        PrivacyRefusal: the round was opened for other clients.
    """
    if not require_no_other_set(contributors, me, own):
        own.store.put(_name(me), _text(contributors))


def require_no_other_set(contributors: Sequence[Address], me: Participant, own: Credentials) -> bool:
    """True where the round was opened before, for these same clients.

    Raises:
        PrivacyRefusal: the round was opened for other clients.
    """
    before = own.store.get(_name(me))
    if before in (None, _text(contributors)):
        return before is not None
    assert before is not None
    raise PrivacyRefusal(
        f"round {me.round} was opened for {shown(before.decode())} before, and not for "
        f"{shown(_text(contributors).decode())}: "
        "the difference would reveal an update; let the same clients answer, or start the run anew"
    )


def _name(me: Participant) -> str:
    return f"set-{me.run}-{me.round}"


def _text(contributors: Sequence[Address]) -> bytes:
    return ",".join(sorted(contributors)).encode()
