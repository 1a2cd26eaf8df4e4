"""Cross-validation by fold: our network and its peers on the same clips, by the same rules.

In: clips. Out: `predictions.csv` and `esc10.csv`. For each fold the network is trained on the other folds of both data
sets (no recording of the fold is in training), quantized, and run through the agent's own front end and inference, and
once more in float; peers are embedded, and the paper's MLP is trained on their embeddings. On ESC-10's ten classes, our
embedding and the peers' are frozen under the same MLP. A fold that one data set does not have is tested on the other
alone. What the predictions are worth, `evaluate` says.
"""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import keras
import numpy as np

from agent.inference import Classifier
from agent.model_card import ModelFolder
from agent.values import FloatArray, Window
from model_export import networks
from model_export.calibration import Rescaling
from model_export.clips import LABELS, Clip, digest_of, hold_out_fold
from model_export.embeddings import Listener
from model_export.features import all_windows, frames_of_clips
from model_export.files import whole
from model_export.frozen import frozen_runs
from model_export.package import write_card
from model_export.peers import peer_runs, system_of
from model_export.published import PublishedNetwork
from model_export.quantize import quantize, representative_windows
from model_export.results import (
    ESC10_NAME,
    FILES,
    OURS,
    OURS_FLOAT,
    PREDICTIONS_NAME,
    WINDOWS_NAME,
    FoldPredictions,
    FoldWindows,
    folder_of,
    predictions_of,
    read_predictions,
    write_predictions,
    write_windows,
)
from model_export.train import Recipe, is_trained, train
from model_export.trained import calibrated, load_networks, training_record

log = logging.getLogger(__name__)

OURS_FROZEN = f"{OURS} + MLP"
TESTED_NAME = "tested.json"  # beside a fold's tables, once they are whole: what they are about


def crossvalidate(
    clips: Sequence[Clip],
    recipe: Recipe,
    out: Path,
    *,
    folds: Sequence[int],
    peers: Sequence[PublishedNetwork],
    ten_classes: Sequence[Clip] = (),
    teachers: Sequence[PublishedNetwork] = (),
    num_threads: int = 0,
    num_processes: int = 0,
) -> None:
    """Train and test on each fold; write `predictions.csv` and `esc10.csv` about these folds.

    `ten_classes` are all of ESC-10 under its own names.

    What stands in `out` from a run of the same recipe on the same clips is used again: networks and finished folds. A
    fold whose networks are there but not all of its predictions, or those of other peers, is tested again, without
    training.
    """
    asked = {"clips_sha256": digest_of([*clips, *ten_classes]), "peers": [peer.identity for peer in peers]}
    runs: dict[str, list[FoldPredictions]] = {name: [] for name in FILES.values()}
    for fold in folds:
        work = folder_of(out, fold)
        # ESC-10's weather, water, fire and clocks in the test say whether background stays background; they are not in
        # the accuracy.
        split = hold_out_fold(clips, fold)
        other_split = hold_out_fold(ten_classes, fold)
        tested = [PREDICTIONS_NAME] if any(clip.dataset == "us8k" for clip in split[1]) else []
        tested += [ESC10_NAME] if all(other_split) else []
        if not (_is_tested(work, tested, asked) and is_trained(work, split[0], recipe, teachers)):
            for name in FILES.values():
                (out / name).unlink(missing_ok=True)  # of a run before, whose windows go with the fold
            (work / TESTED_NAME).unlink(missing_ok=True)
            trained = train_fold(
                split[0], recipe, work, teachers=teachers, num_threads=num_threads, num_processes=num_processes
            )
            model = _model(split[0], trained, recipe, work)
            if PREDICTIONS_NAME in tested:
                own = _own_results(split[1], trained, model, recipe, fold=fold)
                write_windows(own[1], work / WINDOWS_NAME)
                for peer in peers:
                    own[0].extend(peer_runs(peer, split[0], {fold: split[1]}, recipe, labels=LABELS))
                write_predictions(own[0], work / PREDICTIONS_NAME)
            if ESC10_NAME in tested:
                found = frozen_runs(OURS_FROZEN, _embed(model), other_split[0], {fold: other_split[1]})
                for peer in peers:
                    found += frozen_runs(system_of(peer), peer.embeddings_of, other_split[0], {fold: other_split[1]})
                write_predictions(found, work / ESC10_NAME)
            with whole(work / TESTED_NAME) as file:
                file.write_text(_as_text(asked), encoding="utf-8")
        for name in tested:
            runs[name] += read_predictions(work / name)
        log.info("crossvalidate.tested fold=%d", fold)
    for name in FILES.values():
        if runs[name]:
            write_predictions(runs[name], out / name)
        else:
            (out / name).unlink(missing_ok=True)  # of a run on other folds


