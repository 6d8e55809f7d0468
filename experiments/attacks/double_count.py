"""A sum with one client twice and another left out: the number of contributions stays right."""

from collections.abc import Sequence
from functools import partial

from experiments.attacks import AttackCase, Finding
from experiments.attacks.scene import OTHER, VICTIM, Scene, Uploads, message_of, scene, taken_for
from privacy.secure_sums.contract import Records

HOLDS = "all uploads, and an opener for one request"


def doubled(here: Scene, request: Records, uploads: Uploads) -> Records:
    """The sum of all uploads with one in the place of another; every client is named with its own tag."""
    senders = [VICTIM if address == OTHER else address for address in uploads]
    return {**request, "sum": here.total([message_of(uploads[address]) for address in senders])}


def mount(overrides: Sequence[str]) -> Finding:
    """Have the forged sum opened, and compare the result with the expected forgery."""
    with scene(overrides) as here:
        here.honest_round()
        attempt = here.attempt(forge=partial(doubled, here))
        if attempt.opened is None:
            return Finding(False, attempt.refusal)
        shift_D = attempt.opened - here.sum_D
        wanted_D = here.vectors[VICTIM].astype(float) - here.vectors[OTHER]
        return taken_for(f"the sum with {VICTIM} twice and without {OTHER}", shift_D, wanted_D)


def _case(*overrides: str, succeeds: bool) -> AttackCase:
    return AttackCase(overrides, succeeds, mount, HOLDS, "is opened: " if succeeds else "another sum")


SHARED = "secure_sum.keys=clients"
UNMASKED = "secure_sum.masks=false"
CASES = (
    _case("secure_sum=ckks", UNMASKED, "secure_sum.flooding_bits=0", succeeds=True),
    _case("secure_sum=ckks", UNMASKED, succeeds=True),
    _case("secure_sum=bfv", UNMASKED, succeeds=True),
    _case("privacy=flare", succeeds=True),
    _case("secure_sum=ckks", succeeds=False),
    _case("secure_sum=ckks", SHARED, succeeds=False),
    _case("secure_sum=bfv", succeeds=False),
    _case("secure_sum=bfv", SHARED, succeeds=False),
    _case("secure_sum=pad", succeeds=False),
    _case("secure_sum=pad", SHARED, succeeds=False),
)
