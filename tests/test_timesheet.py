"""Coverage is told in seconds that add up to each hour, and recordings are accounted for like the microphone."""

from collections.abc import Iterator
from datetime import UTC, datetime

import numpy as np
import pytest

from agent.coverage import HOUR_NS, SECOND_NS, Tally
from agent.timesheet import COLUMNS, RecordingTimes, as_text, hour_rows, total_row
from agent.values import AudioBlock, FloatArray

RATE_HZ = 8_000
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
NOON_NS = round(NOON.timestamp()) * SECOND_NS
HOUR = NOON_NS // HOUR_NS


def noise(seconds: float) -> FloatArray:
    samples: FloatArray = np.random.default_rng(1).normal(0.0, 0.1, round(seconds * RATE_HZ)).astype(np.float32)
    return samples


def test_each_hour_adds_up_to_an_hour() -> None:
    """Of each hour up to now it is said what was heard, what was not, and how long the agent did not run."""
    hours = {
        HOUR - 3: Tally(heard=HOUR_NS // 2, lost=HOUR_NS // 4),
        HOUR - 1: Tally(heard=HOUR_NS - 90 * SECOND_NS, silent=60 * SECOND_NS, clipped=30 * SECOND_NS),
        HOUR: Tally(heard=600 * SECOND_NS),
    }

    rows = hour_rows(hours, now_ns=NOON_NS + 1200 * SECOND_NS, newest=24)

    assert [row["hour"] for row in rows] == [f"2026-01-01T{hour:02}:00:00.000Z" for hour in (9, 10, 11, 12)]
    assert [sum(row[name] for name in COLUMNS[1:]) for row in rows] == [3600.0, 3600.0, 3600.0, 1200.0]
    assert [row["coverage_percent"] for row in rows] == [50.0, 0.0, 97.5, 50.0]
    assert rows[1]["off_s"] == 3600.0
    assert total_row(rows)["coverage_percent"] == pytest.approx(100.0 * (1800 + 3510 + 600) / 12_000, abs=0.01)


def test_only_the_newest_hours_are_told() -> None:
    """Who asks for two hours gets this one and the last."""
    hours = {HOUR - i: Tally(heard=HOUR_NS) for i in range(10)}

    rows = hour_rows(hours, now_ns=NOON_NS + 10 * SECOND_NS, newest=2)

    assert [row["hour"][:13] for row in rows] == ["2026-01-01T11", "2026-01-01T12"]
    assert hour_rows({}, now_ns=NOON_NS, newest=2) == []


def test_a_person_reads_a_table() -> None:
    """A line for each hour, and one for all of them."""
    hours = {HOUR: Tally(heard=3000 * SECOND_NS, lost=300 * SECOND_NS)}

    lines = list(as_text(hour_rows(hours, now_ns=NOON_NS + HOUR_NS - 1, newest=1)))

    assert lines == [
        "hour (UTC)        coverage  heard s silent s clipped s   lost s    off s",
        "2026-01-01 12:00   83.33 %     3000        0         0      300      300",
        "all                83.33 %     3000        0         0      300      300",
    ]


@pytest.mark.parametrize("block_samples", [1, 801, 8_000, 10**6])
def test_a_recording_is_accounted_for_to_the_sample(block_samples: int) -> None:
    """However it is read, what was heard, silent, clipped and missing is its length."""
    samples = np.concatenate([noise(2.0), np.zeros(RATE_HZ, np.float32), np.sign(noise(0.5)), noise(0.123)])
    times = RecordingTimes(RATE_HZ, None)

    def blocks() -> Iterator[AudioBlock]:
        for first in range(0, len(samples), block_samples):
            yield AudioBlock(samples[first : first + block_samples], first)

    passed = list(times.watch(blocks()))

    assert sum(len(block.samples) for block in passed) == len(samples)
    assert times.row("street.flac", missing=RATE_HZ // 2) == {
        "file": "street.flac",
        "duration_s": 4.123,
        "coverage_percent": pytest.approx(100.0 * 2.123 / 4.123, abs=0.01),
        "heard_s": 2.123,
        "silent_s": 1.0,
        "clipped_s": 0.5,
        "lost_s": 0.5,
    }


def test_a_recording_whose_time_is_known_fills_hours() -> None:
    """A recording over the full hour is told for both hours."""
    times = RecordingTimes(RATE_HZ, datetime(2026, 1, 1, 11, 59, 58, tzinfo=UTC))

    list(times.watch([AudioBlock(noise(5.0), 0)]))
    row = times.row("street.flac", missing=0)

    assert row["start"] == "2026-01-01T11:59:58.000Z"
    assert [(hour["hour"][:13], hour["heard_s"]) for hour in row["hours"]] == [
        ("2026-01-01T11", 2.0),
        ("2026-01-01T12", 3.0),
    ]