def train_fold(
    train_clips: Sequence[Clip],
    recipe: Recipe,
    work: Path,
    *,
    teachers: Sequence[PublishedNetwork],
    num_threads: int = 0,
    num_processes: int = 0,
) -> tuple[keras.Model, keras.Model]:
    """The networks of a fold, trained unless they stand in its folder; what others predicted there is taken away."""
    if not is_trained(work, train_clips, recipe, teachers):
        for name in (*FILES.values(), WINDOWS_NAME):
            (work / name).unlink(missing_ok=True)  # if this is cut short, they are not there
    return train(train_clips, recipe, work, teachers=teachers, num_threads=num_threads, num_processes=num_processes)


def _is_tested(work: Path, tested: Sequence[str], asked: Mapping[str, object]) -> bool:
    """Whether each table of a fold is there, of these clips and peers, and the windows of our network."""
    names = [*tested, *([WINDOWS_NAME] if PREDICTIONS_NAME in tested else [])]
    if not all((work / name).is_file() for name in (*names, TESTED_NAME)):
        return False
    return (work / TESTED_NAME).read_bytes() == _as_text(asked).encode()  # damaged, it is of none


def _as_text(asked: Mapping[str, object]) -> str:
    return json.dumps(asked, indent=1) + "\n"


def _model(
    train_clips: Sequence[Clip], trained: tuple[keras.Model, keras.Model], recipe: Recipe, work: Path
) -> ModelFolder:
    """The networks of a fold as a model folder that the agent runs."""
    quantize(*trained, representative_windows(train_clips, seed=recipe.seed), work)
    return write_card(work, onset_response_s=0.0, offset_response_s=0.0, trained_on=training_record(work)["folds"])


def _own_results(
    test_clips: Sequence[Clip],
    trained: tuple[keras.Model, keras.Model],
    model: ModelFolder,
    recipe: Recipe,
    *,
    fold: int,
) -> tuple[list[FoldPredictions], FoldWindows]:
    embedding, classifier = trained
    agents_own = Classifier(model)
    windows, counts = all_windows(frames_of_clips(test_clips))
    int8 = np.stack([agents_own.predict(Window(window, 0, 1)).likelihoods for window in windows])
    embeddings = embedding.predict(windows[..., None], batch_size=64, verbose=0)
    in_float = classifier.predict(embeddings, batch_size=512, verbose=0)
    sums = networks.without_output(classifier).predict(embeddings, batch_size=512, verbose=0)
    runs = [
        predictions_of(test_clips, likelihoods, counts, labels=LABELS, system=system, fold=fold, seed=recipe.seed)
        for system, likelihoods in ((OURS, int8), (OURS_FLOAT, in_float))
    ]
    return runs, FoldWindows(runs[1], networks.output_of(classifier), sums, np.asarray(counts))


def _embed(model: ModelFolder) -> Callable[[Sequence[Clip]], list[FloatArray]]:
    """The embeddings of each clip, as the agent computes them."""
    listener = Listener(model)
    return lambda clips: [np.stack([one.embedding for one in listener.hear(clip.file)]) for clip in clips]


def calibrated_model(work: Path, rescaling: Rescaling, train_clips: Sequence[Clip], out: Path) -> ModelFolder:
    """The networks of a fold as a model folder with a calibration folded in: as a calibrated model is shipped.

    Args:
        work: the fold's folder.
        rescaling: the calibration.
        train_clips: what the fold was trained on.
        out: the folder to write.

    Raises:
        UsageError: the calibration is of another kind of network.
    """
    embedding, classifier = load_networks(work)
    record = training_record(work)
    windows = representative_windows(train_clips, seed=record["recipe"]["seed"])
    quantize(embedding, calibrated(classifier, rescaling), windows, out)
    return write_card(out, onset_response_s=0.0, offset_response_s=0.0, trained_on=record["folds"])
