"""Inference: one window becomes an embedding and, from it, one likelihood for each class.

In: `Window`s. Out: `Prediction`s. This is the owner of quantization: nobody else rounds. Called on the pipeline thread,
by `replay`, `classify` and `model_export`.

Overlapping windows share most of their work. In its streaming form the embedding network does that work once: it takes
the new frames, remembers what it needs of the past, and gives the same embedding to the last bit.

Windows may come many at once, as from a recording. The networks add integers, so that makes them faster, not different.

The embedding network, which is most of the work, may run on an accelerator. When that fails, the CPU takes over for
good: it begins anew with the window that failed, whose frames are all there, so no window is lost and none is spliced.
"""

import functools
import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from agent.errors import ModelError
from agent.litert import CPU, AcceleratorError, Device, Runner, TensorArray, load
from agent.model_card import ModelFolder, NetworkCard, TensorCard
from agent.values import FloatArray, Prediction, Window

SCALE_TOLERANCE = 1e-6  # relative: a float32 written as JSON with 7 digits
CHUNKS_AT_ONCE = (50, 10, 2, 1)  # in one call of the streaming network, as many as there are: live, two
ROWS_AT_ONCE = 50  # in one call of the classifier
FEW_ROWS = 4  # are cheaper one by one

log = logging.getLogger(__name__)


def quantize(values: FloatArray, tensor: TensorCard) -> TensorArray:
    """Round to the tensor's steps; what lies outside its range takes the nearest end. A float32 tensor has none.

    >>> quantize(np.float32([-1.0, 0.0, 0.24, 9.0]), TensorCard(shape=(4,), dtype="int8", scale=0.1, zero_point=0))
    array([-10,   0,   2,  90], dtype=int8)
    """
    if tensor.dtype == "float32":
        return values.astype(np.float32, copy=False)
    steps = values / np.float32(tensor.scale)  # the rest in place: this runs at each hop
    np.rint(steps, out=steps)
    steps += tensor.zero_point
    rounded: TensorArray = steps.clip(-128, 127, out=steps).astype(np.int8)
    return rounded


def dequantize(steps: TensorArray, tensor: TensorCard) -> FloatArray:
    """The float32 values that the tensor's steps stand for, in an array of their own."""
    if tensor.dtype == "float32":
        return steps.astype(np.float32)
    values: FloatArray = (steps.astype(np.float32) - np.float32(tensor.zero_point)) * np.float32(tensor.scale)
    return values


class Classifier:
    """The two networks of a model folder, held against its card.

    Args:
        model: the folder, its hashes already checked.
        num_threads: threads that LiteRT may use for one window.
        streaming: use the streaming form of the embedding network, which the folder must have. Every window must then
            follow from the one before by a whole number of chunks, or be the first (`n_new_frames` says which).
        device: where the embedding network runs.
        cpu_streaming: in which form the CPU takes over, if not in the same.

    Attributes:
        failure: why the device failed and the CPU took over; None while all is well.

    Raises:
        ModelError: the folder has no classifier; a file that LiteRT cannot load, or whose tensors are not what the card
            promises.
        AcceleratorError: the device cannot run the embedding network.
    """

    def __init__(
        self,
        model: ModelFolder,
        num_threads: int = 1,
        *,
        streaming: bool = False,
        device: Device = CPU,
        cpu_streaming: bool | None = None,
    ) -> None:
        card = model.card
        self._embedding_card = card.embedding
        self._classifier_card = model.require_classifier()
        self._embedding = _embedding(model, num_threads, streaming=streaming, device=device)
        after = streaming if cpu_streaming is None else cpu_streaming
        self._on_cpu = functools.partial(_embedding, model, num_threads, streaming=after)
        self.failure: str | None = None
        self._classifier = _Network(model.classifier_file, self._classifier_card, num_threads)
        self._same_steps = _same_steps(card.embedding.output, self._classifier_card.input)

    def predict(self, window: Window) -> Prediction:
        """Judge one window.

        Args:
            window: its `log_mel` is float32 (n_frames, n_mels), as the card's front end gives it.
        """
        (prediction,) = self.predict_all([window])
        return prediction

    def predict_all(self, windows: Sequence[Window]) -> list[Prediction]:
        """Judge windows that follow one another: the same predictions as one by one, in less time."""
        if not windows:
            return []
        steps = self.embed(windows)  # (n_windows, d)
        likelihoods = self.judge(steps)  # (n_windows, n_classes)
        embeddings = dequantize(steps, self._embedding_card.output)
        likelihoods.flags.writeable = False
        embeddings.flags.writeable = False
        return [
            Prediction(likely, embedding, window.first_sample, window.n_samples)
            for likely, embedding, window in zip(likelihoods, embeddings, windows, strict=True)
        ]

    def embed(self, windows: Sequence[Window]) -> TensorArray:
        """The embeddings alone, in the steps of the card: int8 (n_windows, d)."""
        try:
            return self._embedding.run(windows)
        except AcceleratorError as error:
            log.warning("accelerator.failed reason=%s; from here on the CPU does its work", error)
            self.failure = str(error)
            self._embedding = self._on_cpu()
            first, *others = windows
            return self._embedding.run([replace(first, n_new_frames=None), *others])  # it has heard nothing before

    def judge(self, embeddings: TensorArray) -> FloatArray:
        """The likelihoods alone, of embeddings in the steps of the card: float32 (n_windows, n_classes), in [0, 1]."""
        if not self._same_steps:
            embeddings = quantize(dequantize(embeddings, self._embedding_card.output), self._classifier_card.input)
        likelihoods = dequantize(self._classifier.run_all(embeddings), self._classifier_card.output)
        return np.clip(likelihoods, 0.0, 1.0, out=likelihoods)


