"""The client that protects a contribution twice: one of a cohort in each round, and each one in turn."""

from collections import Counter

import pytest

from fl.participant import Request, answer
from fl.workspace import Workspace
from tests.composed import workspace_of


class Recorded(Exception):
    """Ends an answer once it is known whether it rehearses."""


@pytest.fixture
def turns(monkeypatch):
    """The clients that rehearse in a round, found by asking every client of its cohort."""

    def examine(*_, rehearse: bool) -> None:
        raise Recorded(rehearse)

    monkeypatch.setattr("fl.participant.examine", examine)

    def turns_in(work: Workspace, number: int) -> list[int]:
        found = []
        for client in work.plan.cohort(number):
            request = Request(f"client/{client}", "collect", number, "first", {}, work.initial_D.numpy().copy())
            monkeypatch.setattr(work.plan.backend.secure_sum, "respond", lambda *asked: {"vector": asked[-1]()})
            with pytest.raises(Recorded) as told:
                answer(work, request, {})
            found += [client] if told.value.args[0] else []
        return found

    return turns_in


def test_one_client_rehearses_in_each_round_and_all_do_in_turn(turns):
    work = workspace_of("secure_sum=pad", "clients=3", "rounds=6")
    rehearsed = [turns(work, number) for number in range(1, 7)]
    assert all(len(who) == 1 for who in rehearsed)
    assert Counter(client for who in rehearsed for client in who) == dict.fromkeys(range(3), 2)
    assert rehearsed[0] != rehearsed[1] != rehearsed[2]


def test_it_is_one_of_those_who_were_asked(turns):
    work = workspace_of("secure_sum=pad", "clients=7", "cohort=3", "rounds=4")
    for number in range(1, 5):
        [who] = turns(work, number)
        assert who in work.plan.cohort(number)
