"""Deaf time is noticed within ten seconds, whatever it comes from, and over when its cause is."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from agent.liveness import Liveness, LivenessWatch, Sight

NOTICED_S = 10.0


@dataclass
class Sensor:
    """A sensor in a world whose clock the test moves, looked at once a second.

    Attributes:
        captured, analysed, zero, constant, clipped: seconds of sound for each second.
    """

    captured: float = 1.0
    analysed: float = 1.0
    zero: float = 0.0
    constant: float = 0.0
    clipped: float = 0.0
    device: bool = True

    def __post_init__(self) -> None:
        self.now_s = 7_000.0
        self.watch = LivenessWatch(self.now_s)
        self.told: list[tuple[float, str, str | None]] = []
        self.sight = Sight(self.now_s, self.device, 0.0, 0.0)

    def go_on(self, seconds: float, look_s: float = 1.0) -> "Sensor":
        for _ in range(round(seconds / look_s)):
            self.now_s += look_s
            last = self.sight
            self.sight = Sight(
                self.now_s,
                self.device,
                last.captured_s + self.captured * look_s,
                last.analysed_s + self.analysed * look_s,
                last.zero_s + self.zero * look_s,
                last.constant_s + self.constant * look_s,
                last.clipped_s + self.clipped * look_s,
            )
            changed = self.watch.push(self.sight)
            if changed is not None:
                self.told.append((self.now_s, changed.state, changed.cause))
        return self

    @property
    def state(self) -> tuple[str, str | None]:
        return self.watch.now.state, self.watch.now.cause


def hearing(seconds: float = 600.0) -> Sensor:
    sensor = Sensor().go_on(seconds)
    assert sensor.state == ("hearing", None)
    return sensor


def test_a_sensor_that_hears_says_so_once() -> None:
    """From the start to hearing takes seconds, and then there is nothing more to say."""
    sensor = hearing()

    assert [(state, cause) for _, state, cause in sensor.told] == [("hearing", None)]
    assert sensor.told[0][0] - 7_000.0 <= 5.0
    assert sensor.watch.changes == {"recovering": 1, "hearing": 1}


def unplug(sensor: Sensor) -> None:
    sensor.device, sensor.captured, sensor.analysed = False, 0.0, 0.0


def freeze(sensor: Sensor) -> None:
    sensor.captured = sensor.analysed = 0.0


def half(sensor: Sensor) -> None:
    sensor.captured = sensor.analysed = 0.5


def hang(sensor: Sensor) -> None:
    sensor.analysed = 0.0


def slow(sensor: Sensor) -> None:
    sensor.analysed = 0.4


def zero(sensor: Sensor) -> None:
    sensor.zero = 1.0


def constant(sensor: Sensor) -> None:
    sensor.constant = 1.0


def clip(sensor: Sensor) -> None:
    sensor.clipped = 0.8


TROUBLES = [
    (unplug, "lost", "device"),
    (freeze, "stalled", "no_samples"),
    (half, "stalled", "too_few_samples"),
    (hang, "stalled", "analysis"),
    (slow, "stalled", "too_slow"),
    (zero, "silent", "zero"),
    (constant, "silent", "constant"),
    (clip, "clipped", "clipped"),
]


@pytest.mark.parametrize(("trouble", "state", "cause"), TROUBLES)
@pytest.mark.parametrize("age_s", [5.0, 600.0])
def test_deaf_time_is_noticed_in_time_and_over_with_its_cause(
    trouble: Callable[[Sensor], None], state: str, cause: str, age_s: float
) -> None:
    """Each trouble is told once, within ten seconds, with its cause; and so is its end."""
    sensor = hearing(age_s)
    sensor.told.clear()
    trouble(sensor)
    since_s = sensor.now_s
    sensor.go_on(120.0)

    assert [(told, why) for _, told, why in sensor.told] == [(state, cause)]
    assert sensor.told[0][0] - since_s <= NOTICED_S

    sensor.captured = sensor.analysed = 1.0
    sensor.zero = sensor.constant = sensor.clipped = 0.0
    sensor.device = True
    since_s = sensor.now_s
    sensor.go_on(120.0)

    assert sensor.state == ("hearing", None)
    assert sensor.told[-1][0] - since_s <= NOTICED_S
    recovering = [state for _, state, _ in sensor.told[1:-1]]
    assert recovering == (["recovering"] if state in {"lost", "stalled"} else [])


@pytest.mark.parametrize(("trouble", "state", "cause"), TROUBLES)
def test_a_sensor_that_never_hears_says_why_in_time(trouble: Callable[[Sensor], None], state: str, cause: str) -> None:
    """The same from the very first second on."""
    sensor = Sensor()
    trouble(sensor)

    sensor.go_on(NOTICED_S)

    assert sensor.state == (state, cause)


@pytest.mark.parametrize("look_s", [0.05, 0.5, 1.0])
def test_a_stutter_of_the_sound_server_is_not_deaf_time(look_s: float) -> None:
    """Sound that comes 3 s late, all at once, is no reason to alarm anybody."""
    sensor = hearing()
    sensor.told.clear()
    for _ in range(5):
        sensor.captured = sensor.analysed = 0.0
        sensor.go_on(3.0, look_s)
        sensor.captured = sensor.analysed = 1.0 + 3.0 / look_s
        sensor.go_on(look_s, look_s)
        sensor.captured = sensor.analysed = 1.0
        sensor.go_on(10.0, look_s)

    assert sensor.told == []


def test_a_device_that_comes_back_dead_is_not_taken_for_one_that_hears() -> None:
    """Plugged in again and without a sample: first recovering, then stalled, never hearing."""
    sensor = hearing()
    unplug(sensor)
    sensor.go_on(30.0)
    sensor.told.clear()
    sensor.device = True

    sensor.go_on(30.0)

    assert [(state, cause) for _, state, cause in sensor.told] == [
        ("recovering", "device"),
        ("stalled", "no_samples"),
    ]


def test_a_change_of_cause_is_told_and_is_no_new_state() -> None:
    """From all zero to constant: still silent, for another reason, and counted once."""
    sensor = hearing()
    zero(sensor)
    sensor.go_on(30.0)
    sensor.zero, sensor.constant = 0.0, 1.0
    sensor.go_on(30.0)

    assert [cause for _, state, cause in sensor.told if state == "silent"] == ["zero", "constant"]
    assert sensor.watch.changes["silent"] == 1


def test_the_state_knows_since_when() -> None:
    """The time of a change is that of the look."""
    watch = LivenessWatch(5.0)

    assert watch.now == Liveness("recovering", "start", 5.0)
    watch.push(Sight(6.5, device=False, captured_s=0.0, analysed_s=0.0))
    assert watch.now == Liveness("lost", "device", 6.5)
