"""The front ends of OpenL3, against the formulas in float64 and against librosa; the table of its layers."""

from pathlib import Path

import librosa
import librosa.filters
import numpy as np
import pytest
import soxr
from numpy.typing import NDArray

from agent.frontend import LogMel, mel_filters
from agent.values import FloatArray
from model_export.features import read_mono
from model_export.openl3 import (
    FRONT_ENDS,
    PUBLISHED,
    REPRESENTATIONS,
    FrontEndName,
    Representation,
    front_end,
    layer_shapes,
)

RATE_HZ = 48_000
HOP = 242
AUDIBLE = -40.0  # below, float32 has its own noise: 80 half-decibels are 160 decibels
EACH = [(representation, name) for representation in REPRESENTATIONS for name in FRONT_ENDS]


def chirp() -> FloatArray:
    """One second that rises from 50 Hz to 20 kHz, over a little noise."""
    time_s = np.arange(RATE_HZ) / RATE_HZ
    phase = 2 * np.pi * 50.0 * (400.0**time_s - 1) / np.log(400.0)
    noise = np.random.default_rng(3).normal(0.0, 1e-3, RATE_HZ)
    sound: FloatArray = (0.5 * np.sin(phase) + noise).astype(np.float32)
    return sound


def noise() -> FloatArray:
    """One second of noise that swells by 40 dB."""
    noise = np.random.default_rng(4).normal(0.0, 0.1, RATE_HZ)
    return (noise * np.geomspace(0.01, 1.0, RATE_HZ)).astype(np.float32)


def mel_by_the_book(n_bands: int, *, is_htk: bool) -> NDArray[np.float64]:
    """Triangles of area 1 between edges that are equally far apart in mel, band by band; (n_bands, 1025)."""

    def to_hz(mel: float) -> float:
        if is_htk:
            return float(700.0 * (10.0 ** (mel / 2595.0) - 1.0))
        return float(mel * 200.0 / 3.0 if mel < 15.0 else 1000.0 * 6.4 ** ((mel - 15.0) / 27.0))

    top = 2595.0 * np.log10(1 + 24_000 / 700) if is_htk else 15.0 + 27.0 * np.log(24.0) / np.log(6.4)
    edges_hz = [to_hz(top * edge / (n_bands + 1)) for edge in range(n_bands + 2)]
    bin_hz = np.arange(1025) * RATE_HZ / 2048
    rows = []
    for band in range(n_bands):
        low, centre, high = edges_hz[band : band + 3]
        rows.append(np.interp(bin_hz, [low, centre, high], [0, 1, 0], left=0, right=0) * 2.0 / (high - low))
    return np.array(rows)


def by_the_book(
    samples: FloatArray, representation: Representation, name: FrontEndName, first_sample: int
) -> NDArray[np.float64]:
    """The representation of one second, frame by frame in float64; (n_bands, n_frames)."""
    n_fft, n_frames = (512, 197) if representation == "linear" else (2048, 199)
    taper = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft)
    around = np.concatenate([np.zeros(4096), samples.astype(np.float64), np.zeros(4096)])
    starts = [4096 + first_sample + HOP * frame for frame in range(n_frames)]
    magnitudes = np.stack([np.abs(np.fft.rfft(around[start : start + n_fft] * taper)) for start in starts], axis=1)
    if representation == "linear":
        bands = magnitudes
    elif name == "training":
        bands = np.sqrt(mel_by_the_book(int(representation[3:]), is_htk=True) @ magnitudes**2)
    else:
        bands = mel_by_the_book(int(representation[3:]), is_htk=False) @ magnitudes
    levels = 10.0 * np.log10(np.maximum(bands, 1e-10))
    relative: NDArray[np.float64] = np.maximum(levels - levels.max(), -80.0)
    return relative


# Where the first frame begins: half the missing samples before the window, at it, or half a taper before it.
FIRST_SAMPLE = {"training": -982, "kapre": 0, "librosa": -1024}


@pytest.mark.parametrize(("representation", "name"), EACH)
@pytest.mark.parametrize("sound", [chirp, noise], ids=["chirp", "noise"])
def test_a_front_end_is_its_formula(sound: object, representation: Representation, name: FrontEndName) -> None:
    """What is audible is within 0.002 half-decibels of the formula in float64, and nothing is far from it."""
    samples = chirp() if sound is chirp else noise()
    expected = by_the_book(samples, representation, name, 0 if representation == "linear" else FIRST_SAMPLE[name])

    actual = LogMel(front_end(representation, name)).window(samples).T

    assert actual.shape == expected.shape
    audible = expected > AUDIBLE
    assert audible.mean() > 0.05
    np.testing.assert_allclose(actual[audible], expected[audible], atol=2e-3)
    assert np.abs(actual - expected).mean() < 0.2
    assert (actual.min(), actual.max()) >= (-80.0, 0.0)
    assert actual.max() == 0.0


