"""The pictures of an evaluation."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib import image

from model_export.diagrams import draw
from model_export.evaluate import Evaluation, evaluate
from tests.model_export.predicted import predicted

ROWS = [("a", "siren", "siren", 0.9), ("b", "siren", "drilling", 0.55), ("c", "background", "background", 0.7)]


@pytest.fixture
def evaluation() -> Evaluation:
    """Two systems on one fold."""
    return evaluate([predicted(ROWS), predicted(ROWS, system="yamnet + MLP")])


def test_each_system_has_its_confusions_and_all_share_one_calibration(evaluation: Evaluation, tmp_path: Path) -> None:
    """File names are plain whatever the system is called, and say which data set; the folder is made."""
    files = draw({"us8k": evaluation}, tmp_path / "new" / "plots")

    assert [file.name for file in files] == [
        "us8k-confusion-l3-edge-int8.png",
        "us8k-confusion-yamnet-mlp.png",
        "us8k-calibration.png",
    ]
    assert all(file.parent == tmp_path / "new" / "plots" for file in files)


def test_peers_that_no_latin_letter_tells_apart_have_a_picture_each(tmp_path: Path) -> None:
    """Their names stay as they are, in any script."""
    evaluation = evaluate([predicted(ROWS), *(predicted(ROWS, system=f"{name} + MLP") for name in ("Сова", "Лиса"))])

    files = draw({"us8k": evaluation}, tmp_path)

    assert [file.name for file in files[1:3]] == ["us8k-confusion-сова-mlp.png", "us8k-confusion-лиса-mlp.png"]


def test_pictures_show_something(evaluation: Evaluation, tmp_path: Path) -> None:
    """Each is of a size to be read, and not blank."""
    for file in draw({"esc10": evaluation}, tmp_path):
        pixels = image.imread(file)  # (height, width, 4)

        assert min(pixels.shape[:2]) > 500
        assert np.ptp(pixels[..., :3]) > 0.5
