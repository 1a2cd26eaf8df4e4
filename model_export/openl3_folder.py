"""OpenL3's weights to a model folder without a classifier: what `urbansound-model head` puts one's own classes on.

In: a weights file, what it reads, windows of sound. Out: `embedding.tflite` in int8 or float32, `model.json` and
`MODEL_CARD.md`, held against the network in Keras by the agent's own inference.
"""

import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import keras
import numpy as np
from scipy import signal

from agent.errors import ModelError, RecordingError, UsageError
from agent.frontend import FrontEnd, LogMel
from agent.inference import Embedder
from agent.model_card import CARD_NAME, EventCard, FrontEndNumbers, ModelCard, ModelFolder, sha256_of
from agent.recordings import walk
from agent.values import FloatArray, Window
from agent.wavfile import open_recording
from model_export import noise
from model_export.metadata import Metadata, TensorNote, write_metadata
from model_export.openl3 import LICENCE, FrontEndName, Representation, Size, front_end
from model_export.openl3_network import openl3_network, set_weights
from model_export.openl3_weights import read_weights
from model_export.package import (
    AUTHOR,
    DEFAULT_NUMBERS,
    DOCUMENT,
    EMBEDDING_NOTE,
    network_card,
    write_model_json,
)
from model_export.quantize import to_float32, to_int8

Dtype = Literal["int8", "float32"]

VERSION = "1"
N_WINDOWS = 64  # that int8 is calibrated on, and both forms are held against Keras on
MIN_WINDOWS = 4  # fewer say nothing about ranges, nor how one embedding differs from another
N_HEARD = 60  # windows of each recording, one after the other: its first minute
RECORDINGS, SIGNALS = "recordings", "synthetic signals (noise and sweeps), as no recordings were given"
RESPONSE_S = 0.5  # not measured: there is nothing to respond yet
MIN_COSINE = {"int8": 0.9, "float32": 0.999}  # the median's, as `Likeness`
PUBLISHED_NAME = re.compile(r"openl3_audio_(?P<representation>linear|mel128|mel256)_(?P<content>music|env)")


@dataclass(frozen=True, slots=True)
class Likeness:
    """How like the agent's embeddings are to those of Keras: cosines after the mean of all windows was taken off both.

    Without that they would all be near 1: embeddings of whatever sound have much in common.

    Attributes:
        median, least: over the windows.
        n_windows: how many.
    """

    median: float
    least: float
    n_windows: int


@dataclass(frozen=True, slots=True)
class Import:
    """What is to be made of which weights.

    Attributes:
        file: the weights.
        representation: what they read; no file says it for sure, as all have arrays of the same shapes.
        size: of the embedding.
        front_end: how sound becomes the representation.
        dtype: of the network in the folder.
    """

    file: Path
    representation: Representation
    size: Size
    front_end: FrontEndName = "training"
    dtype: Dtype = "int8"

    @property
    def numbers(self) -> FrontEndNumbers:
        """Of the front end."""
        return front_end(self.representation, self.front_end)

    @property
    def name(self) -> str:
        """Of the model: what it reads, what it was trained on if the file's name says so, what it gives.

        Raises:
            UsageError: the file's name says that it reads something else.
        """
        published = PUBLISHED_NAME.match(self.file.name)
        if published and published["representation"] != self.representation:
            raise UsageError(
                f"--input {self.representation}: {self.file.name} reads {published['representation']} by its name"
            )
        content = [published["content"]] if published else []
        other = [] if self.front_end == "training" else [self.front_end]
        return "-".join(["openl3", self.representation, *content, str(self.size), *other])


def recorded_windows(paths: Sequence[Path], numbers: FrontEndNumbers) -> list[FloatArray]:
    """Up to `N_WINDOWS` windows from recordings: about the same number of each, spread over its first minute.

    Returns:
        of each window float32 (n_frames, n_bands).

    Raises:
        RecordingError: a recording cannot be found or read.
        UsageError: they hold fewer than `MIN_WINDOWS` windows.
    """
    files, problems = walk(paths)
    if problems:
        raise problems[0]
    chosen = [files[index] for index in np.random.default_rng(0).permutation(len(files))[:N_WINDOWS]]
    windows: list[FloatArray] = []
    for file in chosen:
        heard = _heard(file, numbers)
        wanted = min(len(heard), math.ceil(N_WINDOWS / len(chosen)))
        windows += [heard[round(place)] for place in np.linspace(0, len(heard) - 1, wanted)]
    if len(windows) < MIN_WINDOWS:
        raise UsageError(
            f"--calibrate: windows of {numbers.window_s:.0f} s in {len(files)} recordings: {len(windows)}, expected "
            f"{MIN_WINDOWS} or more"
        )
    return windows[:N_WINDOWS]


