#!/bin/sh
# Opacus 1.6.0: ModuleValidator.fix on attention whose inputs have the examples first (torch 2.13.0).
#
# Guess: the layer that takes the place of nn.MultiheadAttention has its weights, so the fixed model gives the outputs of
# the model before.
#
# Behaviour: with batch_first=True and more than one head the outputs are others: the heads are laid one after another
# where positions should be, and no error is raised. The attention weights that the layer returns are right, and so are
# the outputs with one head, or with batch_first=False. A fixed nn.TransformerEncoderLayer(batch_first=True) is another
# function of its input from the first step on, private or not.
#
# Seen: two heads, examples first: outputs differ by 0.62, weights by 0.00; one head: 0.00; positions first: 0.00.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet opacus==1.6.0 torch==2.13.0
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import torch
from opacus.validators import ModuleValidator


def apart(heads: int, batch_first: bool) -> tuple[float, float]:
    """Largest differences of outputs and of weights between a layer and the one that takes its place."""
    torch.manual_seed(0)
    inputs = torch.randn(5, 7, 6)
    layer = torch.nn.MultiheadAttention(6, heads, batch_first=batch_first)
    fixed = ModuleValidator.fix(torch.nn.Sequential(layer))[0]
    with torch.no_grad():
        pairs = zip(layer(inputs, inputs, inputs), fixed(inputs, inputs, inputs), strict=True)
        outputs, weights = (float((one - other).abs().max()) for one, other in pairs)
    return outputs, weights


two, one, old = apart(2, True), apart(1, True), apart(2, False)
print(f"two heads, examples first: outputs differ by {two[0]:.2f}, weights by {two[1]:.2f}; ", end="")
print(f"one head: {one[0]:.2f}; positions first: {old[0]:.2f}.")
assert two[0] > 0.1
assert max(two[1], *one, *old) < 1e-5
print("as stated")
PYTHON
