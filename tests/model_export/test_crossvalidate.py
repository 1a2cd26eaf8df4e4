"""Cross-validation that others can repeat."""

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from scipy import special

from agent.inference import Classifier
from agent.model_card import load_model_folder
from agent.values import Window
from model_export.calibration import Rescaling
from model_export.clips import LABELS, Clip, hold_out_fold
from model_export.crossvalidate import TESTED_NAME, _as_text, _is_tested, calibrated_model, crossvalidate
from model_export.published import PublishedNetwork
from model_export.quantize import representative_windows
from model_export.results import (
    OURS,
    OURS_FLOAT,
    FoldPredictions,
    FoldWindows,
    folder_of,
    mean_by_clip,
    predictions_of,
    read_all_windows,
    read_predictions,
)
from model_export.train import Recipe, _asked
from model_export.trained import TRAINING_NAME, calibrated, load_networks
from model_export.verify import MAX_MEAN_DIFFERENCE
from tests.model_export.conftest import BRIEF_RECIPE


@pytest.fixture(scope="module", autouse=True)
def _few_steps() -> Iterator[None]:
    """MLPs that take no time; what they say is held against what they have said."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("model_export.mlp.STEPS", 20)
        yield


@pytest.fixture(scope="module")
def finished(clips: list[Clip], ten_classes: list[Clip], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a cross-validation on one fold."""
    out = tmp_path_factory.mktemp("crossvalidation")
    crossvalidate(clips, BRIEF_RECIPE, out, folds=[1], peers=[], ten_classes=ten_classes, num_threads=0)
    return out


def assert_same(runs: Sequence[FoldPredictions], others: Sequence[FoldPredictions]) -> None:
    """The same runs, with the same likelihoods."""
    for run, other in zip(runs, others, strict=True):
        assert (run.fold, run.system, run.seed, run.clips) == (other.fold, other.system, other.seed, other.clips)
        np.testing.assert_array_equal(run.likelihoods, other.likelihoods)


@pytest.fixture
def no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training fails."""
    monkeypatch.setattr("model_export.train._generation", None)


def test_a_damaged_record_is_of_no_test(tmp_path: Path) -> None:
    """The fold is tested again."""
    asked: dict[str, object] = {"clips_sha256": "0", "peers": [{"name": "yamnet", "sha256": "1"}]}
    for record, is_tested in ((_as_text(asked), True), (_as_text({**asked, "peers": []}), False), ("{", False)):
        (tmp_path / TESTED_NAME).write_text(record, encoding="utf-8")

        assert _is_tested(tmp_path, [], asked) is is_tested


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_folds_are_trained_tested_and_written_down(clips: list[Clip], finished: Path) -> None:
    """Each fold is tested on clips that were not trained on, in int8 and in float; each clip's likelihoods are kept."""
    tested = [clip for clip in clips if clip.fold == 1]

    runs = read_predictions(finished / "predictions.csv")

    assert [run.system for run in runs] == ["l3-edge int8", "l3-edge float"]
    for run in runs:
        assert run.clips == tuple(f"{clip.dataset} {clip.file.name}" for clip in tested)
        assert run.recordings == tuple(clip.recording for clip in tested)
        assert [LABELS[target] for target in run.targets] == [clip.label for clip in tested]
        assert 0.0 <= run.likelihoods.min() <= run.likelihoods.max() <= 1.0
    assert np.abs(runs[0].likelihoods - runs[1].likelihoods).mean() < 2 * MAX_MEAN_DIFFERENCE  # it has hardly learnt
    assert load_model_folder(finished / "fold1").card.trained_on == {"us8k": (2,), "esc10": (2,)}


@pytest.mark.slow
def test_windows_are_kept_as_they_were_before_the_sigmoids(finished: Path) -> None:
    """From them comes what stands in the tables, to the precision of both files."""
    runs = read_predictions(finished / "predictions.csv")

    (windows,) = read_all_windows(finished, runs)

    again = mean_by_clip(special.expit(windows.sums), windows.counts)
    assert windows.output == "sigmoid"
    np.testing.assert_allclose(again, runs[1].likelihoods, atol=0.005)


@pytest.mark.slow
def test_the_embedding_is_tested_on_all_classes_of_esc10(ten_classes: list[Clip], finished: Path) -> None:
    """By the network that has not heard the fold, on each of its clips, under their own names."""
    tested = [clip for clip in ten_classes if clip.fold == 1]

    runs = read_predictions(finished / "esc10.csv")

    assert [(run.system, run.fold, run.seed) for run in runs] == [("l3-edge int8 + MLP", 1, seed) for seed in (0, 1, 2)]
    for run in runs:
        assert run.labels == ("dog_bark", "rain", "rooster", "sea_waves")
        assert [run.labels[target] for target in run.targets] == [clip.label for clip in tested]


