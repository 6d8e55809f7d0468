# %% [markdown]
# # Lab 6. Three parties and a median
#
# In lab 5 a sum was hidden by masks. A sum has a weakness: one client that sends nonsense can move it anywhere. A
# median has not, since half of the clients would have to send nonsense. But masks cannot give a median. Here clients
# divide their vectors among three servers, the *parties*, which compute together without seeing them. This is called
# [multi-party computation](glossary.md#multi-party-computation). You make shares, multiply them with a Beaver
# triple, and measure why a comparison costs so much more than a sum.
#
# It takes two or three minutes. The shares and the runs use the code of experiments (`privacy/secure_sums/mpc/`).
# Words in blue are explained in the [glossary](glossary.md).

# %%
import matplotlib.pyplot as plt
import numpy as np
import polars as pl

from experiments.labs.questions import questions_of
from experiments.labs.tools import rows_of, setting, show, sweep
from privacy.randomness import OsRandomness
from privacy.secure_sums.mpc.aggregates.sorting_network import middle
from privacy.secure_sums.mpc.shares import ShareRing
from privacy.secure_sums.vectors import Segment, VectorSpec

check = questions_of("shared_median")
source = OsRandomness()
PARTIES = 3

# %% [markdown]
# ## Shares
#
# A number is divided into three shares. Two of them are random, and the third is what is missing to the number,
# [modulo](glossary.md#modulo) 2^16 here. Each party gets one. Any two parties hold random numbers and know nothing.
# `split` is the function that real clients call. Two shares are even sent as keys, from which random numbers are
# expanded: that saves bytes.

# %%
LENGTH = 5000
spec = VectorSpec((Segment("update", LENGTH - 1, 8.0), Segment("weight", 1, 1.0)), cohort_size=3)
ring = ShareRing.of(spec, fractional_bits=8, key="secure_sum")
print(f"{ring.bits} bits: numbers modulo {2**ring.bits}")


def shared(values: np.ndarray) -> list[np.ndarray]:
    """The three shares of a vector, as the parties have them after expanding the keys."""
    payloads = ring.split(ring.encode(values), PARTIES, whole=0, randomness=source)
    shares = [np.zeros(LENGTH, ring.dtype) for _ in range(PARTIES)]
    for party, payload in enumerate(payloads):
        ring.add_share(shares[party], payload, whole=party == 0)
    return shares


values = np.append(np.full(LENGTH - 1, 1.5), 1.0).astype(np.float32)  # all the same, so that a pattern would be seen
shares = shared(values)
columns = {f"party {party}": share[:4] for party, share in enumerate(shares)}
print(pl.DataFrame({"value": values[:4], "as an integer": ring.encode(values)[:4]} | columns))
print("all three together:", ring.decode(np.sum(shares, axis=0, dtype=ring.dtype))[:4])

# %% [markdown]
# **Question 1.** The number 10 is shared modulo 256. The first two shares are 200 and 100. What is the third, from 0 to
# 255?

# %%
answer_1 = ...
check(1, answer_1)

# %% [markdown]
# ## A sum costs nothing
#
# Each party adds its shares of two vectors. The results are shares of the sum. No party has said a word to another.

# %%
other = np.append(np.full(LENGTH - 1, -0.25), 1.0).astype(np.float32)
sums = [mine + theirs for mine, theirs in zip(shares, shared(other), strict=True)]
print("sum:", ring.decode(np.sum(sums, axis=0, dtype=ring.dtype))[:4])

# %% [markdown]
# ## A product costs a message
#
# The product of two sums of shares has terms that need shares of two different parties. Beaver (1991) found the way
# around. Somebody who takes no part, the *dealer*, gives the parties shares of three numbers: random a and b, and
# c = a b. To multiply x and y, the parties open d = x - a and e = y - b. These tell nothing, because a and b are random
# and used once. Then x y = c + d b + e a + d e, and each party can compute its share of that by itself.

# %%
generator = source.generator()


def divided(value: int) -> list[int]:
    """Three shares of a number modulo 2^16."""
    first, second = (int(one) for one in generator.integers(0, 2**16, 2))
    return [first, second, (value - first - second) % 2**16]


def opened(shares: list[int]) -> int:
    """The number, once each party has sent its share to the others."""
    return sum(shares) % 2**16


x = divided(6)
y = divided(7)
random_a, random_b = (int(one) for one in generator.integers(0, 2**8, 2))
a = divided(random_a)
b = divided(random_b)
c = divided(random_a * random_b)
d = opened([x[party] - a[party] for party in range(PARTIES)])
e = opened([y[party] - b[party] for party in range(PARTIES)])
z = [c[party] + d * b[party] + e * a[party] for party in range(PARTIES)]
z[0] += d * e  # a number that all know: one party adds it
print(f"opened: d = {d}, e = {e}; shares of the product: {[one % 2**16 for one in z]}; the product: {opened(z)}")