def _heard(file: Path, numbers: FrontEndNumbers) -> list[FloatArray]:
    with open_recording(file) as recording:
        listening = FrontEnd(numbers, capture_rate_hz=recording.sample_rate_hz, window_hop_s=numbers.window_s)
        pushed = (window for block in recording.blocks() for window in listening.push(block))
        heard = list(itertools.islice(itertools.chain(pushed, listening.flush()), N_HEARD))
    if not heard:
        raise RecordingError(recording.problem or f"{file}: holds no samples")
    return [window.log_mel for window in heard]


def synthetic_windows(numbers: FrontEndNumbers) -> list[FloatArray]:
    """`N_WINDOWS` windows of noise that nobody recorded, half of them with a sweep in front; the same each time.

    Returns:
        of each window float32 (n_frames, n_bands).
    """
    rng = np.random.default_rng(0)
    rate_hz, n_samples = numbers.sample_rate_hz, numbers.window_length_samples
    times_s = np.arange(n_samples) / rate_hz
    log_mel = LogMel(numbers)
    windows = []
    for number in range(N_WINDOWS):
        sound = noise.background(n_samples, rate_hz, rng)
        if number % 2:
            first_hz, last_hz = rng.uniform(100.0, 10_000.0, 2)
            sweep = signal.chirp(times_s, first_hz, times_s[-1], last_hz) * rng.uniform(0.01, 0.5)
            sound = np.clip(sound + sweep, -1.0, 1.0).astype(np.float32)
        windows.append(log_mel.window(sound))
    return windows


def import_openl3(asked: Import, windows: Sequence[FloatArray], heard: str, out: Path) -> tuple[ModelFolder, Likeness]:
    """Convert the weights and write the model folder.

    Args:
        asked: what is to be made of which weights.
        windows: float32 (n_frames, n_bands) each, to calibrate on and to compare on.
        heard: what they are of, `RECORDINGS` or `SIGNALS`.
        out: the folder to write.

    Raises:
        ModelError: the weights are not OpenL3's, or the converted network does not say what they say.
        UsageError: the file's name contradicts `representation`, or the folder cannot be written.
    """
    name, numbers = asked.name, asked.numbers
    network = openl3_network(numbers.n_mels, numbers.n_frames, asked.size)
    set_weights(network, read_weights(asked.file))
    inputs = np.stack([window.T for window in windows])[..., None]  # (n, n_bands, n_frames, 1)
    content = to_int8(network, _over_whole_range(inputs, numbers)) if asked.dtype == "int8" else to_float32(network)
    description = f"OpenL3's audio network, {asked.representation}, {asked.size} values; an embedding without classes"
    try:
        out.mkdir(parents=True, exist_ok=True)
        file = out / "embedding.tflite"
        file.write_bytes(content)
        said = Metadata(name, description, VERSION, AUTHOR, LICENCE)
        write_metadata(file, said, reads=[_note(numbers)], answers=[EMBEDDING_NOTE])
        card = ModelCard(
            schema_name="urbansound.model/1",
            name=name,
            version=VERSION,
            licence=LICENCE,
            description=description,
            labels=(),
            background_label=None,
            front_end=numbers,
            embedding=network_card(file),
            events=EventCard(onset_response_s=RESPONSE_S, offset_response_s=RESPONSE_S, default=DEFAULT_NUMBERS),
        )
        model = write_model_json(out, card)
        try:
            likeness = _likeness(network, model, windows, inputs)
        except ModelError:
            (out / CARD_NAME).unlink()  # nobody takes it for a model
            raise
        _write_document(model, asked, heard, likeness)
    except OSError as error:
        raise UsageError(f"--out {out}: {error.strerror}; expected a folder to write to") from error
    return model, likeness


def _over_whole_range(inputs: FloatArray, numbers: FrontEndNumbers) -> FloatArray:
    """The same with its lowest value at the lowest level: with the 0 of each window, int8 then spans all levels."""
    spanning = inputs.copy()
    spanning.flat[spanning.argmin()] = numbers.level_min_db
    return spanning


