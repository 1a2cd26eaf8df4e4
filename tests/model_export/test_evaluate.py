"""What cross-validation measured, judged: tables that can be checked by hand."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from agent.errors import UsageError
from model_export.clips import LABELS
from model_export.evaluate import (
    SystemFigures,
    evaluate,
    evaluate_folder,
    judgements,
    paired_test,
    rate,
)
from model_export.results import FoldPredictions, write_predictions, write_windows
from tests.model_export.predicted import predicted, windows_of


def figures_of(*runs: FoldPredictions) -> SystemFigures:
    """The figures of one system."""
    return evaluate(runs).systems[0]


# What cross-validation wrote


def test_each_data_set_is_judged_where_it_was_tested(tmp_path: Path) -> None:
    """A folder may hold UrbanSound8K's predictions, ESC-10's, or both."""
    ten = replace(predicted([("a", "siren", "siren", 0.9)], fold=4), labels=tuple("abcdefghijk"))
    write_predictions([ten], tmp_path / "esc10.csv")
    assert list(evaluate_folder(tmp_path)) == ["esc10"]
    write_predictions([predicted([("a", "siren", "siren", 0.9)])], tmp_path / "predictions.csv")

    evaluations = evaluate_folder(tmp_path)

    assert {dataset: list(one.systems[0].accuracy) for dataset, one in evaluations.items()} == {
        "us8k": [1],
        "esc10": [4],
    }
    assert evaluations["esc10"].systems[0].street_missed is None


def test_windows_that_were_kept_show_what_calibration_does(tmp_path: Path) -> None:
    """Our network is there once more, calibrated on the folds that it is not judged on."""
    folds = [windows_of("softmax", fold=fold, n_clips=60, too_sure=3.0) for fold in (1, 2)]
    write_predictions([fold.run for fold in folds], tmp_path / "predictions.csv")
    for fold in folds:
        (tmp_path / f"fold{fold.run.fold}").mkdir()
        write_windows(fold, tmp_path / f"fold{fold.run.fold}" / "windows.npz")

    systems = evaluate_folder(tmp_path)["us8k"].systems

    assert [one.system for one in systems] == ["l3-edge float", "l3-edge float, calibrated"]


def test_calibration_is_left_out_where_a_fold_kept_no_windows(tmp_path: Path) -> None:
    """The others are judged all the same: a mean over fewer folds would be no comparison."""
    folds = [windows_of("softmax", fold=fold, n_clips=60) for fold in (1, 2, 3)]
    write_predictions([fold.run for fold in folds], tmp_path / "predictions.csv")
    for fold in folds[:2]:
        (tmp_path / f"fold{fold.run.fold}").mkdir()
        write_windows(fold, tmp_path / f"fold{fold.run.fold}" / "windows.npz")

    systems = evaluate_folder(tmp_path)["us8k"].systems

    assert [one.system for one in systems] == ["l3-edge float"]


# Rates and their errors


def test_a_rate_has_the_binomial_standard_error() -> None:
    """3 of 4 clips: sqrt(0.75 * 0.25 / 4)."""
    figure = rate([True, True, True, False], [1.0] * 4, ["a", "b", "c", "d"])

    assert (figure.value, figure.clips, figure.recordings) == (0.75, 4, 4)
    assert figure.binomial_error == pytest.approx(0.2165, abs=1e-4)


def test_clips_of_one_recording_are_not_independent() -> None:
    """Ten clips of each of eight recordings, all right or all wrong: as unsure as eight clips, not as eighty."""
    is_right = np.repeat([True, True, True, True, False, False, False, False], 10)
    recordings = np.repeat(list("abcdefgh"), 10)

    figure = rate(is_right, np.ones(80), recordings)

    assert figure.binomial_error == pytest.approx(0.0559, abs=1e-4)  # sqrt(0.25 / 80)
    assert figure.recording_error == pytest.approx(0.1768, rel=0.05)  # sqrt(0.25 / 8)


def test_independent_clips_have_the_same_error_either_way() -> None:
    """One clip of each recording: the bootstrap comes to the binomial error."""
    figure = rate(np.arange(100) < 70, np.ones(100), [str(number) for number in range(100)])

    assert figure.recording_error == pytest.approx(figure.binomial_error, rel=0.05)


def test_one_recording_does_not_say_how_recordings_differ() -> None:
    """No error by recording is invented; nor for the mean of folds, where one of them has none."""
    assert rate([True, False], [1.0, 1.0], ["a", "a"]).recording_error is None
    two, one = [("a", "siren", "siren", 0.9), ("b", "siren", "drilling", 0.9)], [("c", "siren", "siren", 0.9)]

    assert figures_of(predicted(two, fold=1), predicted(one, fold=2)).mean_accuracy.recording_error is None


# Folds and labels


def test_each_fold_and_their_mean() -> None:
    """1 of 2 and 2 of 2 street sounds make 75 %, whatever is taken for background's own clips."""
    first = [("a", "siren", "siren", 0.9), ("b", "siren", "background", 0.9), ("c", "background", "siren", 0.9)]
    second = [("d", "siren", "siren", 0.9), ("e", "dog_bark", "dog_bark", 0.9)]

    figures = figures_of(predicted(first, fold=1), predicted(second, fold=2))

    assert {fold: one.value for fold, one in figures.accuracy.items()} == {1: 0.5, 2: 1.0}
    assert figures.mean_accuracy.value == 0.75
    assert figures.mean_accuracy.binomial_error == pytest.approx(np.sqrt(0.25 / 2) / 2)
    assert (figures.mean_accuracy.clips, figures.mean_accuracy.recordings) == (4, 4)
    of_first = figures.accuracy[1].recording_error  # the second, where all is right, has none
    assert of_first
    assert figures.mean_accuracy.recording_error == pytest.approx(of_first / 2)
    assert {label: one.value for label, one in figures.recall.items()} == {
        "dog_bark": 1.0,
        "siren": pytest.approx(2 / 3),
        "background": 0.0,
    }
    assert figures.street_missed is not None
    assert figures.street_missed.value == 0.25
    siren, background = LABELS.index("siren"), LABELS.index("background")
    assert figures.confusion[siren][siren] == 2
    assert figures.confusion[siren][background] == figures.confusion[background][siren] == 1


