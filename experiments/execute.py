"""One configuration, from its check to its summary on disk."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from omegaconf import DictConfig, OmegaConf

from experiments.tracking import track
from fl import runtimes
from fl.checkpoint import Checkpoints
from fl.config.checks import check
from fl.config.identity import hash_of, to_json
from fl.keys.folders import read_roster
from fl.ledger import LedgerFile
from fl.plan import RunPlan
from fl.server import Errand
from fl.threats import threat_card
from fl.training import vectors
from fl.workspace import Workspace, workspace
from privacy.accounting.ledger import Ledger
from privacy.checks import UNITS
from privacy.errors import FedveilError, RunRefused
from privacy.sealing import Roster
from results.environment import describe
from results.store import RunDirectory, default_directory, open_run
from results.summary import summarise

INTERRUPTED = "interrupted"
AGAINST = "epsilon against "  # followed by the adversary; of the whole run as planned


class FailedEarlier(RunRefused):
    """The error of a cell of a sweep that failed earlier; its record stays unchanged."""


@dataclass(frozen=True)
class Outcome:
    """The outcome of a configuration. `fresh` is False where its results existed already."""

    directory: Path
    summary: dict[str, Any]
    fresh: bool


def directory_of(config: DictConfig, config_hash: str, sweep: bool) -> Path:
    """The folder that a run writes to: `out` itself, or in a sweep a separate folder under it."""
    if config.out is None:
        return default_directory(config.experiment, config_hash)
    return Path(config.out) / config_hash[:16] if sweep else Path(config.out)


def execute(config: DictConfig, sweep: bool = False, since: float | None = None) -> Outcome:
    """Run a configuration: start it, resume it where it was interrupted, or take the results where it has finished.

    Args:
        config: composed, and not yet checked.
        sweep: whether it is a cell of a sweep, which waits for another process that runs the same cell.
        since: when the sweep started, in seconds since 1970: `force` keeps runs that ended later.

    Raises:
        FedveilError: a one-line message; status.json records it, and the rows measured so far are kept.
    """
    canonical = to_json(config)
    directory = directory_of(config, hash_of(canonical), sweep)
    if not sweep:
        _refuse_early(config, canonical, directory)
    yaml = OmegaConf.to_yaml(config, resolve=True)
    with open_run(directory, canonical, yaml, config.force, waits=sweep, since=since if sweep else None) as run:
        if run.finished:
            track(config, run)
            return Outcome(directory, run.summary() or {}, fresh=False)
        if sweep and not config.output.retry:
            _refuse_failed(run)
        run.write_status("running")
        run.write_environment(describe())
        summary = _run(run, canonical, config)
        track(config, run)
        return Outcome(directory, summary, fresh=True)


def _refuse_early(config: DictConfig, canonical: str, directory: Path) -> None:
    """Refuse a mistyped command before it makes or removes a folder; a sweep records its failing cell instead."""
    check(config)
    if config.force or not RunDirectory(directory).finished:
        workspace(canonical).try_model()
        _roster(config)


def _refuse_failed(run: RunDirectory) -> None:
    """Refuse a cell that failed earlier, since it would fail again; an interrupted cell goes on."""
    status = run.status() or {}
    if status.get("status") == "failed" and status.get("error") != INTERRUPTED:
        raise FailedEarlier(f"{status.get('error')} (failed earlier; output.retry=true tries again)")


def _roster(config: DictConfig) -> Roster | None:
    return None if config.roster is None else read_roster(Path(config.roster))


def _run(run: RunDirectory, canonical: str, config: DictConfig) -> dict[str, Any]:
    progress: Literal["none", "bar"] = "bar" if config.output.progress else "none"
    errand = Errand(run.checkpoints, config.output.keep_checkpoints, progress, roster=_roster(config))
    try:
        work = workspace(canonical)
        runtimes.run(work, run.path, errand)
        return _finish(run, work, errand)
    except BaseException as error:
        _fail(run, errand, error)
        raise


def _finish(run: RunDirectory, work: Workspace, errand: Errand) -> dict[str, Any]:
    checkpoints = Checkpoints(errand.folder, errand.keep_checkpoints)
    state = checkpoints.latest()
    assert state is not None
    rows = checkpoints.rows()
    final = {
        "rounds": state.round,
        **_privacy(work.plan, LedgerFile(errand.folder, state.ledger).ledger),
        "weights_sha256": vectors.sha256(state.weights_D),
        "backend": work.plan.backend.name,
        "assumption": work.plan.assumption,
        "threat_card": threat_card(work),
        "data_origin": work.data.origin,
        "device": str(work.device),
    }
    summary = summarise(rows, parameters=len(state.weights_D), final=final)
    run.write_rows(rows)
    run.write_summary(summary)
    run.write_status("finished" if state.round == work.plan.config.rounds else "budget_exhausted")
    return summary


def _privacy(plan: RunPlan, ledger: Ledger) -> dict[str, object]:
    """Epsilon by unit: the maximum over clients and its distribution; `epsilon` is that of the coarsest unit."""
    config = plan.config
    found = dict[str, object](epsilon=None)
    for unit in UNITS:
        values = sorted(ledger.epsilons(unit, config.delta, config.accountant).values())
        if values:
            found[f"epsilon_{unit}"] = found["epsilon"] = values[-1]
            found[f"epsilon_{unit}_median"] = values[len(values) // 2]
            found[f"epsilon_{unit}_least"] = values[0]
            found["epsilon_unit"] = unit
    if found["epsilon"] is not None:
        found |= {"delta": config.delta, "accountant": config.accountant, "noise": config.noise}
        found["holds_against"] = " and ".join(plan.backend.holds_against(str(found["epsilon_unit"])))
        for mechanism in plan.backend.mechanisms:
            if mechanism.noise_multiplier is not None:
                found[f"{mechanism.name}.noise_multiplier"] = mechanism.noise_multiplier
            found |= {f"{AGAINST}{who}": epsilon for who, epsilon in mechanism.epsilons.items()}
    return found


def _fail(run: RunDirectory, errand: Errand, error: BaseException) -> None:
    """Keep the measurements, and record how the run ended."""
    run.write_rows(Checkpoints(errand.folder, errand.keep_checkpoints).rows())
    run.write_status("failed", error=_reason(error))


def _reason(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    return str(error) if isinstance(error, FedveilError) else f"{type(error).__name__}: {error}"
