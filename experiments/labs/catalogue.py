"""The labs, in the order of the course."""

from pathlib import Path
from typing import NamedTuple

from privacy.errors import ConfigError

HERE = Path(__file__).parent
GLOSSARY = HERE / "glossary.md"  # the labs link to it, so it goes with each of them


class Lab(NamedTuple):
    """A lab: its number in the course, the name of its module, its title and its time on two cores."""

    number: int
    name: str
    title: str
    time: str

    @property
    def text(self) -> str:
        """The lab in the percent format."""
        return (HERE / f"{self.name}.py").read_text(encoding="utf-8")

    @property
    def stem(self) -> str:
        """The name of the student's file, without its ending."""
        return f"lab_{self.number}_{self.name}"


LABS = (
    Lab(1, "federated_round", "what a federated round is: bytes, drift, heterogeneity", "one minute"),
    Lab(2, "epsilon", "what epsilon buys: accuracy, rounds, cohort size", "two or three minutes"),
    Lab(
        4, "ckks_sum", "what a CKKS sum is: slots, scale, noise, and how an opened sum can leak a key", "half a minute"
    ),
    Lab(5, "masked_sum", "secure aggregation by hand: masks, shares, a drop-out, a lying server", "half a minute"),
    Lab(
        6,
        "shared_median",
        "three parties and a median: shares, Beaver triples, the price of a comparison",
        "two or three minutes",
    ),
)


def numbered(text: str) -> Lab:
    """The lab of this number.

    Raises:
        ConfigError: there is no such lab.
    """
    for lab in LABS:
        if text == str(lab.number):
            return lab
    raise ConfigError.of("lab", text, f"allowed are {', '.join(str(lab.number) for lab in LABS)}")
