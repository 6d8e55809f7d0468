# %% [markdown]
# # Lab 5. Secure aggregation by hand
#
# A server wants the sum of its clients' vectors, and nothing else. In lab 4 the vectors were encrypted. Here each
# client adds random numbers, a [mask](glossary.md#mask), and the masks cancel in the sum. You build this step by step,
# see what breaks it, and repair it: masks, keys, a client that [drops out](glossary.md#drop-out),
# [shares](glossary.md#secret-sharing) of a secret, and a server that lies.
#
# It takes half a minute. The steps use the code that experiments run on (`privacy/secure_sums/secagg/`), after Bonawitz
# et al. 2017 and Bell et al. 2020. Words in blue are explained in the [glossary](glossary.md).

# %%
import hashlib
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import polars as pl

from experiments.labs.questions import questions_of
from experiments.labs.tools import show
from privacy.addresses import Address
from privacy.errors import FedveilError
from privacy.randomness import OsRandomness
from privacy.secure_sums.contract import Exchange, Records
from privacy.secure_sums.in_memory import InMemory, fresh_credentials
from privacy.secure_sums.packing import unpack_words
from privacy.secure_sums.secagg.keys import ClosedList, PrivateKeys, private_key
from privacy.secure_sums.secagg.masks import shift
from privacy.secure_sums.secagg.protocol import SecAggSum
from privacy.secure_sums.secagg.shamir import combine, split
from privacy.secure_sums.vectors import Segment, VectorSpec
from privacy.testing.harness import MemoryStore

check = questions_of("masked_sum")
source = OsRandomness()

# %% [markdown]
# ## Masks that cancel
#
# Three clients hold one number each, below 256. All arithmetic is [modulo](glossary.md#modulo) 256, as on a clock with
# 256 hours: 255 + 1 is 0. Each pair of clients has a secret *seed*, from which both compute the same random number. One
# of the two adds it, the other subtracts it. `shift` is the function that real clients call.

# %%
numbers = np.array([20, 35, 7], np.uint8)
seed_01 = source.key()
seed_02 = source.key()
seed_12 = source.key()

masked = [numbers[i : i + 1].copy() for i in range(3)]
shift(masked[0], added=[seed_01, seed_02], subtracted=[])
shift(masked[1], added=[seed_12], subtracted=[seed_01])
shift(masked[2], added=[], subtracted=[seed_02, seed_12])

sent = [int(one[0]) for one in masked]
print(pl.DataFrame({"client": [0, 1, 2], "number": numbers, "sent to the server": sent}))
print("sum of what was sent, modulo 256:", sum(sent) % 256, "  sum of the numbers:", int(numbers.sum()))

# %% [markdown]
# Run the cell above several times: what is sent changes, and the sum does not. A masked number is *uniform*: each value
# from 0 to 255 is as likely as any other, whatever the number was. So it tells the server nothing.
#
# **Question 1.** Three other clients send 251, 12 and 40, masked in this way modulo 256. What is the sum of their
# numbers, modulo 256?

# %%
answer_1 = ...
check(1, answer_1)

# %% [markdown]
# ## Where the seeds come from
#
# The clients must agree on a seed for each pair, and all that they say passes through the server. They use
# [key agreement](glossary.md#key-agreement): each client has a private key, and tells everybody the public half. From
# the own private key and the other's public key both compute the same seed, and who knows the public halves alone
# cannot.

# %%
names = ["client/0", "client/1", "client/2"]
private = {name: PrivateKeys.draw(source) for name in names}
closed = ClosedList.of({name: keys.public for name, keys in private.items()})
model = hashlib.sha256(b"the model of this round").digest()  # masks of two different models must not cancel
own = {name: private_key(keys.mask) for name, keys in private.items()}
at_client_0 = closed.mask_seed(own["client/0"], "client/0", "client/1", model)
at_client_1 = closed.mask_seed(own["client/1"], "client/1", "client/0", model)
print("client 0 computes", at_client_0.hex()[:16])
print("client 1 computes", at_client_1.hex()[:16])

# %% [markdown]
# **Question 2.** How many seeds do ten clients have, if each pair has one?

# %%
answer_2 = ...
check(2, answer_2)

# %% [markdown]
# ## A client drops out
#
# Client 2 loses its connection after the masks were chosen, and sends nothing.

# %%
left = (sent[0] + sent[1]) % 256
print("sum of what is left:", left, "  sum of the numbers of clients 0 and 1:", int(numbers[:2].sum()))

# %% [markdown]
# Two masks have lost their counterparts, and the sum is random. The server could compute these masks if it had the
# private key of client 2. So each client prepares for its own drop-out: before the round it divides its key into
# *shares*, one for each client, so that any t of them rebuild it, and fewer tell nothing. This is
# [Shamir's secret sharing](glossary.md#secret-sharing). The shares are points on a random curve; t points determine it.

# %%
secret = private["client/2"].mask
shares = split(secret, threshold=3, holders=5, randomness=source)
rebuilt = [
    {"shares": count, "the key": combine({i + 1: shares[i] for i in range(count)}, holders=5) == secret}
    for count in range(1, 6)
]
print(pl.DataFrame(rebuilt))

# %% [markdown]
# **Question 3.** Five clients hold the shares. How many of them may be gone, so that the key can still be rebuilt?

# %%
answer_3 = ...
check(3, answer_3, rebuilt)

# %% [markdown]
# With the key, the server computes the masks that client 2 left behind, and takes them off.

