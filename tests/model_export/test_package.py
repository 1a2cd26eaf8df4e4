"""The model folder."""

import dataclasses
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from agent.errors import ModelError, UsageError
from agent.inference import Classifier
from agent.model_card import (
    DEFAULT_MODEL,
    CompiledCard,
    EventNumbers,
    FileCard,
    ModelFolder,
    load_model_folder,
    sha256_of,
)
from model_export.calibration import Rescaling
from model_export.clips import BACKGROUND, LABELS
from model_export.package import (
    DOCUMENT,
    FIRST_CHOICES,
    INHERITED,
    TUNED,
    is_calibrated,
    write_card,
    write_document,
    write_events,
    write_head_document,
    write_model_json,
)
from model_export.results import Output
from model_export.train import Recipe
from model_export.trained import training_record


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
    assert f"the principal components of the embedding of yamnet (SHA-256 {'ab' * 32}), and the maps inside" in text
    assert "Labels were drawn 70 % of the way towards what an MLP on each teacher's embedding\nsaid" in text
    assert "| the | tables |" in text
    assert "--teacher yamnet.tflite --out DIR" in text


@pytest.mark.parametrize(
    ("generations", "expected"),
    [
        (1, "The labels were learnt as they are."),
        (2, "towards what the network before\nsaid of the same window. All this 2 times, each from scratch."),
    ],
)
def test_the_document_says_how_labels_were_softened(
    packaged: Path, trained: Path, tmp_path: Path, generations: int, expected: str
) -> None:
    """Without a teacher, only a later generation has somebody to ask."""
    model = load_model_folder(shutil.copytree(packaged, tmp_path / "model"))
    training = training_record(trained)
    training["recipe"]["generations"] = generations

    write_document(model, training, "")

    assert expected in (model.path / DOCUMENT).read_text(encoding="utf-8")


def test_the_card_knows_what_the_model_has_heard(packaged: Path) -> None:
    """The folds of training, so that nobody tests on them by mistake."""
    assert load_model_folder(packaged).card.trained_on == {"us8k": (1, 2), "esc10": (1, 2)}


@pytest.mark.parametrize(
    ("output", "expected"), [("softmax", "(0.50 for all)"), ("sigmoid", "(siren 0.50 +0.00, drilling 0.50 -0.25)")]
)
def test_the_document_says_how_likelihoods_were_calibrated(
    packaged: Path, trained: Path, tmp_path: Path, output: Output, expected: str
) -> None:
    """What was done to them, on which clips, and what they hold for; without, that they are not calibrated."""
    model = load_model_folder(shutil.copytree(packaged, tmp_path / "model"))
    assert "Likelihoods are not calibrated." in (model.path / DOCUMENT).read_text(encoding="utf-8")
    rescaling = Rescaling(output, ("siren", "drilling"), (0.5, 0.5), (0.0, -0.25), (1, 2), 40)

    write_document(model, training_record(trained), "", rescaling)

    text = (model.path / DOCUMENT).read_text(encoding="utf-8")
    assert f"sums up before its {output} is multiplied and shifted\n{expected}" in text
    assert "fitted on 40 clips of the folds 1, 2" in text
    assert "not calibrated" not in text
    assert "--results DIR --out DIR" in text


@pytest.fixture
def untuned(tmp_path: Path) -> ModelFolder:
    """A copy of the default model with a short document."""
    folder = shutil.copytree(DEFAULT_MODEL, tmp_path / "untuned")
    (folder / DOCUMENT).write_text(f"# It\n\n## Figures\nGood.\n\n## Limits\nMany. {FIRST_CHOICES}\n", encoding="utf-8")
    return load_model_folder(folder)


def test_other_numbers_of_events_leave_the_rest_as_it_is(untuned: ModelFolder, tmp_path: Path) -> None:
    """The card has them, the networks are the same, and the document tells what they are worth, once."""
    events = untuned.card.events.model_copy(update={"default": EventNumbers(on=0.7), "classes": {}})

    for text in ("The first.\n", "The second.\n"):
        written = write_events(untuned, events, text, tmp_path / "tuned")
    written = write_events(written, events, "The third.\n", written.path)

    assert written.card == untuned.card.model_copy(update={"events": events})
    assert written.path == tmp_path / "tuned"
    document = (written.path / DOCUMENT).read_text(encoding="utf-8")
    assert document == f"# It\n\n## Figures\nGood.\n\n## Events\nThe third.\n\n## Limits\nMany. {TUNED}\n"


