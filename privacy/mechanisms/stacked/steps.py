"""The private steps of several clients: each draws its own examples and its own noise, from its own stream.

A client's stream gives the draw of step 1, the noise of step 1, the draw of step 2 and so on, as in training alone.

Shapes: N clients of a step, D values of all trained parameters.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from privacy.mechanisms.contract import Batch, ClientJob
from privacy.mechanisms.dp_sgd_optimizers import figures
from privacy.mechanisms.stacked.sums import ClippedSums, Tally


def poisson_sample(source: np.random.Generator, examples: int, rate: float) -> torch.Tensor:
    """Draw each of the examples with probability `rate`; return the indices of those drawn, int64."""
    return torch.from_numpy(np.flatnonzero(source.random(examples) < rate))


@dataclass
class Drawing:
    """The Poisson samples of one client.

    Args:
        job: the client's job, whose diagnostics are written.
        take: returns examples by index.
        source: the client's own stream.
        rate: the probability of each example in each step.
        steps: the number of steps.
        expected: the number of examples by which a sum is divided.
        tally: the numbers of examples so far.
    """

    job: ClientJob
    take: Callable[[torch.Tensor], Batch]
    source: np.random.Generator
    rate: float
    steps: int
    expected: float
    tally: Tally = field(default_factory=Tally)

    def draw(self) -> Batch | None:
        """Return the next sample; None for an empty one."""
        drawn = poisson_sample(self.source, self.job.examples, self.rate)
        return self.take(drawn) if len(drawn) else None


class PrivateSteps:
    """The steps of some clients.

    Args:
        sums: computes the sums of clipped gradients.
        drawings: the samples of each client.
        noise_std: the standard deviation of each value's noise, before the division by `expected`.
    """

    def __init__(self, sums: ClippedSums, drawings: Sequence[Drawing], noise_std: float) -> None:
        self._sums = sums
        self._drawings = drawings
        self._noise_std = noise_std

    @property
    def lengths(self) -> Sequence[int]:
        """The number of steps of each client."""
        return [one.steps for one in self._drawings]

    def gradients(self, clients: Sequence[int], stack: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Return the noised sums of the clients' next draws, divided by the expected number of examples."""
        drawings = [self._drawings[client] for client in clients]
        draws = [one.draw() for one in drawings]
        sums = self._sums.of(stack, draws, [one.tally for one in drawings])
        expected_N = torch.tensor([one.expected for one in drawings], dtype=torch.float32, device=stack[0].device)
        noises = torch.split(self._noise(drawings, sums), [one[0].numel() for one in sums], dim=1)
        for own, noise in zip(sums, noises, strict=True):
            own += noise.view_as(own)
            own /= expected_N.view(-1, *[1] * (own.dim() - 1))
        return sums

    def _noise(self, drawings: Sequence[Drawing], like: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return the noise of one step, (N, D): a row from each client's stream."""
        length = sum(one[0].numel() for one in like)
        noise_ND = np.empty((len(drawings), length), np.float32)
        for row_D, one in zip(noise_ND, drawings, strict=True):
            one.source.standard_normal(dtype=np.float32, out=row_D)
        return torch.from_numpy(noise_ND).mul_(self._noise_std).to(like[0].device)

    def end(self) -> None:
        """Write the share of clipped examples, and the number of those that are not finite, into the jobs."""
        for one in self._drawings:
            one.job.diagnostics.update(figures(one.tally.seen, one.tally.clipped, one.tally.not_finite))
