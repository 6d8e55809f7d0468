"""The outputs of a run under differential privacy, one line for each kind, and why it is allowed to depend on the data.

An output is a name: `rows/ROLE/STAGE.METRIC`, `rows/rounds`, `log`, or `summary`, `checkpoint`, `ledger`, `status`,
`data` or `log` with `/KEY` behind it. A role is `server`, `client`, `party`, `keyholder`, `dealer` or `transport`.
What a run writes and no line names is a leak: `tests/adversary/test_outputs.py` runs each mechanism on neighbouring
data and looks up all that differs.
"""

from dataclasses import dataclass
from fnmatch import fnmatchcase

NOISED = "noised"  # a function of what epsilon covers: post-processing (Dwork and Roth 2014, Proposition 2.1)
SWITCHED = "switched"  # written on request only, and the card says so then
NAMED = "named"  # depends on the data, and the card says so
FRESH = "fresh"  # differs between any two runs: clocks, processes, random names

TIMES = "Times and peaks of memory in the results depend on the data, and no epsilon covers them."
ABSENCE = "Who drops out, and the reason that a client gives, stand in the results, and no epsilon covers them."
READ = (
    "A digest of the data, and the numbers of its examples and labels, stand beside the results (data.json, for its "
    "owner alone), and no epsilon covers them."
)
REPORTED = "Clients report the times and the memory of their phases (runtime.client_metrics=true), beyond any epsilon."
FIGURES = (
    "Clients report exact norms, clipped fractions, and numbers of values that were cut and of gradients that were not "
    "finite (runtime.client_diagnostics=true), beyond any epsilon."
)
SCORED = (
    "Clients report their accuracy and loss on their own examples, exactly (runtime.client_evaluation=true), and no "
    "epsilon covers that."
)
SIZES = "This epsilon takes each client's number of examples as known"  # said by dp_sgd


@dataclass(frozen=True)
class Output:
    """A kind of output: its names as a pattern, its category, and the reason.

    The reason of a named or switched one is a part of the card's sentence.
    """

    names: str
    category: str
    reason: str


_EXACT = ("update_norm", "update_norm_q*", "clipped_fraction", "not_finite", "clipped_values", "clipped")
_COSTS = ("wall", "cpu", "compute", "part", "witness", "peak_*", "comm_wall")
_SCORES = ("accuracy", "loss", "macro_f1")
_ENDS = "how many rounds ran, and that the last one tells the epsilon of all planned ones: a function of the models"
_MODEL = "a function of the model, which is the noised sum's"
OUTPUTS = (
    *(Output(f"rows/*.{metric}", SWITCHED, FIGURES) for metric in _EXACT),
    *(Output(f"rows/client/evaluate.{metric}", SWITCHED, SCORED) for metric in ("accuracy", "loss")),
    Output("summary/client_accuracy*", SWITCHED, SCORED),
    *(Output(f"rows/client/*.{metric}", NAMED, REPORTED) for metric in _COSTS),
    *(Output(f"rows/*.{metric}", NAMED, TIMES) for metric in _COSTS),
    *(Output(f"summary/{key}", NAMED, TIMES) for key in ("*_s", "peak_*")),
    *(Output(f"rows/*.{metric}", NAMED, ABSENCE) for metric in ("dropped", "rejected", "survivors")),
    *(Output(f"summary/{key}", NAMED, ABSENCE) for key in ("dropped", "rejected")),
    Output("log/left out", NAMED, ABSENCE),
    Output("data/*", NAMED, READ),
    Output("rows/client/flatten.noised_values_cut", NOISED, "counted in an update that carries all of its noise"),
    Output("rows/server/protocol.cut_share", NOISED, "counted likewise, or on request as FIGURES says"),
    Output("summary/cut_share", NOISED, "the largest of these shares"),
    Output("rows/server/*.signal_to_noise", NOISED, "computed from the noised sum"),
    Output("rows/server/client_dp.clip", NOISED, "moved by a noised count, for which the noise of the sum pays"),
    *(Output(f"rows/server/evaluate.{metric}", NOISED, _MODEL) for metric in (*_SCORES, "public_loss")),
    *(Output(f"summary/{key}", NOISED, _MODEL) for key in (*_SCORES, "weights_sha256", "rounds", "evaluated_round")),
    *(Output(name, NOISED, _ENDS) for name in ("rows/rounds", "checkpoint/round", "log/ends")),
    Output("status/status", NOISED, "which of its ends a run came to: a function of the models"),
    Output("checkpoint/weights_D", NOISED, "the model"),
    Output("checkpoint/optimizer", NOISED, "a function of the noised sums of all rounds"),
    Output("checkpoint/mechanisms", NOISED, "the mechanisms' public state: the clip that a noised count moved"),
    *(Output(f"summary/{key}", NAMED, SIZES) for key in ("epsilon*", "threat_card")),
    *(Output(name, NAMED, SIZES) for name in ("rows/*/ledger.epsilon_*", "ledger/charges")),
    Output("checkpoint/started", FRESH, "the clock"),
    Output("ledger/attempt", FRESH, "a random name"),
    Output("checkpoint/ledger", FRESH, "the length of the ledger, and its last digest"),
    Output("ledger/digest", FRESH, "a function of the random name"),
    *(Output(f"status/{key}", FRESH, "the clock, or the process") for key in ("started", "ended", "pid")),
)


def output_of(name: str) -> Output | None:
    """Return the line of an output, the first that fits; None where no line names it."""
    return next((output for output in OUTPUTS if fnmatchcase(name, output.names)), None)