def test_a_street_is_what_the_formula_says(recordings: Path) -> None:
    """On a real street the training's front end is within 0.002 half-decibels where anything is audible."""
    file = next(iter(sorted((recordings / "sonyc").glob("*.flac"))))
    samples, rate_hz = read_mono(file)
    second = soxr.resample(samples[:rate_hz], rate_hz, RATE_HZ)[:RATE_HZ]
    expected = by_the_book(second, "mel256", "training", -982)

    actual = LogMel(front_end("mel256")).window(second).T

    audible = expected > AUDIBLE
    assert audible.mean() > 0.5
    np.testing.assert_allclose(actual[audible], expected[audible], atol=2e-3)


@pytest.mark.slow
@pytest.mark.timeout(900)  # librosa compiles itself when it is first used
@pytest.mark.parametrize("representation", REPRESENTATIONS)
def test_librosas_front_end_is_librosas(representation: Representation) -> None:
    """What OpenL3 0.4 computes with librosa, computed by librosa: centred frames, magnitudes, Slaney's scale."""
    samples, n_fft = noise(), 512 if representation == "linear" else 2048
    is_centred = representation != "linear"
    bands = np.abs(librosa.stft(samples, n_fft=n_fft, hop_length=HOP, window="hann", center=is_centred))
    if is_centred:
        bands = librosa.filters.mel(sr=RATE_HZ, n_fft=n_fft, n_mels=int(representation[3:])) @ bands
    expected = librosa.power_to_db(bands, ref=np.max, amin=1e-10, top_db=80.0)

    actual = LogMel(front_end(representation, "librosa")).window(samples).T

    assert actual.shape == expected.shape
    audible = expected > AUDIBLE
    np.testing.assert_allclose(actual[audible], expected[audible], atol=2e-3)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Empty filters detected")
@pytest.mark.parametrize("representation", ["mel128", "mel256"])
@pytest.mark.parametrize("name", ["training", "kapre"])
def test_mel_filters_are_librosas(representation: Representation, name: FrontEndName) -> None:
    """The training's are HTK's, those of OpenL3 0.4 Slaney's; both with area 1."""
    expected = librosa.filters.mel(
        sr=RATE_HZ, n_fft=2048, n_mels=int(representation[3:]), htk=name == "training", dtype=np.float64
    )

    np.testing.assert_allclose(mel_filters(front_end(representation, name)).T, expected, atol=1e-12)


@pytest.mark.parametrize(("representation", "name"), EACH)
def test_how_loud_a_sound_is_makes_no_difference(representation: Representation, name: FrontEndName) -> None:
    """Half the amplitude reads the same, as each window's maximum is its reference."""
    log_mel = LogMel(front_end(representation, name))

    np.testing.assert_allclose(log_mel.window(noise() * np.float32(0.5)), log_mel.window(noise()), atol=1e-4)


@pytest.mark.parametrize(("representation", "name"), EACH)
def test_silence_reads_the_maximum(representation: Representation, name: FrontEndName) -> None:
    """As in training: all bins are equal, so all are the largest."""
    assert not LogMel(front_end(representation, name)).window(np.zeros(RATE_HZ, np.float32)).any()


def test_the_layers_are_those_of_the_paper() -> None:
    """Sixteen layers with 48 arrays and 4 689 860 numbers, 2 818 of them statistics of normalizations."""
    layers = layer_shapes()
    sizes = [[int(np.prod(shape)) for shape in shapes] for shapes in layers]

    assert len(layers) == 16
    assert sum(map(len, layers)) == 48
    assert sum(map(sum, sizes)) == 4_689_860
    assert sum(sum(layer[2:]) for layer in sizes if len(layer) == 4) == 2_818
    assert sum(sum(layer) for layer in sizes if len(layer) == 2) == 4_684_224
    assert layers[0] == ((1,),) * 4
    assert layers[1] == ((3, 3, 1, 64), (64,))
    assert layers[-1] == ((3, 3, 512, 512), (512,))


def test_the_published_files_are_those_of_the_audio_network() -> None:
    """Three representations, two contents."""
    assert len(PUBLISHED) == 6
    assert PUBLISHED["openl3-mel256-music"] == "openl3_audio_mel256_music-v0_4_0.h5.gz"
