"""One's own classes: `urbansound-model head`."""

import csv
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from agent.errors import ModelError
from agent.model_card import DEFAULT_MODEL, EventNumbers, ModelFolder, load_model_folder
from agent.values import FloatArray
from model_export import mlp
from model_export.cli import main
from model_export.clips import Clip
from model_export.head import cross_validate, train_head, write_head
from model_export.metadata import read_metadata
from model_export.tflite_mlp import write_mlp
from model_export.tracks import rules_of
from tests.commands import Caller
from tests.conftest import REPOSITORY

ESC10_NAMES = {"baby_cry": "crying_baby", "chainsaw": "chainsaw", "person_sneeze": "sneezing", "rooster": "rooster"}
N_RECORDINGS = 3  # of each class, to train on


def made(
    labels: tuple[str, ...], *, n_recordings: int, d: int = 16, apart: float = 3.0, seed: int = 0
) -> tuple[list[Clip], dict[Clip, FloatArray]]:
    """Two clips of each recording; `apart` is how far classes differ, beside recordings, which differ by 1."""
    rng = np.random.default_rng(seed)
    embeddings = {}
    for label in labels:
        point = apart * rng.normal(size=d)
        for number in range(n_recordings):
            place = point + rng.normal(size=d)
            for half in "ab":
                name = f"{label}/{number}"
                clip = Clip(Path(f"{name}/{half}.wav"), label, "own", 1 + number % 5, name)
                embeddings[clip] = np.abs(place + 0.1 * rng.normal(size=(4, d))).astype(np.float32)
    return list(embeddings), embeddings


@pytest.fixture(scope="module")
def base() -> ModelFolder:
    return load_model_folder(DEFAULT_MODEL)


@pytest.fixture
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training that takes no time, and still learns what is as plain as here."""
    monkeypatch.setattr(mlp, "STEPS", 40)


# Real recordings


@pytest.fixture(scope="module")
def folders(recordings: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Classes of ESC-10 that the default model does not know: recordings to train on, one other of each to judge."""
    data, unheard = tmp_path_factory.mktemp("data"), tmp_path_factory.mktemp("unheard")
    taken: dict[str, set[str]] = {}
    with (recordings / "esc10" / "metadata.csv").open(newline="") as lines:
        for row in csv.DictReader(lines):
            sources = taken.setdefault(row["class"], set())
            if row["class"] not in ESC10_NAMES or row["source_id"] in sources or len(sources) > N_RECORDINGS:
                continue
            label = ESC10_NAMES[row["class"]]
            sources.add(row["source_id"])
            folder = data / label if len(sources) <= N_RECORDINGS else unheard
            folder.mkdir(exist_ok=True)
            shutil.copyfile(recordings / "esc10" / row["file"], folder / f"{label}-{len(sources)}.ogg")
    return data, unheard


