"""The street of the campaign: a street by formulas with many sounds, and rules by which it yields many events.

Out: a recording, and the configuration of the node that hears it.
"""

from pathlib import Path

import numpy as np
import soundfile

from agent.values import FloatArray
from demo.scene import SAMPLE_RATE_HZ, SOUNDS, Sounding, render
from faults.children import HOST

NODE = "node-07"
EVERY_S = 3.0  # a sound begins
LASTS_S = 1.6


def make_street(file: Path, duration_s: float, seed: int) -> FloatArray:
    """Write a street in which one sound follows the other, and give it as it is in the file."""
    rng = np.random.default_rng(seed)
    labels = sorted(SOUNDS)
    soundings = tuple(
        Sounding(labels[int(rng.integers(len(labels)))], onset_s, LASTS_S, float(rng.uniform(-30.0, -18.0)))
        for onset_s in np.arange(1.0, duration_s - EVERY_S, EVERY_S)
    )
    soundfile.write(file, render(soundings, duration_s, seed=seed), SAMPLE_RATE_HZ, subtype="PCM_16")
    samples: FloatArray = soundfile.read(file, dtype="float32")[0]
    return samples


def write_config(
    folder: Path, *, port: int, host: str = HOST, spool: Path | None = None, device: str | None = None
) -> Path:
    """The node of the campaign: eager rules, so that a second of sound is worth an event."""
    file = folder / "agent.toml"
    file.write_text(
        f"""
[node]
id = "{NODE}"
[audio]
{"" if device is None else f'device = "{device}"'}
sample_rate_hz = {SAMPLE_RATE_HZ}
channel = 1
[events]
update_interval_s = 1.0
[levels]
interval_s = 1
[events.default]
span_s = 0.2
on = 0.2
off = 0.15
min_duration_s = 0.1
merge_gap_s = 0.1
[mqtt]
host = "{host}"
port = {port}
keepalive_s = 5
[spool]
path = "{(spool or folder) / "spool.sqlite"}"
""",
        encoding="utf-8",
    )
    return file
