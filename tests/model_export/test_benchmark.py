"""A model folder as it is, on what it has not heard."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from agent.errors import UsageError
from agent.model_card import DEFAULT_MODEL, ModelFolder, load_model_folder
from model_export.benchmark import Trial, benchmark, trial_of
from model_export.clips import Clip
from model_export.published import PublishedNetwork
from tests.commands import Caller


def model_that_heard(folder: Path, trained_on: dict[str, list[int]] | None) -> ModelFolder:
    """The model that comes with the agent, as if it had been trained on these folds."""
    shutil.copytree(DEFAULT_MODEL, folder)
    card = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    del card["trained_on"]
    (folder / "model.json").write_text(json.dumps(card | ({"trained_on": trained_on} if trained_on else {})))
    return load_model_folder(folder)


@pytest.fixture
def model(tmp_path: Path) -> ModelFolder:
    """It has heard fold 1 of both data sets."""
    return model_that_heard(tmp_path / "model", {"us8k": [1], "esc10": [1]})


def names(clips: Sequence[Clip]) -> set[str]:
    return {clip.file.name for clip in clips}


def test_it_is_tested_on_all_that_it_has_not_heard(
    model: ModelFolder, clips: list[Clip], ten_classes: list[Clip]
) -> None:
    """No fold and no recording of the test was heard; peers may learn from what was, the MLPs from ESC-10's others."""
    trial = trial_of(model, clips, ten_classes, None)

    heard = {clip.recording for clip in clips if clip.fold == 1}
    assert list(trial.tests) == [2]
    expected = [clip for clip in clips if clip.fold == 2 and clip.recording not in heard]
    assert names(trial.tests[2]) == names(expected)
    assert names(trial.train) == names([clip for clip in clips if clip.fold == 1])
    assert "both" in heard  # a recording that stands in two folds
    assert names(trial.frozen_tests[2]) == names([clip for clip in ten_classes if clip.fold == 2])
    assert names(trial.frozen_train) == names([clip for clip in ten_classes if clip.fold == 1])


def test_a_fold_that_it_has_heard_is_refused(model: ModelFolder, clips: list[Clip]) -> None:
    """The message says which, and which are left."""
    with pytest.raises(UsageError, match=r"--folds 1: .* was trained on it \(trained_on.us8k in its card\), .* 2$"):
        trial_of(model, clips, [], [2, 1])


def test_a_fold_that_is_not_there_is_refused(model: ModelFolder, clips: list[Clip]) -> None:
    """The message says which there are."""
    with pytest.raises(UsageError, match=r"--folds 7: not in --us8k, expected of 1, 2"):
        trial_of(model, clips, [], [7])


def test_a_model_that_has_heard_everything_cannot_be_tested(tmp_path: Path, clips: list[Clip]) -> None:
    """The shipped model and the part of UrbanSound8K that it was trained on, for one."""
    model = model_that_heard(tmp_path / "model", {"us8k": [1, 2]})

    with pytest.raises(UsageError, match=r"was trained on all folds in it \(1, 2\), expected one"):
        trial_of(model, clips, [], None)


def test_esc10_is_tested_where_its_own_fold_was_not_heard(
    tmp_path: Path, clips: list[Clip], ten_classes: list[Clip]
) -> None:
    """Fold 2 of UrbanSound8K is new to the model, that of ESC-10 is not."""
    model = model_that_heard(tmp_path / "model", {"us8k": [1], "esc10": [1, 2]})

    trial = trial_of(model, clips, ten_classes, [2])

    assert {clip.dataset for clip in trial.tests[2]} == {"us8k"}
    assert trial.frozen_tests == {}


def test_no_recording_of_the_test_is_in_what_the_mlps_learn_from(model: ModelFolder, clips: list[Clip]) -> None:
    """Of ESC-10, too: a recording may stand in two folds of which one is not tested."""
    there = [
        Clip(Path(f"{number}.wav"), "rain", "esc10", fold, recording)
        for number, (fold, recording) in enumerate([(1, "a"), (2, "b"), (3, "b"), (3, "c")])
    ]

    trial = trial_of(model, clips, there, [2])

    assert names(trial.frozen_tests[2]) == {"1.wav"}
    assert names(trial.frozen_train) == {"0.wav", "3.wav"}


def test_a_model_of_unknown_training_is_tested_on_what_is_asked_for(
    tmp_path: Path, clips: list[Clip], caplog: pytest.LogCaptureFixture
) -> None:
    """With a warning; peers learn from the other folds. Nobody chooses the folds for it."""
    model = model_that_heard(tmp_path / "model", None)

    trial = trial_of(model, clips, [], [2])

    assert "its card has no trained_on" in caplog.text
    assert {clip.fold for clip in trial.train} == {1}
    with pytest.raises(UsageError, match="does not say what it was trained on, expected --folds"):
        trial_of(model, clips, [], None)


def test_a_label_that_the_model_does_not_know_is_named(model: ModelFolder, clips: list[Clip]) -> None:
    """A model of one's own classes is no match for UrbanSound8K; background alone may be missing."""
    labels = tuple(label for label in model.card.labels if label not in ("dog_bark", "background"))
    other = replace(model, card=model.card.model_copy(update={"labels": labels, "background_label": None}))

    with pytest.raises(UsageError, match="does not know dog_bark, expected the labels of UrbanSound8K"):
        trial_of(other, clips, [], [2])
    trial = trial_of(other, [clip for clip in clips if clip.label != "dog_bark"], [], [2])
    assert "background" not in {clip.label for clip in [*trial.train, *trial.tests[2]]}


def test_clips_are_judged_as_classify_judges_them(model: ModelFolder, clips: list[Clip], call: Caller) -> None:
    """The agent's own front end, int8 inference and sum: the same likelihoods as `urbansound classify`."""
    trial = trial_of(model, clips, [], None)

    (run,) = benchmark(model, Trial(trial.train, {2: trial.tests[2][:2]}, [], {}))["us8k"]

    said = json.loads(call("classify", "--format", "jsonl", trial.tests[2][1].file).out)
    assert (run.system, run.fold, run.labels) == ("l3-edge-us8k 1", 2, model.card.labels)
    assert run.likelihoods[1].tolist() == pytest.approx(list(said["likelihoods"].values()), abs=1e-4)


@pytest.mark.slow
def test_peers_are_run_side_by_side(
    data: tuple[list[Clip], list[Clip]], model: ModelFolder, published: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same clips and folds for all, on both data sets."""
    clips, ten_classes = data
    monkeypatch.setattr("model_export.mlp.STEPS", 10)
    runs = benchmark(model, trial_of(model, clips, ten_classes, [2]), [PublishedNetwork(published)])

    assert {dataset: {run.system for run in its_runs} for dataset, its_runs in runs.items()} == {
        "us8k": {"l3-edge-us8k 1", "loudness + MLP"},
        "esc10": {"l3-edge-us8k 1 + MLP", "loudness + MLP"},
    }
    for its_runs in runs.values():
        assert {(run.fold, run.clips, run.labels) for run in its_runs} == {(2, its_runs[0].clips, its_runs[0].labels)}


def test_peers_need_something_to_learn_from(model: ModelFolder, clips: list[Clip], published: Path) -> None:
    """Whoever has only the folds of the test learns that the others are missing."""
    second = [clip for clip in clips if clip.fold == 2]

    with pytest.raises(UsageError, match="--peer: no fold in --us8k that the model was trained on"):
        benchmark(model, trial_of(model, second[:1], [], [2]), [PublishedNetwork(published)])
