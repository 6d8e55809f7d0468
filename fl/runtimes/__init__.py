"""The engines that carry the messages: the same apps in all three."""

from pathlib import Path
from typing import TYPE_CHECKING

from fl import keys
from privacy.errors import ConfigError

if TYPE_CHECKING:  # torch takes seconds to import, and certificates need none
    from fl.server import Errand
    from fl.workspace import Workspace


def run(work: "Workspace", directory: Path, errand: "Errand") -> None:
    """Run a configuration on the engine that it names, until all its rounds are in the checkpoints.

    Raises:
        FedveilError: the run cannot go on.
    """
    name, secure_sum = work.config.runtime.name, work.backend.secure_sum
    if secure_sum.pinned:
        if name == "deployment":
            allowed = f"sets up no roster yet, which secure_sum={secure_sum.name} needs: choose inprocess or ray"
            raise ConfigError.of("runtime", name, allowed)
        keys.set_up(directory / "keys")
    if name == "inprocess":
        from fl.runtimes import inprocess

        inprocess.run(work, errand)
    elif name == "ray":
        from fl.runtimes import ray

        ray.run(work, errand)
    else:
        from fl.runtimes import deployment

        deployment.run(work.canonical, directory, work.config)
