from random import Random

from hypothesis import given
from hypothesis import strategies as st

from lonc.runtime.backoff import Backoff


@given(st.integers())
def test_delays_double_up_to_the_longest_each_shortened_by_up_to_a_quarter(seed):
    backoff = Backoff(1, 60, Random(seed), at_once=1)
    assert backoff.next_delay() == 0
    for whole in (1, 2, 4, 8, 16, 32, 60, 60):
        assert whole * 0.75 <= backoff.next_delay() <= whole


def test_after_a_reset_the_first_delay_is_next():
    backoff = Backoff(1, 60, Random(1), at_once=1)
    for _ in range(5):
        backoff.next_delay()
    backoff.reset()
    assert backoff.next_delay() == 0
    assert backoff.next_delay() <= 1


def test_with_at_once_0_even_the_first_delay_is_not_0():
    assert Backoff(1, 60, Random(1)).next_delay() >= 0.75


def test_the_first_delay_is_at_most_the_longest():
    backoff = Backoff(60, 2, Random(1))
    assert [backoff.next_delay() <= 2 for _ in range(3)] == [True] * 3
