"""Pauses between batches keep work to its share of the time."""

from __future__ import annotations

import pytest

from metricwatch.worker.duty import Duty


class Time:
    """A clock that moves when somebody works or sleeps. late: how much longer each sleep lasts than was asked."""

    def __init__(self, *, late: float = 0.0) -> None:
        self.now = 0.0
        self.busy = 0.0
        self.sleeps: list[float] = []
        self._late = late

    def work(self, seconds: float) -> None:
        self.now += seconds
        self.busy += seconds

    def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.now += seconds + self._late

    def duty(self, share, **more):
        return Duty(share, clock=lambda: self.now, sleep=self.sleep, **more)

    def batches(self, *seconds: float):
        for number, each in enumerate(seconds):
            self.work(each)
            yield number


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5, 0.9])
def test_work_takes_its_share_of_the_time_and_all_of_it(share):
    time = Time()
    assert list(time.duty(share).paced(time.batches(0.3, 0.02, 2.5, 0.001))) == [0, 1, 2, 3]
    assert time.busy / time.now == pytest.approx(share, abs=0.001)
    assert time.busy / time.now <= share + 0.001


def test_a_share_of_one_never_pauses_nor_waits_for_the_device():
    time = Time()
    duty = time.duty(1.0, finish=lambda: time.work(100))
    list(duty.paced(time.batches(1, 1)))
    list(duty.making(time.batches(1, 1)))
    assert (time.sleeps, time.now) == ([], 4)


def test_what_is_done_with_a_batch_counts_and_so_does_what_the_device_still_does():
    time = Time()
    for _ in time.duty(0.5, finish=lambda: time.work(1)).paced(time.batches(1, 1)):
        time.work(3)
    # Two batches of 1 + 3 + 1 seconds, and a last look at the device.
    assert (time.busy, time.now) == (11, 22)


def test_of_things_made_only_the_making_counts():
    time = Time()
    duty = time.duty(0.5)
    for _ in duty.making(time.batches(1, 1)):
        time.now += 10
    assert sum(time.sleeps) == 2


def test_a_pause_is_over_before_what_was_made_is_handed_out():
    time = Time()
    seen = [time.now for _ in time.duty(0.5).making(time.batches(1, 1))]
    assert seen == [2, 4]


def test_pauses_within_the_work_are_no_work():
    time = Time()
    duty = time.duty(0.5)
    for _ in duty.paced(time.batches(1)):
        list(duty.paced(time.batches(2)))
    assert (time.busy, time.now) == (3, 6)


def test_a_long_pause_is_slept_in_steps():
    time = Time()
    list(time.duty(0.1).paced(time.batches(1)))
    assert time.sleeps == [1.0] * 9


def test_a_pause_has_an_end_and_the_rest_of_it_follows_later():
    time = Time()
    duty = time.duty(0.1, longest=4)
    list(duty.paced(time.batches(1)))
    # 9 seconds are owed; the end of the batches is another turn.
    assert sum(time.sleeps) == 8
    list(duty.paced(time.batches(0.0)))
    assert sum(time.sleeps) == 9


def test_tiny_batches_are_paused_for_together():
    time = Time()
    list(time.duty(0.5).paced(time.batches(*[0.001] * 100)))
    assert 15 <= len(time.sleeps) <= 20
    assert time.busy / time.now == pytest.approx(0.5, abs=0.02)


def test_a_sleep_that_lasts_longer_is_not_slept_again():
    time = Time(late=0.25)
    list(time.duty(0.5).paced(time.batches(1.5)))
    assert time.sleeps == [1.0, 0.25]


def test_batches_that_are_left_early_are_let_go():
    time = Time()
    paced = time.duty(0.5).paced(time.batches(1, 1))
    assert next(paced) == 0
    paced.close()
    assert time.sleeps == []
