"""One client's update in place of a sum: its upload added to itself until the number of contributions is right."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from experiments.attacks import AttackCase, Finding
from experiments.attacks.scene import VICTIM, Scene, Uploads, message_of, scene, taken_for
from privacy.secure_sums.contract import Records
from privacy.secure_sums.he.selection import at_random, protected_spec
from privacy.secure_sums.he.selective_protocol import SelectiveSum
from privacy.secure_sums.packing import pack_words, unpack_words

HOLDS = "all uploads, and an opener for one request"


def copies(here: Scene, request: Records, uploads: Uploads) -> Records:
    """One copy of the upload for each contributor; every contributor is named with its own tag."""
    return {**request, "sum": here.total([message_of(uploads[VICTIM])] * len(here.clients))}


def alone(here: Scene, request: Records, uploads: Uploads) -> Records:
    """The unchanged upload, with its sender as the only contributor."""
    contributors = str(request["contributors"]).split(",")
    tags = message_of(request, "tags")
    size = len(tags) // len(contributors)
    place = contributors.index(VICTIM)
    own = tags[size * place : size * (place + 1)]
    return {**request, "sum": here.total([message_of(uploads[VICTIM])]), "contributors": VICTIM, "tags": own}


def spliced(here: Scene, request: Records, uploads: Uploads) -> Records:
    """Copies of the upload, with the last integer, which `pad` checks, taken from the sum of all."""
    scheme: Any = here.scheme
    shape = here.spec.length + 1, scheme.bits
    words = unpack_words(copies(here, request, uploads)["sum"], *shape)
    words[-1] = unpack_words(request["sum"], *shape)[-1]
    return {**request, "sum": pack_words(words, scheme.bits)}


def steal(overrides: Sequence[str], forge: Callable[[Scene, Records, Uploads], Records]) -> Finding:
    """Have a forged sum opened, and divide it by the number of contributors that the request names."""
    with scene(overrides) as here:
        here.honest_round()
        attempt = here.attempt(forge=partial(forge, here))
        if attempt.opened is None:
            return Finding(False, attempt.refusal)
        count = str(attempt.request["contributors"]).count(",") + 1
        return taken_for(f"{VICTIM}'s update", attempt.opened / count, here.vectors[VICTIM])


def overhear(overrides: Sequence[str]) -> Finding:
    """Read the values that are not encrypted; no forgery is needed."""
    with scene(overrides) as here:
        assert isinstance(here.secure_sum, SelectiveSum)
        whole = here.spec.segments[0].length
        part = protected_spec(here.spec, here.secure_sum.fraction).segments[0]
        clear_U = ~at_random(whole, part.length).encrypted_U
        seen = here.attempt().uploads[VICTIM]["clear"]
        assert isinstance(seen, np.ndarray)
        same = np.array_equal(seen, here.vectors[VICTIM][:whole][clear_U])
        return Finding(same, f"{len(seen):,} of the {whole:,} values of {VICTIM}'s update come as they are")


def _case(*overrides: str, succeeds: bool, note: str = "") -> AttackCase:
    forge, stops = FORGERIES[note]
    return AttackCase(
        overrides, succeeds, partial(steal, forge=forge), HOLDS, "is opened: " if succeeds else stops, note
    )


ALONE = "named alone"
SPLICED = "the count kept from the sum of all"
FORGERIES = {
    "": (copies, "another sum"),
    ALONE: (alone, "5 are needed"),
    SPLICED: (spliced, "the opening is not"),
}
SHARED = "secure_sum.keys=clients"
UNMASKED = "secure_sum.masks=false"
CASES = (
    _case("secure_sum=ckks", UNMASKED, "secure_sum.flooding_bits=0", succeeds=True),
    _case("secure_sum=ckks", UNMASKED, succeeds=True),
    _case("secure_sum=ckks", UNMASKED, SHARED, succeeds=True),
    _case("secure_sum=bfv", UNMASKED, succeeds=True),
    _case("secure_sum=bfv", UNMASKED, SHARED, succeeds=True),
    _case("privacy=flare", succeeds=True),
    _case("secure_sum=ckks", succeeds=False),
    _case("secure_sum=ckks", SHARED, succeeds=False),
    _case("secure_sum=bfv", succeeds=False),
    _case("secure_sum=bfv", SHARED, succeeds=False),
    _case("secure_sum=pad", succeeds=False),
    _case("secure_sum=pad", SHARED, succeeds=False),
    _case("secure_sum=pad", succeeds=False, note=SPLICED),
    _case("secure_sum=ckks", "server.min_contributors=1", "server.min_share=0.1", succeeds=True, note=ALONE),
    _case("secure_sum=ckks", succeeds=False, note=ALONE),
    AttackCase(("secure_sum=ckks", "secure_sum.encrypt_fraction=0.1"), True, overhear, "all uploads", "as they are"),
)