# %% [markdown]
# **Question 2.** The dealer drew a = 3 and b = 5, and x = 6 and y = 7 as above. What are d and e? Answer `(d, e)`.

# %%
answer_2 = ...
check(2, answer_2)

# %% [markdown]
# **Question 3.** What happens if a triple is used twice, for x y and then for another x' y'? Then everybody knows x - a
# and x' - a, so they know the difference of x and x'. Say x - a = 3 and x' - a = 10. What is x' - x?

# %%
answer_3 = ...
check(3, answer_3)

# %% [markdown]
# ## A comparison costs many messages
#
# Is x below y? The answer depends on the highest bit in which they differ, so the parties must get from shares of
# numbers to shares of *bits*, and carry from bit to bit. Each level of this is a product, hence a message, and nobody
# can go on before it has arrived. A median of n values is a *sorting network* of comparisons, in layers: the
# comparisons of one layer run at the same time, the layers one after the other.

# %%
COHORTS = (3, 9)
layers = {count: len(middle(count, (count - 1) // 2)) for count in COHORTS}
print(pl.DataFrame({"clients": list(layers), "layers of comparisons": list(layers.values())}))

# %% [markdown]
# Now real runs: two rounds each, in which three processes compute the sum, or the median, of the clients' updates. In
# some of them one of nine clients lies: it sends its update times -100. We come back to that below.

# %%
ROUNDS = 2
SETTING = ("privacy=crypten,crypten_median", "model=logistic", "training.weighting=uniform", f"rounds={ROUNDS}")
FOLDERS = [
    sweep("lab_shared_median/few", *SETTING, "clients=3", "seed=1"),
    sweep("lab_shared_median/many", *SETTING, "clients=9", "faults.scaled_clients=0,1", "seed=1"),
]
runs = pl.concat([rows_of(folder) for folder in FOLDERS]).with_columns(
    setting("clients").cast(pl.Int64),
    setting("faults.scaled_clients").cast(pl.Int64).alias("liars"),
    pl.col("backend").replace({"crypten": "sum", "crypten_median": "median"}).alias("aggregate"),
)
between = (
    runs.filter(pl.col("where") == "party/1", pl.col("stage") == "peers", pl.col("liars") == 0)
    .group_by("aggregate", "clients", "metric")
    .agg(pl.col("value").sum() / ROUNDS)
    .pivot("metric", index=["aggregate", "clients"], values="value")
    .select("aggregate", "clients", waits="comm_rounds", kilobytes=pl.col("comm_bytes") / 1000)
    .sort("aggregate", "clients", descending=[True, False])
)
print(between)

# %% [markdown]
# In one round, `waits` counts how often a party waited for the others, and `kilobytes` what it exchanged with them.
#
# **Question 4.** From 3 to 9 clients: how many layers does the network gain, and how many waits does the median gain?
# Divide: how many waits does a layer of comparisons cost? (To half a wait.)

# %%
answer_4 = ...
check(4, answer_4, between, layers)

# %% [markdown]
# **Question 5.** With 9 clients, how many times the bytes of a sum does a median exchange? (To a tenth of it.)

# %%
answer_5 = ...
check(5, answer_5, between)

# %% [markdown]
# ## What the price buys
#
# The table below tells how good the models of the nine clients are, with and without a liar.

# %%
table = (
    runs.filter(pl.col("clients") == 9, pl.col("aggregate").is_in(["sum", "median"]))
    .filter(pl.col("stage") == "evaluate", pl.col("metric") == "accuracy", pl.col("round") == ROUNDS)
    .select("aggregate", "liars", accuracy="value")
    .join(between.filter(pl.col("clients") == 9).drop("clients"), on="aggregate")
    .sort("aggregate", "liars", descending=[True, False])
)

# %% [markdown]
# **Question 6.** With one liar, which of the two gives the better model: `"sum"` or `"median"`? See the table below.

# %%
answer_6 = ...
check(6, answer_6)

# %% [markdown]
# ## Your picture and your table
#
# On the left the share that one party holds of 4,999 equal values: it shows nothing of them. On the right the waits.

# %%
figure, axes = plt.subplots(1, 2, figsize=(9, 3.2))
axes[0].hist(shares[1][:-1], bins=32)
axes[0].axvline(float(ring.encode(values)[0]), color="black", linestyle="--", label="the value, for all of them")
axes[0].set(title="one party's shares of equal values", xlabel="share", ylabel="count")
axes[0].legend(loc="lower right")
for (aggregate,), rows in between.group_by("aggregate", maintain_order=True):
    axes[1].plot(rows["clients"], rows["waits"], marker="o", label=str(aggregate))
axes[1].set(title="waits between parties in a round", xlabel="clients", ylim=0)
axes[1].legend()
figure.tight_layout()
show(figure, "lab_6.png")

# %%
with pl.Config(tbl_width_chars=120):
    print(table)
