"""TFLite metadata: what a `.tflite` file says about itself, to any tool that reads it.

In: a TFLite file and what is to be said of it. Out: the same network, which now carries the metadata as a buffer of its
own, and its labels as a ZIP archive after its end. Written and read without generated code: a table is a dictionary
from slot to value.

Source: metadata_schema.fbs of tflite-support 0.4.4, which gives the slots below.
"""

import io
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from enum import IntEnum
from pathlib import Path
from typing import TypeAlias

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from flatbuffers.table import Table

from agent.errors import ModelError
from agent.model_card import CARD_NAME, ModelFolder

LABELS_NAME = "labels.txt"

_ENTRY = "TFLITE_METADATA"
_MODEL_IDENTIFIER, _METADATA_IDENTIFIER = b"TFL3", b"M001"
_MIN_PARSER_VERSION = "1.3.0"  # the first that knows AudioProperties
_AUDIO_PROPERTIES = np.uint8(4)  # of the union ContentProperties
_TENSOR_AXIS_LABELS = np.int8(2)  # of the enumeration AssociatedFileType
_N_CHANNELS = np.uint32(1)

_NUMBER_WRITERS = {
    np.int8: flatbuffers.Builder.PrependInt8Slot,
    np.uint8: flatbuffers.Builder.PrependUint8Slot,
    np.uint32: flatbuffers.Builder.PrependUint32Slot,
}

_Value: TypeAlias = "str | np.integer | Sequence[_Value] | Mapping[int, _Value]"


class _Model(IntEnum):
    NAME, DESCRIPTION, VERSION, SUBGRAPHS, AUTHOR, LICENCE = range(6)
    MIN_PARSER_VERSION = 7


class _Subgraph(IntEnum):
    INPUTS, OUTPUTS = 2, 3


class _Tensor(IntEnum):
    NAME, DESCRIPTION = 0, 1
    CONTENT, FILES = 3, 6


class _Content(IntEnum):
    TYPE, PROPERTIES = 0, 1


class _Audio(IntEnum):
    SAMPLE_RATE, CHANNELS = 0, 1


class _File(IntEnum):
    NAME, DESCRIPTION, TYPE = 0, 1, 2


@dataclass(frozen=True, slots=True)
class Metadata:
    """What a file says about itself.

    Attributes:
        name: of the model.
        description: of the network in this file.
        version: of the model.
        author: who made it.
        licence: of the weights.
        labels: in the order of the output; none where the output has no classes.
    """

    name: str
    description: str
    version: str
    author: str
    licence: str
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TensorNote:
    """What a file says about its input or its output.

    Attributes:
        name: of the tensor.
        description: what its numbers are, with their unit.
        sample_rate_hz: of the mono sound that it was computed from, if it was.
    """

    name: str
    description: str
    sample_rate_hz: int | None = None


def write_metadata(
    file: Path, metadata: Metadata, *, reads: Sequence[TensorNote], answers: Sequence[TensorNote]
) -> None:
    """Write metadata into a TFLite file, in place of what it carried; the network stays as it is.

    Args:
        file: a TFLite file.
        metadata: of the whole file; its labels are those of the first output.
        reads: about each input.
        answers: about each output.

    Raises:
        ModelError: the file cannot be read, or is not TFLite.
    """
    model = schema.ModelT.InitFromPackedBuf(_read(file))  # an archive that follows is left behind
    _buffer_of(model).data = np.frombuffer(_flatbuffer(metadata, reads, answers), np.uint8)
    builder = flatbuffers.Builder()
    builder.Finish(model.Pack(builder), file_identifier=_MODEL_IDENTIFIER)
    whole = io.BytesIO(builder.Output())
    if metadata.labels:
        with zipfile.ZipFile(whole, "a") as archive:
            # Stored as it is, as readers expect; with the fixed date of `ZipInfo`, so that the hash stays the same.
            archive.writestr(zipfile.ZipInfo(LABELS_NAME), "".join(f"{label}\n" for label in metadata.labels))
    file.write_bytes(whole.getvalue())


def read_metadata(file: Path) -> Metadata:
    """Read what a TFLite file says about itself.

    Raises:
        ModelError: the file cannot be read, is not TFLite, or carries no metadata.
    """
    content = _read(file)
    model = schema.Model.GetRootAs(content)
    entries = [model.Metadata(index) for index in range(model.MetadataLength())]
    numbers = [entry.Buffer() for entry in entries if entry.Name() == _ENTRY.encode()]
    if not numbers:
        raise ModelError(f"model file {file}: carries no TFLite metadata; `urbansound-model package` writes it")
    buffer = model.Buffers(numbers[0]).DataAsNumpy().tobytes()
    table = Table(buffer, int.from_bytes(buffer[:4], "little"))
    return Metadata(
        name=_string(table, _Model.NAME),
        description=_string(table, _Model.DESCRIPTION),
        version=_string(table, _Model.VERSION),
        author=_string(table, _Model.AUTHOR),
        licence=_string(table, _Model.LICENCE),
        labels=_labels(content),
    )


