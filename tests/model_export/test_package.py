"""The model folder."""

import dataclasses
import shutil
from pathlib import Path

from agent.inference import Classifier
from agent.model_card import load_model_folder
from model_export.clips import BACKGROUND, LABELS
from model_export.package import DOCUMENT, write_document
from model_export.train import Recipe


def test_the_agent_loads_what_was_packaged(packaged: Path) -> None:
    """A packaged folder passes every check that the agent makes."""
    model = load_model_folder(packaged)

    assert model.card.labels == LABELS
    assert set(model.card.groups) == set(LABELS) - {BACKGROUND}
    Classifier(model)


def test_the_document_names_the_data_and_their_licences(packaged: Path) -> None:
    """Whoever ships the model knows that UrbanSound8K is for non-commercial use."""
    text = (packaged / DOCUMENT).read_text(encoding="utf-8")

    for phrase in ("UrbanSound8K, CC BY-NC 3.0", "Non-commercial", "ESC-10, CC BY 3.0", "Not measured for this build"):
        assert phrase in text


def test_the_document_names_teachers_and_gives_the_figures(packaged: Path, tmp_path: Path) -> None:
    """Who taught, by name and hash; what cross-validation found; and how it is made again."""
    model = load_model_folder(shutil.copytree(packaged, tmp_path / "model"))
    training = {
        "recipe": dataclasses.asdict(Recipe()),
        "teachers": [{"name": "yamnet", "sha256": "ab" * 32}],
        "clips": 2,
        "recordings": 1,
        "folds": {"us8k": [1, 2]},
        "parameters": 1_000,
        "duration_s": 60,
    }

    write_document(model, training, "| the | tables |")

    text = (model.path / DOCUMENT).read_text(encoding="utf-8")
    assert f"maps and embedding of yamnet (SHA-256 {'ab' * 32})" in text
    assert "| the | tables |" in text
    assert "--teacher yamnet.tflite --out DIR" in text


def test_the_responses_are_in_the_card(packaged: Path) -> None:
    """How much sound a window needs is measured, and lies within a window."""
    card = load_model_folder(packaged).card

    assert 0.0 <= card.events.onset_response_s <= card.front_end.window_s
    assert 0.0 <= card.events.offset_response_s <= card.front_end.window_s
