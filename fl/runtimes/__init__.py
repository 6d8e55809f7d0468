"""The engines that carry the messages; all three run the same apps."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from fl.keys import folders as keys

if TYPE_CHECKING:  # torch takes seconds to import, and certificates need none
    from fl.server import Errand
    from fl.workspace import Workspace


def run(work: "Workspace", directory: Path, errand: "Errand") -> None:
    """Run a configuration on the engine that it names, until all its rounds are in the checkpoints.

    Raises:
        FedveilError: the run cannot go on.
    """
    plan = work.plan
    name = plan.config.runtime.name
    if name == "deployment":
        from fl.runtimes import deployment

        deployment.run(plan, directory, errand)
        return
    if plan.backend.secure_sum.needs.roster:
        errand = replace(errand, roster=keys.set_up(directory / "keys", plan.everybody))
    if name == "inprocess":
        from fl.runtimes import inprocess

        inprocess.run(work, errand)
    else:
        from fl.runtimes import ray

        ray.run(work, errand)
