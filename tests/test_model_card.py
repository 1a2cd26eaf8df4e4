"""Promises of `agent.model_card`: a model folder is what its card says, or the agent does not start."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent import model_card
from agent.errors import ConfigError, ModelError
from agent.model_card import (
    EventCard,
    EventNumbers,
    FrontEndNumbers,
    ModelCard,
    event_rules,
    load_model_folder,
    sha256_of,
)

LABELS = ("dog_bark", "siren")
OF_48_KHZ = {
    "sample_rate_hz": 48_000,
    "window_length_samples": 48_000,
    "hop_length_samples": 242,
    "taper_length_samples": 2048,
    "fft_length": 2048,
    "n_mels": 128,
    "mel_min_hz": 0.0,
    "mel_max_hz": 24_000.0,
    "mel_scale": "htk",
    "level_min_db": -80.0,
    "level_max_db": 0.0,
}
EVENTS = {"onset_response_s": 0.5, "offset_response_s": 0.5, "default": {}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the model that comes with the agent, to be broken."""
    return Path(shutil.copytree(model_card.DEFAULT_MODEL, tmp_path / "model"))


def edit_card(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    card = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    change(card)
    (folder / "model.json").write_text(json.dumps(card), encoding="utf-8")


def problem_with(folder: Path) -> str:
    with pytest.raises(ModelError) as caught:
        load_model_folder(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_model_that_comes_with_the_agent_is_what_its_card_says() -> None:
    """The shipped folder loads: its files have the promised hashes, and its numbers fit each other."""
    model = load_model_folder(model_card.DEFAULT_MODEL)

    assert model.card.front_end.window_s == 1.0
    assert model.card.background_label == "background"
    assert len(model.card.labels) == 11
    assert model.sha256 == sha256_of(model_card.DEFAULT_MODEL / "model.json")
    assert model.embedding_file.is_file()
    assert model.classifier_file.is_file()


def test_the_shipped_model_needs_no_configuration() -> None:
    """Every class of the shipped model has a whole rule, without a word from the site."""
    card = load_model_folder(model_card.DEFAULT_MODEL).card

    rules = event_rules(card.events, card.labels, EventNumbers(), {})

    assert tuple(rules) == card.labels
    assert all(rule.off <= rule.on for rule in rules.values())


@pytest.mark.parametrize("which", ["embedding", "streaming", "classifier"])
def test_a_changed_byte_is_found(folder: Path, which: str) -> None:
    """One changed byte in a network's file stops the agent, with both hashes."""
    file = getattr(load_model_folder(folder), f"{which}_file")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    promised = sha256_of(file)
    file.write_bytes(content)

    assert problem_with(folder) == f"model file {file}: sha256 is {sha256_of(file)}, the card says {promised}"


def test_a_missing_network_is_found(folder: Path) -> None:
    """A file that the card names and the folder lacks stops the agent."""
    file = load_model_folder(folder).classifier_file
    file.unlink()

    assert problem_with(folder) == f"model file {file}: cannot be read (No such file or directory), the card names it"


@pytest.mark.parametrize("missing", ["model.json", "."])
def test_a_folder_without_a_card_is_found(folder: Path, missing: str) -> None:
    """A folder without a card, and no folder at all, are told as such."""
    if missing == ".":
        shutil.rmtree(folder)
    else:
        (folder / missing).unlink()

    assert problem_with(folder) == f"model folder {folder}: cannot read model.json (No such file or directory)"


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff\xfe", b"[]", b"null", b"[" * 100_000], ids=lambda content: repr(content[:4])
)
def test_a_card_that_is_not_json_is_found(folder: Path, content: bytes) -> None:
    """A broken card is an error with its path, not a crash."""
    (folder / "model.json").write_bytes(content)

    assert problem_with(folder).startswith(f"model card {folder / 'model.json'}: ")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        pytest.param(lambda card: card.update(extra=1), "extra: unknown key", id="unknown key"),
        pytest.param(lambda card: card.pop("labels"), "labels: Field required", id="missing key"),
        pytest.param(
            lambda card: card.update(schema="urbansound.model/2"), "schema = 'urbansound.model/2': ", id="schema"
        ),
        pytest.param(
            lambda card: card["labels"].__setitem__(0, card["labels"][1]), "expected each once", id="label twice"
        ),
        pytest.param(
            lambda card: card.update(background_label="silence"),
            "background_label = 'silence', expected one of",
            id="bg",
        ),
        pytest.param(
            lambda card: card.update(groups={"crow": "animal"}), "groups.crow: expected one of", id="group of no label"
        ),
        pytest.param(lambda card: card["labels"].append("crow"), "12 labels need (1, 12)", id="label too many"),
        pytest.param(
            lambda card: card["front_end"].update(n_mels=40), "the front end gives (1, 76, 40, 1)", id="mel bands"
        ),
        pytest.param(
            lambda card: card["classifier"]["input"].update(shape=[1, 512]), "the embedding gives (1, 240)", id="chain"
        ),
        pytest.param(
            lambda card: card["embedding"]["input"].update(dtype="float32"),
            "embedding.input: scale = 0.43137",
            id="float",
        ),
        pytest.param(
            lambda card: card["embedding"].update(file="../other.tflite"),
            "embedding.file = '../other.tflite': ",
            id="path",
        ),
        pytest.param(
            lambda card: card["front_end"].update(mel_max_hz=9000.0),
            "expected rising by 1 Hz or more and at most 8000.0 Hz",
            id="mel range",
        ),
        pytest.param(
            lambda card: card["front_end"].update(mel_min_hz=8000.0 - 1e-9),
            "expected rising by 1 Hz",
            id="no mel range",
        ),
        pytest.param(
            lambda card: card["front_end"].update(fft_length=10**9), "front_end.fft_length = 1000000000", id="memory"
        ),
        pytest.param(
            lambda card: card["front_end"].update(level_min_db=-1e30), "front_end.level_min_db = -1e+30", id="level"
        ),
        pytest.param(
            lambda card: card["front_end"].update(fft_length=512), "fft_length = 512, expected at least", id="fft"
        ),
        pytest.param(
            lambda card: card["embedding"]["output"].pop("scale"),
            "embedding.output: scale = not set, expected with int8",
            id="no scale",
        ),
        pytest.param(
            lambda card: card.pop("classifier"),
            "'background'], expected none without a classifier",
            id="labels of nothing",
        ),
        pytest.param(
            lambda card: card.update(labels=["siren"], background_label=None, groups={}, events=EVENTS),
            "labels = ['siren'], expected two or more",
            id="one label",
        ),
        pytest.param(
            lambda card: card["front_end"].update(level_reference="window_maximum"),
            "streaming: expected none where windows share no frames",
            id="streams with own frames",
        ),
        pytest.param(
            lambda card: card["front_end"].update(level_reference="window_maximum", level_max_db=-1.0),
            "level_max_db = -1.0, expected 0 with level_reference = window_maximum",
            id="maximum above the maximum",
        ),
        pytest.param(
            lambda card: card["streaming"].update(window_columns=11),
            "streaming.window_columns = 11, a window has 10 chunks of 8 frames",
            id="more columns than chunks",
        ),
        pytest.param(
            lambda card: card["events"].update(offset_response_s=550.0),
            "events.offset_response_s = 550.0, expected at most a window, 1.0 s",
            id="response in milliseconds",
        ),
        pytest.param(
            lambda card: card["front_end"].update(mel_scale="none"),
            "= (64, 50.0, 8000.0), expected all bins with mel_scale = none, (513, 0.0, 8000.0)",
            id="some bins",
        ),
        pytest.param(
            lambda card: card["front_end"].update(padding="same"), "the front end gives (1, 80, 64, 1)", id="padding"
        ),
        pytest.param(
            lambda card: card["front_end"].update(axes="frequency_time"),
            "the front end gives (1, 64, 76, 1)",
            id="axes",
        ),
        pytest.param(
            lambda card: card["events"]["classes"].update(crow={"on": 0.5}),
            "events.classes.crow: expected one of",
            id="crow",
        ),
        pytest.param(
            lambda card: card["events"]["default"].update(on=1.5),
            "events.default.on = 1.5: Input should be less",
            id="1.5",
        ),
    ],
)
def test_a_card_that_contradicts_itself_is_found(
    folder: Path, change: Callable[[dict[str, Any]], object], expected: str
) -> None:
    """Numbers that do not fit each other stop the agent, and the message has the one that does not fit."""
    edit_card(folder, change)

    assert expected in problem_with(folder)


