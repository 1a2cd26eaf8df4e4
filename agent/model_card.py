"""A model folder: `model.json`, the `.tflite` files it names, and `MODEL_CARD.md`.

In: the folder. Out: a `ModelFolder` whose files have the hashes that the card promises. What is inside the
`.tflite` files (shapes, types, quantization) is held against the card in `inference`, which owns LiteRT.
Called once, at start, on the main thread.
"""

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from agent.errors import ConfigError, ModelError
from agent.values import EventRule

CARD_NAME = "model.json"
DEFAULT_MODEL = Path(__file__).parent / "models"

# Beyond these a card is broken: it asks for all the memory there is, or for levels that float32 does not have.
LONGEST_WINDOW_SAMPLES = 60 * 192_000
LONGEST_FFT = 1 << 16
LOWEST_LEVEL_DB = -300.0
NARROWEST_RANGE_HZ = 1.0

# pydantic speaks of Python's types; whoever writes TOML or JSON knows others.
_IN_WORDS = {
    "tuple_type": "Input should be an array",
    "too_short": "Array should not be empty",
    "dict_type": "Input should be a table of keys",
    "model_type": "Input should be a table of keys",
    "path_type": "Input should be a valid string",
}

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]


class CardPart(BaseModel):
    """A part of the card or the configuration: unknown keys are refused, values are frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class FrontEndNumbers(CardPart):
    """Everything that decides the log-mel numbers. The same in training and on the node.

    As a rule, frames lie wholly inside the window: nothing is padded, so streaming and one-shot are equal; and levels
    are decibels relative to a full-scale sine (a fixed reference), clipped to the given range. What has a default here
    is for networks that were trained otherwise; the default is the rule.

    Attributes:
        padding: zeros around each window: `none`; `end`, so that a frame begins at each hop; `same`, the same number of
            frames, with half of the zeros before; `centre`, half a taper at each side, so that frames are centred on
            the hops.
        spectrum: what the bands sum: `power` or `magnitude`.
        mel_scale: `none`: the bands are the FFT's bins, all of them.
        mel_norm: of each triangle: its `peak` is 1, or its `area` over hertz.
        level_unit: `db`; `half_db` is half as much: 10·log10 of a magnitude.
        level_reference: what 0 is: a `full_scale_sine`, or the `window_maximum`, the largest value in the window.
        axes: of the network's input.
    """

    sample_rate_hz: Annotated[int, Field(ge=4_000, le=192_000)]
    window_length_samples: Annotated[int, Field(ge=1, le=LONGEST_WINDOW_SAMPLES)]
    hop_length_samples: Annotated[int, Field(ge=1)]
    taper_length_samples: Annotated[int, Field(ge=2)]
    fft_length: Annotated[int, Field(ge=2, le=LONGEST_FFT)]
    n_mels: Annotated[int, Field(ge=1, le=1024)]
    mel_min_hz: Annotated[float, Field(ge=0.0)]
    mel_max_hz: Annotated[float, Field(gt=0.0)]
    mel_scale: Literal["htk", "slaney", "none"]
    level_min_db: Annotated[float, Field(ge=LOWEST_LEVEL_DB)]
    level_max_db: Annotated[float, Field(le=-LOWEST_LEVEL_DB)]
    padding: Literal["none", "end", "same", "centre"] = "none"
    spectrum: Literal["power", "magnitude"] = "power"
    mel_norm: Literal["peak", "area"] = "peak"
    level_unit: Literal["db", "half_db"] = "db"
    level_reference: Literal["full_scale_sine", "window_maximum"] = "full_scale_sine"
    axes: Literal["time_frequency", "frequency_time"] = "time_frequency"

    @property
    def padding_samples(self) -> tuple[int, int]:
        """Zeros before and after each window."""
        if self.padding == "none":
            return 0, 0
        if self.padding == "centre":
            return self.taper_length_samples // 2, self.taper_length_samples // 2
        n_hops = -(-self.window_length_samples // self.hop_length_samples)
        end_of_last = (n_hops - 1) * self.hop_length_samples + self.taper_length_samples
        missing = max(0, end_of_last - self.window_length_samples)
        before = missing // 2 if self.padding == "same" else 0
        return before, missing - before

    @property
    def n_frames(self) -> int:
        """Frames in one window."""
        padded = self.window_length_samples + sum(self.padding_samples)
        return 1 + (padded - self.taper_length_samples) // self.hop_length_samples

    @property
    def has_own_frames(self) -> bool:
        """Whether a window's frames are its own, so that no other window can share them."""
        return self.padding != "none" or self.level_reference == "window_maximum"

    @property
    def longest_hop_samples(self) -> int:
        """From one window to the next, at most: what lay between two would not be heard."""
        return self.window_length_samples if self.has_own_frames else self.n_frames * self.hop_length_samples

    @property
    def window_s(self) -> float:
        """Length of one window in seconds."""
        return self.window_length_samples / self.sample_rate_hz

    @model_validator(mode="after")
    def _numbers_fit_each_other(self) -> Self:
        if self.taper_length_samples > self.window_length_samples:
            raise ValueError(
                f"taper_length_samples = {self.taper_length_samples}, expected at most "
                f"window_length_samples = {self.window_length_samples}"
            )
        if self.fft_length < self.taper_length_samples:
            raise ValueError(
                f"fft_length = {self.fft_length}, expected at least taper_length_samples = {self.taper_length_samples}"
            )
        if not self.mel_min_hz + NARROWEST_RANGE_HZ <= self.mel_max_hz <= self.sample_rate_hz / 2:
            raise ValueError(
                f"mel range {self.mel_min_hz} to {self.mel_max_hz} Hz, expected rising by 1 Hz or more and at most "
                f"{self.sample_rate_hz / 2} Hz"
            )
        if self.level_min_db >= self.level_max_db:
            raise ValueError(f"level_min_db = {self.level_min_db}, expected below level_max_db = {self.level_max_db}")
        bins = (self.fft_length // 2 + 1, 0.0, self.sample_rate_hz / 2)
        bands = (self.n_mels, self.mel_min_hz, self.mel_max_hz)
        if self.mel_scale == "none" and bands != bins:
            raise ValueError(
                f"n_mels, mel_min_hz and mel_max_hz = {bands}, expected all bins with mel_scale = none, {bins}"
            )
        if self.level_reference == "window_maximum" and self.level_max_db != 0.0:
            raise ValueError(f"level_max_db = {self.level_max_db}, expected 0 with level_reference = window_maximum")
        return self


class TensorCard(CardPart):
    """One input or output of a network.

    Attributes:
        scale, zero_point: of int8 steps; a float32 tensor has none.
    """

    shape: tuple[int, ...]
    dtype: Literal["int8", "float32"]
    scale: Annotated[float, Field(gt=0.0)] = 1.0
    zero_point: Annotated[int, Field(ge=-128, le=127)] = 0

    @model_validator(mode="after")
    def _steps_are_of_int8(self) -> Self:
        for name in ("scale", "zero_point"):
            if (name in self.model_fields_set) != (self.dtype == "int8"):
                expected = "expected with int8" if self.dtype == "int8" else "expected none with float32"
                actual = getattr(self, name) if name in self.model_fields_set else "not set"
                raise ValueError(f"{name} = {actual}, {expected}")
        return self


class FileCard(CardPart):
    """One `.tflite` file."""

    file: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+\.tflite$")]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class NetworkCard(FileCard):
    """A network that takes one tensor and gives one."""

    input: TensorCard
    output: TensorCard


class StreamingCard(FileCard):
    """The embedding network in its streaming form: bit for bit the same, for a fraction of the work.

    Attributes:
        chunk_frames: frames that it takes at once; each chunk gives one column of the last map.
        window_columns: the embedding of a window is the maximum of this many columns.
    """

    chunk_frames: Annotated[int, Field(ge=1)]
    window_columns: Annotated[int, Field(ge=1)]


class CompiledCard(CardPart):
    """The embedding network as an accelerator's compiler made it: only that accelerator can run these files.

    Attributes:
        embedding, streaming: from the files of the same names.
    """

    embedding: FileCard | None = None
    streaming: FileCard | None = None


class EventNumbers(CardPart, strict=True):
    """When a class counts as an event; what is not set is taken from the next wider scope (`EventRule`)."""

    on: Fraction | None = None
    off: Fraction | None = None
    min_duration_s: Annotated[float, Field(ge=0.0, le=3600.0)] | None = None
    merge_gap_s: Annotated[float, Field(ge=0.0, le=3600.0)] | None = None
    max_duration_s: Annotated[float, Field(ge=1.0, le=86_400.0)] | None = None
    span_s: Annotated[float, Field(gt=0.0, le=60.0)] | None = None


class EventCard(CardPart):
    """When windows, summed, are an event.

    Attributes:
        onset_response_s: how much of a beginning sound a window holds when its likelihood has risen half-way.
        offset_response_s: how much of an ending sound a window still holds when its likelihood has fallen half-way.
        default: for every class.
        classes: what is different for one class.
    """

    onset_response_s: Annotated[float, Field(ge=0.0)]
    offset_response_s: Annotated[float, Field(ge=0.0)]
    default: EventNumbers
    classes: dict[str, EventNumbers] = Field(default_factory=dict)


class ModelCard(CardPart):
    """`model.json`: what the networks expect, what they answer, and how to judge it.

    A model without a classifier is an embedding for others to stand on (`urbansound-model head`).

    Attributes:
        labels: in the order of the classifier's output; none without one.
        background_label: the class that is never an event.
        groups: a wider name for a label, such as `alert` for a siren.
        streaming: the embedding network in its streaming form, where there is one.
        trained_on: the folds of each data set that it has heard in training, where that is known.
        compiled: the embedding network for accelerators that need a file of their own.
    """

    model_config = ConfigDict(validate_by_name=True, validate_by_alias=True)

    schema_name: Annotated[Literal["urbansound.model/1"], Field(alias="schema")]
    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")]
    version: str
    licence: str
    description: str
    labels: tuple[str, ...]
    background_label: str | None
    groups: dict[str, Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")]] = Field(default_factory=dict)
    front_end: FrontEndNumbers
    embedding: NetworkCard
    streaming: StreamingCard | None = None
    classifier: NetworkCard | None = None
    events: EventCard
    trained_on: dict[str, tuple[int, ...]] | None = None
    compiled: dict[Literal["edgetpu", "npu", "delegate"], CompiledCard] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _parts_fit_each_other(self) -> Self:
        if len(set(self.labels)) != len(self.labels):
            raise ValueError(f"labels = {list(self.labels)}, expected each once")
        if self.background_label is not None and self.background_label not in self.labels:
            raise ValueError(f"background_label = {self.background_label!r}, expected one of {list(self.labels)}")
        for key, named in (("events.classes", self.events.classes), ("groups", self.groups)):
            for label in named:
                if label not in self.labels:
                    raise ValueError(f"{key}.{label}: expected one of {list(self.labels)}")
        bands_last = (self.front_end.n_frames, self.front_end.n_mels)
        expected = (1, *(bands_last if self.front_end.axes == "time_frequency" else bands_last[::-1]), 1)
        if self.embedding.input.shape != expected:
            raise ValueError(f"embedding.input.shape = {self.embedding.input.shape}, the front end gives {expected}")
        for key in ("onset_response_s", "offset_response_s"):
            response_s, window_s = getattr(self.events, key), self.front_end.window_s
            if response_s > window_s:
                raise ValueError(f"events.{key} = {response_s}, expected at most a window, {window_s} s")
        if self.streaming is not None:
            self._frames_can_stream(self.streaming)
        if self.classifier is not None:
            self._classifier_fits(self.classifier)
        elif self.labels:
            raise ValueError(f"labels = {list(self.labels)}, expected none without a classifier")
        return self

    @property
    def embedding_files(self) -> tuple[FileCard, ...]:
        """The embedding network in all its forms."""
        compiled = (file for one in self.compiled.values() for file in (one.embedding, one.streaming))
        return tuple(filter(None, (self.embedding, self.streaming, *compiled)))

    def _frames_can_stream(self, streaming: StreamingCard) -> None:
        if self.front_end.has_own_frames or self.front_end.axes != "time_frequency":
            raise ValueError("streaming: expected none where windows share no frames, or time is not the first axis")
        if self.embedding.input.dtype != "int8":
            raise ValueError(f"streaming: expected none with {self.embedding.input.dtype}, only with int8")
        n_chunks = -(-self.front_end.n_frames // streaming.chunk_frames)
        if streaming.window_columns > n_chunks:
            raise ValueError(
                f"streaming.window_columns = {streaming.window_columns}, a window has {n_chunks} "
                f"chunks of {streaming.chunk_frames} frames"
            )

    def _classifier_fits(self, classifier: NetworkCard) -> None:
        if len(self.labels) < 2:
            raise ValueError(f"labels = {list(self.labels)}, expected two or more")
        if classifier.input.shape != self.embedding.output.shape:
            raise ValueError(
                f"classifier.input.shape = {classifier.input.shape}, the embedding gives {self.embedding.output.shape}"
            )
        if classifier.output.shape != (1, len(self.labels)):
            raise ValueError(
                f"classifier.output.shape = {classifier.output.shape}, "
                f"{len(self.labels)} labels need {(1, len(self.labels))}"
            )


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """A model folder whose files have the promised hashes.

    Attributes:
        path: the folder.
        card: its `model.json`.
        sha256: of `model.json`, which names the hashes of all else: the identity of the model.
    """

    path: Path
    card: ModelCard
    sha256: str

    @property
    def embedding_file(self) -> Path:
        """The network that turns a window into an embedding."""
        return self.path / self.card.embedding.file

    @property
    def streaming_file(self) -> Path | None:
        """The same network in its streaming form."""
        return self.path / self.card.streaming.file if self.card.streaming else None

    def file_for(self, accelerator: str, *, streaming: bool) -> Path | None:
        """The embedding network that an accelerator runs: compiled for it, or as it is."""
        for name, compiled in self.card.compiled.items():
            card = compiled.streaming if streaming else compiled.embedding
            if name == accelerator and card is not None:
                return self.path / card.file
        return self.streaming_file if streaming else self.embedding_file

    @property
    def classifier_file(self) -> Path:
        """The network that turns an embedding into likelihoods.

        Raises:
            ModelError: the model has none.
        """
        return self.path / self.require_classifier().file

    def require_classifier(self) -> NetworkCard:
        """The card of the classifier.

        Raises:
            ModelError: the model has none.
        """
        if self.card.classifier is None:
            raise ModelError(
                f"model folder {self.path}: {self.card.name} is an embedding without a classifier, expected both; "
                f"`urbansound-model head --base {self.path}` teaches it classes"
            )
        return self.card.classifier


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, as 64 lower-case hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load_model_folder(path: Path) -> ModelFolder:
    """Read a model folder and hold every file against its card.

    Raises:
        ModelError: no such folder or card, a card that is not valid, a file that is missing or has another hash.
    """
    card_file = path / CARD_NAME
    try:
        raw = card_file.read_bytes()
    except OSError as error:
        raise ModelError(f"model folder {path}: cannot read {CARD_NAME} ({error.strerror})") from error
    try:
        card = ModelCard.model_validate(json.loads(raw))
    except ValidationError as error:
        raise ModelError(f"model card {card_file}: {first_problem(error)}") from error
    except ValueError as error:
        raise ModelError(f"model card {card_file}: not JSON ({error})") from error
    except RecursionError as error:
        raise ModelError(f"model card {card_file}: is nested too deep, expected the fields of a card") from error
    for network in filter(None, (*card.embedding_files, card.classifier)):
        file = path / network.file
        try:
            actual = sha256_of(file)
        except OSError as error:
            raise ModelError(f"model file {file}: cannot be read ({error.strerror}), the card names it") from error
        if actual != network.sha256:
            raise ModelError(f"model file {file}: sha256 is {actual}, the card says {network.sha256}")
    return ModelFolder(path=path, card=card, sha256=hashlib.sha256(raw).hexdigest())


def first_problem(error: ValidationError) -> str:
    """The first problem pydantic found, on one line: where, what was there, what was expected."""
    problems = [(_place(problem), problem) for problem in error.errors(include_url=False)]
    where, problem = problems[0]
    # A value that may be this or that has one problem for each; told as one.
    messages = (_IN_WORDS.get(other["type"], other["msg"]) for place, other in problems if place == where)
    message = ", or ".join(dict.fromkeys(said.removeprefix("Value error, ") for said in messages))
    if problem["type"] == "extra_forbidden":
        return f"{where}: unknown key"
    if problem["type"] in ("value_error", "missing"):
        return f"{where}: {message}" if where else message
    value = problem["input"]
    # A table may hold a password, and so may a text that stands where a table should.
    is_no_table = problem["type"] in ("model_type", "dict_type") and isinstance(value, str)
    if where.endswith("password") or is_no_table or not isinstance(value, str | int | float):
        return f"{where}: {message}"
    return f"{where} = {value!r}: {message}"


def _place(problem: ErrorDetails) -> str:
    """The key; without pydantic's name for a member of a union, such as `int` or `literal['mix']`."""
    parts = [str(part) for part in problem["loc"]]
    if len(parts) > 1 and re.fullmatch(r"(constrained-)?(int|float|str)|literal\[.*\]", parts[-1]):
        del parts[-1]
    return ".".join(parts)


def event_rules(
    events: EventCard, labels: tuple[str, ...], overrides: EventNumbers, class_overrides: dict[str, EventNumbers]
) -> dict[str, EventRule]:
    """The rule for each label: the card's default, the card's class, the site's default, the site's class, in turn.

    Raises:
        ConfigError: a number is nowhere set, a class is not one of `labels`, `off` lies above `on`, or the minimum
            duration above the maximum.
    """
    for label in class_overrides:
        if label not in labels:
            raise ConfigError(f"events.classes.{label}: unknown class, expected one of {', '.join(labels)}")
    rules = {}
    for label in labels:
        scopes = (
            events.default,
            events.classes.get(label, EventNumbers()),
            overrides,
            class_overrides.get(label, EventNumbers()),
        )
        numbers: dict[str, float] = {}
        for scope in scopes:
            numbers |= scope.model_dump(exclude_none=True, include=set(EventNumbers.model_fields))
        missing = [name for name in EventNumbers.model_fields if name not in numbers]
        if missing:
            raise ConfigError(f"events.default.{missing[0]}: not set, neither by the model's card nor by the site")
        rule = EventRule(**numbers)
        if rule.off > rule.on:
            raise ConfigError(f"events for {label}: off = {rule.off}, expected at most on = {rule.on}")
        if rule.min_duration_s > rule.max_duration_s:
            raise ConfigError(
                f"events for {label}: min_duration_s = {rule.min_duration_s}, "
                f"expected at most max_duration_s = {rule.max_duration_s}"
            )
        rules[label] = rule
    return rules
