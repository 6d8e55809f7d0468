import pytest

from fl.config import FaultsConfig
from fl.faults import scale_of, scaled_clients


@pytest.mark.parametrize("count", [0, 2, 10])
def test_so_many_clients_cheat_and_the_seed_says_who(count):
    chosen = scaled_clients(count, 10, 1)
    assert len(chosen) == count
    assert chosen <= set(range(10))
    assert chosen == scaled_clients.__wrapped__(count, 10, 1)
    assert count in (0, 10) or {scaled_clients(count, 10, seed) for seed in range(20)} != {chosen}


def test_who_cheats_multiplies_and_nobody_else_does():
    faults = FaultsConfig(scaled_clients=3, scale=-7.0)
    factors = [scale_of(client, faults, 10, 5) for client in range(10)]
    assert sorted(factors) == [-7.0] * 3 + [1.0] * 7