def test_two_labels_are_enough(folder: Path) -> None:
    """A model that tells one sound from the rest."""

    def of_two(card: dict[str, Any]) -> None:
        card.update(labels=["siren", "background"], groups={}, events=EVENTS)
        card["classifier"]["output"].update(shape=[1, 2])

    edit_card(folder, of_two)

    assert load_model_folder(folder).card.labels == ("siren", "background")


def test_an_accelerator_may_have_a_file_of_its_own(folder: Path) -> None:
    """It gets the form that was compiled for it, the CPU and all others the file as it is; a changed byte is found."""
    compiled = Path(shutil.copy(load_model_folder(folder).embedding_file, folder / "embedding_edgetpu.tflite"))
    names = {"file": compiled.name, "sha256": sha256_of(compiled)}
    edit_card(folder, lambda card: card.update(compiled={"edgetpu": {"embedding": names}}))

    model = load_model_folder(folder)

    assert model.file_for("edgetpu", streaming=False) == compiled
    assert model.file_for("edgetpu", streaming=True) == model.streaming_file
    assert model.file_for("cpu", streaming=False) == model.file_for("npu", streaming=False) == model.embedding_file
    compiled.write_bytes(b"another")
    assert problem_with(folder).startswith(f"model file {compiled}: sha256 is ")