# %%
server_key = private_key(secret)
lost_02 = closed.mask_seed(server_key, "client/2", "client/0", model)
print("the seed that clients 0 and 2 share:", lost_02.hex()[:16])
print(
    "the same, at client 0:             ", closed.mask_seed(own["client/0"], "client/0", "client/2", model).hex()[:16]
)

# %% [markdown]
# ## A client that was only slow
#
# Suppose that client 2 had not dropped out: its number arrives a minute later. The server has all masks of client 2 by
# then, and takes them off this one number.

# %%
late = masked[2].copy()
shift(late, added=[seed_02, seed_12], subtracted=[])
print("the server reads", int(late[0]), "  client 2 holds", int(numbers[2]))

# %% [markdown]
# That is why each client adds one more mask, from a seed of its own that no other client knows. It divides this seed
# into shares, too. For each client the others give the server the shares of *one* of its two secrets, never of both.

# %%
own_seed = source.key()
late = masked[2].copy()
shift(late, added=[own_seed], subtracted=[])  # client 2, before it sends
shift(late, added=[seed_02, seed_12], subtracted=[])  # the server, which has rebuilt the key
print("the server reads", int(late[0]), "  client 2 holds", int(numbers[2]))

# %% [markdown]
# **Question 4.** A client has sent its masked vector in time. The shares of which secret do the others give to the
# server: of its `"key"`, or of the `"seed"` of its own mask?

# %%
answer_4 = ...
check(4, answer_4)

# %% [markdown]
# ## The whole protocol, and a server that lies
#
# Now ten clients run the real protocol on vectors of 20 values. A lying server tells half of the clients that client 0
# dropped out, and the others that it did not. If they believed it, it would get shares of both secrets.
#
# Against this, clients sign the list of survivors that they were told, and see the signatures of the others. A client
# gives its shares only if t clients have signed the list that it signed itself.

# %%
COHORT = 10
LENGTH = 20
clients = [f"client/{number}" for number in range(COHORT)]
generator = np.random.default_rng(5)
waves = [np.sin(np.linspace(0, 6, LENGTH) + 0.6 * number) for number in range(COHORT)]
vectors = {name: np.append(wave, 1.0).astype(np.float32) for name, wave in zip(clients, waves, strict=True)}
spec = VectorSpec((Segment("update", LENGTH, 1.0), Segment("weight", 1, 1.0)), COHORT, min_contributors=2)
protocol = SecAggSum(COHORT, bound=1.0)
plan = protocol.plan(COHORT, COHORT)
print(f"{plan.holders} clients hold shares of each secret; t = {plan.threshold}; at least {plan.least} must be left")


class Liar(InMemory):
    """A server that tells the clients with odd numbers that client 0 dropped out."""

    def to_role(self, exchange: Exchange, address: Address) -> Records:
        """Leave client 0 out of the list of survivors."""
        records = dict(super().to_role(exchange, address))
        if exchange.stage == "confirm" and int(address[-1]) % 2:
            records["survivors"] = ",".join(clients[1:])
        return records


def told(kind: type[InMemory] = InMemory, gone: int = 0) -> dict[str, Any]:
    """What the server learns in one round, in which the last clients drop out before they send their vectors."""
    known = fresh_credentials(clients, lambda _: MemoryStore())
    drive = kind(protocol, spec, vectors, {"mask": clients[COHORT - gone :]}, known=known, wire=[])
    try:
        total = drive.aggregate()
    except FedveilError as error:
        why = next(iter(drive.refused.values()), error)
        return {"sum": False, "largest error": None, "refused because": str(why), "wire": drive.wire}
    exact = np.sum([vectors[name][:-1] for name in total.survivors], axis=0)
    off = float(np.abs(total.update_D - exact).max())
    return {"sum": True, "largest error": off, "refused because": "", "wire": drive.wire}


stories = {
    "all are there": told(),
    "1 drops out": told(gone=1),
    "3 drop out": told(gone=3),
    "4 drop out": told(gone=4),
    "the server lies": told(Liar),
}
table = pl.DataFrame({"story": name} | {k: v for k, v in one.items() if k != "wire"} for name, one in stories.items())

# %% [markdown]
# **Question 5.** Some clients may collude with the lying server: they give it their shares of both secrets of client 0,
# whereas each of the others gives one. The server needs t shares of each. How many of the ten holders must collude?
# (t is printed above.)

# %%
answer_5 = ...
check(5, answer_5, plan)

# %% [markdown]
# ## Your picture and your table
#
# On the left the vectors of the clients, in the middle what the server received, on the right the sum.

# %%
arrived = [passed for passed in stories["all are there"]["wire"] if passed.stage == "mask"]
coding = protocol.masked(spec)
seen = np.array([unpack_words(passed.reply["masked"], coding.words, coding.bits)[:LENGTH] for passed in arrived])
figure, axes = plt.subplots(1, 3, figsize=(11, 3.2))
axes[0].imshow(np.array(waves), aspect="auto")
axes[0].set(title="what the clients hold", ylabel="client", xlabel="value")
axes[1].imshow(seen.astype(np.float64), aspect="auto")
axes[1].set(title="what the server receives", ylabel="client", xlabel="value")
axes[2].plot(np.sum(waves, axis=0))
axes[2].set(title="what the server learns: the sum", xlabel="value")
figure.tight_layout()
show(figure, "lab_5.png")

# %%
with pl.Config(fmt_str_lengths=90, tbl_width_chars=150):
    print(table)
