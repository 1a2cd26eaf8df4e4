"""Clips to embeddings, exactly as the agent computes them; each recording is heard once.

In: clips, a model folder, a folder to remember in. Out: for each clip, float32 (n_windows, d), dequantized where the
network is int8; or what the agent predicts for each of its windows. Embeddings need no classifier.
"""

import hashlib
import itertools
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from agent import pipeline
from agent.config import InferenceConfig
from agent.errors import RecordingError, UsageError
from agent.frontend import FrontEnd
from agent.inference import Classifier, Embedder
from agent.model_card import ModelFolder
from agent.values import AudioBlock, FloatArray, Prediction
from agent.wavfile import open_recording
from model_export.clips import Clip
from model_export.files import UNREADABLE, whole

log = logging.getLogger(__name__)

Found = TypeVar("Found")

WINDOW_HOP_S = InferenceConfig().window_hop_s


class Listener:
    """A model that hears recordings from file to prediction, by the agent's own loop.

    Args:
        model: what hears them.
    """

    def __init__(self, model: ModelFolder) -> None:
        self._front_end = model.card.front_end
        self._classifier = Classifier(model, streaming=model.card.streaming is not None)

    def hear(self, file: Path, *, gain_db: float = 0.0) -> list[Prediction]:
        """What is predicted for each window of a recording.

        Args:
            file: the recording.
            gain_db: what its samples are scaled by, in float: nothing is clipped on the way to the front end.

        Raises:
            RecordingError: the file is not a recording that can be read, or holds no sound.
        """
        return _heard(file, self.hear_blocks, gain_db=gain_db)

    def hear_blocks(self, blocks: Iterable[AudioBlock], sample_rate_hz: int) -> list[Prediction]:
        """The same, of samples."""
        front_end = FrontEnd(self._front_end, capture_rate_hz=sample_rate_hz, window_hop_s=WINDOW_HOP_S)
        return list(pipeline.predictions(blocks, front_end, self._classifier))


class EmbeddingCache:
    """The embeddings of recordings, one file for each.

    A recording is known by its content and by the model that heard it: a file that was moved is not heard again, one
    that was changed is, and so are all with another model.

    Args:
        model: what hears them.
        folder: where the embeddings are kept from run to run.
    """

    def __init__(self, model: ModelFolder, folder: Path) -> None:
        self._folder = folder / model.sha256[:12]
        self._front_end = model.card.front_end
        self._embedder = Embedder(model, streaming=model.card.streaming is not None)

    def embeddings_of(self, clips: Sequence[Clip]) -> dict[Clip, FloatArray]:
        """The embeddings of each clip, float32 (n_windows, d).

        Raises:
            RecordingError: a file is not a recording that can be read, or holds no sound.
            UsageError: the folder cannot be written.
        """
        embeddings: dict[Clip, FloatArray] = {}
        n_heard = 0
        for number, clip in enumerate(clips, start=1):
            kept = self._folder / f"{_sha256_of(clip.file)}.npy"
            try:
                embeddings[clip] = _kept(kept)
            except UNREADABLE:  # not there yet, or damaged
                rows: list[FloatArray] = _heard(clip.file, self._embedded)
                embeddings[clip] = np.stack(rows)
                _keep(kept, embeddings[clip])
                n_heard += 1
            if n_heard and number % 100 == 0:
                log.info("embeddings.heard clips=%d of=%d", number, len(clips))
        log.info("embeddings.ready clips=%d heard=%d folder=%s", len(clips), n_heard, self._folder)
        return embeddings

    def _embedded(self, blocks: Iterable[AudioBlock], sample_rate_hz: int) -> list[FloatArray]:
        front_end = FrontEnd(self._front_end, capture_rate_hz=sample_rate_hz, window_hop_s=WINDOW_HOP_S)
        pushed = (window for block in blocks for window in front_end.push(block))
        return [self._embedder.embed(window) for window in itertools.chain(pushed, front_end.flush())]


def _heard(
    file: Path, hear: Callable[[Iterable[AudioBlock], int], list[Found]], *, gain_db: float = 0.0
) -> list[Found]:
    """What is found in each window of a recording whose samples were scaled by a gain; never nothing."""
    gain = np.float32(10.0 ** (gain_db / 20.0))
    with open_recording(file) as recording:
        blocks = (replace(block, samples=gain * block.samples) for block in recording.blocks())
        found = hear(blocks, recording.sample_rate_hz)
    if not found:
        raise RecordingError(recording.problem or f"{file}: holds no samples")
    if recording.problem:
        log.warning("%s", recording.problem)
    return found


def _sha256_of(file: Path) -> str:
    try:
        with file.open("rb") as content:
            return hashlib.file_digest(content, "sha256").hexdigest()
    except OSError as error:
        raise RecordingError(f"{file}: cannot be opened ({error.strerror})") from error


def _kept(kept: Path) -> FloatArray:
    with kept.open("rb") as file:
        rows: FloatArray = np.lib.format.read_array(file, allow_pickle=False)
    return rows


def _keep(kept: Path, rows: FloatArray) -> None:
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        with whole(kept) as file:
            np.save(file, rows, allow_pickle=False)
    except OSError as error:
        raise UsageError(f"--cache {kept.parent.parent}: {error.strerror}; expected a folder to write to") from error
