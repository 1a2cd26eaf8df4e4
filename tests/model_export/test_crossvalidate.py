"""Cross-validation that others can repeat."""

from pathlib import Path

import numpy as np
import pytest

from model_export.clips import LABELS, esc10, urbansound8k
from model_export.crossvalidate import FoldResult, confusion, crossvalidate, read_results, tables
from tests.model_export.conftest import SMALL_RECIPE


def test_a_clip_is_judged_by_the_sum_of_its_windows() -> None:
    """One confident window wins over two that lean a little the other way."""
    likelihoods = np.array([[0.9, 0.1], [0.4, 0.6], [0.4, 0.6], [0.2, 0.8]], np.float32)

    assert confusion(likelihoods, [3, 1], [0, 0]) == [[1, 1], [0, 0]]


def test_background_for_a_street_sound_is_a_mistake() -> None:
    """Accuracy is over the street's labels; background clips themselves do not count."""
    matrix = np.zeros((len(LABELS), len(LABELS)), int)
    matrix[0, 0], matrix[0, -1], matrix[-1, -1] = 3, 1, 50

    assert FoldResult("x", 1, 0, matrix.tolist()).accuracy == 0.75


@pytest.mark.timeout(600)
def test_folds_are_trained_tested_and_written_down(
    data_sets: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each fold is tested on clips that were not trained on; a second run uses the networks of the first."""
    clips = urbansound8k(data_sets[0]) + esc10(data_sets[1])

    results = crossvalidate(clips, SMALL_RECIPE, tmp_path, folds=[1], peers=[], num_threads=0)

    monkeypatch.setattr("model_export.crossvalidate.train", None)  # would fail if it were trained again
    again = crossvalidate(clips, SMALL_RECIPE, tmp_path, folds=[1], peers=[], num_threads=0)
    assert results == again == read_results(tmp_path / "crossvalidation.json")
    tested = np.array(results[0].confusion).sum()
    assert tested == sum(clip.fold == 1 for clip in clips)


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
