# %% [markdown]
# # Lab 1. A federated round
#
# Ten clients hold pictures of handwritten digits. They want one model that reads digits, and they do not want to give
# their pictures away. So the pictures stay where they are, and the *model* travels. A
# [server](glossary.md#server) sends the model to each [client](glossary.md#client). Each client trains it on its own
# pictures, and sends back what has changed: its [update](glossary.md#update). The server takes the mean of the updates
# and adds it to the model. That is one [round](glossary.md#round) of
# [federated learning](glossary.md#federated-learning).
#
# You make such a round by hand, count its bytes, and see what happens where clients hold different digits, and where
# they train for long before they answer. It takes about a minute. Words in blue are explained in the
# [glossary](glossary.md).

# %%
import matplotlib.pyplot as plt
import numpy as np
import polars as pl
import torch

from experiments.labs.questions import questions_of
from experiments.labs.tools import setting, show, swept
from fl.config.schema import DataConfig
from fl.data.image_data import load_data
from fl.data.partition import partition
from fl.models import Mlp
from fl.training.local import Batches, train
from fl.training.vectors import Layout
from privacy.mechanisms.contract import ClientJob
from privacy.randomness import SeededRandomness

check = questions_of("federated_round")
CLIENTS = 10

# %% [markdown]
# ## Who holds what
#
# In real life clients differ: one person writes many sevens, another none. This is called
# [heterogeneity](glossary.md#heterogeneity). Here a number, alpha, decides it. With a large alpha all clients hold all
# digits alike; with a small one each holds mostly a few.


# %%
def parts_at(alpha: float) -> list[torch.Tensor]:
    """The places of each client's pictures in the training set."""
    config = DataConfig(name="digits", partition="dirichlet", alpha=alpha)
    return [torch.as_tensor(part) for part in partition(config, load_data(config), CLIENTS, seed=1)]


data = load_data(DataConfig(name="digits"))
ALPHAS = (0.1, 1.0, 100.0)
held = {alpha: [torch.bincount(data.train.labels[part], minlength=10) for part in parts_at(alpha)] for alpha in ALPHAS}
print(pl.DataFrame({"digit": range(10)} | {f"client {i}": held[0.1][i].numpy() for i in range(5)}))

# %% [markdown]
# **Question 1.** The table shows five clients at alpha 0.1. How many different digits does client 0 hold?

# %%
answer_1 = ...
check(1, answer_1, held)

# %% [markdown]
# ## A round by hand
#
# The model is a small network. For the server it is a list of numbers, its [parameters](glossary.md#parameter). `train`
# is the function with which real clients train.


# %%
def network() -> torch.nn.Module:
    """The model of the start: the same each time."""
    torch.manual_seed(1)
    return Mlp(data.shape, data.classes)


def update_of(part: torch.Tensor, epochs: int) -> torch.Tensor:
    """What one client sends back: its trained parameters minus those of the start."""
    model = network()
    layout = Layout(model)
    start = layout.flatten()
    batches = Batches(data, part, torch.device("cpu"), 10, torch.Generator().manual_seed(1), epochs=epochs)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    train(ClientJob("client/0", 1, {}, SeededRandomness(1), len(part), model, optimizer, batches))
    return layout.flatten() - start


def accuracy(update: torch.Tensor) -> float:
    """The share of the test pictures that the model reads rightly, once this update is added."""
    model = network()
    layout = Layout(model)
    layout.load(layout.flatten() + update)
    with torch.no_grad():
        guesses = model(data.normalise(data.test.images)).argmax(1)
    return float((guesses == data.test.labels).float().mean())


updates = torch.stack([update_of(part, epochs=1) for part in parts_at(100.0)])
print(f"{updates.shape[0]} updates of {updates.shape[1]} parameters")
print(
    f"accuracy before the round {accuracy(torch.zeros_like(updates[0])):.3f}, after it {accuracy(updates.mean(0)):.3f}"
)