def test_several_seeds_are_averaged_and_each_clip_counts_once() -> None:
    """Two runs, one all right and one half right: 75 % of two clips, not of four."""
    right = [("a", "siren", "siren", 0.9), ("b", "siren", "siren", 0.9)]
    half = [("a", "siren", "siren", 0.9), ("b", "siren", "drilling", 0.9)]

    figures = figures_of(predicted(right, seed=0), predicted(half, seed=1))

    assert figures.runs == 2
    assert (figures.accuracy[1].value, figures.accuracy[1].clips) == (0.75, 2)
    assert figures.confusion[LABELS.index("siren")][LABELS.index("siren")] == 1.5


def test_a_system_that_was_not_tested_on_all_folds_is_refused() -> None:
    """A mean over other folds would be no comparison."""
    rows = [("a", "siren", "siren", 0.9)]
    runs = [predicted(rows, fold=1), predicted(rows, fold=2), predicted(rows, fold=2, system="peer")]

    with pytest.raises(UsageError, match="peer was tested on fold 2, expected all of 1, 2"):
        evaluate(runs)


def test_the_first_system_is_compared_with_the_others() -> None:
    """Whatever it is called: a model folder of one's own, for one."""
    rows = [("a", "siren", "siren", 0.9)]

    evaluation = evaluate([predicted(rows, system=name) for name in ("mine", "peer", "other")])

    assert [one.system for one in evaluation.systems] == ["mine", "peer", "other"]
    assert [test.system for test in evaluation.tests] == ["peer", "other"]


def test_likelihoods_need_not_sum_to_one() -> None:
    """Several labels at once: the clip's label is the one with the largest likelihood."""
    run = predicted([("a", "siren", "siren", 0.9), ("b", "drilling", "siren", 0.9)])
    both = np.where(np.arange(len(LABELS)) == LABELS.index("drilling"), [[0.8], [0.95]], run.likelihoods)

    figures = figures_of(replace(run, likelihoods=both))

    assert figures.mean_accuracy.value == 1.0
    assert figures.calibration.likelihood == pytest.approx((0.9 + 0.95) / 2)


def test_systems_that_were_tested_on_different_clips_are_refused() -> None:
    """There is nothing to compare clip by clip."""
    rows = [("a", "siren", "siren", 0.9), ("b", "siren", "drilling", 0.9)]

    with pytest.raises(UsageError, match="fold 1: its systems were tested on different clips"):
        evaluate([predicted(rows), predicted(rows[:1], system="peer")])


def test_a_fold_without_street_sounds_is_refused() -> None:
    """It has no accuracy."""
    with pytest.raises(UsageError, match="fold 1: no street sound among its 1 clips"):
        evaluate([predicted([("a", "background", "background", 0.9)])])


# Against the others


def rows_of(right_clips: dict[str, int], n_clips: int = 8) -> list[tuple[str, str, str, float]]:
    """The same number of clips of each recording, the first ones right."""
    return [
        (recording, "siren", "siren" if number < n_right else "drilling", 0.9)
        for recording, n_right in right_clips.items()
        for number in range(n_clips)
    ]


def test_the_paired_test_tells_which_is_better() -> None:
    """Better on all of five recordings, by different amounts: p = 2 / 2**5, in either direction."""
    many = judgements([predicted(rows_of({"a": 8, "b": 8, "c": 8, "d": 8, "e": 8, "f": 4}))])
    few = judgements([predicted(rows_of({"a": 7, "b": 6, "c": 5, "d": 4, "e": 3, "f": 4}))])

    ours_better, ours_worse = paired_test("x", many, few), paired_test("x", few, many)

    assert (ours_better.recordings, ours_better.better, ours_better.worse, ours_better.n) == (6, 5, 0, 5)
    assert ours_better.mean_difference == pytest.approx(15 / 8 / 6)
    assert (ours_better.statistic, ours_better.p_value) == (0.0, 0.0625)
    assert ours_worse.mean_difference == -ours_better.mean_difference
    assert (ours_worse.better, ours_worse.worse, ours_worse.p_value) == (0, 5, 0.0625)


def test_a_system_does_not_differ_from_itself() -> None:
    """Nothing to rank: chance alone makes no difference."""
    same = judgements([predicted(rows_of({"a": 8, "b": 2}))])

    test = paired_test("x", same, same)

    assert (test.n, test.mean_difference, test.statistic, test.p_value) == (0, 0.0, 0.0, 1.0)


def test_each_other_system_is_compared_with_ours() -> None:
    """Recordings of background are not in the comparison."""
    rows = [*rows_of({"a": 8, "b": 2}), ("c", "background", "siren", 0.9)]

    (test,) = evaluate([predicted(rows), predicted(rows, system="peer")]).tests

    assert (test.system, test.recordings) == ("peer", 2)
