"""The digest of what the server gives clients for training: the model, and the state of the mechanisms.

All else that determines a client's update is in the configuration, or its own. A secure sum binds contributions to this
digest, so that a server cannot give one client a model of its own (Pasquini, Francati and Ateniese, CCS 2022, whose
countermeasure this is).
"""

import hashlib
import json
from collections.abc import Mapping

import numpy as np

from privacy.sealing import framed
from privacy.secure_sums.vectors import Vector

_LABEL = b"fedveil given 1"


def given_digest(model_D: Vector, state: Mapping[str, float]) -> bytes:
    """The SHA-256 of a model of shape (D,), with its type, and of a state: 32 bytes."""
    digest = hashlib.sha256(
        framed(_LABEL, str(model_D.dtype).encode(), json.dumps(dict(state), sort_keys=True).encode())
    )
    digest.update(np.ascontiguousarray(model_D).data)
    return digest.digest()
