"""A roster that the server relays, for runs without an exchange of public keys outside it. Stages: introduce, roster.

Each role sends its public keys, signed with its own private key for this configuration, round, attempt and its own
address. The server makes a roster of all keys and sends it to every role. A role keeps the first roster that it accepts
for a configuration and accepts no other one later. It refuses a roster with wrong keys of its own, or with other roles
than expected.

This holds against a passive server. A server that sends each role a different roster, with keys of the server's own
making, has valid proofs for those keys as well: it can read and sign in every role's name
(`fedveil attack swapped_keys`).
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
KEPT = "roster"  # name in a role's store


class RelayedRoster:
    """Both halves of the protocol. `everybody` lists the roles of the secure sum beside the server."""

    def __init__(self, everybody: Sequence[Address]) -> None:
        self.everybody = tuple(everybody)

    def flow(self, run: str, round_: int, attempt: str) -> Generator[Exchange, list[Address], Roster]:
        """Run the server's half and return the roster that every role accepted.

        Raises:
            PrivacyRefusal: a role did not prove its keys, or did not accept the roster.
            ConfigError: two roles have the same key.
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
        """Answer a stage with signed records: the half of every role but the server.

        Raises:
            ProtocolError: the stage is unknown, or the roster is malformed or lists other roles.
            PrivacyRefusal: the roster has other keys of this role, or differs from the one that this role keeps.
        """
        if stage == INTRODUCE:
            return signed({"keys": Roster({me.address: me.own.identity.public}).to_bytes()}, me, stage)
        if stage == HAND_OUT:
            self._take(bytes_of(inbound, "roster"), me)
            return signed({}, me, stage)
        raise unknown_stage(stage)

    def _take(self, handed: bytes, me: Participant) -> None:
        """Keep the first roster, and refuse every other one."""
        roster = _parsed(handed)
        if set(roster) != set(self.everybody):
            wanted = shown(", ".join(self.everybody))
            raise ProtocolError(f"the roster has {shown(', '.join(roster))}, and not {wanted}")
        if roster[me.address] != me.own.identity.public:
            raise PrivacyRefusal(f"the roster from the server has keys of {me.address} that are not its own")
        kept = me.own.store.get(KEPT)
        if kept is None:
            me.own.store.put(KEPT, handed)
        elif kept != handed:
            first = Roster.from_bytes(kept)
            changed = ", ".join(
                address for address in roster if address not in first or roster[address] != first[address]
            )
            raise PrivacyRefusal(
                f"the roster from the server has other keys of {shown(changed)} than the first one for this "
                f"configuration, which {me.address} keeps: bring those keys back, or start anew under another seed"
            )


def _proven(records: Records, header: Header) -> PublicKeys:
    """The public keys of the header's sender, after a check that the sender has the private key for signatures."""
    part = _parsed(bytes_of(records, "keys"))
    if list(part) != [header.sender]:
        raise ProtocolError(f"these are keys of {shown(', '.join(part)) or 'nobody'}, and not of {header.sender}")
    verified(records, part, header)
    return part[header.sender]


def _parsed(data: bytes) -> Roster:
    try:
        return Roster.from_bytes(data)
    except ConfigError as error:  # the value does not come from this user's configuration
        raise MalformedContribution(str(error)) from None
