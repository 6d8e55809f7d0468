# %% [markdown]
# # Lab 2. The price of epsilon
#
# A trained model can tell things about its examples. Whoever has the model may find out that a certain person's
# record was among them. [Differential privacy](glossary.md#differential-privacy) limits this. Its promise is: the model
# would be almost the same without that record, or without that client. So nobody who looks at the model can say for
# sure whether it was there.
#
# *Almost* is a number, [epsilon](glossary.md#epsilon). At an epsilon of 0 the model does not depend on the record at
# all. The larger epsilon is, the more it may. Noise buys a small epsilon, and accuracy pays. This lab measures
# the price on 1,797 handwritten digits: accuracy against epsilon, and what more rounds and more clients change.
#
# It takes two or three minutes on two cores, and resumes where it was interrupted. Words in blue are explained in the
# [glossary](glossary.md).

# %%
import polars as pl

from experiments.labs.questions import questions_of
from experiments.labs.tools import setting, swept

check = questions_of("epsilon")

# %% [markdown]
# ## Accuracy against epsilon
#
# Ten clients train with [DP-SGD](glossary.md#dp-sgd). In each step the [gradient](glossary.md#gradient) of each record
# is [clipped](glossary.md#clipping): it is made shorter if it is longer than a limit. So no record moves the model far.
# Then [noise](glossary.md#noise) is added to the sum of the gradients, so that the move of one record is lost in it.
# We name the epsilon that we want, and the [noise multiplier](glossary.md#noise-multiplier) that gives it is computed.
# The run without privacy (`plain`) is added by itself.

# %%
by_epsilon = swept(
    "lab_epsilon/records", "experiment=epsilon_curve", "mechanism.dp_sgd.target_epsilon=0.5,2,8", "seed=1"
)
curve = by_epsilon.select("plain", "epsilon", "accuracy", "accuracy_points").sort("epsilon", nulls_last=True)
print(curve)

# %% [markdown]
# **Question 1.** How many points of accuracy does an epsilon of 0.5 cost, against no privacy? (To half a point.)

# %%
answer_1 = ...
check(1, answer_1, curve)

# %% [markdown]
# ## Epsilon adds up
#
# Each round releases something more about the same records. The noise stays as it is; we let it run for longer.

# %%
longer = swept(
    "lab_epsilon/longer",
    "mechanism=dp_sgd",
    "delta=5e-4",
    "mechanism.dp_sgd.noise_multiplier=2",
    "rounds=5,10,20",
    "seed=1",
)
spent = longer.filter(~pl.col("plain")).select("rounds", "epsilon", "accuracy").sort("rounds")
print(spent)

# %% [markdown]
# **Question 2.** Twenty rounds instead of five: does epsilon grow `"less"` than fourfold, just `"fourfold"`, or
# `"more"`?

# %%
answer_2 = ...
check(2, answer_2)

# %% [markdown]
# ## A larger cohort
#
# Now the protected unit is a whole client: its update is clipped, and the server adds noise to the sum. The noise does
# not depend on the number of clients, so in the mean it shrinks with this number.

# %%
by_cohort = swept(
    "lab_epsilon/clients",
    "mechanism=client_dp",
    "delta=1e-3",
    "mechanism.client_dp.noise_multiplier=1",
    "clients=10,40,160",
    "seed=1",
)
cohorts = by_cohort.filter(~pl.col("plain")).with_columns(setting("clients").cast(pl.Int64))
table = cohorts.select("clients", "epsilon", "accuracy", "accuracy_points").sort("clients")

# %% [markdown]
# **Question 3.** From 10 clients to 160: by what factor does the noise in the mean update shrink?

# %%
answer_3 = ...
check(3, answer_3)

# %% [markdown]
# **Question 4.** Does epsilon depend on how many clients there are, where every client takes part in every round
# (`"yes"` or `"no"`)?

# %%
answer_4 = ...
check(4, answer_4)

# %% [markdown]
# ## Your table

# %%
print(table)
