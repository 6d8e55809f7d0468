"""Work that is done ahead: each result goes to one caller, and is counted once."""

import time
from collections.abc import Iterator

import psutil
import pytest

from fl.spawned.ahead import AheadOfTime, second_core
from privacy.errors import RuntimeFailure
from tests.fl.spawned import workers


@pytest.fixture(scope="module")
def shared() -> Iterator[AheadOfTime]:
    made = AheadOfTime()
    yield made
    made.close()


def test_no_result_is_given_twice_and_those_of_other_work_are_thrown_away(shared):
    taken = [shared.take(workers.random_bytes, length) for length in (16, 16, 16, 20, 20, 16, 16)]
    assert [len(one) for one in taken] == [16, 16, 16, 20, 20, 16, 16]
    assert len(set(taken)) == len(taken)


def test_processor_time_is_told_once_by_who_took_the_result(shared):
    shared.costs()
    shared.take(workers.busy, 0.05)
    shared.take(workers.busy, 0.05)
    assert shared.costs()["ahead.cpu"] == pytest.approx(0.1, rel=0.3)
    assert shared.costs() == {}


def test_it_works_while_its_caller_waits_for_something_else(shared):
    shared.take(workers.busy, 0.3)  # the next one begins
    time.sleep(1.0)
    begun_s = time.perf_counter()
    shared.take(workers.busy, 0.3)
    assert time.perf_counter() - begun_s < 0.25


def test_work_that_fails_is_an_error_of_its_caller_and_the_process_goes_on(shared):
    with pytest.raises(RuntimeFailure, match=r"^runtime\.prepare_ahead: no such thing$"):
        shared.take(workers.failing, "no such thing")
    assert len(shared.take(workers.random_bytes, 3)) == 3


def test_a_process_that_ends_is_told_by_name():
    made = AheadOfTime()
    with pytest.raises(RuntimeFailure, match=r"the process of runtime\.prepare_ahead has ended"):
        made.take(workers.ending, 3)
    made.close()
    assert len(made.take(workers.random_bytes, 5)) == 5, "and the next one begins anew"
    made.close()


def test_after_an_interrupt_no_result_goes_to_other_work(monkeypatch):
    made = AheadOfTime()
    made.take(workers.random_bytes, 9)

    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(made, "_receive", interrupted)
    with pytest.raises(KeyboardInterrupt):
        made.take(workers.random_bytes, 9)
    monkeypatch.undo()
    assert len(made.take(workers.random_bytes, 4)) == 4
    made.close()


def test_closing_ends_the_process_in_the_middle_of_its_work():
    made = AheadOfTime()
    made.take(workers.random_bytes, 1)
    made._begin((workers.busy, (600.0,)))
    (child,) = [one for one in psutil.Process().children() if one.pid == made._process.pid]
    made.close()
    assert not child.is_running()


def test_a_second_core_is_counted_for_each_process(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1}, raising=False)
    assert second_core(1) is None
    assert second_core(2) == "2 processes of clients on 2 cores leave no second one"
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {5}, raising=False)
    assert second_core(1) == "1 process of clients on 1 core leave no second one"
