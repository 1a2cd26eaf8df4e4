"""Whether a likelihood can be read as how often it is right: tables that can be checked by hand."""

import numpy as np
import pytest

from model_export.calibration import Calibration, calibration_error, calibration_of, reliability
from tests.model_export.predicted import predicted


def calibration_of_rows(rows: list[tuple[str, str, str, float]]) -> Calibration:
    """The calibration of one run; each clip counts the same."""
    run = predicted(rows)
    return calibration_of(run.likelihoods, run.targets, np.ones(len(rows)))


def test_a_perfectly_calibrated_system_has_no_calibration_error() -> None:
    """Of ten clips with likelihood 0.8 eight are right, of ten with 0.6 six."""
    likelihoods = np.repeat([0.8, 0.6], 10)
    is_right = np.concatenate([np.arange(10) < 8, np.arange(10) < 6])

    bins = reliability(likelihoods, is_right, np.ones(20))

    assert [(one.lower, one.upper, one.clips, one.right) for one in bins] == [(0.6, 0.7, 10, 0.6), (0.8, 0.9, 10, 0.8)]
    assert calibration_error(bins) == pytest.approx(0.0)


def test_an_overconfident_system_has_the_error_by_which_it_is_overconfident() -> None:
    """Half of the clips with likelihood 0.9 are right: 0.4 too sure."""
    rows = [("a", "siren", "siren", 0.9), ("b", "siren", "drilling", 0.9)]

    calibration = calibration_of_rows(rows)

    assert calibration.error == pytest.approx(0.4)
    assert calibration.likelihood == pytest.approx(0.9)
    assert calibration.right == 0.5


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
