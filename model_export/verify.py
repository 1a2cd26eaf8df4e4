"""One promise, every form: the trained, the quantized and the agent's own network say the same.

In: the Keras networks, a model folder and windows of real sound; or what float and int8 answered. Out: an `Agreement`,
or a `ModelError`. Keras is needed by those who bring its networks.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from agent.errors import ModelError
from agent.inference import Classifier
from agent.model_card import ModelFolder
from agent.values import FloatArray, Window

if TYPE_CHECKING:
    import keras

MIN_SAME_LABEL = 0.95  # int8 against float, where float is decided
DECIDED = 0.3  # by how much one label leads; where two are nearer to each other, either may win
MAX_MEAN_DIFFERENCE = 0.03  # of the likelihoods
MAX_STEP = 1.5 / 256  # agent against plain TFLite: one step of the int8 likelihoods


@dataclass(frozen=True, slots=True)
class Agreement:
    """How well the forms agree, over the windows looked at.

    Attributes:
        n_windows: how many.
        n_decided: in how many of them one label leads the others by `DECIDED`, in float.
        same_label: fraction of the decided windows where int8 names the same label; 1 where none is decided.
        mean_difference: mean absolute difference of the likelihoods, int8 against float.
        max_step: largest difference between the agent's likelihoods and those of plain TFLite, where both ran.
    """

    n_windows: int
    n_decided: int
    same_label: float
    mean_difference: float
    max_step: float = 0.0


def check_model(
    embedding: "keras.Model", classifier: "keras.Model", model: ModelFolder, windows: FloatArray
) -> Agreement:
    """Hold Keras, TFLite and the agent's inference against each other.

    Args:
        embedding: the trained network, window to embedding.
        classifier: the trained network, embedding to likelihoods.
        model: the packaged model.
        windows: float32 (n, n_frames, n_mels), at the card's levels.

    Raises:
        ModelError: they differ by more than the constants of this module allow.
    """
    trained = classifier.predict(
        embedding.predict(windows[..., None], batch_size=64, verbose=0), batch_size=64, verbose=0
    )  # (n, n_labels)
    plain = _plain_tflite(model, windows)  # (n, n_labels)
    check_streaming(model, windows)
    agents_own = Classifier(model)
    agent = np.stack([agents_own.predict(Window(window, 0, 1)).likelihoods for window in windows])
    max_step = float(np.max(np.abs(plain - agent)))
    agreement = replace(check_int8(model.path, trained, agent), max_step=max_step)
    if agreement.max_step > MAX_STEP:
        raise ModelError(
            f"{model.path}: the agent's likelihoods differ from TFLite's by {agreement.max_step:.4f}, "
            f"expected {MAX_STEP:.4f} or less"
        )
    return agreement


def check_int8(path: Path, trained: FloatArray, int8: FloatArray) -> Agreement:
    """Hold the likelihoods of a quantized network against those of the trained one.

    Args:
        path: what the error calls the quantized one.
        trained: float32 (n, n_labels).
        int8: the same windows, the same shape.

    Raises:
        ModelError: they differ by more than the constants of this module allow.
    """
    ordered = np.sort(trained, axis=1)
    decided = ordered[:, -1] - ordered[:, -2] >= DECIDED
    same = trained.argmax(axis=1)[decided] == int8.argmax(axis=1)[decided]
    agreement = Agreement(
        n_windows=len(int8),
        n_decided=int(decided.sum()),
        same_label=float(same.mean()) if decided.any() else 1.0,
        mean_difference=float(np.mean(np.abs(trained - int8))),
    )
    if agreement.same_label < MIN_SAME_LABEL:
        raise ModelError(
            f"{path}: int8 names the label of float in {agreement.same_label:.1%} of {agreement.n_decided} "
            f"decided windows, expected {MIN_SAME_LABEL:.0%} or more"
        )
    if agreement.mean_difference > MAX_MEAN_DIFFERENCE:
        raise ModelError(
            f"{path}: int8 likelihoods differ from float by {agreement.mean_difference:.4f} in the mean, "
            f"expected {MAX_MEAN_DIFFERENCE} or less"
        )
    return agreement


def check_streaming(model: ModelFolder, windows: FloatArray) -> None:
    """Hold the streaming form of the embedding network against the windowed one, to the last bit.

    Args:
        model: the packaged model; it has a streaming form.
        windows: float32 (n, n_frames, n_mels), taken as one stream.

    Raises:
        ModelError: they differ.
    """
    stream = np.concatenate(windows)  # (n * n_frames, n_mels)
    chunk = model.card.streaming.chunk_frames if model.card.streaming else 0
    windowed, streaming = Classifier(model), Classifier(model, streaming=True)
    for start in range(0, len(stream) - windows.shape[1] + 1, chunk):
        window = Window(stream[start : start + windows.shape[1]], start, 1, chunk if start else None)
        if windowed.predict(window).embedding.tobytes() != streaming.predict(window).embedding.tobytes():
            raise ModelError(
                f"{model.streaming_file}: another embedding than that of the windowed form at frame {start}"
            )


def _plain_tflite(model: ModelFolder, windows: FloatArray) -> FloatArray:
    """Both files run one after the other, with nothing of the agent in between."""
    networks = []
    for file in (model.embedding_file, model.classifier_file):
        interpreter = Interpreter(model_path=str(file), num_threads=1)
        interpreter.allocate_tensors()
        networks.append((interpreter, interpreter.get_input_details()[0], interpreter.get_output_details()[0]))
    likelihoods = []
    for window in windows:
        values = window[None, ..., None]
        for interpreter, into, out_of in networks:
            scale, zero_point = into["quantization"]
            quantized = np.clip(np.rint(values / scale) + zero_point, -128, 127).astype(np.int8)
            interpreter.set_tensor(into["index"], quantized)
            interpreter.invoke()
            scale, zero_point = out_of["quantization"]
            values = (interpreter.get_tensor(out_of["index"]).astype(np.float32) - zero_point) * np.float32(scale)
        likelihoods.append(values[0])
    return np.stack(likelihoods)
