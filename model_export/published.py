"""Published networks, as teachers and as opponents: their embeddings, and the paper's MLP on them.

In: a TFLite file that takes a waveform (YAMNet: float32 (15600,) at 16 kHz) and clips. Out: embeddings, and a trained
MLP's likelihoods. The embedding is the tensor that goes into the last fully connected layer.
"""

import logging
import os
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np
import soxr
from ai_edge_litert.interpreter import Interpreter
from numpy.typing import NDArray

from agent.errors import ModelError
from agent.model_card import sha256_of
from agent.values import FloatArray
from model_export import networks
from model_export.clips import Clip
from model_export.features import read_mono

log = logging.getLogger(__name__)

RATE_HZ = 16_000
HOP_SAMPLES = 1_600


class PublishedNetwork:
    """A network that takes a waveform at 16 kHz.

    Args:
        file: TFLite.
        cache: folder that keeps the embeddings of clips from run to run; none without.

    Attributes:
        name: of the file.
        identity: the name and the file's SHA-256, for the record.
        window_samples: what it hears at once.

    Raises:
        ModelError: the file is not TFLite, does not take one float32 waveform, or has no fully connected layer.
    """

    def __init__(self, file: Path, cache: Path | None = None) -> None:
        self.name = file.stem
        try:
            self._interpreter = Interpreter(model_path=str(file), num_threads=1, experimental_preserve_all_tensors=True)
        except (ValueError, OSError) as error:
            raise ModelError(f"network {file}: not a TFLite file ({error})") from error
        self.identity = {"name": file.stem, "sha256": sha256_of(file)}
        self._cache = cache / f"{file.stem}-{self.identity['sha256'][:12]}.npz" if cache else None
        self._interpreter.allocate_tensors()
        self._input = self._interpreter.get_input_details()[0]
        shape = tuple(self._input["shape"])
        if self._input["dtype"] is not np.float32 or len(shape) != 1:
            raise ModelError(
                f"network {file}: takes {self._input['dtype'].__name__} {shape}, expected one float32 waveform"
            )
        self.window_samples = int(shape[0])
        operators = self._interpreter._get_ops_details()
        connected = [op for op in operators if op["op_name"] == "FULLY_CONNECTED"]
        if not connected:
            raise ModelError(f"network {file}: no fully connected layer, expected one after the embedding")
        self._embedding = int(connected[-1]["inputs"][0])
        self._details = {int(tensor["index"]): tensor for tensor in self._interpreter.get_tensor_details()}

    def embeddings(self, samples: FloatArray, sample_rate_hz: int) -> FloatArray:
        """One embedding each 0.1 s; a sound shorter than one window is padded with silence.

        Returns:
            float32 (n_windows, d).
        """
        if sample_rate_hz != RATE_HZ:
            samples = soxr.resample(samples, sample_rate_hz, RATE_HZ)
        samples = np.pad(samples, (0, max(0, self.window_samples - len(samples))))
        rows = []
        for start in range(0, len(samples) - self.window_samples + 1, HOP_SAMPLES):
            window = samples[start : start + self.window_samples].astype(np.float32)
            self._interpreter.set_tensor(self._input["index"], window)
            self._interpreter.invoke()
            rows.append(self._dequantized(self._interpreter.get_tensor(self._embedding)))
        return np.stack(rows)

    def embeddings_of(self, clips: Sequence[Clip]) -> list[FloatArray]:
        """The embeddings of each clip; with a cache, each clip is heard once."""
        known: dict[str, FloatArray] = {}
        if self._cache and self._cache.is_file():
            with np.load(self._cache) as rows:
                known = dict(rows)
        names = [f"{clip.dataset} {clip.file.name}" for clip in clips]
        missing = [(name, clip) for name, clip in zip(names, clips, strict=True) if name not in known]
        for number, (name, clip) in enumerate(missing, start=1):
            known[name] = self.embeddings(*read_mono(clip.file))
            if number % 500 == 0:
                log.info("published.embeddings network=%s clips=%d of=%d", self.name, number, len(missing))
        if self._cache and missing:
            self._cache.parent.mkdir(parents=True, exist_ok=True)
            partial = self._cache.with_suffix(f".{os.getpid()}.npz")
            np.savez(partial, allow_pickle=False, **known)
            partial.replace(self._cache)
        return [known[name] for name in names]

    def _dequantized(self, values: NDArray[np.float32] | NDArray[np.int8] | NDArray[np.uint8]) -> FloatArray:
        scale, zero_point = self._details[self._embedding]["quantization"]
        row = values.reshape(-1).astype(np.float32)
        return (row - np.float32(zero_point)) * np.float32(scale) if scale else row


def train_mlp(
    train: tuple[FloatArray, NDArray[np.int64]],
    validation: tuple[FloatArray, NDArray[np.int64]],
    *,
    n_labels: int,
    seed: int,
    epochs: int = 30,
    patience: int = 6,
) -> keras.Model:
    """The paper's MLP 512-128 on frozen embeddings, standardized; the epoch of lowest validation loss is kept.

    Args:
        train: float32 (n, d) and int64 (n,).
        validation: the same, of other recordings.
        n_labels: how many labels there are.
        seed: of the initial weights and the order.
        epochs: at most.
        patience: epochs without a lower validation loss before it stops.

    Source: Cramer et al., ICASSP 2019, section 3 (Adam, early stopping, 1e-4 of its grid's rates and penalties), but
    validation is split by recording: the published split by window leaks.
    """
    keras.utils.set_random_seed(seed)
    classifier = networks.classifier_network(train[0].shape[1], n_labels)
    standardization = classifier.get_layer(networks.STANDARDIZATION)
    standardization.set_weights([train[0].mean(axis=0), train[0].var(axis=0)])
    standardization.trainable = False
    classifier.compile(keras.optimizers.Adam(1e-4), loss="sparse_categorical_crossentropy")
    classifier.fit(
        *train,
        validation_data=validation,
        epochs=epochs,
        batch_size=128,
        verbose=0,
        callbacks=[keras.callbacks.EarlyStopping(patience=patience, restore_best_weights=True)],
    )
    return classifier


def clip_targets(targets: Sequence[int], counts: Sequence[int]) -> NDArray[np.int64]:
    """Each clip's label, once for each of its windows."""
    return np.repeat(np.asarray(targets, np.int64), counts)
