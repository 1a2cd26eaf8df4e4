"""Where the fuzzers start from: one good input of each kind, so that what is changed is deep inside.

Out: for each target, inputs as bytes. Nothing is read but the project's own files.
"""

import io
import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile

from agent.coverage import HOUR_NS, Tally
from agent.hours import Hours, LastHeard
from agent.model_card import CARD_NAME, DEFAULT_MODEL
from agent.spool import Spool
from agent.wire import EventMessage

TOPIC = "urbansound/node-07/street/event"
NOW_NS = 1_767_268_800 * 10**9  # noon on the first day of 2026
BOOT = "7f1c1c1e-0000-4000-8000-000000000001"
EVENT: dict[str, object] = {
    "schema": "urbansound.event/1",
    "event_id": "019b796d-d664-7e4b-9d3a-5f0c8b6a2e11",
    "seq": 4711,
    "event_type": "start",
    "node": "node-07",
    "source": "street",
    "label": "siren",
    "group": "alert",
    "start": "2026-01-01T12:00:00.100Z",
    "duration_s": 7.8,
    "likelihood_peak": 0.91,
    "likelihood_mean": 0.74,
    "model": {"name": "l3-edge-us8k", "version": "1", "sha256": "6b" * 32},
    "quality": {"time_synced": True},
    "replayed": False,
}

_CONFIG = Path(__file__).parent.parent / "config" / "agent.toml"
_NESTED = 3000  # deeper than Python can call itself


def configurations() -> list[bytes]:
    """The reference configuration, as it is and with all its settings; and what the environment may add."""
    text = _CONFIG.read_text(encoding="utf-8")
    lines = (line[1:] if line.startswith("#") and not line.startswith("# ") else line for line in text.splitlines())
    everything = "\n".join(line.split("  # example")[0] for line in lines)
    environment = "\nURBANSOUND_MQTT__HOST=broker\0URBANSOUND_EVENTS__CLASSES__SIREN__ON=0.7\0URBANSOUND_NODE__ID=[1]"
    nested = f"node = {'[' * _NESTED}"
    return [part.encode() for part in (text, everything, "[audio]\nchannel = 3\0" + environment, nested)]


def recordings() -> list[bytes]:
    """A tenth of a second in each format, with one and two channels."""
    samples = np.sin(np.arange(1600) / 5).astype(np.float32) / 2
    made = []
    for form, subtype, n_channels in (
        ("WAV", "PCM_16", 1),
        ("WAV", "FLOAT", 2),
        ("WAV", "MS_ADPCM", 1),
        ("RF64", "PCM_24", 1),
        ("W64", "PCM_16", 1),
        ("AIFF", "PCM_16", 1),
        ("AU", "ULAW", 1),
        ("CAF", "PCM_16", 2),
        ("FLAC", "PCM_16", 1),
        ("OGG", "VORBIS", 1),
        ("MP3", "MPEG_LAYER_III", 1),
    ):
        file = io.BytesIO()
        soundfile.write(file, np.repeat(samples[:, None], n_channels, axis=1), 16_000, subtype=subtype, format=form)
        made.append(file.getvalue())
    return made


def names() -> list[bytes]:
    """Names of recordings that say when they begin."""
    said = ("20260101_120000.WAV", "a-2026-01-01T12-00-00.5+0100.flac", "s 1767268800.ogg", "20260101120000Z", "x")
    return [name.encode() for name in said]


def cards() -> list[bytes]:
    """The card of the model that comes with the agent; the same, asking for all memory; and one that never ends."""
    card = (DEFAULT_MODEL / CARD_NAME).read_bytes()
    numbers = json.loads(card)
    numbers["front_end"]["fft_length"] = 10**9
    return [card, json.dumps(numbers).encode(), b'{"labels":' + b"[" * _NESTED]


def packets() -> list[bytes]:
    """What a broker may say, MQTT 5 and 3.1.1: it lets us in, acknowledges, sends a message, sends us away."""
    welcome, message = "20 03 00 00 00", "30 08 00 03 61 2f 62 00 68 69"
    said = (
        f"05 {welcome} 40 02 00 01 40 04 00 02 87 00 {message}",
        f"05 20 09 00 00 06 21 00 14 22 00 0a 90 04 00 01 00 01 {message} e0 02 8e 00",
        f"05 {welcome} 32 09 00 01 61 00 07 00 68 65 79 d0 00 c0 00",
        f"05 {welcome} 30 0f 00 01 61 08 26 00 01 6b 00 01 76 01 00 68 65 79",
        "05 20 03 00 86 00",
        "04 20 02 00 00 90 03 00 01 01 30 05 00 01 61 68 69 40 02 00 01",
        "04 20 02 00 05",
    )
    return [bytes.fromhex(text) for text in said]


def messages() -> list[bytes]:
    """Events on the wire."""
    end = EVENT | {"event_type": "end", "end": "2026-01-01T12:00:07.900Z", "end_reason": "quiet"}
    sent = EventMessage.model_validate(end).to_json()
    draft = EVENT | {"stamp": {"boot": BOOT, "utc_zero_s": 1.6e9}, "node": "\ud83d"}
    return [json.dumps(EVENT).encode(), json.dumps(draft).encode(), sent, b'{"node":' + b"[" * _NESTED]


def spools() -> list[bytes]:
    """A spool with messages that wait, some forgotten, and an open event; and one that is new."""
    with tempfile.TemporaryDirectory() as folder:
        used, new = Path(folder) / "used.sqlite", Path(folder) / "new.sqlite"
        with Spool(used, 1000) as spool:
            for number in range(8):
                content = json.dumps(EVENT).encode()
                spool.append(TOPIC, lambda _, content=content: content, event_id=f"event-{number}", ends=number > 2)  # type: ignore[misc]
            spool.forget([1, 4])
        Spool(new, 1000).close()
        return [used.read_bytes(), new.read_bytes()]


def coverages() -> list[bytes]:
    """A coverage file with some hours and the end of a run; and one that is new."""
    with tempfile.TemporaryDirectory() as folder:
        used, new = Path(folder) / "used.sqlite", Path(folder) / "new.sqlite"
        for file, last in ((used, LastHeard(NOW_NS - HOUR_NS, BOOT, True, "stalled")), (new, None)):
            hours = Hours(file)
            first = NOW_NS // HOUR_NS - 5
            hours.keep({first + n: Tally(HOUR_NS // 2, 7, 8, 9) for n in range(5 if last else 0)}, last)
            hours.close()
        return [used.read_bytes(), new.read_bytes()]


SEEDS: dict[str, Callable[[], list[bytes]]] = {
    "configuration": configurations,
    "recording": recordings,
    "name": names,
    "card": cards,
    "packets": packets,
    "message": messages,
    "spool": spools,
    "coverage": coverages,
}
