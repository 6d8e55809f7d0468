"""The contract of every model of this project."""

import torch
from torch import nn
from torch.nn.modules.dropout import _DropoutNd

Shape = tuple[int, int, int]


def gives_logits(model: nn.Module, shape: Shape, classes: int) -> None:
    """Check for float32 logits (N, classes) of images (N, *shape)."""
    logits = model(torch.randn(3, *shape))
    assert logits.shape == (3, classes)
    assert logits.dtype == torch.float32
    assert logits.isfinite().all()


def keeps_examples_apart_and_learns(model: nn.Module, images: torch.Tensor) -> None:
    """Check that an example's logits do not depend on its batch (unlike BatchNorm), and all weights have gradients.

    Ten classes; `images` has shape (4, C, H, W).
    """
    model.train()
    for layer in model.modules():
        if isinstance(layer, _DropoutNd):
            layer.eval()  # it draws anew with every call, for each example alone
    logits = model(images)
    assert torch.allclose(logits[:1], model(images[:1]), atol=1e-5)
    assert not torch.allclose(logits[:1], logits[1:2], atol=1e-6)
    gradients = torch.autograd.grad(nn.functional.cross_entropy(logits, torch.arange(4)), list(model.parameters()))
    assert all(gradient.abs().sum() > 0 for gradient in gradients)
