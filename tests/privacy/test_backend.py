import numpy as np
import pytest
import torch

from privacy.backend import PrivacyBackend
from privacy.errors import ConfigError
from privacy.mechanisms.contract import ClientJob, Mechanism, ServerJob
from privacy.randomness import SeededRandomness
from privacy.secure_sums.plain import PlainSum
from tests.outside.masked_sum import MaskedSum


class Add(Mechanism):
    """A mechanism that adds 1 to its input."""

    name = "add"

    def prepare(self, job):
        job.examples += 1

    def on_update(self, job, update_D):
        return update_D + 1

    def on_total(self, job, total_D):
        return total_D + 1


class Double(Mechanism):
    """A mechanism that doubles its input."""

    name = "double"

    def prepare(self, job):
        job.examples *= 2

    def on_update(self, job, update_D):
        return update_D * 2

    def on_total(self, job, total_D):
        return total_D * 2


class Idle(Mechanism):
    """A mechanism without overrides."""

    name = "idle"


def client_job() -> ClientJob:
    model = torch.nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return ClientJob("client/0", 1, {}, SeededRandomness("test"), 10, model, optimizer, ())


SERVER_JOB = ServerJob(1, SeededRandomness("test"), 2, ("client/0", "client/1"), 2.0)


def test_mechanisms_run_in_order_at_the_client_and_in_reverse_at_the_server():
    backend = PrivacyBackend(PlainSum(), (Add(), Double()))
    job = client_job()
    backend.prepare(job)
    assert job.examples == (10 + 1) * 2
    assert backend.on_update(job, torch.tensor([5.0])).tolist() == [(5 + 1) * 2]
    assert backend.on_total(SERVER_JOB, np.array([5.0])).tolist() == [5 * 2 + 1]


def test_the_other_order_is_another_backend():
    backend = PrivacyBackend(PlainSum(), (Double(), Add()))
    job = client_job()
    assert backend.on_update(job, torch.tensor([5.0])).tolist() == [5 * 2 + 1]
    assert backend.on_total(SERVER_JOB, np.array([5.0])).tolist() == [(5 + 1) * 2]


@pytest.mark.parametrize("mechanisms", [(), (Idle(),)])
def test_without_mechanisms_everything_passes_untouched(mechanisms):
    backend = PrivacyBackend(PlainSum(), mechanisms)
    job = client_job()
    before = dict(vars(job))
    update_D = torch.randn(4)
    total_D = np.arange(4.0)
    backend.prepare(job)
    assert all(vars(job)[name] is value for name, value in before.items())
    assert backend.on_update(job, update_D) is update_D
    assert backend.on_total(SERVER_JOB, total_D) is total_D


@pytest.mark.parametrize(
    ("mechanisms", "secure_sum", "name"),
    [
        ((), PlainSum(), "plain"),
        ((Add(),), PlainSum(), "add+plain"),
        ((Add(), Double()), MaskedSum(), "add+double+masked"),
    ],
)
def test_the_name_says_what_is_in_the_slots(mechanisms, secure_sum, name):
    assert PrivacyBackend(secure_sum, mechanisms).name == name


def test_the_same_mechanism_twice_is_refused():
    with pytest.raises(ConfigError, match=r"^mechanism=add\+double\+add\+plain: holds the same mechanism twice"):
        PrivacyBackend(PlainSum(), (Add(), Double(), Add()))
    PrivacyBackend(PlainSum(), (Add(), Double()))
