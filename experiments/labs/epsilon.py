# %% [markdown]
# # The price of epsilon
#
# Differential privacy bounds what anybody can learn about one record, or one client, from the model. The bound is
# epsilon: small is private. Noise buys it, and accuracy pays. This lab measures the price on 1,797 handwritten digits:
# accuracy against epsilon, and what a larger cohort changes.
#
# It takes two or three minutes on two cores, and resumes where it was interrupted.

# %%
from pathlib import Path

import polars as pl

from experiments.cli import main as fedveil
from experiments.labs import check, near
from results.comparison import compare
from results.runs import collect, find_runs

FOLDER = Path("results", "runs", "lab_epsilon")


def swept(name: str, *overrides: str) -> pl.DataFrame:
    """The runs of a sweep, a row for each configuration, and the plain runs that they are compared with."""
    status = fedveil(["sweep", *overrides, f"out={FOLDER / name}", "output.progress=false"])
    assert status == 0, "read the line above"
    return compare(collect(find_runs([FOLDER / name])))


# %% [markdown]
# ## Accuracy against epsilon
#
# Ten clients train with DP-SGD: each record's gradient is clipped, and noise is added to their sum. We name the epsilon
# that we want, and the noise multiplier that gives it is computed. The plain run is added by itself.

# %%
by_epsilon = swept("records", "experiment=epsilon_curve", "mechanism.dp_sgd.target_epsilon=0.5,2,8", "seed=1")
curve = by_epsilon.select("plain", "epsilon", "accuracy", "accuracy_points").sort("epsilon", nulls_last=True)
print(curve)

# %% [markdown]
# **Question 1.** How many points of accuracy does an epsilon of 0.5 cost, against no privacy? (To half a point.)

# %%
answer_1 = ...
cost = -curve.filter(~pl.col("plain"))["accuracy_points"][0]
check(1, answer_1, near(cost, 0.5), "The first row of the last column, without its sign.")

# %% [markdown]
# ## Epsilon adds up
#
# Each round releases something more about the same records. The noise stays as it is; we let it run for longer.

# %%
longer = swept(
    "longer", "mechanism=dp_sgd", "delta=5e-4", "mechanism.dp_sgd.noise_multiplier=2", "rounds=5,10,20", "seed=1"
)
spent = longer.filter(~pl.col("plain")).select("rounds", "epsilon", "accuracy").sort("rounds")
print(spent)

# %% [markdown]
# **Question 2.** Twenty rounds instead of five: does epsilon grow `"less"` than fourfold, just `"fourfold"`, or
# `"more"`?

# %%
answer_2 = ...
check(
    2, answer_2, lambda word: word == "less", "Divide the last epsilon by the first: noise composes like a random walk."
)

# %% [markdown]
# ## A larger cohort
#
# Now the protected unit is a whole client: its update is clipped, and the server adds noise to the sum. The noise does
# not depend on the number of clients, so in the mean it shrinks with this number.

# %%
by_cohort = swept(
    "clients",
    "mechanism=client_dp",
    "delta=1e-3",
    "mechanism.client_dp.noise_multiplier=1",
    "clients=10,40,160",
    "seed=1",
)
cohorts = by_cohort.filter(~pl.col("plain")).with_columns(
    clients=pl.col("configuration").str.json_path_match("$.clients").cast(pl.Int64)
)
table = cohorts.select("clients", "epsilon", "accuracy", "accuracy_points").sort("clients")

# %% [markdown]
# **Question 3.** From 10 clients to 160: by what factor does the noise in the mean update shrink?

# %%
answer_3 = ...
check(3, answer_3, near(16, 0.01), "The same noise, divided by the number of clients.")

# %% [markdown]
# **Question 4.** Does epsilon depend on how many clients there are, where every client takes part in every round
# (`"yes"` or `"no"`)?

# %%
answer_4 = ...
check(4, answer_4, lambda word: word == "no", "Look down the column of epsilons in the table below.")

# %% [markdown]
# ## Your table

# %%
print(table)