@pytest.mark.slow
@pytest.mark.usefixtures("no_training")
def test_a_fold_of_one_data_set_is_tested_on_that_alone(
    clips: list[Clip], ten_classes: list[Clip], finished: Path, tmp_path: Path
) -> None:
    """ESC-10 has a fold that UrbanSound8K has not; what another run wrote about UrbanSound8K does not stay."""
    out = shutil.copytree(finished, tmp_path / "out")
    (out / "fold1").rename(out / "fold4")
    (out / "fold4" / "esc10.csv").unlink()
    clips, ten_classes = (
        hold_out_fold(some, 1)[0]
        + [replace(clip, fold=4) for clip in some if (clip.dataset, clip.fold) == ("esc10", 1)]
        for some in (clips, ten_classes)
    )

    crossvalidate(clips, BRIEF_RECIPE, out, folds=[4], peers=[], ten_classes=ten_classes, num_threads=0)

    assert {run.fold for run in read_predictions(out / "esc10.csv")} == {4}
    assert not (out / "predictions.csv").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("no_training")
def test_a_finished_fold_is_used_again(clips: list[Clip], ten_classes: list[Clip], finished: Path) -> None:
    """A second run neither trains nor tests what the first one did."""
    before = read_predictions(finished / "predictions.csv")
    written_ns = (finished / "fold1" / "predictions.csv").stat().st_mtime_ns

    crossvalidate(clips, BRIEF_RECIPE, finished, folds=[1], peers=[], ten_classes=ten_classes, num_threads=0)

    assert_same(read_predictions(finished / "predictions.csv"), before)
    assert (finished / "fold1" / "predictions.csv").stat().st_mtime_ns == written_ns


@pytest.mark.slow
@pytest.mark.usefixtures("no_training")
@pytest.mark.parametrize("missing", ["predictions.csv", "windows.npz"])
def test_a_fold_that_was_tested_in_part_is_tested_again_but_not_trained(
    data: tuple[list[Clip], list[Clip]], finished: Path, published: Path, tmp_path: Path, missing: str
) -> None:
    """Its networks are used as they are; a peer is heard on the same clips."""
    clips, ten_classes = data
    out = shutil.copytree(finished, tmp_path / "old")
    (out / "fold1" / missing).unlink()
    peers = [PublishedNetwork(published)] if missing == "predictions.csv" else []

    crossvalidate(clips, BRIEF_RECIPE, out, folds=[1], peers=peers, ten_classes=ten_classes, num_threads=0)

    for name in ("predictions.csv", "esc10.csv"):
        runs, before = read_predictions(out / name), read_predictions(finished / name)
        assert_same(runs[: len(before)], before)
        assert [(run.system, run.seed) for run in runs[len(before) :]] == [
            ("loudness + MLP", seed) for _ in peers for seed in (0, 1, 2)
        ]
        assert {run.clips for run in runs} == {runs[0].clips}
    assert (out / "fold1" / "windows.npz").is_file()