def test_a_model_may_be_an_embedding_alone(folder: Path) -> None:
    """Without a classifier there are no labels; who asks for the classifier is told how to get one."""

    def without_classifier(card: dict[str, Any]) -> None:
        del card["classifier"], card["groups"]
        card.update(labels=[], background_label=None, events=EVENTS)

    edit_card(folder, without_classifier)

    model = load_model_folder(folder)

    assert model.embedding_file.is_file()
    with pytest.raises(ModelError, match=rf"`urbansound-model head --base {folder}` teaches it classes"):
        _ = model.classifier_file


@pytest.mark.parametrize(
    ("padding", "before", "after", "n_frames"),
    [("none", 0, 0, 190), ("end", 0, 1964, 199), ("same", 982, 982, 199), ("centre", 1024, 1024, 199)],
)
def test_padding_decides_how_many_frames_a_window_has(padding: str, before: int, after: int, n_frames: int) -> None:
    """TensorFlow's SAME, TensorFlow's pad_end and librosa's center, for a second at 48 kHz and a hop of 242."""
    numbers = FrontEndNumbers.model_validate(OF_48_KHZ | {"padding": padding})

    assert numbers.padding_samples == (before, after)
    assert numbers.n_frames == n_frames
    assert numbers.has_own_frames == (padding != "none")
    assert numbers.longest_hop_samples == (48_000 if padding != "none" else 190 * 242)


def test_the_identity_of_a_model_is_its_card(folder: Path) -> None:
    """Another card is another model, although the networks are the same."""
    before = load_model_folder(folder).sha256

    edit_card(folder, lambda card: card.update(version="other"))

    assert load_model_folder(folder).sha256 != before


def test_a_card_may_say_what_the_model_has_heard_in_training(folder: Path) -> None:
    """So that nobody tests on it by mistake; a card that does not know it is a card all the same."""
    assert load_model_folder(folder).card.trained_on == {"us8k": (1, 2, 3), "esc10": (1, 2, 3, 4)}

    edit_card(folder, lambda card: card.pop("trained_on"))

    assert load_model_folder(folder).card.trained_on is None


def event_card(**classes: EventNumbers) -> EventCard:
    return EventCard(
        onset_response_s=0.25,
        offset_response_s=0.25,
        default=EventNumbers(on=0.5, off=0.3, min_duration_s=0.3, merge_gap_s=1.0, max_duration_s=60.0, span_s=1.0),
        classes=classes,
    )


def test_the_narrower_scope_wins_and_the_site_wins_over_the_card() -> None:
    """A number is taken from the site's class, else the site's default, else the card's class, else its default."""
    card = event_card(siren=EventNumbers(on=0.6, off=0.4, min_duration_s=0.6, merge_gap_s=2.0))

    rules = event_rules(card, LABELS, EventNumbers(on=0.7, off=0.35), {"siren": EventNumbers(on=0.8)})

    siren, dog_bark = rules["siren"], rules["dog_bark"]
    assert (siren.on, siren.off, siren.merge_gap_s, siren.max_duration_s) == (0.8, 0.35, 2.0, 60.0)
    assert (dog_bark.on, dog_bark.off, dog_bark.merge_gap_s, dog_bark.max_duration_s) == (0.7, 0.35, 1.0, 60.0)


@pytest.mark.parametrize(
    ("site", "classes", "expected"),
    [
        ({"off": 0.6}, {}, "events for dog_bark: off = 0.6, expected at most on = 0.5"),
        ({}, {"siren": {"on": 0.2}}, "events for siren: off = 0.3, expected at most on = 0.2"),
        ({}, {"crow": {"on": 0.2}}, "events.classes.crow: unknown class, expected one of dog_bark, siren"),
        (
            {"min_duration_s": 90.0},
            {},
            "events for dog_bark: min_duration_s = 90.0, expected at most max_duration_s = 60.0",
        ),
    ],
)
def test_numbers_that_cannot_work_together_are_refused(
    site: dict[str, float], classes: dict[str, dict[str, float]], expected: str
) -> None:
    """A site cannot set thresholds or durations under which no event, or an endless one, would come."""
    class_overrides = {label: EventNumbers(**numbers) for label, numbers in classes.items()}

    with pytest.raises(ConfigError) as caught:
        event_rules(event_card(), LABELS, EventNumbers(**site), class_overrides)

    assert str(caught.value) == expected


def test_a_number_that_nobody_sets_is_missed() -> None:
    """A card without a default and a site without one: the agent says which number it lacks."""
    card = event_card().model_copy(update={"default": EventNumbers(on=0.5, off=0.3)})

    with pytest.raises(ConfigError, match=r"events\.default\.min_duration_s: not set, neither by the model's card"):
        event_rules(card, LABELS, EventNumbers(), {})


def test_every_number_of_the_card_is_checked() -> None:
    """No part of the card lets an unknown key through."""
    parts = [ModelCard, *(kind for kind in vars(model_card).values() if _is_part(kind))]

    assert all(part.model_config.get("extra") == "forbid" for part in parts)


def _is_part(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, model_card.CardPart)
