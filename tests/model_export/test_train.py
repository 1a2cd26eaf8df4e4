"""Training."""

import dataclasses
import json
from pathlib import Path

import keras
import numpy as np
import pytest

from agent.errors import UsageError
from agent.model_card import sha256_of
from model_export import train as train_module
from model_export.augment import WindowDrawer
from model_export.clips import BACKGROUND, LABELS, esc10, urbansound8k
from model_export.ensemble import Ensemble
from model_export.features import all_windows, frames_of_clips
from model_export.loader import Loader
from model_export.published import PublishedNetwork
from model_export.train import Recipe, is_trained, train, training_clips
from model_export.trained import TRAINING_NAME, load_networks, training_record
from tests.model_export.conftest import SMALL_RECIPE


def test_the_loss_falls(trained: Path) -> None:
    """Even a few epochs on a few clips teach something."""
    record = training_record(trained)

    (losses,) = record["losses"]
    assert len(losses) == SMALL_RECIPE.epochs + SMALL_RECIPE.calm_epochs
    assert losses[-1] < losses[0]
    assert record["recipe"] == json.loads(json.dumps(dataclasses.asdict(SMALL_RECIPE)))
    assert record["clips"] == 29


@pytest.mark.slow
def test_a_teacher_is_imitated_besides_the_labels(
    data_sets: tuple[Path, Path], published: Path, tmp_path: Path
) -> None:
    """In both generations the loss, lessons included, falls; what is saved is the sensor alone."""
    clips = urbansound8k(data_sets[0])
    recipe = dataclasses.replace(SMALL_RECIPE, epochs=10, generations=2, head_epochs=2)

    embedding, classifier = train(clips, recipe, tmp_path, teachers=[PublishedNetwork(published)])

    record = training_record(tmp_path)
    assert record["teachers"] == [{"name": "loudness", "sha256": sha256_of(published)}]
    assert len(record["losses"]) == 2
    assert all(losses[-1] < losses[0] for losses in record["losses"])
    assert record["parameters"] == embedding.count_params() + classifier.count_params()


def test_what_is_trained_on_is_clips_and_noise(data_sets: tuple[Path, Path]) -> None:
    """Clips have their labels, noise is background, each of a recording of its own; what we do not tell is, too."""
    clips = urbansound8k(data_sets[0]) + esc10(data_sets[1])

    data = training_clips(clips, SMALL_RECIPE)

    assert [clip.label for clip in clips if clip.file.name.endswith("rooster.wav")] == [BACKGROUND]
    assert len(data.sounds) == len(clips) + SMALL_RECIPE.noise_clips
    assert [LABELS[target] for target in data.targets[: len(clips)]] == [clip.label for clip in clips]
    assert set(data.targets[len(clips) :]) == {data.background}
    assert len(set(data.recordings[len(clips) :])) == SMALL_RECIPE.noise_clips
    assert min(map(len, data.sounds)) >= 16_000


@pytest.mark.slow
def test_a_run_that_was_cut_short_goes_on_where_it_was(
    data_sets: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The generation that was finished is not trained again, and the next one is that of a run in one go.

    So the same seed gives the same network.
    """
    clips = urbansound8k(data_sets[0])
    recipe = dataclasses.replace(SMALL_RECIPE, epochs=1, calm_epochs=1, generations=2)
    windows, _ = all_windows(frames_of_clips(clips[:2]))
    expected = train(clips, recipe, tmp_path / "whole")[0].predict(windows[..., None], verbose=0)
    generation, seeds = train_module._generation, []

    def one_more(
        loader: Loader, drawers: tuple[WindowDrawer, WindowDrawer], of_its_own: Recipe, ensemble: Ensemble
    ) -> tuple[keras.Model, keras.Model, list[float]]:
        seeds.append(of_its_own.seed)
        if len(seeds) == 2:
            raise KeyboardInterrupt
        return generation(loader, drawers, of_its_own, ensemble)

    monkeypatch.setattr(train_module, "_generation", one_more)
    with pytest.raises(KeyboardInterrupt):
        train(clips, recipe, tmp_path / "cut")
    assert not is_trained(tmp_path / "cut", clips, recipe)
    first = training_record(tmp_path / "cut")

    embedding, _ = train(clips, recipe, tmp_path / "cut")

    assert seeds == [1, 11, 11]
    assert is_trained(tmp_path / "cut", clips, recipe)
    record = training_record(tmp_path / "cut")
    assert record["losses"][0] == first["losses"][0]
    assert record["duration_s"] >= first["duration_s"]
    np.testing.assert_allclose(embedding.predict(windows[..., None], verbose=0), expected, rtol=0.05, atol=0.05)


def test_a_finished_run_is_used_as_it_is(
    data_sets: tuple[Path, Path], trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same recipe on the same clips is not trained twice; on others it is not taken for trained."""
    clips = urbansound8k(data_sets[0]) + esc10(data_sets[1])
    monkeypatch.setattr(train_module, "_generation", None)

    embedding, _ = train(clips, SMALL_RECIPE, trained)

    np.testing.assert_array_equal(embedding.get_weights()[0], load_networks(trained)[0].get_weights()[0])
    assert not is_trained(trained, clips[1:], SMALL_RECIPE)


def test_other_clips_are_not_taken_for_those_that_were_trained_on(data_sets: tuple[Path, Path], tmp_path: Path) -> None:
    """As many clips of as many recordings in the same folds, but one was labelled anew: that is to be trained."""
    clips = urbansound8k(data_sets[0]) + esc10(data_sets[1])
    record = train_module._asked(clips, SMALL_RECIPE, ()) | {"losses": [[1.0]]}
    (tmp_path / TRAINING_NAME).write_text(json.dumps(record))
    assert is_trained(tmp_path, clips, SMALL_RECIPE)

    relabelled = [dataclasses.replace(clips[0], label="drilling"), *clips[1:]]

    assert not is_trained(tmp_path, relabelled, SMALL_RECIPE)


def test_a_folder_that_cannot_be_made_is_named_before_the_training(
    data_sets: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not after hours of it."""
    (tmp_path / "file").touch()
    monkeypatch.setattr(train_module, "_generation", None)

    with pytest.raises(UsageError, match=r"--out .*file/networks: Not a directory; expected a folder to write to"):
        train(urbansound8k(data_sets[0]), SMALL_RECIPE, tmp_path / "file" / "networks")