@pytest.mark.slow
def test_predictions_do_not_outlive_their_networks(
    data: tuple[list[Clip], list[Clip]], finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut short while it trains by another recipe, a fold is left without what the networks before it said."""

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    out = shutil.copytree(finished, tmp_path / "out")
    monkeypatch.setattr("model_export.crossvalidate.train", interrupted)

    with pytest.raises(KeyboardInterrupt):
        crossvalidate(
            data[0], replace(BRIEF_RECIPE, seed=2), out, folds=[1], peers=[], ten_classes=data[1], num_threads=0
        )

    assert not (out / "fold1" / "predictions.csv").exists()
    assert not (out / "fold1" / "esc10.csv").exists()


@pytest.mark.slow
def test_a_folds_model_is_calibrated_as_a_shipped_one(clips: list[Clip], finished: Path, tmp_path: Path) -> None:
    """The embedding is the same, the likelihoods are those of the calibrated network, what was trained stays."""
    rescaling = Rescaling("sigmoid", LABELS, (0.5,) * len(LABELS), (-1.0,) * len(LABELS), (2,), 10)
    before = (finished / "fold1" / "classifier.tflite").read_bytes()

    model = calibrated_model(finished / "fold1", rescaling, [clip for clip in clips if clip.fold == 2], tmp_path)

    embedding, classifier = load_networks(finished / "fold1")
    windows = representative_windows(clips, seed=2)
    wanted = calibrated(classifier, rescaling).predict(embedding.predict(windows[..., None], verbose=0), verbose=0)
    agents_own = Classifier(model)
    likelihoods = np.stack([agents_own.predict(Window(window, 0, 1)).likelihoods for window in windows])
    assert np.abs(likelihoods - wanted).mean() < 2 * MAX_MEAN_DIFFERENCE  # it has hardly learnt
    assert model.card.trained_on == {"us8k": (2,), "esc10": (2,)}
    assert (finished / "fold1" / "classifier.tflite").read_bytes() == before


# Which run it was


@pytest.fixture
def own_clips(tmp_path: Path) -> list[Clip]:
    """Three folds of clips that nobody hears."""
    (tmp_path / "sounds").mkdir()
    files = [tmp_path / "sounds" / f"{number}.wav" for number in range(12)]
    for file in files:
        file.touch()
    return [Clip(file, LABELS[number % 4], "us8k", 1 + number // 4, f"r{number}") for number, file in enumerate(files)]


@pytest.fixture
def tested(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The folds that were trained and tested: nothing is learnt, and what is said of each clip depends on the seed."""
    done = []

    def train(clips: Sequence[Clip], recipe: Recipe, work: Path, **_: object) -> tuple[None, None]:
        work.mkdir(parents=True, exist_ok=True)
        (work / TRAINING_NAME).write_text(json.dumps(_asked(clips, recipe, ()) | {"losses": [[1.0]]}))
        return None, None

    def own_results(
        clips: Sequence[Clip], _trained: object, _model: object, recipe: Recipe, *, fold: int
    ) -> tuple[list[FoldPredictions], FoldWindows]:
        done.append(fold)
        sums = np.full((len(clips), len(LABELS)), recipe.seed, np.float32)
        runs = [
            predictions_of(
                clips, special.expit(sums), [1] * len(clips), labels=LABELS, system=system, fold=fold, seed=recipe.seed
            )
            for system in (OURS, OURS_FLOAT)
        ]
        return runs, FoldWindows(runs[1], "sigmoid", sums, np.ones(len(clips), np.int64))

    monkeypatch.setattr("model_export.crossvalidate.train", train)
    monkeypatch.setattr("model_export.crossvalidate._model", lambda *_: None)
    monkeypatch.setattr("model_export.crossvalidate._own_results", own_results)
    return done


def test_a_fold_whose_clips_have_changed_is_tested_again(
    own_clips: list[Clip], tmp_path: Path, tested: list[int]
) -> None:
    """One that has grown or was labelled anew: the other folds' networks, but not its own, have learnt from it."""
    crossvalidate(own_clips, BRIEF_RECIPE, tmp_path / "out", folds=[1], peers=[])
    crossvalidate(own_clips, BRIEF_RECIPE, tmp_path / "out", folds=[1], peers=[])
    assert tested == [1]
    (tmp_path / "sounds" / "new.wav").touch()
    new = replace(own_clips[0], file=tmp_path / "sounds" / "new.wav")

    for clips in ([*own_clips, new], [replace(own_clips[0], label="siren"), *own_clips[1:]]):
        crossvalidate(clips, BRIEF_RECIPE, tmp_path / "out", folds=[1], peers=[])

        for run in read_predictions(tmp_path / "out" / "predictions.csv"):
            assert [LABELS[target] for target in run.targets] == [clip.label for clip in clips if clip.fold == 1]
    assert tested == [1, 1, 1]


def test_a_fold_is_tested_again_on_a_clip_that_was_changed_in_its_place(
    own_clips: list[Clip], tmp_path: Path, tested: list[int]
) -> None:
    """Its own network has not heard it and is not trained anew; the tables of all folds are about the same clips."""
    crossvalidate(own_clips, BRIEF_RECIPE, tmp_path / "out", folds=[1, 2], peers=[])

    own_clips[0].file.write_bytes(b"another sound")
    crossvalidate(own_clips, BRIEF_RECIPE, tmp_path / "out", folds=[1, 2], peers=[])

    assert tested == [1, 2, 1, 2]


@pytest.mark.usefixtures("tested")
def test_another_peer_of_the_same_name_is_not_taken_for_the_one_before(
    own_clips: list[Clip], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its file was replaced: what the old one made of the clips is not its own."""
    asked: list[str] = []

    class Peer:
        name = "peer"

        def __init__(self, sha256: str) -> None:
            self.identity = {"name": "peer", "sha256": sha256}

    def runs(
        peer: Peer, _train: object, tests: dict[int, list[Clip]], _recipe: object, **_: object
    ) -> list[FoldPredictions]:
        asked.append(peer.identity["sha256"])
        ((fold, clips),) = tests.items()
        said, counts = np.full((len(clips), len(LABELS)), 0.5, np.float32), [1] * len(clips)
        return [predictions_of(clips, said, counts, labels=LABELS, system="peer + MLP", fold=fold, seed=0)]

    monkeypatch.setattr("model_export.crossvalidate.peer_runs", runs)
    for sha256 in ("old", "old", "new"):
        crossvalidate(
            own_clips, BRIEF_RECIPE, tmp_path / "out", folds=[1], peers=cast("list[PublishedNetwork]", [Peer(sha256)])
        )

    assert asked == ["old", "new"]


def test_tables_do_not_outlive_the_windows_that_belong_to_them(
    own_clips: list[Clip], tmp_path: Path, tested: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second run by another recipe that is cut short leaves no table of the first beside windows of its own."""
    out = tmp_path / "out"
    crossvalidate(own_clips, BRIEF_RECIPE, out, folds=[1, 2, 3], peers=[])
    assert (out / "predictions.csv").is_file()

    def interrupted(*_: object, **__: object) -> None:
        if len(tested) == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr("model_export.crossvalidate._model", interrupted)
    with pytest.raises(KeyboardInterrupt):
        crossvalidate(own_clips, replace(BRIEF_RECIPE, seed=2), out, folds=[1, 2, 3], peers=[])

    assert not (out / "predictions.csv").exists()
    assert [(folder_of(out, fold) / "windows.npz").is_file() for fold in (1, 2, 3)] == [True, False, True]
