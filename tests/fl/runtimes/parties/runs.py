"""Runs with CrypTen's parties as processes, and what is seen of these processes from outside."""

from collections.abc import Callable

import psutil
import pytest

from fl.server import Server

CRYPTEN = ("secure_sum=crypten", "secure_sum.parties=2")
SEEDED = "noise=seeded"


PRESENT: set[int] = set()  # process numbers of children from before the test: another file's parties may live longer


def spawned() -> list[psutil.Process]:
    """The children of this process that multiprocessing has spawned."""
    return [child for child in psutil.Process().children() if "spawn_main" in " ".join(child.cmdline())]


def parties() -> list[psutil.Process]:
    """The party processes of this process, in their order."""
    return sorted((child for child in spawned() if child.pid not in PRESENT), key=lambda child: child.pid)


def in_round(monkeypatch: pytest.MonkeyPatch, number: int, act: Callable[[], None]) -> None:
    """Call a function when a round begins."""
    original = Server.aggregate

    def act_then_aggregate(self, asked, cohort):
        if asked == number:
            act()
        return original(self, asked, cohort)

    monkeypatch.setattr(Server, "aggregate", act_then_aggregate)


def addresses(process: psutil.Process) -> set[str]:
    """The addresses on which a process accepts connections."""
    return {c.laddr.ip for c in process.net_connections(kind="inet") if c.status == psutil.CONN_LISTEN}


def faulty(fault: str, count: int = 2) -> tuple[str, ...]:
    """The overrides for a fault in round 2."""
    target = "secure_sum._target_=tests.outside.faulty_parties.FaultySum"
    patience = "secure_sum.timeout_s=" + ("12" if "stop" in fault else "120")
    witness = f"witness={str(fault != 'two').lower()}"  # a client that cheats does without
    return (
        "secure_sum=crypten",
        f"secure_sum.parties={count}",
        target,
        f"+secure_sum.fault='{fault}'",
        patience,
        witness,
    )


NOT_REVEALED = "party/0 and party/1 did not reveal the sum; "