class Embedder:
    """The embedding network alone, for those who do not ask for likelihoods; arguments and errors as `Classifier`'s."""

    def __init__(self, model: ModelFolder, num_threads: int = 1, *, streaming: bool = False) -> None:
        self._card = model.card.embedding
        self._network = _embedding(model, num_threads, streaming=streaming)

    def embed(self, window: Window) -> FloatArray:
        """The embedding of one window, float32 (d,)."""
        return dequantize(self._network.run([window])[0], self._card.output)


def _embedding(
    model: ModelFolder, num_threads: int, *, streaming: bool, device: Device = CPU
) -> "_StreamingEmbedding | _WindowedEmbedding":
    kind = _StreamingEmbedding if streaming else _WindowedEmbedding
    return kind(model, num_threads, device)


class _WindowedEmbedding:
    """The embedding network, each window on its own."""

    def __init__(self, model: ModelFolder, num_threads: int, device: Device) -> None:
        self._card = model.card.embedding
        file = model.file_for(device.name, streaming=False) or model.embedding_file
        self._network = _Network(file, self._card, num_threads, device)
        self._bands_first = model.card.front_end.axes == "frequency_time"

    def run(self, windows: Sequence[Window]) -> TensorArray:
        """The embeddings of windows, (n_windows, d)."""
        log_mels = (window.log_mel.T if self._bands_first else window.log_mel for window in windows)
        return np.stack([self._network.run(quantize(log_mel, self._card.input)) for log_mel in log_mels])


class _StreamingEmbedding:
    """The embedding network, chunk by chunk: what it knows of the past stands in state tensors."""

    def __init__(self, model: ModelFolder, num_threads: int, device: Device) -> None:
        card, file = model.card.streaming, model.file_for(device.name, streaming=True)
        if card is None or file is None:
            raise ModelError(f"model folder {model.path}: its card names no streaming form")
        self._card, self._embedding_card = card, model.card.embedding
        # A window ends where a chunk ends: the first chunk begins with frames that no column of a window reaches.
        self._lead = -model.card.front_end.n_frames % card.chunk_frames
        self._file, self._num_threads = file, num_threads
        runner = load(file, device, num_threads)
        self._held_against_card(runner)
        self._states = runner.silence()
        self._newest = np.empty((0, self._embedding_card.output.shape[-1]), np.int8)  # columns, (window_columns, d)
        self._runners = {1: runner}  # by how many chunks; others are made when there are so many
        self._at_once = CHUNKS_AT_ONCE if device == CPU else (1,)  # accelerators want one shape

    def run(self, windows: Sequence[Window]) -> TensorArray:
        """The embeddings of windows, int8 (n_windows, d); all before their new frames it has heard already."""
        hops = [window.n_new_frames for window in windows]
        begins = [
            index for index, hop in enumerate(hops) if index == 0 or hop is None or hop != hops[index - 1] is not None
        ]
        if len(begins) == 1:
            return self._follow(windows)
        runs = [windows[begin:end] for begin, end in zip(begins, [*begins[1:], len(windows)], strict=True)]
        return np.concatenate([self._follow(run) for run in runs])

    def _follow(self, windows: Sequence[Window]) -> TensorArray:
        """The same for windows of which each goes on from the one before, by one hop; the first may begin anew."""
        chunk, n_columns = self._card.chunk_frames, self._card.window_columns
        new = [window.log_mel[-(window.n_new_frames or len(window.log_mel)) :] for window in windows]
        frames = quantize(np.concatenate(new), self._embedding_card.input)  # (n_frames, n_mels)
        n_first = len(new[0])
        if windows[0].n_new_frames is None:
            self._states, self._newest = self._runners[1].silence(), self._newest[:0]
            frames, n_first = np.pad(frames, ((self._lead, 0), (0, 0))), n_first + self._lead
        columns = np.concatenate((self._newest, *self._steps(frames)))
        first = len(self._newest) + n_first // chunk - n_columns  # column of the first window
        hop = len(new[-1]) // chunk
        self._newest = columns[-n_columns:]
        return functools.reduce(
            np.maximum, (columns[first + column :: hop][: len(windows)] for column in range(n_columns))
        )

    def _steps(self, frames: TensorArray) -> Iterator[TensorArray]:
        """The columns of the last map, (n, d) at a time; the states move on."""
        chunk = self._card.chunk_frames
        for n in self._at_once:
            n_frames = n * chunk
            while len(frames) >= n_frames:
                if n not in self._runners:
                    shape = (1, n_frames, frames.shape[1], 1)
                    self._runners[n] = load(self._file, CPU, self._num_threads, shape)
                columns, self._states = self._runners[n].run(frames[:n_frames], self._states)
                frames = frames[n_frames:]
                yield columns[0]

    def _held_against_card(self, runner: Runner) -> None:
        """Inputs and outputs: a chunk and the states, a column and the states."""
        file, inputs, outputs = self._file, runner.inputs, runner.outputs
        n_mels, n_values = self._embedding_card.input.shape[2], self._embedding_card.output.shape[-1]
        taken = self._embedding_card.input.model_copy(update={"shape": (1, self._card.chunk_frames, n_mels, 1)})
        given = self._embedding_card.output.model_copy(update={"shape": (1, 1, n_values)})
        _check(file, "first input", inputs[0], taken)
        _check(file, "first output", outputs[0], given)
        kinds = [
            [(tuple(state["shape"]), np.dtype(state["dtype"]), state["quantization"]) for state in states[1:]]
            for states in (inputs, outputs)
        ]
        if kinds[0] != kinds[1]:
            raise ModelError(
                f"model file {file}: its states come out as {kinds[1]}, expected as they go in, {kinds[0]}"
            )


