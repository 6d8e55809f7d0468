"""The IND-CPA-D attack on an opened sum (Li and Micciancio 2021): the server has its ciphertext and its opening.

With the recovered key the server decrypts everything encrypted under it, uploads included.

Shapes: N coefficients of the key, D values of the vector that is summed.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments.attacks import AttackCase, Finding
from experiments.attacks.ckks_key import Ternary, recover_key, secret_coefficients, secret_key
from experiments.attacks.scene import VICTIM, AttackAttempt, Scene, close, message_of, scene
from privacy.errors import MalformedContribution
from privacy.randomness import OsRandomness

HOLDS = "the sum's ciphertext, and its opening in float64"


def mount(overrides: Sequence[str], cast: bool = False) -> Finding:
    """Recover the key from an honest round, and decrypt a client's upload with it."""
    with scene(overrides) as here:
        attempt = here.honest_round()
        assert attempt.opened is not None
        opened_D = attempt.opened.astype(np.float32).astype(np.float64) if cast else attempt.opened
        key_N = _recovered(here, attempt, opened_D)
        if key_N is not None:
            return _judged(here, attempt, key_N)
        vacuous = ": the cast alone hides it from this attack, so a control that casts shows nothing" if cast else ""
        return Finding(False, f"no ternary key solves it{vacuous}")


def _recovered(here: Scene, attempt: AttackAttempt, opened_D: NDArray[np.float64]) -> Ternary | None:
    scheme: Any = here.scheme
    units_D = opened_D / here.spec.bounds_D
    count = len(here.clients)
    if here.secure_sum.name == "ckks":
        return recover_key(scheme.ckks, attempt.message, units_D, count)
    levels = scheme.fixed.levels
    integers_D = np.rint(units_D * levels) + count * levels
    return recover_key(scheme.bfv, attempt.message, integers_D.astype(np.uint64), count)


def _judged(here: Scene, attempt: AttackAttempt, key_N: Ternary) -> Finding:
    """Compare the recovered key with the true one, and decrypt the victim's upload with it."""
    scheme = here.scheme
    parameters = here.scheme.parameters
    assert parameters is not None
    right = int((key_N == secret_coefficients(parameters, here.secret(attempt))).sum())
    share = f"{right:,} of {len(key_N):,} key coefficients"
    upload = message_of(attempt.uploads[VICTIM])
    try:
        read_D = scheme.open(upload, secret_key(parameters, key_N), 1, None, OsRandomness())
    except MalformedContribution as refusal:
        return Finding(False, f"{share}, under which {VICTIM}'s upload does not open: {refusal}")
    same, error = close(read_D, here.vectors[VICTIM])
    return Finding(same, f"{share}; {VICTIM}'s own upload decrypts with them: {error}")


def _case(*overrides: str, succeeds: bool, cast: bool = False) -> AttackCase:
    note = "opening cast to float32" if cast else ""
    shows = "upload decrypts" if succeeds else "no ternary key"
    return AttackCase(overrides, succeeds, partial(mount, cast=cast), HOLDS, shows, note)


WEAK = ("secure_sum=ckks", "secure_sum.masks=false", "secure_sum.flooding_bits=0")
CASES = (
    _case(*WEAK, succeeds=True),
    _case(*WEAK, "secure_sum.keys=clients", succeeds=True),
    _case(*WEAK, succeeds=False, cast=True),
    _case("secure_sum=ckks", "secure_sum.masks=false", succeeds=False),
    _case("secure_sum=ckks", "secure_sum.masks=false", "secure_sum.keys=clients", succeeds=False),
    _case("secure_sum=bfv", "secure_sum.masks=false", succeeds=False),
    _case("secure_sum=bfv", "secure_sum.masks=false", "secure_sum.keys=clients", succeeds=False),
    _case("secure_sum=ckks", succeeds=False),
    _case("secure_sum=ckks", "secure_sum.keys=clients", succeeds=False),
    _case("secure_sum=bfv", succeeds=False),
    _case("secure_sum=bfv", "secure_sum.keys=clients", succeeds=False),
)
