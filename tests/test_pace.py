"""Promises of `agent.pace`: a slow board falls back to wider hops before sound is lost, and comes back."""

from collections.abc import Callable

import pytest

from agent.pace import CALM_MAX_S, CALM_MIN_S, Pace

WIDEST = 8


def run(load: Callable[[float], float], duration_s: float, *, burst_s: float = 0.0) -> tuple[list[int], float]:
    """A board that needs `load` seconds of work for a second of sound at the configured hop, and less at wider ones.

    Args:
        load: at a time of the stream; half of it does not depend on the hop.
        duration_s: how much sound there is.
        burst_s: sound that comes at once after a pause, at the beginning.

    Returns:
        The factors, in the order in which they came; and the most that it was late.
    """
    pace, factors, late_s, latest_s = Pace(WIDEST), [1], burst_s, burst_s
    for tenth in range(round(duration_s * 10)):
        heard_s = tenth / 10
        work_s = load(heard_s) * (0.5 + 0.5 / pace.factor) * 0.1
        late_s = max(0.0, late_s + work_s - 0.1)
        latest_s = max(latest_s, late_s)
        if pace.push(heard_s, late_s) != factors[-1]:
            factors.append(pace.factor)
    return factors, latest_s


@pytest.mark.parametrize(
    ("load", "expected"), [(0.5, [1]), (0.99, [1]), (1.2, [1, 2]), (1.5, [1, 2, 4]), (1.7, [1, 2, 4, 8])]
)
def test_the_hop_is_as_wide_as_it_must_be(load: float, expected: list[int]) -> None:
    """It is doubled until the board keeps up, and not if it does anyway; what waits stays far below ten seconds."""
    factors, latest_s = run(lambda _: load, 55.0)

    assert factors == expected
    assert latest_s < 5.0


def test_a_stutter_widens_nothing() -> None:
    """A sound server that pauses for three seconds and then delivers everything is caught up with at the same hop."""
    assert run(lambda _: 0.5, 60.0, burst_s=3.0) == ([1], 3.0)


def test_the_hop_is_narrowed_when_the_board_has_time_again() -> None:
    """A minute after the load has gone the hop is halved, and again a minute later."""
    factors, _ = run(lambda heard_s: 1.5 if heard_s < 30.0 else 0.5, 30.0 + 2 * CALM_MIN_S + 20.0)

    assert factors == [1, 2, 4, 2, 1]


def test_a_board_that_stays_slow_is_not_tried_again_and_again() -> None:
    """Each time that it was too soon, the next try comes later: in a day a few dozen, not a thousand."""
    factors, latest_s = run(lambda _: 1.2, 24 * 3600.0)

    assert set(factors) == {1, 2}
    assert len(factors) < 2 * (24 * 3600.0 / CALM_MAX_S + 10)
    assert latest_s < 5.0


def test_there_is_a_widest_hop() -> None:
    """Windows must touch, however slow the board is."""
    factors, _ = run(lambda _: 5.0, 60.0)

    assert factors == [1, 2, 4, 8]
