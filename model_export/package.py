"""Write the model folder: `model.json` and `MODEL_CARD.md` beside the TFLite files, and metadata into those.

In: the TFLite files, the record of the training, the figures of the cross-validation where there are any. Out: a
folder that `agent.model_card.load_model_folder` accepts.
"""

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from pydantic import ValidationError

from agent.errors import ModelError, UsageError
from agent.model_card import (
    CARD_NAME,
    EventCard,
    EventNumbers,
    ModelCard,
    ModelFolder,
    NetworkCard,
    TensorCard,
    first_problem,
    load_model_folder,
    sha256_of,
)
from model_export.calibration import Rescaling
from model_export.clips import BACKGROUND, LABELS
from model_export.features import FRONT_END
from model_export.files import whole
from model_export.metadata import LABELS_NAME, Metadata, TensorNote, write_metadata
from model_export.streaming import STREAMING_NAME, streaming_card

NAME, VERSION = "l3-edge-us8k", "1"
AUTHOR = "urban-sound-agent"
LICENCE = "CC-BY-NC-3.0 (trained on UrbanSound8K, which is for non-commercial use)"
DESCRIPTION = "L3 audio network scaled for the edge with an MLP 512-128; the ten classes of UrbanSound8K and background"
DOCUMENT = "MODEL_CARD.md"
AS_PEOPLE_SAVED_IT = {"encoding": "utf-8", "errors": "surrogateescape"}  # bytes that are not UTF-8 stay

GROUPS = {
    "air_conditioner": "machinery",
    "car_horn": "alert",
    "children_playing": "human",
    "dog_bark": "animal",
    "drilling": "machinery",
    "engine_idling": "machinery",
    "gun_shot": "alert",
    "jackhammer": "machinery",
    "siren": "alert",
    "street_music": "music",
}
CALIBRATED = "Likelihoods are calibrated"
FIRST_CHOICES = "The event thresholds are first choices, not tuned."
INHERITED = "The event thresholds come from the base, and were not chosen for these classes."
TUNED = "The event thresholds are chosen on scenes by `urbansound-model tune`; a street has others."
EVENTS_HEADING = "## Events"
N_CONVOLUTIONS = 8
DEFAULT_NUMBERS = EventNumbers(on=0.5, off=0.3, min_duration_s=0.3, merge_gap_s=0.5, max_duration_s=60.0, span_s=1.0)
CLASS_NUMBERS = {"gun_shot": EventNumbers(min_duration_s=0.1), "dog_bark": EventNumbers(min_duration_s=0.1)}

EMBEDDING_NOTE = TensorNote("embedding", "The embedding of one window, without unit.")
LIKELIHOODS_NOTE = TensorNote("likelihoods", f"For each label of {LABELS_NAME} a number from 0 to 1.")


def describe_networks(embedding: Path, streaming: Path, classifier: Path) -> None:
    """Write into the TFLite files what they are; what they compute stays the same."""
    numbers = FRONT_END
    window, chunk = (
        TensorNote(
            "log_mel",
            f"Not a waveform, but what the front end computes from it: {extent} x "
            f"{numbers.n_mels} mel bands, levels in decibels relative to a full-scale sine, clipped to "
            f"{numbers.level_min_db:.0f} to {numbers.level_max_db:.0f} dB. Sound: mono, {numbers.sample_rate_hz} Hz, "
            f"{numbers.window_length_samples} samples a window. Frames: Hann taper of {numbers.taper_length_samples} "
            f"samples each {numbers.hop_length_samples} samples, wholly inside the window, FFT of "
            f"{numbers.fft_length}. Bands: {numbers.mel_scale.upper()} scale, {numbers.mel_min_hz:.0f} to "
            f"{numbers.mel_max_hz:.0f} Hz.",
            sample_rate_hz=numbers.sample_rate_hz,
        )
        for extent in (f"one window of {numbers.n_frames} frames", "the frames that follow the last chunk")
    )
    said = Metadata(
        name=NAME,
        description=f"{DESCRIPTION}. This file: window to embedding",
        version=VERSION,
        author=AUTHOR,
        licence=LICENCE,
    )
    write_metadata(embedding, said, reads=[window], answers=[EMBEDDING_NOTE])
    said = replace(said, description=f"{DESCRIPTION}. This file: window to embedding, streaming")
    column = TensorNote("column", "The embedding of a window is the maximum of the columns that lie in it.")
    states = [
        TensorNote(f"state{n}", f"The columns before convolution {n}: what comes out goes in with the next chunk.")
        for n in range(1, N_CONVOLUTIONS + 1)
    ]
    write_metadata(streaming, said, reads=[chunk, *states], answers=[column, *states])
    describe_classifier(classifier, replace(said, description=DESCRIPTION, labels=LABELS))


