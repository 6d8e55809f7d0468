"""The noise that DP-FTRL remembers, and its diagnostics. H is remembered rounds, D values of the model."""

import io
import math

import numpy as np
import pytest
import torch

from tests.privacy.mechanisms.client_jobs import client_job
from tests.privacy.mechanisms.dp_ftrl.matrices import CLIP, SIGMA, noise, server_job, settled, strategy


def test_it_remembers_the_last_rounds_and_replaces_what_it_remembers():
    mechanism = settled(4)
    memory = dict[str, torch.Tensor]()
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    expected_TD = noise(mechanism, 8, 5)
    for number in range(1, 9):
        mechanism.on_total(server_job(number, memory), np.zeros(5))
        assert memory.keys() == {"dp_ftrl.noise"}
        kept_HD = memory["dp_ftrl.noise"]
        assert kept_HD.dtype == torch.float64
        assert np.array_equal(kept_HD.numpy(), expected_TD[max(0, number - 3) : number][::-1])
        seen.append((kept_HD, kept_HD.clone()))
    assert all(torch.equal(kept_HD, copy_HD) for kept_HD, copy_HD in seen), "written to after it was stored"


def test_a_run_goes_on_from_its_checkpoint():
    """The resuming process has only the configuration and the checkpoint."""
    memory: dict[str, torch.Tensor] = {}
    for number in range(1, 8):
        settled(4).on_total(server_job(number, memory), np.zeros(5))
    buffer = io.BytesIO()
    torch.save(memory, buffer)
    again = torch.load(io.BytesIO(buffer.getvalue()), weights_only=True)
    assert len(buffer.getvalue()) < 3 * 5 * 8 + 3000, "the noise of earlier rounds went with it"
    assert np.array_equal(settled(4).on_total(server_job(8, again), np.zeros(5)), noise(settled(4), 8, 5)[7])


def test_without_the_noise_of_the_rounds_before_it_does_not_go_on():
    with pytest.raises(AssertionError, match="noise of another round"):
        settled(4).on_total(server_job(3, {}), np.zeros(5))


def test_what_it_tells_of_itself():
    mechanism = settled()
    job = client_job()
    clipped_D = mechanism.on_update(job, torch.tensor([3.0, 4.0]))
    assert clipped_D.tolist() == pytest.approx([0.6 * CLIP, 0.8 * CLIP])
    assert job.diagnostics == {"dp_ftrl.update_norm": 5.0, "dp_ftrl.clipped_fraction": 1.0}
    mechanism.on_update(job, torch.tensor([0.0, 0.5]))
    assert job.diagnostics == {"dp_ftrl.update_norm": 0.5, "dp_ftrl.clipped_fraction": 0.0}
    memory: dict[str, torch.Tensor] = {}
    rows_T = np.linalg.norm(np.linalg.inv(strategy(10, 30)), axis=1)
    for number in range(1, 31):
        server = server_job(number, memory)
        noised_D = mechanism.on_total(server, np.full(400, 30.0))
        std = SIGMA * CLIP * np.linalg.norm(strategy(10, 30)[:, 0]) * rows_T[number - 1]
        told = math.sqrt((np.linalg.norm(noised_D) / (20 * std)) ** 2 - 1)
        assert server.diagnostics == {"dp_ftrl.signal_to_noise": pytest.approx(told)}
        assert told == pytest.approx(600 / (20 * std), rel=0.3), "near that of the exact sum"
        assert server.state == {}, "told to clients"
