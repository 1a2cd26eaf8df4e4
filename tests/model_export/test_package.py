"""The model folder."""

from pathlib import Path

from agent.inference import Classifier
from agent.model_card import load_model_folder
from model_export.clips import BACKGROUND, LABELS
from model_export.package import DOCUMENT


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


def test_the_responses_are_in_the_card(packaged: Path) -> None:
    """How much sound a window needs is measured, and lies within a window."""
    card = load_model_folder(packaged).card

    assert 0.0 <= card.events.onset_response_s <= card.front_end.window_s
    assert 0.0 <= card.events.offset_response_s <= card.front_end.window_s
