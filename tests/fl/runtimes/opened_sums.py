"""The sums that somebody opens with a key, with the clients or a keyholder to hold it."""

import pytest

# each homomorphic sum, and masks alone, in both key arrangements; a keyholder takes seconds to start
HIDDEN = [(name, holder) for name in ("ckks", "bfv", "pad") for holder in ("clients", "keyholder")]
hidden = pytest.mark.parametrize(
    ("name", "holder"),
    [pytest.param(*one, id="-".join(one), marks=pytest.mark.slow if one[1] == "keyholder" else ()) for one in HIDDEN],
)
