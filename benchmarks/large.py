"""A model as large as OpenL3: how much streaming saves where there is much to save.

In: a folder. Out: a model folder in it, whose weights are random: speed does not depend on them, and nothing else is
measured. Windowed and streaming form are derived as for the default model, and give the same to the last bit.

Source: OpenL3's mel256 network with 512 values: 48 kHz, 256 bands, four blocks of two convolutions, 64, 128, 256 and
512 filters. Two things differ: the network is time-valid, or it could not stream; and frames come each 6.25 ms instead
of each 5.04 ms, or 0.1 s would not be a whole number of chunks.
"""

from pathlib import Path

import numpy as np

from agent.model_card import DEFAULT_MODEL, EventCard, FrontEndNumbers, ModelCard, ModelFolder, load_model_folder
from model_export import networks
from model_export.package import network_card, write_model_json
from model_export.quantize import to_int8
from model_export.streaming import STREAMING_NAME, streaming_card, write_streaming

FILTERS = (64, 128, 256, 512)
FRONT_END = FrontEndNumbers(
    sample_rate_hz=48_000,
    window_length_samples=2048 + 155 * 300,  # 156 frames, of which the pools leave none over
    hop_length_samples=300,
    taper_length_samples=2048,
    fft_length=2048,
    n_mels=256,
    mel_min_hz=0.0,
    mel_max_hz=24_000.0,
    mel_scale="slaney",
    level_min_db=-110.0,
    level_max_db=0.0,
)
N_CALIBRATING = 4


def write_large_model(
    folder: Path, front_end: FrontEndNumbers = FRONT_END, filters: tuple[int, ...] = FILTERS
) -> ModelFolder:
    """Make the model; the labels and the numbers of events are the default model's.

    Args:
        folder: an empty one.
        front_end: of its windows.
        filters: of each block; the last is the length of the embedding.
    """
    like = load_model_folder(DEFAULT_MODEL).card
    rng = np.random.default_rng(0)
    shape = (N_CALIBRATING, front_end.n_frames, front_end.n_mels, 1)
    windows = rng.uniform(front_end.level_min_db, front_end.level_max_db, shape).astype(np.float32)
    embedding = networks.embedding_network(front_end, filters)
    classifier = networks.classifier_network(filters[-1], len(like.labels), likelihoods="sigmoid")
    files = [folder / f"{name}.tflite" for name in (networks.EMBEDDING, networks.CLASSIFIER)]
    files[0].write_bytes(to_int8(embedding, windows))
    files[1].write_bytes(to_int8(networks.without_standardization(classifier), embedding(windows).numpy()))
    write_streaming(files[0], folder / STREAMING_NAME, chunk_frames=2 ** (len(filters) - 1))
    card = ModelCard(
        schema_name="urbansound.model/1",
        name="l3-large-random",
        version="0",
        licence="none: the weights are random",
        description="as large as OpenL3's mel256 network",
        labels=like.labels,
        background_label=like.background_label,
        front_end=front_end,
        embedding=network_card(files[0]),
        streaming=streaming_card(files[0], folder / STREAMING_NAME),
        classifier=network_card(files[1]),
        events=EventCard(
            onset_response_s=like.events.onset_response_s,
            offset_response_s=like.events.offset_response_s,
            default=like.events.default,
        ),
    )
    return write_model_json(folder, card)
