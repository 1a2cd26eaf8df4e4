"""What cross-validation measured, and its files."""

import json
from pathlib import Path

import numpy as np
import pytest

from agent.errors import UsageError
from model_export.clips import LABELS, Clip
from model_export.results import (
    COLUMNS,
    FoldResult,
    predictions_of,
    read_folder,
    read_predictions,
    read_results,
    write_predictions,
    write_results,
)
from tests.model_export.predicted import predicted

ROWS = [("r1", "siren", "siren", 0.9), ("r1", "siren", "dog_bark", 0.6), ("r2", "background", "background", 0.8)]


def write_folder(folder: Path) -> Path:
    """Two systems on one fold."""
    runs = [predicted(ROWS), predicted(ROWS[::-1][1:2] + ROWS[:1] + ROWS[2:], system="peer")]
    (folder / "fold1").mkdir(parents=True)
    write_predictions(runs, folder / "fold1" / "predictions.csv")
    write_results([run.result for run in runs], folder / "crossvalidation.json")
    return folder


def test_a_clip_is_judged_by_the_sum_of_its_windows() -> None:
    """One confident window wins over two that lean a little the other way; the mean of them is kept."""
    clips = [Clip(Path(f"x/{name}.wav"), LABELS[0], "us8k", 1, name) for name in "ab"]
    likelihoods = np.zeros((4, len(LABELS)), np.float32)
    likelihoods[:, :2] = [[0.9, 0.1], [0.4, 0.6], [0.4, 0.6], [0.2, 0.8]]

    run = predictions_of(clips, likelihoods, [3, 1], system="x", fold=1, seed=0)

    np.testing.assert_array_equal(run.likelihoods[:, :2], [[0.5667, 0.4333], [0.2, 0.8]])
    assert run.result.confusion[0][:2] == [1, 1]
    assert run.clips == ("us8k a.wav", "us8k b.wav")


def test_background_for_a_street_sound_is_a_mistake() -> None:
    """Accuracy is over the street's labels; background clips themselves do not count."""
    matrix = np.zeros((len(LABELS), len(LABELS)), int)
    matrix[0, 0], matrix[0, -1], matrix[-1, -1] = 3, 1, 50

    assert FoldResult("x", 1, 0, matrix.tolist()).accuracy == 0.75


def test_what_was_written_is_read_again(tmp_path: Path) -> None:
    """Counts and predictions survive the way through their files."""
    run = predicted(ROWS, seed=7)
    write_predictions([run], tmp_path / "predictions.csv")
    write_results([run.result], tmp_path / "crossvalidation.json")

    (again,) = read_predictions(tmp_path / "predictions.csv", fold=1)

    assert (again.system, again.fold, again.seed) == (run.system, 1, 7)
    assert (again.clips, again.recordings) == (run.clips, run.recordings)
    np.testing.assert_array_equal(again.targets, run.targets)
    np.testing.assert_array_equal(again.likelihoods, run.likelihoods)
    assert read_results(tmp_path / "crossvalidation.json") == [run.result]


def test_results_from_before_there_were_predictions_are_read(tmp_path: Path) -> None:
    """The form of `crossvalidation.json` has not changed."""
    matrix = np.eye(len(LABELS), dtype=int).tolist()
    old = [{"system": "l3-edge int8", "fold": 2, "seed": 20190512, "confusion": matrix, "accuracy": 1.0}]
    (tmp_path / "crossvalidation.json").write_text(json.dumps(old))

    results = read_results(tmp_path / "crossvalidation.json")

    assert results == [FoldResult("l3-edge int8", 2, 20190512, matrix)]
    write_results(results, tmp_path / "again.json")
    assert json.loads((tmp_path / "again.json").read_text()) == old


def test_a_folder_gives_the_predictions_of_its_folds(tmp_path: Path) -> None:
    """A fold that `crossvalidation.json` does not speak of is of another run, and is not read."""
    folder = write_folder(tmp_path)
    (folder / "fold2").mkdir()
    (folder / "fold2" / "predictions.csv").write_text("of another run")

    assert [(run.system, run.fold) for run in read_folder(folder)] == [("l3-edge int8", 1), ("peer", 1)]


def test_a_folder_without_results_is_named(tmp_path: Path) -> None:
    """The message says what is missing and which command writes it."""
    with pytest.raises(UsageError, match=r"crossvalidation\.json: No such file.*urbansound-model crossvalidate"):
        read_folder(tmp_path)


def test_a_fold_without_predictions_is_named(tmp_path: Path) -> None:
    """Results from before there were predictions only need to be tested again."""
    folder = write_folder(tmp_path)
    (folder / "fold1" / "predictions.csv").unlink()

    with pytest.raises(UsageError, match=r"fold1/predictions\.csv: No such file.*without training"):
        read_folder(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not what"),
        ("[]", "no fold in it"),
        ("{", "not what `urbansound-model crossvalidate` writes"),
        ('[{"system": "x"}]', "0.fold: Field required"),
    ],
)
def test_other_json_is_refused(tmp_path: Path, text: str, message: str) -> None:
    """What is not the results of a cross-validation is not taken for them."""
    (tmp_path / "crossvalidation.json").write_text(text)

    with pytest.raises(UsageError, match=message):
        read_folder(tmp_path)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("x,0,us8k a.wav,r1,meow" + ",0.1" * 11, "line 2: label meow, expected one of air_conditioner"),
        ("x,zero,us8k a.wav,r1,siren" + ",0.1" * 11, "line 2: .*zero"),
        ("x,0,us8k a.wav,r1,siren" + ",0.1" * 10, "line 2: 15 values, expected 16"),
        ("x,0,us8k a.wav,r1,siren,nan" + ",0.1" * 10, "line 2: likelihoods nan.*expected 0 to 1"),
        ("x,0", "line 2: 2 values, expected 16"),
    ],
)
def test_a_broken_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    """Whoever edited the file learns where it broke."""
    file = tmp_path / "predictions.csv"
    file.write_text(f"{','.join(COLUMNS)}\n{line}\n")

    with pytest.raises(UsageError, match=message):
        read_predictions(file, fold=1)


def test_other_columns_are_refused(tmp_path: Path) -> None:
    """A file of another kind is not read as predictions."""
    (tmp_path / "predictions.csv").write_text("file,label,likelihood\n")

    with pytest.raises(UsageError, match="expected the columns system,seed,clip"):
        read_predictions(tmp_path / "predictions.csv", fold=1)


def test_predictions_of_another_run_are_refused(tmp_path: Path) -> None:
    """Predictions and counts that do not belong together are not evaluated."""
    folder = write_folder(tmp_path)
    write_predictions([predicted(ROWS[:2])], folder / "fold1" / "predictions.csv")

    with pytest.raises(UsageError, match="not the predictions counted in"):
        read_folder(folder)


def test_systems_on_different_clips_are_refused(tmp_path: Path) -> None:
    """Only what heard the same clips is compared."""
    folder = write_folder(tmp_path)
    runs = [predicted(ROWS), predicted(ROWS[:2], system="peer")]
    write_predictions(runs, folder / "fold1" / "predictions.csv")
    write_results([run.result for run in runs], folder / "crossvalidation.json")

    with pytest.raises(UsageError, match="different clips"):
        read_folder(folder)
