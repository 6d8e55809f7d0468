"""Figures of published tables that follow from formulas: privacy accounting, and transfer times of links."""


def dp_sgd_epsilon(noise_multiplier: float, sample_rate: float, steps: int, delta: float) -> dict[str, float]:
    """Epsilon of DP-SGD as libraries printed it before 2020, and as today's accountants give it."""
    from privacy.accounting.charges import poisson_steps
    from privacy.accounting.epsilon import epsilon, epsilon_pre_2020
    from privacy.checks import ACCOUNTANTS

    event = poisson_steps(noise_multiplier, sample_rate, steps)
    found = {f"epsilon_{accountant}": epsilon(event, delta, accountant) for accountant in ACCOUNTANTS}
    return {"epsilon_pre_2020": epsilon_pre_2020(event, delta), **found}


def link_arithmetic(parameters: float, bytes_per_parameter: float, nodes: int, network: str) -> dict[str, float]:
    """One model sent over one link of a network profile, and the bytes that all nodes send in a step."""
    from results.networks.links import load

    size_bytes = parameters * bytes_per_parameter
    exchange_s = load(network).transfer_s(size_bytes, "client/0", "server")
    return {"exchange (s)": exchange_s, "moved in a step (TB)": nodes * size_bytes / 1e12}