def describe_classifier(file: Path, said: Metadata) -> None:
    """Write into the file of a classifier what it is: the description of the model, and which part of it this is."""
    said = replace(said, description=f"{said.description}. This file: embedding to likelihoods")
    write_metadata(file, said, reads=[EMBEDDING_NOTE], answers=[LIKELIHOODS_NOTE])


def network_card(file: Path) -> NetworkCard:
    """What a TFLite file is, read from the file.

    Raises:
        ModelError: it cannot be read, or is not TFLite.
    """
    try:
        file.stat()
        interpreter = Interpreter(model_path=str(file))
    except OSError as error:
        raise ModelError(f"model file {file}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise ModelError(f"model file {file}: is no whole TFLite file ({' '.join(str(error).split())})") from error
    return NetworkCard(
        file=file.name,
        sha256=sha256_of(file),
        input=_tensor_card(interpreter.get_input_details()[0]),
        output=_tensor_card(interpreter.get_output_details()[0]),
    )


def _tensor_card(details: dict[str, Any]) -> TensorCard:
    shape = tuple(int(n) for n in details["shape"])
    if details["dtype"] is np.float32:
        return TensorCard(shape=shape, dtype="float32")
    scale, zero_point = details["quantization"]
    return TensorCard(shape=shape, dtype="int8", scale=float(scale), zero_point=int(zero_point))


def write_card(
    folder: Path, *, onset_response_s: float, offset_response_s: float, trained_on: dict[str, list[int]]
) -> ModelFolder:
    """Write metadata into the TFLite files of the folder and `model.json` for them; load it as the agent does.

    A folder that holds something else stays as it is.

    Args:
        folder: with the TFLite files.
        onset_response_s: as `response` measures it.
        offset_response_s: the same.
        trained_on: the folds of each data set, as `train` recorded them.

    Raises:
        ModelError: a file cannot be read, is not TFLite, or is another network.
    """
    embedding, classifier = folder / "embedding.tflite", folder / "classifier.tflite"
    streaming = folder / STREAMING_NAME

    def card() -> ModelCard:
        return ModelCard(
            schema_name="urbansound.model/1",
            name=NAME,
            version=VERSION,
            licence=LICENCE,
            description=DESCRIPTION,
            labels=LABELS,
            background_label=BACKGROUND,
            groups=GROUPS,
            front_end=FRONT_END,
            embedding=network_card(embedding),
            streaming=streaming_card(embedding, streaming),
            classifier=network_card(classifier),
            events=EventCard(
                onset_response_s=onset_response_s,
                offset_response_s=offset_response_s,
                default=DEFAULT_NUMBERS,
                classes=CLASS_NUMBERS,
            ),
            trained_on={dataset: tuple(folds) for dataset, folds in trained_on.items()},
        )

    try:
        network_card(streaming)
        card()
    except ValidationError as error:
        raise ModelError(f"model folder {folder}: {first_problem(error)}") from error
    describe_networks(embedding, streaming, classifier)  # first: the card names the hashes
    return write_model_json(folder, card())


def write_model_json(folder: Path, card: ModelCard) -> ModelFolder:
    """Write `model.json`, with what was set in the card; load the folder as the agent does.

    Raises:
        ModelError: the folder is not what the card says.
    """
    text = json.dumps(card.model_dump(mode="json", by_alias=True, exclude_unset=True), indent=1)
    with whole(folder / CARD_NAME) as file:
        file.write_text(text + "\n", encoding="utf-8")
    return load_model_folder(folder)


def is_calibrated(model: ModelFolder) -> bool:
    """Whether the model's document says that a calibration was folded into its classifier."""
    document = model.path / DOCUMENT
    return document.is_file() and CALIBRATED in document.read_text(**AS_PEOPLE_SAVED_IT)


def write_events(model: ModelFolder, events: EventCard, text: str, out: Path) -> ModelFolder:
    """Write other numbers of events into a model, and what they are worth into its `MODEL_CARD.md`.

    Args:
        model: the folder as it is.
        events: the numbers.
        text: the section `Events`; one that is there already is replaced.
        out: the folder to write; that of the model, or another, which then gets a copy.

    Raises:
        UsageError: it cannot be written.
    """
    try:
        if out.resolve() != model.path.resolve():
            names = [file.file for file in filter(None, (*model.card.embedding_files, model.card.classifier))]
            out.mkdir(parents=True, exist_ok=True)
            for name in (*names, DOCUMENT):
                if (model.path / name).is_file():
                    shutil.copyfile(model.path / name, out / name)
        document = out / DOCUMENT
        if document.is_file():
            before = document.read_text(**AS_PEOPLE_SAVED_IT).replace(FIRST_CHOICES, TUNED).replace(INHERITED, TUNED)
            before = re.sub(rf"(?ms)^{EVENTS_HEADING}\n.*?(?=^## |\Z)", "", before)
            head, limits, rest = before.partition("## Limits\n")
            with whole(document) as file:
                file.write_text(f"{head}{EVENTS_HEADING}\n{text}\n{limits}{rest}", **AS_PEOPLE_SAVED_IT)
        return write_model_json(out, model.card.model_copy(update={"events": events}))
    except OSError as error:
        raise UsageError(f"--out {out}: {error.strerror}; expected a folder to write to") from error


def _folds(folds: dict[str, list[int]]) -> str:
    return "; ".join(f"{dataset}: folds {', '.join(map(str, numbers))}" for dataset, numbers in folds.items())


def _overlaps(recipe: dict[str, Any]) -> str:
    if recipe["likelihoods"] == "softmax":
        return "Two sounds at a time share one likelihood: the louder one wins."
    return "Of two sounds at a time, one far below the other is not told."


def _taught_by(teachers: list[dict[str, str]]) -> str:
    if not teachers:
        return "It learnt from the labels alone."
    names = ", ".join(f"{teacher['name']} (SHA-256 {teacher['sha256']})" for teacher in teachers)
    return (
        f"Besides the labels it learnt to predict the principal components of the embedding of {names}, and the maps "
        "inside, of a teacher that makes its own spectrogram."
    )


def _labels(recipe: Mapping[str, Any], teachers: list[dict[str, str]]) -> str:
    others = ["an MLP on each teacher's embedding"] if teachers else []
    others += ["the network before"] if recipe["generations"] > 1 else []
    if not others:
        return "The labels were learnt as they are."
    again = f" All this {recipe['generations']} times, each from scratch." if recipe["generations"] > 1 else ""
    return (
        f"Labels were drawn {100 * recipe['soft_share']:.0f} % of the way towards what {' and '.join(others)}\n"
        f"said of the same window.{again}"
    )


def _calibrated(calibration: Rescaling | None) -> str:
    if calibration is None:
        return "Likelihoods are not calibrated."
    numbers = {
        label: (scale, bias)
        for label, scale, bias in zip(calibration.labels, calibration.scale, calibration.bias, strict=True)
    }
    told = ", ".join(f"{label} {scale:.2f} {bias:+.2f}" for label, (scale, bias) in numbers.items())
    if calibration.output == "softmax":
        told = f"{calibration.scale[0]:.2f} for all"
    folds = ", ".join(map(str, calibration.folds))
    return (
        f"{CALIBRATED}: what the last layer sums up before its {calibration.output} is multiplied and "
        f"shifted\n({told}), fitted on {calibration.clips} clips of the folds {folds}, each judged by a network\n"
        "that had not heard it. They hold for such clips, with every label about as frequent; a street has another mix."
    )


def write_document(
    model: ModelFolder, training: dict[str, Any], figures: str, calibration: Rescaling | None = None
) -> None:
    """Write `MODEL_CARD.md`, for people.

    Args:
        model: the folder with its card.
        training: the record that `train` wrote.
        figures: the tables of the cross-validation, or what is said where it was not done.
        calibration: what was folded into the classifier.
    """
    front_end, recipe = model.card.front_end, training["recipe"]
    teachers = "".join(f"--teacher {teacher['name']}.tflite " for teacher in training["teachers"])
    (model.path / DOCUMENT).write_text(
        f"""# {model.card.name}, version {model.card.version}

{model.card.description}. It answers with likelihoods for: {", ".join(model.card.labels)}.

## Use
It is the default model of the urban sound agent: one second of sound each tenth of a second, on the sensor itself.
It is meant for counting and timing street sounds. It is not meant for safety of life, for evidence against a person,
or for speech; it does not recognise who or what is said.

## Licence and data
The weights are under {model.card.licence}. The code is Apache-2.0. Trained on:

- UrbanSound8K, CC BY-NC 3.0: J. Salamon, C. Jacoby, J. P. Bello, "A Dataset and Taxonomy for Urban Sound Research",
  ACM Multimedia 2014. **Non-commercial.** Its clips come from Freesound, by the users behind each recording.
- ESC-10, CC BY 3.0: K. J. Piczak, "ESC: Dataset for Environmental Sound Classification", ACM Multimedia 2015. Its dogs
  are `dog_bark`; all else (rain, sea waves, crackling fire, ticking clocks, helicopters, chainsaws, roosters, crying
  babies, sneezing) is `background`.
- Synthetic noise and speech (`model_export/noise.py`) as `background`.

{training["clips"]} clips of {training["recordings"]} recordings ({_folds(training["folds"])}), and
{recipe["noise_clips"]} clips of noise.

## Network
Log-mel: {front_end.sample_rate_hz} Hz, {front_end.n_mels} {front_end.mel_scale.upper()} bands from
{front_end.mel_min_hz:.0f} to {front_end.mel_max_hz:.0f} Hz, Hann taper of {front_end.taper_length_samples} samples each
{front_end.hop_length_samples} samples, {front_end.n_frames} frames wholly inside 1 s; decibels relative to a full-scale
sine, a fixed reference, from {front_end.level_min_db:.0f} to {front_end.level_max_db:.0f} dB. L3 audio network
(Cramer et al., ICASSP 2019) with 32-64-128-240 filters, no padding along time, maximum over the last map; the filters
of its first convolution sum to 0, so that it does not know the level. MLP 512-128 with the standardization folded in,
{recipe["likelihoods"]}. {training["parameters"]:,} parameters while training. Full int8, int8 in and out.

Trained from scratch in {recipe["epochs"]} epochs of AdamW under a one-cycle schedule, with gain, mixtures, backgrounds,
changes of speed, overloads, telephones, a little colour and weight averaging, then {recipe["calm_epochs"]} calm ones
with little mixing; recordings count by the square root of their clips. It took
{training["duration_s"]} s on the machine that made it. {_taught_by(training["teachers"])}
{_labels(recipe, training["teachers"])}

## Figures
Clip accuracy by `urbansound-model crossvalidate`: trained on the other folds, tested on one, no recording in both.

{figures}
## Limits
Few recordings: many classes were heard from some dozens of places only. Speech was synthetic. {_overlaps(recipe)}
{FIRST_CHOICES}
{_calibrated(calibration)}

## Make it again
`urbansound-model build --us8k DIR --esc10 DIR {teachers}{"--results DIR " if calibration else ""}--out DIR`
(seed {recipe["seed"]}).
""",
        encoding="utf-8",
    )


def _embeddings(card: ModelCard) -> str:
    return "dequantized int8 embeddings" if card.embedding.output.dtype == "int8" else "float32 embeddings"


def write_head_document(model: ModelFolder, base: ModelFolder, figures: str, *, seed: int) -> None:
    """Write `MODEL_CARD.md` for a model of one's own classes.

    Args:
        model: the folder with its card.
        base: the model whose embedding it stands on.
        figures: the tables of its cross-validation, which count clips and recordings.
        seed: of the training.
    """
    below = base.card
    (model.path / DOCUMENT).write_text(
        f"""# {model.card.name}, version {model.card.version}

{model.card.description}.

## Licence and data
The embedding is that of {below.name} {below.version} (SHA-256 of its `model.json`: {base.sha256}), as it is. Its
licence goes on for the whole: **{below.licence}**. Its data and authors are in the `MODEL_CARD.md` of that model. The
classifier was trained on recordings of these classes, under whatever terms they have. The code is Apache-2.0.

## Network
Front end and embedding of {below.name}; MLP 512-128 with the standardization folded in, trained in numpy on the
{_embeddings(below)} that the agent computes. Full int8, int8 in and out.

## Figures
{figures}
## Limits
It tells these classes from one another, and knows nothing else: what is none of them is given the nearest name, unless
there is a class `{BACKGROUND}` that has heard such sounds. Places and microphones that are in no recording may sound
different. The figures are of the network before its quantization. Likelihoods are not calibrated.
The responses are those of {below.name}, not measured for these classes.
{INHERITED}

## Make it again
`urbansound-model head --data DIR --base MODEL --out DIR` (seed {seed}).
""",
        encoding="utf-8",
    )
