"""CrypTen imports and computes through the shim, and the shim is still needed."""

import subprocess
import sys

from privacy.secure_sums.mpc.crypten.compat import OLD_NAME

A_SHARED_SUM = """
import torch
from privacy.secure_sums.mpc.crypten.compat import crypten
crypten.init()
total = crypten.cryptensor(torch.tensor([1.0, -2.5])) + crypten.cryptensor(torch.tensor([0.25, 4.0]))
print(total.get_plain_text().tolist())
"""


def run_fresh(code: str) -> "subprocess.CompletedProcess[str]":
    """Run in a fresh interpreter, since imported modules stay imported."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)


def test_crypten_computes_through_the_shim() -> None:
    done = run_fresh(A_SHARED_SUM)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[1.25, 1.5]"  # multiples of 1/4 are exact in CrypTen's fixed point


def test_the_shim_is_still_needed() -> None:
    done = run_fresh("import crypten")
    assert done.returncode != 0, (
        "crypten imports by itself now: delete privacy/secure_sums/mpc/crypten/compat.py and this test"
    )
    assert f"No module named '{OLD_NAME}'" in done.stderr, f"crypten fails for another reason:\n{done.stderr}"
