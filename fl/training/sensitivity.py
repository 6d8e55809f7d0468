"""The sensitivity of each value of the model to a client's labels, by which selective encryption chooses values.

Jin et al. 2023 (FedML-HE, arXiv 2303.10837, section 2.4): the mean over examples of |d/dy (d loss / d w)|. For the
cross-entropy - sum_c y_c log p_c the derivative along y_c is - d log p_c / d w, and the norm is over the classes.
Gradient inversion (Zhu et al. 2019) exploits these values.

Shapes: D values of the vector, as `fl.training.vectors` lays them out, C classes.
"""

import torch

from fl.training.vectors import Layout, reals
from privacy.mechanisms.contract import Loader

EXAMPLES = 16  # number of a client's examples, from the first: more of them change the order of values little


def sensitivity(model: torch.nn.Module, layout: Layout, examples: Loader, count: int) -> torch.Tensor:
    """Return the map over the values of the vector, shape (D,), float32, scaled to a largest value of 1."""
    total_D = torch.zeros(layout.length, device=layout.state[0].device)
    for index in range(min(count, EXAMPLES)):
        inputs, _ = examples.take(torch.tensor([index]))
        total_D += _norm_over_classes(torch.log_softmax(model(inputs)[0], dim=0), layout.state)
    return total_D / total_D.max().clamp(min=torch.finfo(total_D.dtype).tiny)


def _norm_over_classes(logs_C: torch.Tensor, entries: list[torch.Tensor]) -> torch.Tensor:
    """Return the norm over classes of d log p_c / d w; zero for buffers."""
    trained = [entry for entry in entries if entry.requires_grad]
    squares = {id(entry): torch.zeros_like(reals(entry)) for entry in entries}
    for log in logs_C:
        gradients = torch.autograd.grad(log, trained, retain_graph=True, allow_unused=True)
        for entry, gradient in zip(trained, gradients, strict=True):
            if gradient is not None:
                squares[id(entry)] += reals(gradient).square()
    return torch.cat([squares[id(entry)].reshape(-1) for entry in entries]).sqrt().detach()
