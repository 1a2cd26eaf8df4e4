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


def test_what_a_system_does_not_know_it_never_finds() -> None:
    """A peer of fewer labels is not praised for them: as one that knows the dog, and has no score for it."""
    scene = an_hour({"siren": {(10, 20): 0.9}}, SIREN, DOG)
    of_siren = ScoredScene(scene.edges_s, scene.scores[:, :1], scene.soundings)

    for tolerances in (PSDS1, Tolerances(0.7, 0.7, instability_cost=0.0)):
        assert psds([of_siren], LABELS[:1], tolerances) == psds([scene], LABELS, tolerances)


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


def test_what_is_just_enough_is_enough() -> None:
    """7 of the siren's 10 s are told; then 10 s are told, of which 7 are true: both are 0.7 to the last bit."""
    late, early = an_hour({"siren": {(13, 20): 0.9}}, SIREN), an_hour({"siren": {(13, 23): 0.9}}, SIREN)

    assert psds([late], LABELS, PSDS1) == pytest.approx(1.0)
    assert psds([early], LABELS, PSDS1) == pytest.approx(1.0)
    assert psds([an_hour({"siren": {(14, 23): 0.9}}, SIREN)], LABELS, PSDS1) == 0.0


def test_scenes_are_one_recording_after_the_other() -> None:
    """In two hours, one siren is found at once, the other after 50 false alarms: 25 an hour."""
    false = {(100 + 10 * n, 102 + 10 * n): 0.7 for n in range(50)}
    scenes = [an_hour({"siren": {(10, 20): 0.9}}, SIREN), an_hour({"siren": {(10, 20): 0.5, **false}}, SIREN)]

    assert psds(scenes, LABELS, PSDS1) == pytest.approx((0.5 * 25 + 1.0 * 75) / 100)


def test_the_spread_is_that_of_these_labels() -> None:
    """All sirens are found and half of the dogs: mean 0.75 less 0.25, the deviation of these two and not of more."""
    dogs = [DOG, Sounding(50.0, 52.0, "dog_bark")]
    scene = an_hour({"siren": {(10, 20): 0.9}, "dog_bark": {(30, 32): 0.9}}, SIREN, *dogs)

    assert psds([scene], LABELS, PSDS1) == pytest.approx(0.5)


def test_cross_triggers_count_in_the_mean_over_the_other_labels() -> None:
    """The siren's score rises at the dog first, and never at the drill, which is told as it is."""
    labels, drill = (*LABELS, "drilling"), Sounding(60.0, 70.0, "drilling")
    scene = an_hour({"siren": {(10, 20): 0.5, (30, 32): 0.9}, "dog_bark": {(30, 32): 0.9}}, SIREN, DOG, drill)
    of_drill = np.zeros((HOUR, 1), np.float32)
    of_drill[60:70] = 0.9
    scene = ScoredScene(scene.edges_s, np.concatenate([scene.scores, of_drill], axis=1), scene.soundings)
    rate = 1.0 + 0.5 * (HOUR / 2.0 + 0.0) / 2

    wide = Tolerances(0.1, 0.1, cross_tolerance=0.3, cross_cost=0.5, instability_cost=0.0, max_rate=2 * rate)
    assert psds([scene], labels, wide) == pytest.approx((2 / 3 + 1.0) / 2)


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