def check_metadata(model: ModelFolder) -> None:
    """Hold the metadata in all files against `model.json`: name, version, licence and labels.

    Raises:
        ModelError: a file carries none, or says something else than the card.
    """
    card = model.card
    streaming = [(model.streaming_file, ())] if model.streaming_file else []
    for file, labels in [(model.embedding_file, ()), *streaming, (model.classifier_file, card.labels)]:
        said = read_metadata(file)
        expected = replace(said, name=card.name, version=card.version, licence=card.licence, labels=labels)
        for field in (field.name for field in fields(Metadata)):
            if getattr(said, field) != getattr(expected, field):
                raise ModelError(
                    f"model file {file}: its metadata says {field} = {getattr(said, field)!r}, "
                    f"expected {getattr(expected, field)!r} as in {CARD_NAME}"
                )


def _read(file: Path) -> bytes:
    try:
        content = file.read_bytes()
    except OSError as error:
        raise ModelError(f"model file {file}: cannot be read ({error.strerror})") from error
    if not schema.Model.ModelBufferHasIdentifier(content, 0):
        raise ModelError(f"model file {file}: starts with {content[:8]!r}, expected a TFLite file")
    return content


def _buffer_of(model: schema.ModelT) -> schema.BufferT:
    """The buffer that holds the metadata; a new one at the end if there is none yet."""
    for entry in model.metadata or []:
        if entry.name == _ENTRY.encode():
            return model.buffers[entry.buffer]
    model.metadata = [*(model.metadata or []), schema.MetadataT(name=_ENTRY, buffer=len(model.buffers))]
    model.buffers.append(schema.BufferT())
    return model.buffers[-1]


def _flatbuffer(metadata: Metadata, reads: Sequence[TensorNote], answers: Sequence[TensorNote]) -> bytes:
    labels: _Value = {
        _File.NAME: LABELS_NAME,
        _File.DESCRIPTION: "one label a line, in the order of the output",
        _File.TYPE: _TENSOR_AXIS_LABELS,
    }
    inputs, outputs = ([_tensor(note) for note in notes] for notes in (reads, answers))
    if metadata.labels:
        outputs[0][_Tensor.FILES] = [labels]
    table: _Value = {
        _Model.NAME: metadata.name,
        _Model.DESCRIPTION: metadata.description,
        _Model.VERSION: metadata.version,
        _Model.SUBGRAPHS: [{_Subgraph.INPUTS: inputs, _Subgraph.OUTPUTS: outputs}],
        _Model.AUTHOR: metadata.author,
        _Model.LICENCE: metadata.licence,
        _Model.MIN_PARSER_VERSION: _MIN_PARSER_VERSION,
    }
    builder = flatbuffers.Builder()
    builder.Finish(_packed(builder, table), file_identifier=_METADATA_IDENTIFIER)
    return bytes(builder.Output())


def _tensor(note: TensorNote) -> dict[int, _Value]:
    table: dict[int, _Value] = {_Tensor.NAME: note.name, _Tensor.DESCRIPTION: note.description}
    if note.sample_rate_hz is not None:
        audio: _Value = {_Audio.SAMPLE_RATE: np.uint32(note.sample_rate_hz), _Audio.CHANNELS: _N_CHANNELS}
        table[_Tensor.CONTENT] = {_Content.TYPE: _AUDIO_PROPERTIES, _Content.PROPERTIES: audio}
    return table


def _packed(builder: flatbuffers.Builder, value: _Value) -> int:
    """Write a string, vector or table, its parts first; returns its offset. A number is its own place in a table."""
    if isinstance(value, np.integer):
        return int(value)
    if isinstance(value, str):
        return int(builder.CreateString(value))
    if isinstance(value, Mapping):
        parts = {slot: _packed(builder, part) for slot, part in value.items()}
        builder.StartObject(max(parts) + 1)
        for slot, part in parts.items():
            write = _NUMBER_WRITERS.get(type(value[slot]), flatbuffers.Builder.PrependUOffsetTRelativeSlot)
            write(builder, slot, part, 0)
        return int(builder.EndObject())
    offsets = [_packed(builder, part) for part in value]
    builder.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        builder.PrependUOffsetTRelative(offset)
    return int(builder.EndVector())


def _string(table: Table, slot: int) -> str:
    place = table.Offset(4 + 2 * slot)  # the two lengths that begin a vtable, then 2 bytes for each slot
    return str(table.String(table.Pos + place), "utf-8") if place else ""


def _labels(content: bytes) -> tuple[str, ...]:
    if not zipfile.is_zipfile(io.BytesIO(content)):
        return ()
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        text = archive.read(LABELS_NAME).decode() if LABELS_NAME in archive.namelist() else ""
    return tuple(text.splitlines())
