"""Steps add up by name, exclude one another, and do nothing without a recorder."""

import threading
from contextlib import nullcontext

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy.spans import Recorder, each, note, recording, span


class Clock:
    """A clock that only moves when told."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s

    def spend(self, seconds: float) -> None:
        self.now_s += seconds


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def recorder(clock):
    with recording(Recorder(clock)) as recorder:
        yield recorder


def test_time_inside_a_nested_span_is_that_ones_alone(clock, recorder):
    clock.spend(1)
    with span("outer"):
        clock.spend(2)
        with span("inner"):
            clock.spend(4)
            with span("innermost"):
                clock.spend(8)
            clock.spend(16)
        clock.spend(32)
    clock.spend(64)
    assert recorder.seconds == {"outer": 34, "inner": 20, "innermost": 8}


def test_what_comes_again_adds_up_also_within_itself(clock, recorder):
    for seconds in (1, 2):
        with span("step"):
            clock.spend(seconds)
            with span("step"):
                clock.spend(10)
        clock.spend(100)
    assert recorder.seconds == {"step": 23}


def test_a_span_ends_when_its_block_raises(clock, recorder):
    def fail():
        with span("outer"):
            clock.spend(1)
            with span("inner"):
                clock.spend(2)
                raise KeyError

    with pytest.raises(KeyError):
        fail()
    clock.spend(4)
    with span("after"):
        clock.spend(8)
    assert recorder.seconds == {"outer": 1, "inner": 2, "after": 8}


@given(st.recursive(st.just([]), lambda inner: st.lists(st.tuples(st.sampled_from("abc"), inner)), max_leaves=20))
def test_seconds_of_all_names_are_those_with_any_span_open(tree):
    clock = Clock()
    recorder = Recorder(clock)
    counted = 0

    def walk(spans, depth):
        nonlocal counted
        for name, inner in spans:
            clock.spend(1)
            counted += depth > 0
            with span(name):
                walk(inner, depth + 1)
                clock.spend(1)
                counted += 1

    with recording(recorder):
        walk(tree, 0)
    assert sum(recorder.seconds.values()) == counted


def test_notes_add_up(recorder):
    for value in (1, 2.5):
        note("ciphertexts", value)
    note("bytes", 7)
    assert recorder.notes == {"ciphertexts": 3.5, "bytes": 7}
    assert recorder.seconds == {}


def test_nothing_is_recorded_where_nothing_records(clock):
    recorder = Recorder(clock)
    with recording(recorder):
        pass
    with span("step"):
        clock.spend(1)
        note("count", 1)
    assert list(each("item", [1, 2])) == [1, 2]
    assert (recorder.seconds, recorder.notes) == ({}, {})
    assert isinstance(span("step"), nullcontext), "it is no more than a look at a context variable"


def test_the_innermost_recorder_alone_is_told_and_the_outer_one_again_afterwards(clock, recorder):
    inner = Recorder(clock)

    def fail():
        with recording(inner), span("step"):
            clock.spend(1)
            note("count", 5)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    with span("step"):
        clock.spend(2)
        note("count", 3)
    assert (inner.seconds, inner.notes) == ({"step": 1}, {"count": 5})
    assert (recorder.seconds, recorder.notes) == ({"step": 2}, {"count": 3})


def test_another_thread_is_not_measured(recorder):
    thread = threading.Thread(target=note, args=("count", 1))
    thread.start()
    thread.join()
    assert recorder.notes == {}


def made(clock, count, seconds):
    """An iterator that takes this long for each item, and once more at its end."""
    for index in range(count):
        clock.spend(seconds)
        yield index
    clock.spend(seconds)


def test_each_item_takes_its_time_and_its_consumer_another(clock, recorder):
    for _ in each("make", made(clock, 3, 2)):
        clock.spend(50)
    assert recorder.seconds == {"make": 8}


def test_generators_that_draw_on_one_another_share_no_second(clock, recorder):
    def doubled(items):
        for item in items:
            clock.spend(10)
            yield 2 * item

    with span("whole"):
        outer = each("double", doubled(each("make", made(clock, 3, 1))))
        assert [clock.spend(100) or item for item in outer] == [0, 2, 4]
    assert recorder.seconds == {"whole": 300, "double": 30, "make": 4}


def test_a_consumer_may_stop_early_and_a_maker_may_raise(clock, recorder):
    items = each("make", made(clock, 3, 2))
    assert next(items) == 0
    items.close()
    with pytest.raises(ZeroDivisionError):
        list(each("divide", (clock.spend(1) or 1 // number for number in (1, 0))))
    with span("after"):
        clock.spend(4)
    assert recorder.seconds == {"make": 2, "divide": 2, "after": 4}


def test_a_span_that_is_held_over_a_yield_is_a_defect(recorder):
    def held():
        with span("held"):
            yield

    generator = held()
    with pytest.raises(AssertionError, match="span consumer ends before held, which began in it"), span("consumer"):
        next(generator)
