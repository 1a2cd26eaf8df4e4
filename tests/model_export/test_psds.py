"""PSDS on scenes small enough to be checked in the head; `test_score` holds it against the field's tool."""

import tracemalloc

import numpy as np
import pytest

from model_export import psds as psds_module
from model_export.psds import PSDS1, PSDS2, ScoredScene, Tolerances, psds
from model_export.scenes import Sounding

LABELS = ("siren", "dog_bark")
HOUR = 3_600  # stretches of one second


def an_hour(scores: dict[str, dict[tuple[int, int], float]], *true: Sounding) -> ScoredScene:
    """An hour with a score for each second; 0 where none is given."""
    table = np.zeros((HOUR, len(LABELS)), np.float32)
    for label, stretches in scores.items():
        for (start, stop), score in stretches.items():
            table[start:stop, LABELS.index(label)] = score
    return ScoredScene(np.arange(HOUR + 1, dtype=np.float64), table, true)


SIREN, DOG = Sounding(10.0, 20.0, "siren"), Sounding(30.0, 32.0, "dog_bark")


def test_a_perfect_system_has_1() -> None:
    """It is sure of what sounds, and of nothing else."""
    scene = an_hour({"siren": {(10, 20): 0.9}, "dog_bark": {(30, 32): 0.8}}, SIREN, DOG)

    assert psds([scene], LABELS, PSDS1) == pytest.approx(1.0)
    assert psds([scene], LABELS, PSDS2) == pytest.approx(1.0)


def test_what_is_never_found_costs_its_share_and_the_spread() -> None:
    """One of two labels is found at once, the other never: mean 0.5, standard deviation 0.5."""
    scene = an_hour({"siren": {(10, 20): 0.9}}, SIREN, DOG)

    assert psds([scene], LABELS, Tolerances(0.7, 0.7, instability_cost=0.0)) == pytest.approx(0.5)
    assert psds([scene], LABELS, PSDS1) == pytest.approx(0.0)


def test_false_positives_that_are_surer_than_the_truth_cost_area() -> None:
    """25 false alarms in an hour come before the siren is found: a quarter of the 100 is lost."""
    false = {(100 + 10 * n, 102 + 10 * n): 0.95 for n in range(25)}
    scene = an_hour({"siren": {(10, 20): 0.9, **false}}, SIREN)

    assert psds([scene], LABELS, PSDS1) == pytest.approx(0.75)


def test_times_matter_to_one_and_not_to_the_other() -> None:
    """Half of the siren is told: enough for the right label, not for precise times."""
    scene = an_hour({"siren": {(10, 15): 0.9}}, SIREN)

    assert psds([scene], LABELS, PSDS1) == pytest.approx(0.0)
    assert psds([scene], LABELS, PSDS2) == pytest.approx(1.0)


def test_a_cross_trigger_costs_more_than_a_false_positive() -> None:
    """The siren's score rises at the dog first: 1 false positive an hour, and half of a trigger for 2 s of dog."""
    scene = an_hour({"siren": {(10, 20): 0.5, (30, 32): 0.9}, "dog_bark": {(30, 32): 0.9}}, SIREN, DOG)
    rate = 1.0 + 0.5 * HOUR / 2.0  # more than 100

    assert psds([scene], LABELS, PSDS2) == pytest.approx(0.0)
    wide = Tolerances(0.1, 0.1, cross_tolerance=0.3, cross_cost=0.5, instability_cost=0.0, max_rate=2 * rate)
    assert psds([scene], LABELS, wide) == pytest.approx((0.5 + 1.0) / 2)


def minutes(n_minutes: int) -> ScoredScene:
    """A scene with scores that are nearly all different, each of a tenth of a second, and a siren each half minute."""
    rng = np.random.default_rng(0)
    n = 600 * n_minutes
    scores = np.convolve(rng.beta(0.5, 3.0, n), np.full(10, 0.1), "same")
    sirens = [Sounding(at, at + 3.0, "siren") for at in np.arange(5.0, 60.0 * n_minutes, 30.0)]
    return ScoredScene(np.arange(n + 1) / 10, np.stack([scores, scores[::-1]], axis=1).astype(np.float32), sirens)


def test_a_long_recording_needs_little_memory() -> None:
    """Five minutes have 3 000 thresholds with 3 000 stretches each, and are not looked at all at once."""
    scene = minutes(5)
    tracemalloc.start()
    try:
        psds([scene], LABELS, PSDS1)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < 50e6


def test_it_does_not_matter_how_many_thresholds_are_looked_at_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """One by one, they give the same to the last bit."""
    scene = minutes(1)
    scene = ScoredScene(scene.edges_s, scene.scores, [*scene.soundings, DOG])
    easy = Tolerances(0.1, 0.1, cross_tolerance=0.3, cross_cost=0.5, instability_cost=0.0)
    together = psds([scene], LABELS, easy)
    monkeypatch.setattr(psds_module, "MAX_VALUES", 1)

    assert 0.1 < together < 0.9
    assert psds([scene], LABELS, easy) == together


def test_nothing_true_is_no_score() -> None:
    """Without any event there is nothing to detect."""
    assert psds([an_hour({"siren": {(0, 5): 0.9}})], LABELS, PSDS1) == 0.0