@pytest.fixture(scope="module")
def own(folders: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model folder that the command makes of them; its cache lies beside it."""
    out = tmp_path_factory.mktemp("own") / "model"
    assert main(["head", "--data", str(folders[0]), "--out", str(out)]) == 0
    return out


def test_the_agent_names_what_it_did_not_know_before(
    own: Path, folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, call: Caller
) -> None:
    """Trained on three recordings of each class, it names most recordings that it has not heard."""
    monkeypatch.setenv("URBANSOUND_MODEL__PATH", str(own))

    said = call("classify", folders[1])

    rows = list(csv.DictReader(said.out.splitlines()))
    assert said.code == 0
    assert len(rows) == len(ESC10_NAMES)
    assert sum(Path(row["file"]).name.startswith(row["label"]) for row in rows) >= 3


def test_the_folder_is_a_model_like_any_other(own: Path, base: ModelFolder) -> None:
    """The base's front end and embedding as they are, a classifier that says what it is, documents for both readers."""
    model = load_model_folder(own)

    assert sorted(path.name for path in own.iterdir()) == [
        "MODEL_CARD.md",
        "classifier.tflite",
        "embedding.tflite",
        "embedding_streaming.tflite",
        "model.json",
    ]
    assert model.card.labels == tuple(sorted(ESC10_NAMES.values()))
    assert model.card.background_label is None
    assert model.card.front_end == base.card.front_end
    assert model.card.trained_on == base.card.trained_on  # the embedding has heard it: no peer, and no teacher
    assert (model.card.embedding, model.card.streaming) == (base.card.embedding, base.card.streaming)
    said = read_metadata(model.classifier_file)
    assert (said.name, said.labels, said.licence) == (model.card.name, model.card.labels, base.card.licence)
    text = (own / "MODEL_CARD.md").read_text(encoding="utf-8")
    for phrase in (base.sha256, base.card.licence, "| accuracy ", "| recall of rooster ", "3 of 3", "binomial"):
        assert phrase in text


def test_a_second_run_hears_nothing_again_and_needs_no_tensorflow(
    own: Path, folders: tuple[Path, Path], tmp_path: Path
) -> None:
    """The same model to the last byte, from the embeddings in the cache."""
    blocked = "import sys; sys.modules |= dict.fromkeys(['tensorflow', 'keras']); "
    program = f"{blocked}from model_export.cli import main; sys.exit(main(sys.argv[1:]))"
    options = ["--data", folders[0], "--out", tmp_path / "again", "--cache", own.with_name("model.embeddings")]

    ended = subprocess.run(
        [sys.executable, "-c", program, "head", *map(str, options)],
        capture_output=True,
        text=True,
        check=False,
        cwd=REPOSITORY,
        env=os.environ,
    )

    assert ended.returncode == 0, ended.stderr
    assert f"clips={N_RECORDINGS * len(ESC10_NAMES)} heard=0" in ended.stderr
    for file in own.iterdir():
        assert (tmp_path / "again" / file.name).read_bytes() == file.read_bytes()


# Training and testing


@pytest.mark.usefixtures("few_steps")
def test_what_only_recordings_have_in_common_counts_for_nothing() -> None:
    """Classes that do not differ are told apart by chance: no recording is in both training and test."""
    clips, embeddings = made(("a", "b"), n_recordings=40, apart=0.0)

    figures = cross_validate(clips, embeddings, seed=0, with_curve=False)

    assert 0.25 < figures.accuracy.value < 0.75
    head_of_all = train_head(clips, embeddings, seed=0)
    heard = [
        head_of_all.likelihoods(embeddings[clip]).mean(axis=0).argmax() == "ab".index(clip.label) for clip in clips
    ]
    assert np.mean(heard) > 0.95  # had the test been in training


@pytest.mark.usefixtures("few_steps")
def test_the_figures_count_each_clip_once() -> None:
    """Each clip is tested in one fold; recall and confusion are those of the same predictions."""
    clips, embeddings = made(("horn", "bell", "background"), n_recordings=5)

    figures = cross_validate(clips, embeddings, seed=0, with_curve=False)

    assert figures.labels == ("bell", "horn", "background")
    assert figures.n_folds == 5
    assert (figures.accuracy.clips, figures.accuracy.recordings) == (30, 15)
    assert [sum(row) for row in figures.confusion] == [10, 10, 10]
    right = np.diag(figures.confusion)
    assert figures.accuracy.value == pytest.approx(right.sum() / 30)
    assert [rate.value for rate in figures.recall.values()] == pytest.approx(right / 10)
    assert figures.accuracy.value > 0.8


@pytest.mark.usefixtures("few_steps")
def test_the_learning_curve_ends_with_all_recordings() -> None:
    """One recording of each class, two, and as many as training without a fold has; more recordings know more."""
    clips, embeddings = made(("a", "b", "c"), n_recordings=5, apart=0.7)

    figures = cross_validate(clips, embeddings, seed=0, with_curve=True)

    assert list(figures.curve) == [1, 2, 4]
    assert figures.curve[1].value < figures.curve[4].value
    assert {rate.clips for rate in figures.curve.values()} == {30}


def test_a_long_recording_does_not_outvote_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each class is drawn as often as the others, and in it each recording, however long."""
    clips, embeddings = made(("a", "b"), n_recordings=2)
    embeddings[clips[0]] = np.repeat(embeddings[clips[0]], 50, axis=0)
    drawn: list[FloatArray] = []

    def train(rows: FloatArray, targets: FloatArray, weights: FloatArray, **_: int) -> None:
        drawn.append(weights / weights.sum())

    monkeypatch.setattr(mlp, "train", train)
    train_head(clips, embeddings, seed=0)

    ends = np.cumsum([len(embeddings[clip]) for clip in clips])[1::2]  # two clips of each recording
    shares = [part.sum() for part in np.split(drawn[0], ends[:-1])]
    assert shares == pytest.approx([0.25] * 4)


# The model folder


@pytest.mark.usefixtures("few_steps")
def test_what_the_base_says_of_a_label_stays(base: ModelFolder, tmp_path: Path) -> None:
    """Groups and event numbers of labels that the base knows; `background` is never an event."""
    rules = rules_of(base.card)
    known = next(label for label in base.card.events.classes if not rules[label].is_silent)
    clips, embeddings = made((known, "rooster", "background"), n_recordings=2, d=240)
    trained = train_head(clips, embeddings, seed=0)

    model, agreement = write_head(trained, base, clips, embeddings, tmp_path / "own")

    assert model.card.labels == (known, "rooster", "background")
    assert model.card.background_label == "background"
    assert model.card.groups == {known: base.card.groups[known]}
    assert model.card.events.classes == {known: base.card.events.classes[known]}
    assert model.card.events.default == base.card.events.default
    assert agreement.n_windows == 12 * 4


@pytest.mark.usefixtures("few_steps")
def test_silence_is_not_inherited(base: ModelFolder, tmp_path: Path) -> None:
    """What the base never tells, because its own classifier is bad at it, is told at its default; the rest stays."""
    classes = {"siren": EventNumbers(on=1.0, off=0.3, span_s=0.5), "car_horn": EventNumbers(on=0.9, off=0.2)}
    events = base.card.events.model_copy(update={"classes": classes})
    changed = replace(base, card=base.card.model_copy(update={"events": events}))
    clips, embeddings = made((*classes, "background"), n_recordings=2, d=240)
    trained = train_head(clips, embeddings, seed=0)

    model, _ = write_head(trained, changed, clips, embeddings, tmp_path / "own")

    assert model.card.events.classes == {"siren": EventNumbers(span_s=0.5), "car_horn": classes["car_horn"]}
    assert not any(rule.is_silent for rule in rules_of(model.card).values())


@pytest.mark.usefixtures("few_steps")
def test_an_int8_network_that_says_something_else_is_refused(
    base: ModelFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is held against the trained one before there is a `model.json`."""
    clips, embeddings = made(("a", "b"), n_recordings=2, d=240)
    trained, other = (train_head(clips, embeddings, seed=0) for _ in range(2))
    turned = type(other)(
        (*other.weights[:-1], other.weights[-1][:, ::-1]), (*other.biases[:-1], other.biases[-1][::-1])
    )
    monkeypatch.setattr("model_export.head.write_mlp", lambda _trained, *rest: write_mlp(turned, *rest))

    with pytest.raises(ModelError, match="int8 names the label of float"):
        write_head(trained, base, clips, embeddings, tmp_path / "own")

    assert not (tmp_path / "own" / "model.json").exists()


# Bad input


def test_the_base_is_not_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A model folder cannot stand on itself."""
    copy = shutil.copytree(DEFAULT_MODEL, tmp_path / "model")
    for name in ("a/1.wav", "a/2.wav", "b/1.wav", "b/2.wav"):
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / name).touch()
    options = ["--data", str(tmp_path / "data"), "--base", str(copy), "--out", f"{copy}/../model"]

    code = main(["head", *options])

    assert code == 2
    assert "model: is the folder of --base, expected another" in capsys.readouterr().err
    assert json.loads((copy / "model.json").read_text())["name"] == "l3-edge-us8k"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"--data": "missing"}, (2, "--data missing: No such file or directory; expected a folder with one folder")),
        ({"--base": "missing"}, (78, "model folder missing: cannot read model.json")),
        ({"--seed": "-1"}, (2, "--seed -1: expected 0 or more")),
        ({}, (74, "1.wav: is empty (0 bytes), expected a recording")),
    ],
)
def test_what_cannot_be_is_named(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: dict[str, str],
    expected: tuple[int, str],
) -> None:
    """The option or the file, what was there, and what was expected; nothing is written."""
    monkeypatch.chdir(tmp_path)
    for name in ("a/1.wav", "a/2.wav", "b/1.wav", "b/2.wav"):
        Path("data", name).parent.mkdir(parents=True, exist_ok=True)
        Path("data", name).touch()
    given = {"--data": "data", "--out": "own"} | options

    code = main(["head", *(word for pair in given.items() for word in pair)])

    assert code == expected[0]
    assert expected[1] in capsys.readouterr().err
    assert not Path("own").exists()
