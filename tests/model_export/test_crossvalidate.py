"""Cross-validation that others can repeat."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from model_export.clips import LABELS, esc10, urbansound8k
from model_export.crossvalidate import crossvalidate
from model_export.published import PublishedNetwork
from model_export.results import FoldPredictions, read_predictions
from model_export.verify import MAX_MEAN_DIFFERENCE
from tests.model_export.conftest import SMALL_RECIPE

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def finished(data_sets: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a cross-validation on one fold."""
    out = tmp_path_factory.mktemp("crossvalidation")
    clips = urbansound8k(data_sets[0]) + esc10(data_sets[1])
    crossvalidate(clips, SMALL_RECIPE, out, folds=[1], peers=[], num_threads=0)
    return out


def assert_same(runs: Sequence[FoldPredictions], others: Sequence[FoldPredictions]) -> None:
    """The same runs, with the same likelihoods."""
    for run, other in zip(runs, others, strict=True):
        assert (run.fold, run.system, run.seed, run.clips) == (other.fold, other.system, other.seed, other.clips)
        np.testing.assert_array_equal(run.likelihoods, other.likelihoods)


@pytest.fixture
def no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training fails."""
    monkeypatch.setattr("model_export.crossvalidate.train", None)


@pytest.mark.timeout(600)
def test_folds_are_trained_tested_and_written_down(data_sets: tuple[Path, Path], finished: Path) -> None:
    """Each fold is tested on clips that were not trained on, in int8 and in float; each clip's likelihoods are kept."""
    tested = [clip for clip in urbansound8k(data_sets[0]) + esc10(data_sets[1]) if clip.fold == 1]

    runs = read_predictions(finished / "predictions.csv")

    assert [run.system for run in runs] == ["l3-edge int8", "l3-edge float"]
    for run in runs:
        assert run.clips == tuple(f"{clip.dataset} {clip.file.name}" for clip in tested)
        assert run.recordings == tuple(clip.recording for clip in tested)
        assert [LABELS[target] for target in run.targets] == [clip.label for clip in tested]
        assert 0.0 <= run.likelihoods.min() <= run.likelihoods.max() <= 1.0
    assert np.abs(runs[0].likelihoods - runs[1].likelihoods).mean() < MAX_MEAN_DIFFERENCE


@pytest.mark.usefixtures("no_training")
def test_a_finished_fold_is_used_again(data_sets: tuple[Path, Path], finished: Path) -> None:
    """A second run neither trains nor tests what the first one did."""
    clips = urbansound8k(data_sets[0]) + esc10(data_sets[1])
    written_ns = (finished / "fold1" / "predictions.csv").stat().st_mtime_ns

    again = crossvalidate(clips, SMALL_RECIPE, finished, folds=[1], peers=[], num_threads=0)

    assert_same(again, read_predictions(finished / "predictions.csv"))
    assert (finished / "fold1" / "predictions.csv").stat().st_mtime_ns == written_ns


@pytest.mark.usefixtures("no_training")
def test_a_fold_without_predictions_is_tested_again_but_not_trained(
    data_sets: tuple[Path, Path], finished: Path, published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its networks are used as they are; a peer is heard on the same clips."""
    monkeypatch.setattr("model_export.crossvalidate.VALIDATION_FRACTION", 0.5)  # there are two recordings of a label
    out = shutil.copytree(finished, tmp_path / "old")
    (out / "fold1" / "predictions.csv").unlink()
    clips = urbansound8k(data_sets[0]) + esc10(data_sets[1])

    runs = crossvalidate(clips, SMALL_RECIPE, out, folds=[1], peers=[PublishedNetwork(published)], num_threads=0)

    assert_same(runs[:2], read_predictions(finished / "predictions.csv"))
    assert_same(runs, read_predictions(out / "predictions.csv"))
    assert [(run.system, run.seed) for run in runs[2:]] == [("loudness + MLP", seed) for seed in (0, 1, 2)]
    assert {run.clips for run in runs} == {runs[0].clips}