def _likeness(network: keras.Model, model: ModelFolder, windows: Sequence[FloatArray], inputs: FloatArray) -> Likeness:
    """Hold what the agent makes of the folder against Keras."""
    trained = network.predict(inputs, batch_size=1, verbose=0)  # (n, size)
    embedder = Embedder(model)
    converted = np.stack([embedder.embed(Window(window, 0, 1)) for window in windows])
    mean = trained.mean(axis=0)
    one, other = trained - mean, converted - mean
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    cosines = (one * other).sum(axis=1) / np.maximum(lengths, np.finfo(np.float32).tiny)
    likeness = Likeness(float(np.median(cosines)), float(cosines.min()), len(windows))
    least = MIN_COSINE[model.card.embedding.output.dtype]
    if not likeness.median >= least:  # nor where sums that overflowed leave no number
        raise ModelError(
            f"{model.path}: embeddings have a median cosine of {likeness.median:.4f} with those of the weights, "
            f"expected {least} or more"
        )
    return likeness


def _note(numbers: FrontEndNumbers) -> TensorNote:
    return TensorNote(
        "spectrogram",
        f"Not a waveform, but what the front end computes from it: {numbers.n_mels} bands x {numbers.n_frames} frames, "
        f"10·log10 of magnitudes, relative to the window's largest, from {numbers.level_min_db:.0f} to 0. Sound: mono, "
        f"{numbers.sample_rate_hz} Hz, {numbers.window_length_samples} samples a window. {_frames(numbers)}",
        sample_rate_hz=numbers.sample_rate_hz,
    )


def _frames(numbers: FrontEndNumbers) -> str:
    before, after = numbers.padding_samples
    bands = "Bands: all bins, magnitude."
    if numbers.mel_scale != "none":
        bands = (
            f"Bands: {numbers.mel_scale.upper()} mel scale, {numbers.mel_min_hz:.0f} to {numbers.mel_max_hz:.0f} Hz, "
            f"triangles of area 1 over {numbers.spectrum}."
        )
    return (
        f"Frames: Hann taper of {numbers.taper_length_samples} samples each {numbers.hop_length_samples} samples, the "
        f"window padded with {before} zeros before and {after} after. {bands}"
    )


def _write_document(model: ModelFolder, asked: Import, heard: str, likeness: Likeness) -> None:
    """Write `MODEL_CARD.md`, for people."""
    used_for = "Calibrated, and compared with the weights," if asked.dtype == "int8" else "Compared with the weights"
    command = (
        f"urbansound-model import-openl3 {asked.file.name} --input {asked.representation} --size {asked.size} "
        f"--front-end {asked.front_end} --dtype {asked.dtype} "
        f"{'--calibrate PATH ' if heard == RECORDINGS else ''}--out DIR"
    )
    (model.path / DOCUMENT).write_text(
        f"""# {model.card.name}, version {model.card.version}

{model.card.description}. 1 s of sound at {model.card.front_end.sample_rate_hz} Hz gives {asked.size} numbers.

## Use
By itself it names nothing. `urbansound-model head --base DIR --data DIR --out DIR` trains classes of one's own on it,
and writes a model that the agent runs.

## Licence and data
The weights are OpenL3's, by J. Cramer, H.-H. Wu, J. Salamon and J. P. Bello, from https://github.com/marl/openl3,
under CC BY 4.0 (https://creativecommons.org/licenses/by/4.0/). Whoever passes them on names the authors, this licence
and the changes. Changed here: converted to TFLite, {asked.dtype}. The code of OpenL3 is MIT, that of this agent
Apache-2.0. How they were trained: J. Cramer, H.-H. Wu, J. Salamon, J. P. Bello, "Look, Listen, and Learn More: Design
Choices for Deep Audio Embeddings", ICASSP 2019.

Made from `{asked.file.name}`, SHA-256 {sha256_of(asked.file)}.

## Network
Front end `{asked.front_end}`. {_frames(model.card.front_end)} Then 10·log10 of magnitudes, less the largest in the
window, from -80 to 0. Eight convolutions of 3x3 with 64, 64, 128, 128, 256, 256, 512 and 512 filters, padded; the
maximum over the last map, down to {asked.size} values. {asked.dtype} throughout.

## Figures
{used_for} on {likeness.n_windows} windows of {heard}. Cosine of the embeddings with those of the weights in Keras,
the mean of all windows taken off both: {likeness.median:.4f} in the median, {likeness.least:.4f} at least.

## Limits
Each window is relative to its own maximum: how loud a sound is, it does not hear, and silence looks as full as noise.
Windows share no work, so the network runs anew for each (`inference.window_hop_s` says how often).

## Make it again
`{command}`
""",
        encoding="utf-8",
    )
