"""CrypTen, made importable: `from privacy.crypten_compat import crypten`, and from nowhere else.

CrypTen 0.4.1 (`crypten/nn/onnx_converter.py`) imports `torch.onnx._internal.registration`, which torch 2.9 moved
into its package `torchscript_exporter`. The module takes its old name again before CrypTen asks for it.
`tests/privacy/test_crypten_compat.py` fails on the day that CrypTen imports without this.
"""

import importlib
import sys

OLD_NAME = "torch.onnx._internal.registration"
NEW_NAME = "torch.onnx._internal.torchscript_exporter.registration"

sys.modules.setdefault(OLD_NAME, importlib.import_module(NEW_NAME))

import crypten  # noqa: E402  after the line above, which it needs

__all__ = ["crypten"]
