"""CrypTen, made importable: `from privacy.secure_sums.mpc.crypten.compat import crypten`, and from nowhere else.

CrypTen 0.4.1 (`crypten/nn/onnx_converter.py`) imports `torch.onnx._internal.registration`, which torch 2.9 moved
into its package `torchscript_exporter`. The module takes its old name again before CrypTen asks for it.
`tests/privacy/secure_sums/mpc/crypten/test_compat.py` fails on the day that CrypTen imports without this.
"""

import importlib
import sys
import warnings

OLD_NAME = "torch.onnx._internal.registration"
NEW_NAME = "torch.onnx._internal.torchscript_exporter.registration"

sys.modules.setdefault(OLD_NAME, importlib.import_module(NEW_NAME))

with warnings.catch_warnings():
    # CrypTen's docstrings hold `\_`: Python 3.12 warns of that when it compiles the package at its first import
    warnings.filterwarnings("ignore", "invalid escape sequence")
    import crypten
    from crypten.communicator import DistributedCommunicator
    from crypten.cuda import CUDALongTensor
    from crypten.mpc.primitives import ArithmeticSharedTensor, BinarySharedTensor, beaver
    from crypten.mpc.provider import TTPServer, tfp_provider, ttp_provider

__all__ = [
    "ArithmeticSharedTensor",
    "BinarySharedTensor",
    "CUDALongTensor",
    "DistributedCommunicator",
    "TTPServer",
    "beaver",
    "crypten",
    "tfp_provider",
    "ttp_provider",
]