# %% [markdown]
# Each parameter is sent as a number of 4 bytes.
#
# **Question 2.** How many bytes does one client send in a round, at least?

# %%
answer_2 = ...
check(2, answer_2, updates)

# %% [markdown]
# ## Drift
#
# A client that trains for long moves the model towards its own pictures, and away from the models of the others. This
# is [drift](glossary.md#drift). Two numbers show it:
#
# - `distance`: how far the clients' models are from their mean, as the mean of the lengths of the differences;
# - `together`: the mean cosine of two updates. It is 1 where they point the same way, 0 where they have nothing in
#   common, and below 0 where they work against each other.
#
# An *epoch* is one pass over a client's pictures.


# %%
def together(updates: torch.Tensor) -> float:
    """The mean cosine over all pairs of different updates, shape (clients, parameters)."""
    directions = torch.nn.functional.normalize(updates, dim=1)
    cosines = directions @ directions.T
    return float((cosines.sum() - cosines.trace()) / (CLIENTS * (CLIENTS - 1)))


measured = []
for alpha in ALPHAS:
    for epochs in (1, 5, 20):
        u = torch.stack([update_of(part, epochs) for part in parts_at(alpha)])
        distance = float((u - u.mean(0)).norm(dim=1).mean())
        measured.append({"alpha": alpha, "epochs": epochs, "distance": distance, "together": together(u)})
drift = pl.DataFrame(measured)
print(drift)

# %% [markdown]
# **Question 3.** At alpha 0.1, when a client trains for 20 epochs in place of 1: by what factor does the distance grow?
# (To a tenth of it.)

# %%
answer_3 = ...
check(3, answer_3, drift)

# %% [markdown]
# **Question 4.** With one epoch, do the updates of clients that hold different digits (alpha 0.1) point more
# `"together"` or more `"apart"` than those of clients that hold the same (alpha 100)?

# %%
answer_4 = ...
check(4, answer_4)

# %% [markdown]
# ## Real rounds
#
# Now the program itself runs: five rounds, for three alphas and for 1 or 5 epochs in each round. Everything that is
# sent is counted.

# %%
runs = swept(
    "lab_federated_round",
    "data.partition=dirichlet",
    "data.alpha=0.1,1,100",
    "training.epochs=1,5",
    "rounds=5",
    "seed=1",
)
table = (
    runs.with_columns(setting("data.alpha").cast(pl.Float64), setting("training.epochs").cast(pl.Int64))
    .select("data.alpha", "training.epochs", "accuracy", "upload_bytes_per_parameter", "download_bytes_per_parameter")
    .sort("data.alpha", "training.epochs")
)
print(table)

# %% [markdown]
# A little more than 4 bytes for each parameter are sent, because a message has a header and a signature.
#
# **Question 5.** By what factor do the bytes of a round grow, if clients train for 5 epochs in place of 1?

# %%
answer_5 = ...
check(5, answer_5, table)

# %% [markdown]
# **Question 6.** Which alpha gives the worst model after five rounds of one epoch?

# %%
answer_6 = ...
check(6, answer_6, table)

# %% [markdown]
# ## Your picture
#
# Above, the digits that the clients hold; the darker, the more. Below, the accuracies of your table.

# %%
figure, axes = plt.subplots(2, 3, figsize=(10, 6))
for axis, alpha in zip(axes[0], ALPHAS, strict=True):
    axis.imshow(np.stack([counts.numpy() for counts in held[alpha]]), cmap="Blues", aspect="auto")
    axis.set(title=f"alpha {alpha:g}", xlabel="digit", ylabel="client", xticks=range(10), yticks=range(CLIENTS))
for axis, alpha in zip(axes[1], ALPHAS, strict=True):
    rows = table.filter(pl.col("data.alpha") == alpha)
    axis.bar(rows["training.epochs"].cast(pl.String).to_list(), rows["accuracy"].to_list())
    axis.set(xlabel="epochs in a round", ylabel="accuracy after 5 rounds", ylim=(0, 1))
figure.tight_layout()
show(figure, "lab_1.png")
