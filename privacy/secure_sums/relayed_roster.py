"""A roster that comes through the server, where nobody exchanged public keys outside it. Stages: introduce, roster.

Each role sends its public keys, signed with the private one that belongs to them for this configuration, round, attempt
and its own address. The server makes a roster of all and hands it to everybody. A role keeps the first that it takes
for a configuration and takes no other later, nor one that has other keys of its own, or other roles, than it should.

That holds against a server that only listens. One that hands each role another roster, with keys of its own in it, has
proofs for those as well, and reads and signs in everybody's name (`fedveil attack swapped_keys`).
"""

from collections.abc import Generator, Sequence

from privacy.addresses import Address
from privacy.errors import ConfigError, MalformedContribution, PrivacyRefusal, ProtocolError, shown
from privacy.sealing import Header, PublicKeys, Roster
from privacy.secure_sums.contract import Exchange, Participant, Records, bytes_of, unknown_stage
from privacy.secure_sums.signed_replies import reply_header, signed, verified

INTRODUCE = "introduce"
HAND_OUT = "roster"
STAGES = (INTRODUCE, HAND_OUT)
KEPT = "roster"  # in a role's store


class RelayedRoster:
    """Both halves. `everybody` is who has a part in the secure sum beside the server."""

    def __init__(self, everybody: Sequence[Address]) -> None:
        self.everybody = tuple(everybody)

    def flow(self, run: str, round_: int, attempt: str) -> Generator[Exchange, list[Address], Roster]:
        """The server's half; gives the roster that everybody took.

        Raises:
            PrivacyRefusal: somebody proved no keys, or did not take the roster.
            ConfigError: two roles with one key.
        """
        found: dict[Address, PublicKeys] = {}

        def introduced(address: Address, records: Records) -> None:
            found[address] = _proven(records, reply_header(run, round_, attempt, INTRODUCE, address))

        self._require(
            (yield Exchange(INTRODUCE, {address: {} for address in self.everybody}, introduced)),
            "gave no public keys of its own",
        )
        roster = Roster(found)
        handed = {address: {"roster": roster.to_bytes()} for address in self.everybody}

        def taken(address: Address, records: Records) -> None:
            verified(records, roster, reply_header(run, round_, attempt, HAND_OUT, address))

        self._require((yield Exchange(HAND_OUT, handed, taken)), "did not take the roster")
        return roster

    def _require(self, there: Sequence[Address], what: str) -> None:
        missing = next((address for address in self.everybody if address not in there), None)
        if missing is not None:
            raise PrivacyRefusal(f"{missing} {what}")

    def respond(self, stage: str, inbound: Records, me: Participant) -> Records:
        """Everyone else's half: signed records.

        Raises:
            ProtocolError: an unknown stage, or a roster that is none, or of others.
            PrivacyRefusal: a roster with other keys of this role, or another one than it keeps.
        """
        if stage == INTRODUCE:
            return signed({"keys": Roster({me.address: me.own.identity.public}).to_bytes()}, me, stage)
        if stage == HAND_OUT:
            self._take(bytes_of(inbound, "roster"), me)
            return signed({}, me, stage)
        raise unknown_stage(stage)

    def _take(self, handed: bytes, me: Participant) -> None:
        """Keep the first roster for good."""
        roster = _parsed(handed)
        if set(roster) != set(self.everybody):
            wanted = shown(", ".join(self.everybody))
            raise ProtocolError(f"the roster has {shown(', '.join(roster))}, and not {wanted}")
        if roster[me.address] != me.own.identity.public:
            raise PrivacyRefusal(f"the roster that came has keys of {me.address} that are not its own: it takes none")
        kept = me.own.store.get(KEPT)
        if kept is None:
            me.own.store.put(KEPT, handed)
        elif kept != handed:
            first = Roster.from_bytes(kept)
            changed = ", ".join(
                address for address in roster if address not in first or roster[address] != first[address]
            )
            raise PrivacyRefusal(
                f"the roster that came has other keys of {shown(changed)} than the first for this configuration, which "
                f"{me.address} keeps: bring those keys back, or start anew under another seed"
            )


def _proven(records: Records, header: Header) -> PublicKeys:
    """The keys of the header's sender, who has the private one that signs."""
    part = _parsed(bytes_of(records, "keys"))
    if list(part) != [header.sender]:
        raise ProtocolError(f"these are keys of {shown(', '.join(part)) or 'nobody'}, and not of {header.sender}")
    verified(records, part, header)
    return part[header.sender]


def _parsed(data: bytes) -> Roster:
    try:
        return Roster.from_bytes(data)
    except ConfigError as error:  # no value of this user's
        raise MalformedContribution(str(error)) from None
