"""One configuration, from its check to its summary on disk."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
from omegaconf import DictConfig, OmegaConf

from experiments.tracking import track
from fl import runtimes
from fl.checkpoint import Checkpoints
from fl.config.checks import check
from fl.config.identity import from_json, hash_of, to_json
from fl.data.image_data import load_data
from fl.keys.folders import read_roster
from fl.ledger import LedgerFile
from fl.plan import RunPlan
from fl.server import Errand
from fl.threats import threat_card
from fl.training import vectors
from fl.training.stopping import public_losses, stops
from fl.workspace import Workspace, workspace
from privacy.accounting.ledger import Ledger
from privacy.checks import UNITS
from privacy.errors import FedveilError, RunRefused
from privacy.sealing import Roster
from results.environment import describe
from results.store import RunDirectory, changes, default_directory, marked, open_run
from results.summary import summarise

INTERRUPTED = "interrupted"
AGAINST = "epsilon against "  # followed by the adversary; of the whole run as planned


class FailedEarlier(RunRefused):
    """The error of a cell of a sweep that failed earlier; its record stays unchanged."""


@dataclass(frozen=True)
class Outcome:
    """The outcome of a configuration. `fresh` is False where its results existed already; `note` is one clause."""

    directory: Path
    summary: dict[str, Any]
    fresh: bool
    note: str = ""


def directory_of(config: DictConfig, config_hash: str, sweep: bool) -> Path:
    """The folder that a run writes to: `out` itself, or in a sweep a separate folder under it."""
    if config.out is None:
        return default_directory(config.experiment, config_hash)
    return Path(config.out) / config_hash[:16] if sweep else Path(config.out)


def execute(config: DictConfig, sweep: bool = False, since: float | None = None, every_s: float = 0.0) -> Outcome:
    """Run a configuration: start it, resume it where it was interrupted, or take the results where it has finished.

    Args:
        config: composed, and not yet checked.
        sweep: whether it is a cell of a sweep, which waits for another process that runs the same cell.
        every_s: least seconds between two lines of progress, see `results.progress`.
        since: when the sweep started, in seconds since 1970: `force` keeps runs that ended later.

    Raises:
        FedveilError: a one-line message; status.json records it, and the rows measured so far are kept.
    """
    canonical = to_json(config)
    data, unread = _data(canonical)
    directory, note = _place(directory_of(config, hash_of(canonical), sweep), config, data, sweep)
    if not sweep:
        _refuse_early(config, canonical, directory)
    yaml = OmegaConf.to_yaml(config, resolve=True)
    ours = since if sweep else None
    with open_run(directory, canonical, yaml, config.force, data=data, waits=sweep, since=ours) as run:
        if run.finished:
            track(config, run)
            known = "" if run.data() is not None else "its data were not recorded"
            return Outcome(directory, run.summary() or {}, fresh=False, note=unread or known)
        if sweep and not config.output.retry:
            _refuse_failed(run)
        run.write_status("running")
        run.write_environment(describe())
        summary = _run(run, canonical, config, every_s)
        track(config, run)
        return Outcome(directory, summary, fresh=True, note=note)


def _data(canonical: str) -> tuple[dict[str, Any] | None, str]:
    """Return the fingerprint of the data that a configuration names; or None, and why they cannot be read.

    A run that has finished needs its data no more, and another one refuses for the same reason in its turn.
    """
    try:
        return load_data(from_json(canonical).data).fingerprint, ""
    except FedveilError as error:
        return None, f"its data cannot be compared, {error}"


def _place(directory: Path, config: DictConfig, data: dict[str, Any] | None, sweep: bool) -> tuple[Path, str]:
    """Return the folder of a run, and a clause on why it is a new one.

    Where the user has not named the folder itself, a run on other data gets one of its own, and the earlier run stays.
    """
    named = config.out is not None and not sweep
    held = None if named or config.force else RunDirectory(directory).data()
    if data is None or held is None or held == data:
        return directory, ""
    return marked(directory, data), f"the data are not those of {directory}: {changes(held, data)}"


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


def _run(run: RunDirectory, canonical: str, config: DictConfig, every_s: float) -> dict[str, Any]:
    shown_s = every_s if config.output.progress else None
    errand = Errand(run.checkpoints, config.output.keep_checkpoints, shown_s, roster=_roster(config))
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
        "together": work.together.choice.size,
        "together_reason": work.together.choice.reason,
    }
    summary = summarise(rows, parameters=len(state.weights_D), final=final)
    run.write_rows(rows)
    run.write_summary(summary)
    run.write_status(_ending(work, state.round, rows))
    return summary


def _ending(work: Workspace, last: int, rows: pl.DataFrame) -> str:
    if last == work.plan.config.rounds:
        return "finished"
    server = work.plan.config.server
    early = stops(public_losses(rows), server.patience, server.least_gain)
    return "stopped_early" if early else "budget_exhausted"


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