def test_a_document_that_people_have_changed_is_kept(untuned: ModelFolder) -> None:
    """In whatever encoding they saved it, and whichever of its sections they took away."""
    (untuned.path / DOCUMENT).write_bytes(b"# It\n\nvon J\xfcrgen\n\n")

    assert not is_calibrated(untuned)
    for text in ("The first.\n", "The second.\n"):
        write_events(untuned, untuned.card.events, text, untuned.path)

    assert (untuned.path / DOCUMENT).read_bytes() == b"# It\n\nvon J\xfcrgen\n\n## Events\nThe second.\n\n"


def test_a_head_that_was_tuned_says_so(untuned: ModelFolder, tmp_path: Path) -> None:
    """Its document no longer says that its thresholds are those of the base."""
    write_head_document(untuned, untuned, "Good.\n", seed=0)
    assert INHERITED in (untuned.path / DOCUMENT).read_text(encoding="utf-8")

    written = write_events(untuned, untuned.card.events, "The numbers.\n", tmp_path / "tuned")

    document = (written.path / DOCUMENT).read_text(encoding="utf-8")
    assert INHERITED not in document
    assert TUNED in document
    assert f"The responses are those of {untuned.card.name}" in document


def test_files_that_are_compiled_for_an_accelerator_come_along(untuned: ModelFolder, tmp_path: Path) -> None:
    """The folder that is written is a whole model: what its card names is in it."""
    (untuned.path / "compiled.tflite").write_bytes(b"for an accelerator")
    compiled = FileCard(file="compiled.tflite", sha256=sha256_of(untuned.path / "compiled.tflite"))
    card = untuned.card.model_copy(update={"compiled": {"edgetpu": CompiledCard(streaming=compiled)}})
    model = write_model_json(untuned.path, card)

    written = write_events(model, card.events, "", tmp_path / "tuned")

    assert written.file_for("edgetpu", streaming=True) == tmp_path / "tuned" / "compiled.tflite"
    assert written.file_for("edgetpu", streaming=False) == written.embedding_file
    assert written.file_for("gpu", streaming=True) == written.streaming_file


def test_a_place_that_cannot_be_written_is_named(untuned: ModelFolder, tmp_path: Path) -> None:
    """A file stands where the folder should be."""
    (tmp_path / "file").write_text("")

    with pytest.raises(UsageError, match=f"--out {tmp_path / 'file'}: "):
        write_events(untuned, untuned.card.events, "", tmp_path / "file")


def test_a_full_disk_leaves_the_model_as_it_was(untuned: ModelFolder) -> None:
    """Neither its card nor its document is lost while it is tuned in its own folder."""
    before = {path.name: path.read_bytes() for path in untuned.path.iterdir()}
    program = (
        "import resource, signal, sys; from pathlib import Path; from model_export.package import write_events; "
        "from agent.model_card import load_model_folder; model = load_model_folder(Path(sys.argv[1])); "
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (60, 60)); "
        "write_events(model, model.card.events, 'The numbers.' * 9, model.path)"
    )

    done = subprocess.run(
        [sys.executable, "-c", program, str(untuned.path)], capture_output=True, text=True, check=False
    )

    assert f"UsageError: --out {untuned.path}: File too large" in done.stderr
    assert {path.name: path.read_bytes() for path in untuned.path.iterdir()} == before


def test_what_an_untuned_model_says_of_its_events_is_in_its_document(packaged: Path) -> None:
    """`write_events` finds the sentence that it takes the place of."""
    assert FIRST_CHOICES in (packaged / DOCUMENT).read_text(encoding="utf-8")


@pytest.mark.parametrize("is_cut", [False, True])
def test_what_is_something_else_stays_as_it_is(packaged: Path, tmp_path: Path, is_cut: bool) -> None:
    """A folder of other networks, pointed at by mistake, or half of a file: refused before anything is written."""
    folder = shutil.copytree(packaged, tmp_path / "other")
    classifier = folder / "classifier.tflite"
    if is_cut:
        classifier.write_bytes(classifier.read_bytes()[:100_000])
    else:
        shutil.copyfile(folder / "embedding.tflite", classifier)
    before = {file.name: file.read_bytes() for file in folder.iterdir()}

    with pytest.raises(ModelError, match="classifier.tflite: is no whole TFLite" if is_cut else "the embedding gives"):
        write_card(folder, onset_response_s=0.1, offset_response_s=0.1, trained_on={})

    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


def test_the_responses_are_in_the_card(packaged: Path) -> None:
    """How much sound a window needs is measured, and lies within a window."""
    card = load_model_folder(packaged).card

    assert 0.0 <= card.events.onset_response_s <= card.front_end.window_s
    assert 0.0 <= card.events.offset_response_s <= card.front_end.window_s
