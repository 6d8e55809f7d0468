# %% [markdown]
# # Lab 4. Anatomy of a CKKS sum
#
# A server is to add up the vectors of ten clients without seeing any of them. CKKS is one way to do it. It is a kind of
# [homomorphic encryption](glossary.md#homomorphic-encryption): numbers can be added while they are encrypted. Each
# client encrypts its vector, the server adds [ciphertexts](glossary.md#ciphertext), and whoever has the secret key
# opens the sum. This lab shows the number of values in a ciphertext, the purpose of the scale, the source of the error,
# and the reason why an opened sum can reveal the key.
#
# It takes half a minute. Everything below is the code that experiments run on (`privacy/secure_sums/he/ckks.py`).
# Words in blue are explained in the [glossary](glossary.md).

# %%
from functools import reduce

import numpy as np
import polars as pl

from experiments.attacks.ckks_key import recover_key, secret_coefficients
from experiments.labs.questions import questions_of
from privacy.randomness import OsRandomness
from privacy.secure_sums.he.ciphers import CiphertextSum, DecryptionKey, EncryptionKey, generate_keys
from privacy.secure_sums.he.ckks import Ckks, Flooding
from privacy.secure_sums.he.parameters import named

check = questions_of("ckks_sum")

# number of clients, and bound of their values
COHORT = 10
BOUND = 1.0


def scheme_of(parameters: str, cohort: int) -> Ckks:
    """CKKS with a named set of parameters, encrypted to a public key."""
    return Ckks.of(named(parameters, "ckks", symmetric=False), symmetric=False, cohort=cohort, bound=BOUND)


scheme = scheme_of("lean", COHORT)
print(scheme.parameters)

# %% [markdown]
# ## Slots
#
# A ciphertext of degree N holds N/2 complex numbers, and a complex number two reals. One real is reserved: everybody
# puts the bound there, and whoever opens the sum counts the contributors by it.

# %%
values_in_one = scheme.values_per_ciphertext
print(f"degree {scheme.parameters.poly_modulus_degree}: {values_in_one} values in a ciphertext")

# %% [markdown]
# **Question 1.** How many ciphertexts does a model of 26,010 parameters take?

# %%
answer_1 = ...
check(1, answer_1, scheme)

# %% [markdown]
# ## Scale
#
# CKKS computes with integers modulo q. A real is multiplied by the scale and rounded. A larger scale rounds less, but
# a sum that passes q/2 wraps and decodes to something wrong, silently. So the scale follows from the range of a sum.

# %%
scales = pl.DataFrame(
    {"cohort": size, "scale": scheme_of("lean", size).scale, "error": scheme_of("lean", size).tolerance(1)}
    for size in (10, 20, 40, 80)
)
print(scales)

# %% [markdown]
# **Question 2.** By what factor does the scale change when the cohort doubles?

# %%
answer_2 = ...
check(2, answer_2)

# %% [markdown]
# ## Noise
#
# An encryption adds noise of its own, on purpose: without it, anybody could solve for the key. So an opened sum is a
# little off, and by more where more is added. Here are the errors of sums over ten clients, measured against float64.

# %%
keys = generate_keys(scheme.parameters)
generator = np.random.default_rng(1)
vectors_CD = generator.uniform(-BOUND, BOUND, (64, values_in_one))


def summed(scheme: Ckks, count: int, masks: list[np.ndarray] | None = None) -> bytes:
    """The ciphertext of a sum over some clients, added up by a server without the key."""
    to_public = EncryptionKey(scheme.parameters, keys.public, symmetric=False)
    total = CiphertextSum(scheme.parameters, 1)
    for client in range(count):
        total.add(scheme.encrypt(vectors_CD[client], to_public, masks[client] if masks else None))
    return total.message()


def opened(
    scheme: Ckks, message: bytes, count: int, mask: np.ndarray | None = None, flooding: Flooding | None = None
) -> np.ndarray:
    """The opening of a sum of this many contributions, with the secret key."""
    key = DecryptionKey(scheme.parameters, keys.secret)
    return scheme.open(message, key, count, values_in_one, mask, flooding)


wide = scheme_of("lean", 64)
errors = []
for count in (1, 4, 16, 64):
    opened_D = opened(wide, summed(wide, count), count)
    errors.append(
        {"contributors": count, "deviation of the error": float(np.std(opened_D - vectors_CD[:count].sum(0)))}
    )
print(pl.DataFrame(errors))

# %% [markdown]
# **Question 3.** Four times as many contributors: by about what factor does the error grow? (It is noise:
# variances of independent terms add up.)

# %%
answer_3 = ...
check(3, answer_3)

# %% [markdown]
# ## Why an opened sum can leak the key
#
# The server has the ciphertext of the sum, (c0, c1). If it is told the opened sum with its noise, to the last bit, it
# can encode that again to the exact plaintext m. Then c0 + c1 s = m has one unknown, the secret key s, and one division
# gives it (Li and Micciancio 2021). `recover_key` does just that, and is told neither the key nor the vectors.

# %%
message = summed(scheme, COHORT)
opened_D = opened(scheme, message, COHORT)
true_key = secret_coefficients(scheme.parameters, keys.secret)


def recovered(message: bytes, opened_D: np.ndarray) -> int:
    """The number of the key's coefficients that the attack finds."""
    key = recover_key(scheme, message, opened_D, COHORT)
    return 0 if key is None else int((key == true_key).sum())


print(f"{recovered(message, opened_D)} of {len(true_key)} coefficients of the secret key")

# %% [markdown]
# Three ways to protect the key:
#
# - open to float32, which drops the last bits (this is no reliable defence: it fails for other values);
# - flood the opening with noise that is far larger than the encryption's own;
# - mask: each client adds a one-time mask that the opener takes off, so that the server never knows the plaintext of a
#   ciphertext that it holds. That is what `secure_sum=ckks` does.

# %%
opening = Flooding(scheme.flooding_deviation(1, tolerance=1e-3, security_bits=30), OsRandomness().generator())
flooded_D = opened(scheme, message, COHORT, flooding=opening)
masks = [scheme.draw_mask(OsRandomness().key(), values_in_one) for _ in range(COHORT)]
masked = summed(scheme, COHORT, masks)
masked_D = opened(scheme, masked, COHORT, mask=reduce(scheme.add_masks, masks))

exact_D = vectors_CD[:COHORT].sum(0)
table = pl.DataFrame(
    {
        "opening": name,
        "largest error": float(np.abs(got_D - exact_D).max()),
        "coefficients found": recovered(sent, got_D),
    }
    for name, sent, got_D in (
        ("as it is", message, opened_D),
        ("flooded", message, flooded_D),
        ("masked", masked, masked_D),
    )
)

# %% [markdown]
# **Question 4.** Which of the three openings costs precision and gives no key away: `"as it is"`, `"flooded"` or
# `"masked"`?

# %%
answer_4 = ...
check(4, answer_4)

# %% [markdown]
# ## Your table

# %%
print(table)
