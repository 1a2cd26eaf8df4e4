"""Cross-validation that others can repeat."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from model_export.clips import LABELS, esc10, urbansound8k
from model_export.crossvalidate import crossvalidate, tables
from model_export.published import PublishedNetwork
from model_export.results import FoldResult, read_folder, read_predictions, read_results
from model_export.train import TRAINING_NAME
from model_export.verify import MAX_MEAN_DIFFERENCE
from tests.model_export.conftest import SMALL_RECIPE


@pytest.fixture(scope="module")
def finished(data_sets: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a cross-validation on one fold."""
    out = tmp_path_factory.mktemp("crossvalidation")
    clips = urbansound8k(data_sets[0]) + esc10(data_sets[1])
    crossvalidate(clips, SMALL_RECIPE, out, folds=[1], peers=[], num_threads=0)
    return out


@pytest.fixture
def no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training fails."""
    monkeypatch.setattr("model_export.crossvalidate.train", None)


@pytest.mark.timeout(600)
def test_folds_are_trained_tested_and_written_down(data_sets: tuple[Path, Path], finished: Path) -> None:
    """Each fold is tested on clips that were not trained on, in int8 and in float; each clip's likelihoods are kept."""
    tested = [clip for clip in urbansound8k(data_sets[0]) + esc10(data_sets[1]) if clip.fold == 1]

    runs = read_folder(finished)

    assert [run.system for run in runs] == ["l3-edge int8", "l3-edge float"]
    for run in runs:
        assert run.clips == tuple(f"{clip.dataset} {clip.file.name}" for clip in tested)
        assert run.recordings == tuple(clip.recording for clip in tested)
        assert [LABELS[target] for target in run.targets] == [clip.label for clip in tested]
        np.testing.assert_allclose(run.likelihoods.sum(axis=1), 1.0, atol=0.03)  # int8 softmax in steps of 1/256
    assert np.abs(runs[0].likelihoods - runs[1].likelihoods).mean() < MAX_MEAN_DIFFERENCE


@pytest.mark.usefixtures("no_training")
def test_a_finished_fold_is_used_again(data_sets: tuple[Path, Path], finished: Path) -> None:
    """A second run neither trains nor tests what the first one did."""
    clips = urbansound8k(data_sets[0]) + esc10(data_sets[1])
    written_ns = (finished / "fold1" / "predictions.csv").stat().st_mtime_ns

    again = crossvalidate(clips, SMALL_RECIPE, finished, folds=[1], peers=[], num_threads=0)

    assert again == read_results(finished / "crossvalidation.json")
    assert (finished / "fold1" / "predictions.csv").stat().st_mtime_ns == written_ns


@pytest.mark.usefixtures("no_training")
def test_a_fold_without_predictions_is_tested_again_but_not_trained(
    data_sets: tuple[Path, Path], finished: Path, published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Results from before there were predictions and teachers need no training; a peer is heard on the same clips."""
    monkeypatch.setattr("model_export.crossvalidate.VALIDATION_FRACTION", 0.5)  # there are two recordings of a label
    out = shutil.copytree(finished, tmp_path / "old")
    (out / "fold1" / "predictions.csv").unlink()
    record = json.loads((out / "fold1" / TRAINING_NAME).read_text())
    del record["teachers"]
    (out / "fold1" / TRAINING_NAME).write_text(json.dumps(record))
    clips = urbansound8k(data_sets[0]) + esc10(data_sets[1])

    results = crossvalidate(clips, SMALL_RECIPE, out, folds=[1], peers=[PublishedNetwork(published)], num_threads=0)

    assert results[:2] == read_results(finished / "crossvalidation.json")
    runs = read_predictions(out / "fold1" / "predictions.csv", fold=1)
    assert [run.result for run in runs] == results
    assert [(run.system, run.seed) for run in runs[2:]] == [("loudness + MLP", seed) for seed in (0, 1, 2)]
    assert {run.clips for run in runs} == {runs[0].clips}


def test_tables_give_each_fold_and_the_mean_of_folds() -> None:
    """Whoever reads the table can check it: 3 of 4 and 1 of 4 make 50 %."""
    rows = []
    for fold, right in ((1, 3), (2, 1)):
        matrix = np.zeros((len(LABELS), len(LABELS)), int)
        matrix[2, 2], matrix[2, 3] = right, 4 - right
        rows.append(FoldResult("ours", fold, 0, matrix.tolist()))

    lines = tables(rows).splitlines()

    assert lines[2] == "| ours | 75.0 % | 25.0 % | 50.0 % |"
    assert "| children_playing | 8 | 50.0 % |" in lines
