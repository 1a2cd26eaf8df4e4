"""All time is accounted for: what is booked adds up, hour by hour, to the nanosecond."""

import random
from datetime import UTC, datetime

import pytest

from agent.coverage import HOUR_NS, SECOND_NS, Kind, Ledger, Tally, duration_ns

KINDS: tuple[Kind, ...] = ("heard", "silent", "clipped", "lost")
NOON_NS = round(datetime(2026, 1, 1, 12, tzinfo=UTC).timestamp()) * SECOND_NS


@pytest.mark.parametrize("rate_hz", [8_000, 44_100, 47_999, 48_000, 192_000])
@pytest.mark.parametrize("seed", range(3))
def test_every_sample_is_in_the_sum_and_in_one_hour(rate_hz: int, seed: int) -> None:
    """However sound and gaps alternate, the parts add up to the whole, and the hours to the same."""
    chance = random.Random(seed)
    ledger = Ledger(NOON_NS - 1_234_567)
    n_samples = 0
    counted = dict.fromkeys(KINDS, 0)
    while n_samples < 3 * 3600 * rate_hz:
        kind, n = chance.choice(KINDS), chance.randrange(1, 400 * rate_hz)
        counted[kind] += n
        ledger.book(kind, duration_ns(n_samples, n, rate_hz))
        n_samples += n

    assert ledger.total.accounted == ledger.position_ns == n_samples * SECOND_NS // rate_hz
    whole = Tally()
    for number, tally in ledger.hours():
        assert tally.accounted <= HOUR_NS
        assert number in range(NOON_NS // HOUR_NS - 1, NOON_NS // HOUR_NS + 5)
        whole += tally
    assert whole == ledger.total
    full_hours = [tally.accounted for _, tally in list(ledger.hours())[1:-1]]
    assert full_hours == [HOUR_NS] * len(full_hours)
    for kind in KINDS:
        assert getattr(ledger.total, kind) == pytest.approx(counted[kind] * SECOND_NS / rate_hz, abs=20_000)


def test_hours_are_split_at_the_sample() -> None:
    """An hour ends in the middle of a span, and each hour gets its share."""
    ledger = Ledger(NOON_NS - 10 * SECOND_NS)

    ledger.book("heard", 4 * SECOND_NS)
    ledger.book("lost", 16 * SECOND_NS)

    noon = NOON_NS // HOUR_NS
    assert ledger.hour(noon - 1) == Tally(heard=4 * SECOND_NS, lost=6 * SECOND_NS)
    assert ledger.hour(noon) == Tally(lost=10 * SECOND_NS)


def test_coverage_is_what_was_heard_of_the_hour() -> None:
    """Silent, clipped and lost time is not covered, nor is that in which the agent did not run."""
    noon = NOON_NS // HOUR_NS
    ledger = Ledger(NOON_NS + HOUR_NS // 2)  # it ran for half of this hour only
    ledger.book("heard", HOUR_NS // 4)
    ledger.book("silent", HOUR_NS // 8)
    ledger.book("clipped", HOUR_NS // 8)
    ledger.book("heard", HOUR_NS // 2)

    assert ledger.percent_of_hour(noon) == 25.0
    assert ledger.percent_of_hour(noon + 1) == 100.0, "of the time so far"
    assert ledger.percent_of_hour(noon + 2) is None


def test_what_was_known_of_the_hour_before_the_start_counts() -> None:
    """A restart within an hour does not begin the hour anew."""
    noon = NOON_NS // HOUR_NS
    ledger = Ledger(NOON_NS + HOUR_NS // 2, {noon: Tally(heard=HOUR_NS // 2)})

    ledger.book("lost", HOUR_NS // 2)

    assert ledger.percent_of_hour(noon) == 50.0
    assert ledger.take_news() == {noon: Tally(lost=HOUR_NS // 2)}


def test_news_are_told_once_and_old_hours_forgotten() -> None:
    """What goes to the disk is what is new; only this hour and the last stay in memory."""
    ledger = Ledger(NOON_NS)
    noon = NOON_NS // HOUR_NS
    ledger.book("heard", 3 * HOUR_NS + SECOND_NS)

    assert ledger.take_news() == {noon + i: Tally(heard=HOUR_NS if i < 3 else SECOND_NS) for i in range(4)}
    assert ledger.take_news() == {}
    assert [number for number, _ in ledger.hours()] == [noon + 2, noon + 3]


@pytest.mark.parametrize("ppm", [-400, -50, 0, 50, 400])
def test_a_card_that_is_a_little_fast_or_slow_loses_nothing(ppm: int) -> None:
    """For days the account agrees with the clock to 0.1 %, and nothing is called lost."""
    ledger = Ledger(NOON_NS)
    minute_ns = 60 * SECOND_NS
    for minute in range(1, 2 * 24 * 60):
        ledger.book("heard", minute_ns - minute_ns * ppm // 10**6)
        assert ledger.settle(minute * minute_ns) == 0
        assert abs(minute * minute_ns - ledger.position_ns) < 2 * SECOND_NS

    assert ledger.total.lost == 0
    assert ledger.drift_ns + ledger.total.accounted == ledger.position_ns
    for _, tally in list(ledger.hours())[:-1]:
        assert tally.accounted == pytest.approx(HOUR_NS, rel=0.001)


@pytest.mark.parametrize("lost_ms_a_minute", [100, 250])
def test_sound_that_trickles_away_is_found(lost_ms_a_minute: int) -> None:
    """What a sound server drops each minute, too little to be noticed each time, is found within the hour."""
    ledger = Ledger(NOON_NS)
    minute_ns = 60 * SECOND_NS
    missing_ns = 0
    for minute in range(1, 61):
        ledger.book("heard", minute_ns - lost_ms_a_minute * SECOND_NS // 1000)
        missing_ns += ledger.settle(minute * minute_ns)

    assert missing_ns == ledger.total.lost
    assert ledger.total.lost == pytest.approx(60 * lost_ms_a_minute * SECOND_NS // 1000, rel=0.2)
    assert ledger.total.accounted == pytest.approx(HOUR_NS, rel=0.001)


def test_a_clock_that_is_set_moves_what_comes_later() -> None:
    """When the time of day becomes known, later spans go into the right hours; the sum does not change."""
    ledger = Ledger(0)
    ledger.book("heard", 60 * SECOND_NS)
    ledger.date(NOON_NS)
    ledger.book("heard", 60 * SECOND_NS)

    assert dict(ledger.hours()) == {
        0: Tally(heard=60 * SECOND_NS),
        NOON_NS // HOUR_NS: Tally(heard=60 * SECOND_NS),
    }
    assert ledger.total.heard == ledger.position_ns == 120 * SECOND_NS
