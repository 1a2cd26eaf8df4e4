"""Published networks, as teachers and as opponents: what is inside them.

In: clips, and a TFLite file that takes a waveform (YAMNet: float32 (15600,) at 16 kHz) or the spectrogram of SONYC's
sensors, or a model folder (OpenL3, as `import-openl3` writes it). Out: maps and embeddings. The embedding is what goes
into the last fully connected layer; of SONYC's network, whose classifier is an MLP, into the first; of a model folder,
what its embedding network answers.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import soxr
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from numpy.typing import NDArray

from agent.errors import ModelError, RecordingError
from agent.frontend import LogMel
from agent.inference import quantize
from agent.litert import TensorArray
from agent.model_card import FrontEndNumbers, TensorCard, load_model_folder, sha256_of
from agent.values import FloatArray
from model_export.clips import Clip
from model_export.features import read_mono
from model_export.files import UNREADABLE, whole

log = logging.getLogger(__name__)

RATE_HZ = 16_000  # of networks that take a waveform
HOP_S = 0.1
# Source: sonyc-project/pi_ml_container, ksangeeta2429/edgel3. Published in several forms; which one the network learnt
# with is not said. In half decibels its embedding tells more of our labels apart (docs/evaluation.md), and levels have
# the range that the deployed file expects (-61 to 0).
SONYC_FRONT_END = FrontEndNumbers(
    sample_rate_hz=8_000,
    window_length_samples=8_000,
    hop_length_samples=160,
    taper_length_samples=1_024,
    fft_length=1_024,
    n_mels=64,
    mel_min_hz=0.0,
    mel_max_hz=4_000.0,
    mel_scale="htk",
    mel_norm="area",
    padding="centre",
    spectrum="magnitude",
    level_unit="half_db",
    level_reference="window_maximum",
    level_min_db=-80.0,
    level_max_db=0.0,
    axes="frequency_time",
)
SONYC_INPUT = TensorCard(shape=(1, SONYC_FRONT_END.n_mels, SONYC_FRONT_END.n_frames, 1), dtype="float32")


@dataclass(frozen=True, slots=True)
class FeatureMap:
    """What a convolution gives, somewhere between spectrogram and embedding; time runs along its columns.

    Attributes:
        tensor: its number in the file.
        n_columns, n_rows, n_values: its shape.
        first_frame, frame_step: where its columns lie, in frames of the spectrogram.
        first_band, band_step: where its rows lie, in bands of the spectrogram.
        n_bands: bands of the spectrogram.
        hears_frames: how many frames one column hears.
    """

    tensor: int
    n_columns: int
    n_rows: int
    n_values: int
    first_frame: float
    frame_step: int
    first_band: float
    band_step: int
    n_bands: int
    hears_frames: int


@dataclass(slots=True)
class _Axis:
    """One axis of a map, in steps of the spectrogram: where its first place lies, how far the next, what one hears."""

    length: int
    first: float = 0.0
    step: int = 1
    hears: int = 1

    def convolved(self, kernel: int, length: int) -> None:
        """After a convolution (TensorFlow's padding: none, or as much as keeps the length, rather at the end)."""
        stride = round(self.length / length)
        kept = length == -(-self.length // stride)
        padding = max((length - 1) * stride + kernel - self.length, 0) if kept else 0
        self.first += self.step * ((kernel - 1) / 2 - padding // 2)
        self.hears += (kernel - 1) * self.step
        self.step *= stride
        self.length = length


class PublishedNetwork:
    """A network that takes a waveform at 16 kHz, SONYC's spectrogram, or what the card of its model folder says.

    Args:
        path: TFLite, or a model folder.
        cache: folder that keeps the embeddings of clips from run to run; none without.

    Attributes:
        name: of the file, or in the card.
        identity: the name, and the SHA-256 of the file or of the card, for the record.
        rate_hz: of the sound that it hears.
        window_samples: what it hears at once.
        embedding_values: how long its embedding is.
        maps: what its convolutions give, as far as they follow the spectrogram in one line; none where that is made
            outside it.

    Raises:
        ModelError: the file is not TFLite, takes neither one float32 waveform of a fixed length nor that spectrogram,
            or has no fully connected layer; or the folder is no model, or one that was trained on the data sets.
    """

    def __init__(self, path: Path, cache: Path | None = None) -> None:
        model = load_model_folder(path) if path.is_dir() else None
        if model and model.card.trained_on:
            heard = ", ".join(f"{dataset} {folds}" for dataset, folds in model.card.trained_on.items())
            raise ModelError(
                f"model folder {path}: has heard the folds {heard}, expected one that knows none of the clips"
            )
        file = model.embedding_file if model else path
        try:
            self._content = file.read_bytes()
            interpreter = Interpreter(model_content=self._content)
        except (ValueError, OSError) as error:
            raise ModelError(f"network {file}: not a TFLite file ({error})") from error
        self.name = model.card.name if model else file.stem
        self.identity = {"name": self.name, "sha256": model.sha256 if model else sha256_of(file)}
        self._cache = cache / f"{self.name}-{self.identity['sha256'][:12]}.npz" if cache else None
        self._input = interpreter.get_input_details()[0]
        self._details = {int(tensor["index"]): tensor for tensor in interpreter.get_tensor_details()}
        shape = tuple(self._input["shape_signature"].tolist())  # -1 where any length will do
        self._spectrogram: tuple[LogMel, FrontEndNumbers, TensorCard] | None = None
        self.maps: list[FeatureMap] = []
        if model:
            self._hear_with(model.card.front_end, model.card.embedding.input)
            self._embedding = int(interpreter.get_output_details()[0]["index"])
        else:
            is_float = self._input["dtype"] is np.float32
            operators = interpreter._get_ops_details()
            connected = [int(op["inputs"][0]) for op in operators if op["op_name"] == "FULLY_CONNECTED"]
            if is_float and shape == SONYC_INPUT.shape:
                self._hear_with(SONYC_FRONT_END, SONYC_INPUT)
            elif is_float and len(shape) == 1 and shape[0] > 0:
                self.rate_hz, self.window_samples = RATE_HZ, shape[0]
            else:
                raise ModelError(
                    f"network {file}: takes {self._input['dtype'].__name__} {shape}, expected one float32 waveform of "
                    f"a fixed length, or SONYC's spectrogram {SONYC_INPUT.shape}"
                )
            if not connected:
                raise ModelError(f"network {file}: no fully connected layer, expected one after the embedding")
            self._embedding = connected[0 if self._spectrogram else -1]
            if not self._spectrogram:
                self.maps += self._maps(operators)
        self.embedding_values = int(np.prod(self._details[self._embedding]["shape"]))
        self._interpreters: dict[tuple[int, ...], Interpreter] = {}

    def _hear_with(self, numbers: FrontEndNumbers, taken: TensorCard) -> None:
        self._spectrogram = LogMel(numbers), numbers, taken
        self.rate_hz, self.window_samples = numbers.sample_rate_hz, numbers.window_length_samples

    def resampled(self, samples: FloatArray, sample_rate_hz: int) -> FloatArray:
        """Sound at the rate that it hears, float32."""
        return samples if sample_rate_hz == self.rate_hz else soxr.resample(samples, sample_rate_hz, self.rate_hz)

    def embeddings(self, samples: FloatArray, sample_rate_hz: int) -> FloatArray:
        """One embedding each 0.1 s; a sound shorter than one window is padded with silence.

        Returns:
            float32 (n_windows, d).
        """
        samples = self.resampled(samples, sample_rate_hz)
        samples = np.pad(samples, (0, max(0, self.window_samples - len(samples))))
        starts = range(0, len(samples) - self.window_samples + 1, round(HOP_S * self.rate_hz))
        return np.stack([self.inside(samples[start : start + self.window_samples])[-1] for start in starts])

    def inside(self, window: FloatArray, maps: Sequence[FeatureMap] = ()) -> list[FloatArray]:
        """What it makes of one window.

        Args:
            window: float32 (window_samples,).
            maps: which of its maps are asked for.

        Returns:
            for each map float32 (n_columns, n_rows, n_values), and last the embedding, float32 (d,).
        """
        tensors = (*(one.tensor for one in maps), self._embedding)
        if tensors not in self._interpreters:
            self._interpreters[tensors] = self._giving(tensors)
        interpreter = self._interpreters[tensors]
        interpreter.set_tensor(self._input["index"], self._taken(window.astype(np.float32)))
        interpreter.invoke()
        *found, embedding = (self._dequantized(interpreter.get_tensor(tensor), tensor) for tensor in tensors)
        return [*(values[0] for values in found), embedding.reshape(-1)]

    def _taken(self, window: FloatArray) -> TensorArray:
        """What the network is given of a window."""
        if self._spectrogram is None:
            return window
        log_mel, numbers, taken = self._spectrogram
        levels = log_mel.window(window)
        levels = levels.T if numbers.axes == "frequency_time" else levels
        return quantize(levels.reshape(taken.shape), taken)

    def _giving(self, tensors: Sequence[int]) -> Interpreter:
        """The same network with these tensors as its outputs: else LiteRT does not keep what is inside."""
        model = schema.ModelT.InitFromPackedBuf(self._content)
        model.subgraphs[0].outputs = list(tensors)
        model.signatureDefs = None  # it named the outputs that were
        builder = flatbuffers.Builder()
        builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
        interpreter = Interpreter(model_content=bytes(builder.Output()), num_threads=1)
        interpreter.allocate_tensors()
        return interpreter

    def embeddings_of(self, clips: Sequence[Clip]) -> list[FloatArray]:
        """The embeddings of each clip; with a cache, each clip is heard once, and known by its content.

        Raises:
            RecordingError: a clip cannot be read.
        """
        known: dict[str, FloatArray] = {}
        if self._cache:
            try:
                with np.load(self._cache) as rows:
                    known = dict(rows)
            except UNREADABLE as error:  # not there yet, or damaged
                log.debug("published.no_embeddings file=%s: %s", self._cache, error)
        try:
            contents = [sha256_of(clip.file) for clip in clips]
        except OSError as error:
            raise RecordingError(f"{error.filename}: cannot be opened ({error.strerror})") from error
        missing = [(content, clip) for content, clip in zip(contents, clips, strict=True) if content not in known]
        for number, (content, clip) in enumerate(missing, start=1):
            known[content] = self.embeddings(*read_mono(clip.file))
            if number % 500 == 0:
                log.info("published.embeddings network=%s clips=%d of=%d", self.name, number, len(missing))
        if self._cache and missing:
            self._cache.parent.mkdir(parents=True, exist_ok=True)
            with whole(self._cache) as file:
                np.savez(file, allow_pickle=False, **known)
        return [known[content] for content in contents]

    def _maps(self, operators: Sequence[dict[str, Any]]) -> Iterator[FeatureMap]:
        """Follow the convolutions from the spectrogram, the first tensor of shape (1, frames, bands, 1), on."""
        columns = rows = _Axis(0)
        newest = n_bands = 0
        for operator in operators:
            if operator["op_name"] not in ("CONV_2D", "DEPTHWISE_CONV_2D"):
                continue
            source, weights, answer = operator["inputs"][0], operator["inputs"][1], operator["outputs"][0]
            shape, kernel, given = (self._details[tensor]["shape"] for tensor in (source, weights, answer))
            if newest == 0 and shape[3] == 1:
                columns, rows, n_bands = _Axis(int(shape[1])), _Axis(int(shape[2])), int(shape[2])
            elif source != newest:
                return
            columns.convolved(int(kernel[1]), int(given[1]))
            rows.convolved(int(kernel[2]), int(given[2]))
            newest = answer
            yield FeatureMap(
                tensor=int(answer),
                n_columns=columns.length,
                n_rows=rows.length,
                n_values=int(given[3]),
                first_frame=columns.first,
                frame_step=columns.step,
                first_band=rows.first,
                band_step=rows.step,
                n_bands=n_bands,
                hears_frames=columns.hears,
            )

    def _dequantized(
        self, values: NDArray[np.float32] | NDArray[np.int8] | NDArray[np.uint8], tensor: int
    ) -> FloatArray:
        scale, zero_point = self._details[tensor]["quantization"]
        floats: FloatArray = values.astype(np.float32)
        return (floats - np.float32(zero_point)) * np.float32(scale) if scale else floats
