"""Whether a likelihood can be read as how often it is right, and what makes it so: numbers that can be checked."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest
from scipy import optimize, special

from agent.errors import UsageError
from model_export.calibration import (
    CALIBRATED,
    Calibration,
    Floats,
    Rescaling,
    calibrated_runs,
    calibration_error,
    calibration_of,
    fit,
    read_rescaling,
    reliability,
)
from model_export.results import FoldWindows, Output
from tests.model_export.predicted import predicted, windows_of


def calibration_of_rows(rows: list[tuple[str, str, str, float]]) -> Calibration:
    """The calibration of one run; each clip counts the same."""
    run = predicted(rows)
    return calibration_of(run.likelihoods, run.targets, np.ones(len(rows)), run.labels)


def test_a_perfectly_calibrated_system_has_no_calibration_error() -> None:
    """Of ten clips with likelihood 0.8 eight are right, of ten with 0.6 six."""
    likelihoods = np.repeat([0.8, 0.6], 10)
    is_right = np.concatenate([np.arange(10) < 8, np.arange(10) < 6])

    bins = reliability(likelihoods, is_right, np.ones(20))

    assert [(one.lower, one.upper, one.clips, one.right) for one in bins] == [(0.6, 0.7, 10, 0.6), (0.8, 0.9, 10, 0.8)]
    assert calibration_error(bins) == pytest.approx(0.0)


def test_an_overconfident_system_has_the_error_by_which_it_is_overconfident() -> None:
    """Two of four clips with likelihood 0.9 and the one with 0.6 are right: 0.4 too sure, and too modest by as much."""
    rows = [(name, "siren", "siren" if name in "ab" else "drilling", 0.9) for name in "abcd"]
    rows.append(("e", "siren", "siren", 0.6))

    calibration = calibration_of_rows(rows)

    assert calibration.error == pytest.approx(0.4)
    assert calibration.likelihood == pytest.approx(0.84)
    assert calibration.right == pytest.approx(0.6)


def test_the_error_of_a_label_is_about_its_own_likelihood() -> None:
    """Both clips are sirens; one has likelihood 0.9 for it, the other 0.01. Of drilling neither is, one has 0.9."""
    rows = [("a", "siren", "siren", 0.9), ("b", "siren", "drilling", 0.9)]

    errors = calibration_of_rows(rows).label_errors

    assert errors["siren"] == pytest.approx((0.1 + 0.99) / 2)
    assert errors["drilling"] == pytest.approx((0.01 + 0.9) / 2)
    assert errors["dog_bark"] == pytest.approx(0.01)


def test_the_bounds_of_the_bins_belong_somewhere() -> None:
    """0, 1 and a bound between two bins are each in one bin."""
    bins = reliability(np.array([0.0, 0.3, 1.0]), np.array([False, True, True]), np.ones(3))

    assert [(one.lower, one.clips) for one in bins] == [(0.0, 1), (0.3, 1), (0.9, 1)]


# Making it so


def test_softmax_that_is_too_sure_gets_its_temperature() -> None:
    """Sums that are three times too large are divided by three; no label gains on another."""
    rescaling = fit([windows_of("softmax", n_clips=3_000, too_sure=3.0)])

    np.testing.assert_allclose(rescaling.scale, 1 / 3, rtol=0.1)
    assert set(rescaling.scale) == {rescaling.scale[0]}
    assert set(rescaling.bias) == {0.0}


def test_few_recordings_are_outweighed_by_those_that_speak_for_leaving_it() -> None:
    """The scale that makes 20 clips the most likely, with ten others of a normal prior against any change."""
    fold = windows_of("softmax", n_clips=20, too_sure=5.0)
    first_windows = fold.sums[::2].astype(np.float64)  # the second of each clip is the same

    def cost(logarithm: float) -> float:
        likelihoods = special.softmax(first_windows * np.exp(logarithm), axis=1)
        return float(-np.log(likelihoods[np.arange(20), fold.run.targets]).mean() + 10 / 20 * logarithm**2 / 2)

    best = np.exp(optimize.minimize_scalar(cost, bounds=(-3.0, 3.0), method="bounded").x)

    assert fit([fold]).scale[0] == pytest.approx(best, rel=1e-3)
    assert best > 0.3  # of one that is not outweighed, 0.2


def test_each_sigmoid_gets_its_own_scale_and_bias() -> None:
    """Twice too sure, and the first label one too high besides: both are taken back, for that label alone."""
    rescaling = fit([windows_of("sigmoid", n_clips=10_000, too_sure=2.0, shift=1.0)])

    np.testing.assert_allclose(rescaling.scale, 0.5, rtol=0.15)
    np.testing.assert_allclose(rescaling.bias, [-0.5, 0.0, 0.0], atol=0.15)


def errors_of(likelihoods: Floats, fold: FoldWindows) -> dict[str, float]:
    """The calibration error of each label."""
    weights = np.ones(len(fold.run.targets))
    return calibration_of(likelihoods, fold.run.targets, weights, fold.run.labels).label_errors


@pytest.mark.parametrize("output", ["softmax", "sigmoid"])
def test_likelihoods_hold_on_clips_that_nothing_was_fitted_on(output: Output) -> None:
    """Each fold is calibrated on the other; what was far off is nearly right."""
    folds = [windows_of(output, fold=fold, n_clips=3_000, too_sure=3.0) for fold in (1, 2)]
    as_it_is = Rescaling(output, folds[0].run.labels, (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), (), 0)

    runs = calibrated_runs(folds)

    assert [(run.system, run.fold, run.clips) for run in runs] == [
        (CALIBRATED, fold.run.fold, fold.run.clips) for fold in folds
    ]
    for run, fold in zip(runs, folds, strict=True):
        after = errors_of(run.likelihoods, fold)
        assert max(after.values()) < 0.06
        assert sum(after.values()) < 0.7 * sum(errors_of(as_it_is.likelihoods(fold), fold).values())


def test_one_fold_alone_cannot_be_calibrated_and_measured() -> None:
    """Nothing is claimed about clips that the numbers were fitted on."""
    assert calibrated_runs([windows_of("softmax")]) == []


def test_a_label_of_few_clips_does_not_run_away() -> None:
    """Three clips that could be told apart without fail: the numbers stay near where they were, and near each other."""
    rescaling = fit([windows_of("sigmoid", n_clips=3)])

    np.testing.assert_allclose(rescaling.scale, 1.0, atol=0.3)
    np.testing.assert_allclose(rescaling.scale, rescaling.scale[0], atol=0.02)
    np.testing.assert_allclose(rescaling.bias, 0.0, atol=0.1)


def test_what_was_fitted_is_kept_beside_the_networks(tmp_path: Path) -> None:
    """The numbers, what they are for, and where they come from survive the way through their file."""
    rescaling = fit([windows_of("sigmoid", fold=fold, n_clips=50) for fold in (2, 1)])
    assert (rescaling.folds, rescaling.clips) == ((1, 2), 100)

    rescaling.write(tmp_path)

    assert read_rescaling(tmp_path) == rescaling


def test_half_a_calibration_is_none(tmp_path: Path, full_disk: Callable[[], AbstractContextManager[None]]) -> None:
    """What was fitted before stays."""
    before = fit([windows_of("sigmoid")])
    before.write(tmp_path)

    with full_disk(), pytest.raises(OSError, match="large"):
        fit([windows_of("softmax")]).write(tmp_path)

    assert read_rescaling(tmp_path) == before


def test_a_calibration_that_was_cut_is_named(tmp_path: Path) -> None:
    """Networks that were to be calibrated are not shipped without it."""
    (tmp_path / "calibration.json").write_text('{"output": "sigm', encoding="utf-8")

    with pytest.raises(UsageError, match=r"calibration\.json: not JSON .*, expected what `calibrate` wrote"):
        read_rescaling(tmp_path)


def test_networks_without_calibration_are_left_alone(tmp_path: Path) -> None:
    """No file, nothing to fold in."""
    assert read_rescaling(tmp_path) is None


def test_without_windows_there_is_nothing_to_fit() -> None:
    """The message says who writes them."""
    with pytest.raises(UsageError, match=r"no windows to calibrate on: .* `urbansound-model crossvalidate` wrote"):
        fit([])
