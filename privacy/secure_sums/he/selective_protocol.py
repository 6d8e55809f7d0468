"""Selective encryption for opened sums, both halves: a part of each update stays in the clear.

The cleartext part travels beside the encrypted one and is summed in float64. A public rule chooses the part, or the sum
of the clients' sensitivities does. That sum is fully encrypted and is opened before the first round: the opener ranks
the sensitivities, and signs the positions to be encrypted. The stages are then: sensitivity, rank, positions (Jin et
al. 2023, arXiv 2303.10837, section 2.4).
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from privacy.addresses import Address
from privacy.errors import PrivacyRefusal
from privacy.secure_sums.contract import (
    Contribution,
    Credentials,
    Exchange,
    Participant,
    Records,
    SetupFlow,
    bytes_of,
    require_contributors,
)
from privacy.secure_sums.declarations import Declarations, Open
from privacy.secure_sums.he.codecs import CipherScheme
from privacy.secure_sums.he.key_delivery import ignored
from privacy.secure_sums.he.protocol import Gathering, OpenedSum
from privacy.secure_sums.he.selection import (
    Selection,
    at_random,
    check_fraction,
    clear_spec,
    most_sensitive,
    protected_spec,
)
from privacy.secure_sums.traits import Needs
from privacy.secure_sums.trust import SERVER_ALONE, Trust
from privacy.secure_sums.vectors import Sum, Vector, VectorSpec

POSITIONS = "he.positions"  # positions of the encrypted values, where the clients' sensitivities decide


class SelectiveSum(OpenedSum):
    """`encrypt_fraction` of an update is encrypted, chosen at `random` or by `sensitivity`; with 1, all of it."""

    def __init__(
        self, keys: str, bound: float, masks: bool, broadcast: bool, encrypt_fraction: float, encrypt_by: str
    ) -> None:
        check_fraction(encrypt_fraction, encrypt_by)
        super().__init__(keys, bound, masks, broadcast)
        self.fraction = encrypt_fraction
        self.needs = Needs(roster=True, survey=encrypt_by == "sensitivity")
        self.hides = encrypt_fraction == 1
        if not self.hides:
            self.assumption += f", and {1 - self.fraction:.4g} of each update is in the clear"

    def trust(self, spec: VectorSpec) -> Trust:
        """The trust assumptions: the server alone can read the cleartext part."""
        whole = super().trust(spec)
        if self.hides:
            return whole
        sees = {**whole.sees, "the server": f"{1 - self.fraction:.4g} of each update, and the sum"}
        return replace(whole, coalitions=SERVER_ALONE, sees=sees, reads="a part of one client's update")

    def _limits(self, encrypted: bool) -> Iterator[str]:
        yield from super()._limits(encrypted)
        if not self.hides:
            chosen = "by the clients' sensitivities" if self.needs.survey else "at random, the same ones in every round"
            yield (
                f"The server sees {1 - self.fraction:.4g} of the values of each client's update, and which they are; "
                f"the others were chosen {chosen} (secure_sum.encrypt_fraction={self.fraction:g})."
            )
        if self.needs.survey:
            learns = f"{self._opener} learns all, and the server which are the largest"
            yield f"Of the sum of the clients' sensitivities {learns}."

    def _carried(self, spec: VectorSpec) -> VectorSpec:
        """The spec of the encrypted part of a vector."""
        return protected_spec(spec, self.fraction)

    def _scheme(self, spec: VectorSpec) -> CipherScheme:
        return self.scheme(self._carried(spec))

    # ---- the server's half

    def setup(self, roles: Sequence[Address], spec: VectorSpec) -> SetupFlow:
        """Distribute keys, then agree on the values to encrypt."""
        yield from super().setup(roles, spec)
        if self.needs.survey:
            yield from self._survey([address for address in roles if address not in self.parties.roles], spec)

    def _survey(self, clients: Sequence[Address], spec: VectorSpec) -> SetupFlow:
        """Sum the sensitivities of one cohort, and send every client the positions to encrypt."""
        opener, cohort = yield from self._assemble(clients[: spec.cohort_size], spec)
        gathering = super()._gathering(cohort, spec)
        collection = self._collection("sensitivity", opener, cohort, gathering)
        there = yield collection
        require_contributors(there, spec)
        chosen: list[Records] = []

        def receive(_: Address, records: Records) -> None:
            bits = bytes_of(records, "positions")
            Selection.from_bytes(bits, spec, self.fraction)
            chosen.append({"chooser": opener, "positions": bits, "signed": bytes_of(records, "signed")})

        yield Exchange("rank", {opener: gathering.request(there, collection.given)}, receive)
        if not chosen:
            raise PrivacyRefusal(f"{opener} did not choose the values to encrypt")
        if not (yield Exchange("positions", dict.fromkeys(clients, chosen[0]), ignored)):
            raise PrivacyRefusal("no client took the positions of the values to encrypt")

    def _gathering(self, cohort: Sequence[Address], spec: VectorSpec) -> Gathering:
        clear = None if self.hides else clear_spec(spec, self.fraction)
        scheme = self._scheme(spec)
        return Gathering(scheme, cohort, self._tag_bytes(scheme), clear)

    def _whole(self, records: Records, spec: VectorSpec, gathering: Gathering) -> Sum:
        opened = super()._whole(records, self._carried(spec), gathering)
        if gathering.open_part is None:
            return opened
        if self.needs.survey:
            selection = Selection.from_bytes(bytes_of(records, "positions"), spec, self.fraction)
        else:
            selection = self._at_random(spec)
        return selection.merge(opened, gathering.open_part.close())

    def _at_random(self, spec: VectorSpec) -> Selection:
        return at_random(spec.segments[0].length, self._carried(spec).segments[0].length)

    # ---- everyone else's

    def respond(self, stage: str, inbound: Records, me: Participant, contribution: Contribution) -> Records:
        """Answer the stages of every opened sum, and those of the survey."""
        if self.needs.survey and stage == "sensitivity":
            return self._contribute_whole(inbound, me, me.own, contribution)
        if self.needs.survey and stage == "rank":
            return self._rank(inbound, me, me.own)
        if self.needs.survey and stage == "positions":
            return self._take_positions(inbound, me, me.own)
        return super().respond(stage, inbound, me, contribution)

    def _contribute(self, inbound: Records, me: Participant, own: Credentials, contribution: Contribution) -> Records:
        selection = self._selection(me, own)
        if selection is None:
            return self._contribute_whole(inbound, me, own, contribution)
        opener = self._agreed_opener(inbound, me, own)
        protected, clear = selection.split(me.spec.check(contribution()))
        sealed = self._protect(self._scheme(me.spec), protected, opener, me, own)
        return {**sealed, "clear": clear}

    def _contribute_whole(
        self, inbound: Records, me: Participant, own: Credentials, contribution: Contribution
    ) -> Records:
        return super()._contribute(inbound, me, own, contribution)

    def _selection(self, me: Participant, own: Credentials) -> Selection | None:
        """The encrypted values as this role knows them; None where all values are encrypted."""
        if self.hides:
            return None
        if not self.needs.survey:
            return self._at_random(me.spec)
        bits = own.store.get(POSITIONS)
        if bits is None:
            raise PrivacyRefusal(f"{me.address} does not know which values to encrypt: it missed the set-up")
        return Selection.from_bytes(bits, me.spec, self.fraction)

    def _open(self, inbound: Records, me: Participant, own: Credentials) -> Records:
        """Open the sum. Where a survey chose the positions, return them as well: the server does not store them."""
        opened = super()._open(inbound, me, own)
        selection = self._selection(me, own) if self.needs.survey else None
        return opened if selection is None else {**opened, "positions": selection.to_bytes()}

    def _rank(self, inbound: Records, me: Participant, own: Credentials) -> Records:
        """Open the sum of sensitivities, store the positions of the values to encrypt, and sign these positions."""
        length = me.spec.segments[0].length
        sensitivity_U = self._opened(self.scheme(me.spec), inbound, me, own)[:length]
        bits = most_sensitive(sensitivity_U, self._carried(me.spec).segments[0].length).to_bytes()
        own.store.put(POSITIONS, bits)
        return {"positions": bits, "signed": own.identity.sign(me.header(POSITIONS, me.address, ""), bits)}

    def _take_positions(self, inbound: Records, me: Participant, own: Credentials) -> Records:
        chooser = self._agreed_opener({"opener": str(inbound.get("chooser"))}, me, own)
        bits = bytes_of(inbound, "positions")
        own.roster.verify(me.header(POSITIONS, chooser, ""), bits, inbound.get("signed"))
        Selection.from_bytes(bits, me.spec, self.fraction)
        own.store.put(POSITIONS, bits)
        return {}

    # ---- for the witness

    def declare(self, stage: str, records: Records, me: Participant) -> Declarations:
        """Declare the cleartext part as open."""
        declared = super().declare(stage, records, me)
        return declared if self.hides or stage == "sensitivity" else {**declared, "clear": Open()}

    def _witnessed(self, stage: str, spec: VectorSpec) -> CipherScheme:
        return self.scheme(spec) if stage == "sensitivity" else self._scheme(spec)

    def _encrypted(self, stage: str, vector_D: Vector, me: Participant) -> Vector:
        selection = None if stage == "sensitivity" else self._selection(me, me.own)
        return vector_D if selection is None else selection.split(vector_D)[0]
