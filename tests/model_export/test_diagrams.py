"""The pictures of an evaluation."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib import image
from matplotlib.patches import Rectangle

from model_export import diagrams
from model_export.clips import LABELS
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


def test_pictures_show_the_figures_of_the_tables(evaluation: Evaluation) -> None:
    """Shares of each label's clips, the right ones bold; how many of the clips have which likelihood, and are right."""
    (confusions,) = diagrams._confusion(evaluation.systems[0], evaluation).axes
    reliability, _, clips, _ = diagrams._calibration(evaluation.systems).axes

    siren, drilling, background = map(LABELS.index, ("siren", "drilling", "background"))
    told = {(*text.get_position(), text.get_text(), text.get_fontweight()) for text in confusions.texts}
    assert told == {(siren, 0, "50", "bold"), (drilling, 0, "50", "normal"), (background, 1, "100", "bold")}
    assert [label.get_text() for label in confusions.get_yticklabels()] == ["siren (2)", "background (1)"]
    (dots,) = reliability.collections
    np.testing.assert_allclose(np.asarray(dots.get_offsets(), np.float64), [[0.55, 0.0], [0.7, 1.0], [0.9, 1.0]])
    bars = [(bar.get_x(), bar.get_width(), bar.get_height()) for bar in clips.patches if isinstance(bar, Rectangle)]
    np.testing.assert_allclose(bars, [[left, 0.1, 100 / 3] for left in (0.5, 0.7, 0.9)])


def test_pictures_show_something(evaluation: Evaluation, tmp_path: Path) -> None:
    """Each is of a size to be read, and not blank."""
    for file in draw({"esc10": evaluation}, tmp_path):
        pixels = image.imread(file)  # (height, width, 4)

        assert min(pixels.shape[:2]) > 500
        assert np.ptp(pixels[..., :3]) > 0.5
