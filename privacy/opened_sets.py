"""For whom a round was opened: whoever opens a sum, alone or with others, keeps it, and refuses another set."""

from collections.abc import Sequence

from privacy.errors import PrivacyRefusal, shown
from privacy.secure_sum import Address, Credentials, Party


def note_set(contributors: Sequence[Address], me: Party, own: Credentials) -> None:
    """A round that is tried again is opened for the same clients or not at all: a difference of sets is an update.

    Raises:
        PrivacyRefusal: it was opened for others.
    """
    name, those = f"set-{me.run}-{me.round}", ",".join(sorted(contributors)).encode()
    before = own.store.get(name)
    if before is None:
        own.store.put(name, those)
    elif before != those:
        raise PrivacyRefusal(
            f"round {me.round} was opened for {shown(before.decode())} before, and not for {shown(those.decode())}: "
            "the difference would tell an update; let the same clients answer, or start the run anew"
        )