class _Network:
    """One `.tflite` file, ready to run: in and out as its card says, int8 or float32."""

    def __init__(self, file: Path, card: NetworkCard, num_threads: int, device: Device = CPU) -> None:
        self._file, self._num_threads = file, num_threads
        self._shape = card.input.shape
        self._runner = load(file, device, num_threads)
        _only(file, "input", self._runner.inputs, card.input)
        _only(file, "output", self._runner.outputs, card.output)
        self._many: Runner | None = None  # made when there are many: never, live

    def run(self, steps: TensorArray) -> TensorArray:
        """Run once; the answer is flat, (n,)."""
        answer, _ = self._runner.run(steps)
        return answer.reshape(-1)

    def run_all(self, rows: TensorArray) -> TensorArray:
        """Run for each row; the answers are rows as well."""
        if len(rows) <= FEW_ROWS or rows.dtype != np.int8:  # in float32, many at once are rounded differently
            return np.stack([self.run(row) for row in rows])
        if self._many is None:
            self._many = load(self._file, CPU, self._num_threads, (ROWS_AT_ONCE, *self._shape[1:]))
        answers = []
        for start in range(0, len(rows), ROWS_AT_ONCE):
            some = rows[start : start + ROWS_AT_ONCE]
            answer, _ = self._many.run(np.pad(some, ((0, ROWS_AT_ONCE - len(some)), (0, 0))))
            answers.append(answer[: len(some)])
        return np.concatenate(answers)


def _only(file: Path, role: str, tensors: list[dict[str, Any]], card: TensorCard) -> None:
    """Hold the only tensor of this role against the card."""
    if len(tensors) != 1:
        raise ModelError(f"model file {file}: has {len(tensors)} {role}s, expected 1")
    _check(file, role, tensors[0], card)


def _check(file: Path, role: str, tensor: dict[str, Any], card: TensorCard) -> None:
    scale, zero_point = tensor["quantization"]  # (0.0, 0) of float32
    found: list[tuple[str, object, object, bool]] = [
        (name, actual, promised, actual == promised)
        for name, actual, promised in (
            ("shape", tuple(tensor["shape"].tolist()), card.shape),
            ("dtype", np.dtype(tensor["dtype"]).name, card.dtype),
            ("zero_point", int(zero_point), card.zero_point),
        )
    ]
    if card.dtype == "int8":
        found.append(("scale", float(scale), card.scale, _same_scale(scale, card.scale)))
    for name, actual, promised, fits in found:
        if not fits:
            raise ModelError(f"model file {file}: {role} {name} is {actual}, the card says {promised}")


def _same_scale(one: float, other: float) -> bool:
    return abs(one - other) <= SCALE_TOLERANCE * other


def _same_steps(one: TensorCard, other: TensorCard) -> bool:
    return (one.dtype, one.zero_point) == (other.dtype, other.zero_point) and _same_scale(one.scale, other.scale)
