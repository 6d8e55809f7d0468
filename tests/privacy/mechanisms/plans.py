"""A plan that every client-level mechanism accepts; tests change single values."""

import torch

from privacy.mechanisms.contract import Plan

PLAN = Plan(
    clients=20,
    cohort_size=10,
    min_contributors=8,
    hidden=True,
    rounding=0.0,
    dimension=50,
    rounds=10,
    examples=(20,) * 20,
    participations=(5,) * 20,
    separation=1,
    batch_size=10,
    epochs=1,
    steps=None,
    sample_rate=None,
    uniform_weights=True,
    public_weights=False,
    proximal=0.0,
    delta=1e-3,
    accountant="rdp",
    model=torch.nn.Linear(1, 1),
    random_examples=lambda count: (torch.randn(count, 1), torch.zeros(count, dtype=torch.int64)),
)
