"""Promises of `agent.frontend`: log-mel by the book, the same however the sound card slices the sound."""

import itertools
import math
from collections.abc import Iterator
from typing import Literal

import numpy as np
import pytest
from numpy.typing import NDArray

from agent.errors import ConfigError
from agent.frontend import JOIN_PERIOD_MIN_S, FrontEnd, LogMel, join_period_s, mel_filters
from agent.model_card import FrontEndNumbers
from agent.values import AudioBlock, FloatArray, Window

RATES_HZ = [8_000, 16_000, 22_050, 44_100, 48_000]


def numbers_of(mel_scale: Literal["htk", "slaney"] = "htk") -> FrontEndNumbers:
    """Numbers like those of the model that comes with the agent."""
    return FrontEndNumbers(
        sample_rate_hz=16_000,
        window_length_samples=16_000,
        hop_length_samples=200,
        taper_length_samples=960,
        fft_length=1024,
        n_mels=64,
        mel_min_hz=50.0,
        mel_max_hz=8000.0,
        mel_scale=mel_scale,
        level_min_db=-110.0,
        level_max_db=0.0,
    )


NUMBERS = numbers_of()


def front_end_of(rate_hz: int, window_hop_s: float = 0.1) -> FrontEnd:
    return FrontEnd(NUMBERS, capture_rate_hz=rate_hz, window_hop_s=window_hop_s)


def noise(rate_hz: int, length_s: float, amplitude: float = 0.1) -> FloatArray:
    samples = np.random.default_rng(11).normal(0.0, amplitude, round(length_s * rate_hz))
    return np.clip(samples, -1.0, 1.0).astype(np.float32)


def sine(frequency_hz: float, rate_hz: int, length_s: float, amplitude: float = 1.0) -> FloatArray:
    times_s = np.arange(round(length_s * rate_hz)) / rate_hz
    wave: FloatArray = (amplitude * np.sin(2 * np.pi * frequency_hz * times_s)).astype(np.float32)
    return wave


def blocks_of(samples: FloatArray, block_samples: int, first_sample: int = 0) -> Iterator[AudioBlock]:
    for start in range(0, len(samples), block_samples):
        yield AudioBlock(samples[start : start + block_samples], first_sample + start)


def windows_of(front_end: FrontEnd, samples: FloatArray, block_samples: int | None = None) -> list[Window]:
    blocks = blocks_of(samples, block_samples or len(samples))
    return [*(window for block in blocks for window in front_end.push(block)), *front_end.flush()]


def log_mel_by_the_book(samples: FloatArray, numbers: FrontEndNumbers) -> NDArray[np.float64]:
    """Levels of the mel bands, frame by frame, bin by bin and in float64; (n_frames, n_mels)."""
    if numbers.mel_scale == "htk":
        bottom_mel, top_mel = (2595 * np.log10(1 + hz / 700) for hz in (numbers.mel_min_hz, numbers.mel_max_hz))
        edges_mel = np.linspace(bottom_mel, top_mel, 66)
        edges_hz = 700 * (10 ** (edges_mel / 2595) - 1)
    else:  # Slaney: linear to 1 kHz, then 27 steps for each factor of 6.4
        top_mel = 15 + 27 * np.log(numbers.mel_max_hz / 1000) / np.log(6.4)
        edges_mel = np.linspace(numbers.mel_min_hz * 3 / 200, top_mel, 66)
        edges_hz = np.array([200 / 3 * m if m < 15 else 1000 * 6.4 ** ((m - 15) / 27) for m in edges_mel])
    n = np.arange(numbers.taper_length_samples)
    taper = np.sin(np.pi * n / numbers.taper_length_samples) ** 2  # periodic Hann
    bin_hz = np.arange(numbers.fft_length // 2 + 1) * numbers.sample_rate_hz / numbers.fft_length
    n_frames = 1 + (len(samples) - numbers.taper_length_samples) // numbers.hop_length_samples
    levels = np.empty((n_frames, numbers.n_mels))
    for frame in range(n_frames):
        start = frame * numbers.hop_length_samples
        slice_ = samples[start : start + numbers.taper_length_samples].astype(np.float64)
        amplitudes = np.abs(np.fft.rfft(slice_ * taper, numbers.fft_length)) / (
            taper.sum() / 2
        )  # of a sine in each bin
        for band in range(numbers.n_mels):
            low, centre, high = edges_hz[band : band + 3]
            triangle = np.interp(bin_hz, [low, centre, high], [0, 1, 0], left=0, right=0)
            levels[frame, band] = 10 * np.log10(max(np.sum(triangle * amplitudes**2), 1e-30))
    return np.clip(levels, numbers.level_min_db, numbers.level_max_db)


@pytest.mark.parametrize("mel_scale", ["htk", "slaney"])
def test_log_mel_is_the_formula(mel_scale: Literal["htk", "slaney"]) -> None:
    """The log-mel of noise over 80 dB is within 0.01 dB of the formula, written plainly and computed in float64."""
    numbers = numbers_of(mel_scale)
    samples = noise(16_000, 2.0) * np.geomspace(1e-4, 1.0, 32_000).astype(np.float32)

    np.testing.assert_allclose(LogMel(numbers).frames(samples), log_mel_by_the_book(samples, numbers), atol=0.01)


@pytest.mark.parametrize("bin_number", [8, 16, 64, 192, 400])
def test_levels_are_relative_to_a_full_scale_sine(bin_number: int) -> None:
    """A full-scale sine reads 0 dB in its band and one of a tenth -20 dB, within 2 dB, as three bins share it."""
    frequency_hz = bin_number * 16_000 / 1024

    full, tenth = (LogMel(NUMBERS).frames(sine(frequency_hz, 16_000, 1.0, amplitude)) for amplitude in (1.0, 0.1))

    assert full.shape == (76, 64)
    np.testing.assert_allclose(full.max(axis=1), 0.0, atol=2.0)
    np.testing.assert_allclose(tenth.max(axis=1), -20.0, atol=2.0)


def test_silence_reads_the_lowest_level() -> None:
    """Digital silence is the lowest level of the card, not minus infinity."""
    frames = LogMel(NUMBERS).frames(np.zeros(16_000, np.float32))

    np.testing.assert_allclose(frames, NUMBERS.level_min_db, atol=1e-4)


@pytest.mark.parametrize("gain_db", [-20.0, -6.0])
def test_the_reference_is_fixed(gain_db: float) -> None:
    """A sound 20 dB quieter reads 20 dB less in every band: no window is normalized by its own maximum."""
    samples = noise(16_000, 1.0)

    loud = LogMel(NUMBERS).frames(samples)
    quiet = LogMel(NUMBERS).frames(samples * np.float32(10 ** (gain_db / 20)))

    assert loud.min() + gain_db > NUMBERS.level_min_db
    np.testing.assert_allclose(quiet - loud, gain_db, atol=1e-3)


def test_levels_stay_in_their_range() -> None:
    """What is louder than the highest level reads the highest level."""
    frames = LogMel(NUMBERS).frames(np.sign(sine(440.0, 16_000, 1.0)))

    assert frames.max() == NUMBERS.level_max_db
    assert frames.min() >= NUMBERS.level_min_db


@pytest.mark.parametrize("rate_hz", RATES_HZ)
@pytest.mark.parametrize("block_samples", [1, 17, 160, 4801])
def test_windows_do_not_depend_on_the_block_size(rate_hz: int, block_samples: int) -> None:
    """The same sound gives the same windows, to the last bit, however the sound card slices it."""
    samples = noise(rate_hz, 2.37)
    expected = windows_of(front_end_of(rate_hz), samples)

    actual = windows_of(front_end_of(rate_hz), samples, block_samples)

    assert [window.log_mel.tobytes() for window in actual] == [window.log_mel.tobytes() for window in expected]
    assert [window.first_sample for window in actual] == [window.first_sample for window in expected]


@pytest.mark.parametrize("block_samples", [160, 4801])
def test_windows_do_not_depend_on_the_block_size_with_odd_numbers(block_samples: int) -> None:
    """The same holds where no whole number of frames makes a tenth of a second."""
    numbers = NUMBERS.model_copy(
        update={"sample_rate_hz": 48_000, "window_length_samples": 48_000, "hop_length_samples": 242, "n_mels": 256}
        | {"taper_length_samples": 2048, "fft_length": 2048}
    )
    samples = noise(44_100, 3.3)
    expected, actual = (
        windows_of(FrontEnd(numbers, capture_rate_hz=44_100, window_hop_s=20 * 242 / 48_000), samples, size)
        for size in (len(samples), block_samples)
    )

    assert [window.log_mel.tobytes() for window in actual] == [window.log_mel.tobytes() for window in expected]


@pytest.mark.parametrize("rate_hz", RATES_HZ)
@pytest.mark.parametrize("window_hop_s", [0.1, 0.2, 0.5])
def test_windows_are_dated_in_capture_samples(rate_hz: int, window_hop_s: float) -> None:
    """A window each hop, from the first sample on, as many as fit in the sound; dated at the rate of capture."""
    windows = windows_of(front_end_of(rate_hz, window_hop_s), noise(rate_hz, 3.0))

    assert len(windows) == round(2.0 / window_hop_s) + 1
    for index, window in enumerate(windows):
        assert window.first_sample == pytest.approx(index * window_hop_s * rate_hz, abs=0.5)
        assert (window.n_samples, window.log_mel.shape) == (rate_hz, (76, 64))


@pytest.mark.parametrize("window_hop_s", [0.1, 0.2, 0.5])
def test_a_window_says_which_of_its_frames_are_new(window_hop_s: float) -> None:
    """All but its new frames stand in the window before; the first of a stream has none before it."""
    first, *others = windows_of(front_end_of(16_000, window_hop_s), noise(16_000, 3.0))

    assert first.n_new_frames is None
    for before, window in itertools.pairwise([first, *others]):
        assert window.n_new_frames == round(80 * window_hop_s)
        np.testing.assert_array_equal(window.log_mel[: -window.n_new_frames], before.log_mel[window.n_new_frames :])


@pytest.mark.parametrize("rate_hz", [16_000, 44_100])
def test_the_hop_can_be_widened_and_narrowed(rate_hz: int) -> None:
    """The windows are some of those that there were otherwise, so many hops apart, and say how many frames are new."""
    samples = noise(rate_hz, 5.0)
    every = {window.first_sample: window.log_mel.tobytes() for window in windows_of(front_end_of(rate_hz), samples)}
    front_end = front_end_of(rate_hz)
    windows: list[Window] = []
    for number, block in enumerate(blocks_of(samples, rate_hz)):
        front_end.widen((1, 4, 8, 2, 1)[number])
        windows += front_end.push(block)
    windows += front_end.flush()

    hops = [round((one.first_sample - other.first_sample) / rate_hz * 10) for other, one in itertools.pairwise(windows)]
    assert {1, 2, 4, 8} == set(hops)
    assert [window.n_new_frames for window in windows] == [None, *(8 * hop for hop in hops)]
    for window in windows:
        assert window.log_mel.tobytes() == every[window.first_sample]


@pytest.mark.parametrize("rate_hz", RATES_HZ)
def test_a_window_holds_the_sound_of_its_time(rate_hz: int) -> None:
    """A click is in those frames whose time holds it, at every rate: resampling delays nothing."""
    samples = np.zeros(round(2.5 * rate_hz), np.float32)
    samples[round(1.3 * rate_hz)] = 1.0

    windows = windows_of(front_end_of(rate_hz), samples)

    for window in windows:
        power = (10.0 ** (window.log_mel / 10.0)).sum(axis=1) - 64e-11  # (n_frames,), less the lowest levels
        click_s = window.first_sample / rate_hz
        loudest_s = click_s + (np.arange(76) * 200 + 480) / 16_000  # the middle of each frame
        if 1.3 - click_s > 0.05 and click_s + 1.0 - 1.3 > 0.05:
            assert np.average(loudest_s, weights=power) == pytest.approx(1.3, abs=0.002)
        elif not click_s - 0.01 < 1.3 < click_s + 1.01:
            assert power.max() < 1e-9


@pytest.mark.parametrize("rate_hz", [8_000, 22_050, 44_100, 48_000])
def test_the_rate_of_capture_makes_no_difference(rate_hz: int) -> None:
    """A tone reads the same level, within 0.1 dB, at whatever rate it was captured."""
    captured, direct = (windows_of(front_end_of(rate), sine(1000.0, rate, 2.0, 0.5)) for rate in (rate_hz, 16_000))

    for ours, theirs in zip(captured[1:-1], direct[1:-1], strict=True):  # the tone's edges ring
        np.testing.assert_allclose(ours.log_mel.max(axis=1), theirs.log_mel.max(axis=1), atol=0.1)


@pytest.mark.parametrize("rate_hz", RATES_HZ)
@pytest.mark.parametrize("length_s", [0.05, 0.3, 0.999])
def test_a_recording_shorter_than_a_window_is_judged_once(rate_hz: int, length_s: float) -> None:
    """It is padded with silence at its end, gives one window, and the window says how much of it was sound."""
    samples = noise(rate_hz, length_s)
    samples *= np.hanning(len(samples)).astype(np.float32)  # cut hard, its end would ring, and silence would not

    (window,) = windows_of(front_end_of(rate_hz), samples, block_samples=100)

    padded = np.zeros(rate_hz, np.float32)
    padded[: len(samples)] = samples
    (whole,) = windows_of(front_end_of(rate_hz), padded)
    assert (window.first_sample, window.n_samples) == (0, len(samples))
    assert (whole.first_sample, whole.n_samples) == (0, rate_hz)
    audible = whole.log_mel > -70.0
    assert audible.any()
    np.testing.assert_allclose(window.log_mel[audible], whole.log_mel[audible], atol=0.1)


@pytest.mark.parametrize("rate_hz", RATES_HZ)
@pytest.mark.parametrize("length_s", [0.9981, 1.0, 1.0981, 1.25, 1.5991])
def test_no_window_reaches_beyond_the_sound(rate_hz: int, length_s: float) -> None:
    """A window's frames end a little before it does; it is not said to hold sound that was never heard."""
    samples = noise(rate_hz, length_s)

    windows = windows_of(front_end_of(rate_hz), samples)

    assert all(window.first_sample + window.n_samples <= len(samples) for window in windows)
    assert windows[-1].n_samples == pytest.approx(rate_hz, abs=0.003 * rate_hz)


@pytest.mark.parametrize("rate_hz", [8_000, 11_025, 16_000, 22_050, 44_100, 48_000])
@pytest.mark.parametrize("window_hop_s", [0.1, 0.0125])
def test_a_stream_that_is_joined_is_the_same(rate_hz: int, window_hop_s: float) -> None:
    """Who begins to listen a whole period late has the same windows from the next second on, to the last bit."""
    period_s = join_period_s(NUMBERS, window_hop_s=window_hop_s)
    begin = period_s * rate_hz
    samples = noise(rate_hz, period_s + 3.37)

    whole = [w for w in windows_of(front_end_of(rate_hz, window_hop_s), samples) if w.first_sample >= begin + rate_hz]
    front_end = front_end_of(rate_hz, window_hop_s)
    joined = [w for block in blocks_of(samples[begin:], 999, begin) for w in front_end.push(block)]
    joined = [w for w in (*joined, *front_end.flush()) if w.first_sample >= begin + rate_hz]

    assert len(joined) == math.floor(1.37 / window_hop_s + 1e-9) + 1
    assert [(w.first_sample, w.n_samples, w.log_mel.tobytes()) for w in joined] == [
        (w.first_sample, w.n_samples, w.log_mel.tobytes()) for w in whole
    ]


@pytest.mark.parametrize(
    ("sample_rate_hz", "hop_length_samples", "window_hop_s", "period_s"),
    [(16_000, 200, 0.1, 120), (16_000, 200, 0.3, 120), (48_000, 242, 242 / 48_000, 22_990), (22_050, 441, 0.1, 120)],
)
def test_a_stream_is_joined_where_frames_and_windows_begin(
    sample_rate_hz: int, hop_length_samples: int, window_hop_s: float, period_s: int
) -> None:
    """A period is a whole number of tens of seconds, of steps of frames, and of window hops; two minutes or more."""
    numbers = NUMBERS.model_copy(update={"sample_rate_hz": sample_rate_hz, "hop_length_samples": hop_length_samples})

    assert join_period_s(numbers, window_hop_s=window_hop_s) == period_s


@pytest.mark.parametrize("rate_hz", [8_000, 11_025, 44_100, 96_000])
def test_a_resampler_that_begins_anew_leaves_no_seam(rate_hz: int) -> None:
    """Each second a resampler begins anew somewhere in an hour; no sample is lost, doubled or moved by it."""
    period_s = JOIN_PERIOD_MIN_S
    samples = sine(440.0, rate_hz, period_s + 3.0, 0.5)

    windows = windows_of(front_end_of(rate_hz), samples)

    level_db = windows[20].log_mel
    assert len(windows) == 10 * (period_s + 2) + 1
    for window in windows[10 * period_s - 20 : 10 * period_s + 10]:
        assert np.abs(window.log_mel - level_db)[level_db > -60.0].max() < 0.01


@pytest.mark.parametrize("rate_hz", [16_000, 44_100])
def test_an_empty_stream_gives_nothing(rate_hz: int) -> None:
    """A stream without a sample has no window."""
    assert list(front_end_of(rate_hz).flush()) == []


@pytest.mark.parametrize("rate_hz", [16_000, 44_100])
def test_after_a_gap_the_front_end_is_as_new(rate_hz: int) -> None:
    """Nothing from before a gap is in a window after it, and the windows are dated where the stream goes on."""
    samples = noise(rate_hz, 2.0)
    used = front_end_of(rate_hz)
    windows_of(used, sine(440.0, rate_hz, 1.777))

    used.reset()
    after = [window for block in blocks_of(samples, 1000, 777_777) for window in used.push(block)]

    new = front_end_of(rate_hz)
    fresh = [window for block in blocks_of(samples, 1000) for window in new.push(block)]
    assert len(fresh) == 10
    assert after[0].n_new_frames is None
    assert [window.log_mel.tobytes() for window in after] == [window.log_mel.tobytes() for window in fresh]
    assert [window.first_sample - 777_777 for window in after] == [window.first_sample for window in fresh]


def test_an_hour_is_dated_without_drift() -> None:
    """Windows are dated from their number, not by adding up rounded hops: at 44.1 kHz too, no sample is lost."""
    front_end = front_end_of(22_050, 0.0125)  # 275.625 samples
    windows = windows_of(front_end, noise(22_050, 3.0))

    assert windows[160].first_sample == 160 * 275 + 100


def test_a_window_cannot_be_written_to() -> None:
    """What was handed on is read-only."""
    window = windows_of(front_end_of(16_000), noise(16_000, 1.0))[0]

    with pytest.raises(ValueError, match="read-only"):
        window.log_mel[0] = 0.0


@pytest.mark.parametrize("window_hop_s", [0.13, 0.001, 0.0])
def test_a_hop_that_is_no_number_of_frames_is_refused(window_hop_s: float) -> None:
    """The message names the key, the value and what the model expects."""
    with pytest.raises(
        ConfigError, match=rf"inference\.window_hop_s = {window_hop_s}: expected a multiple .* 0\.0125 s"
    ):
        front_end_of(16_000, window_hop_s)


@pytest.mark.parametrize("window_hop_s", [0.9625, 0.9875, 1.0, 1.5])
def test_a_hop_longer_than_the_frames_of_a_window_is_refused(window_hop_s: float) -> None:
    """Sound between the last frame of a window and the first of the next would never be heard."""
    with pytest.raises(
        ConfigError,
        match=rf"inference\.window_hop_s = {window_hop_s}: expected at most the frames of the model's window, 0\.95 s",
    ):
        front_end_of(16_000, window_hop_s)


@pytest.mark.parametrize("block_samples", [1_600, 15_200, 200_000])
def test_at_the_longest_hop_each_frame_is_heard_once(block_samples: int) -> None:
    """Windows follow one another, with all of the frames that they say are new, and are dated where they lie."""
    samples = noise(16_000, 12.0)

    windows = windows_of(front_end_of(16_000, 0.95), samples, block_samples)

    frames = LogMel(NUMBERS).frames(samples)[: 12 * 76]
    np.testing.assert_array_equal(np.concatenate([window.log_mel for window in windows]), frames)
    assert [window.first_sample for window in windows] == [index * 15_200 for index in range(12)]
    assert [window.n_new_frames for window in windows] == [None, *[76] * 11]


# Frames that are their window's own


def own_numbers(padding: str = "same") -> FrontEndNumbers:
    """Numbers such as those of OpenL3, at a rate and a size that take no time."""
    changes = {
        "padding": padding,
        "hop_length_samples": 242,  # not a part of any window hop
        "level_reference": "window_maximum",
        "level_unit": "half_db",
        "level_min_db": -80.0,
    }
    return FrontEndNumbers.model_validate(NUMBERS.model_dump() | changes)


def own_front_end(rate_hz: int, window_hop_s: float = 0.1, padding: str = "same") -> FrontEnd:
    return FrontEnd(own_numbers(padding), capture_rate_hz=rate_hz, window_hop_s=window_hop_s)


@pytest.mark.parametrize("padding", ["none", "end", "same", "centre"])
def test_a_windows_own_frames_are_those_of_its_samples(padding: str) -> None:
    """Each window of a stream is what its second alone gives, its padding and its maximum included."""
    samples = noise(16_000, 1.75) * np.geomspace(1e-2, 1.0, 28_000).astype(np.float32)

    windows = windows_of(own_front_end(16_000, 0.25, padding), samples, 1000)

    assert [window.first_sample for window in windows] == [0, 4_000, 8_000, 12_000]
    for window in windows:
        alone = LogMel(own_numbers(padding)).window(samples[window.first_sample : window.first_sample + 16_000])
        assert window.log_mel.tobytes() == alone.tobytes()
        assert window.log_mel.max() == 0.0
        assert window.n_new_frames is None


@pytest.mark.parametrize("rate_hz", [16_000, 44_100, 48_000])
@pytest.mark.parametrize("block_samples", [17, 160, 4801])
def test_own_frames_do_not_depend_on_the_block_size(rate_hz: int, block_samples: int) -> None:
    """The same sound gives the same windows, to the last bit, however it is sliced; dated at the rate of capture."""
    samples = noise(rate_hz, 1.63)
    expected = windows_of(own_front_end(rate_hz), samples)

    actual = windows_of(own_front_end(rate_hz), samples, block_samples)

    assert len(expected) == 7
    assert [window.log_mel.tobytes() for window in actual] == [window.log_mel.tobytes() for window in expected]
    assert [window.first_sample for window in actual] == [index * rate_hz // 10 for index in range(7)]
    assert {window.n_samples for window in actual} == {rate_hz}


@pytest.mark.parametrize("length_s", [0.05, 0.999])
def test_a_short_recording_has_own_frames_too(length_s: float) -> None:
    """It is padded with silence to one window, which says how much of it was sound."""
    samples = noise(16_000, length_s)

    (window,) = windows_of(own_front_end(16_000), samples, block_samples=100)

    padded = np.pad(samples, (0, 16_000 - len(samples)))
    assert window.n_samples == len(samples)
    assert window.log_mel.tobytes() == LogMel(own_numbers()).window(padded).tobytes()


def test_after_a_gap_nothing_of_the_past_is_in_own_frames() -> None:
    """A reset begins anew."""
    used, samples = own_front_end(16_000), noise(16_000, 1.2)
    list(used.push(AudioBlock(sine(440.0, 16_000, 0.777), 0)))
    used.reset()

    after = windows_of(used, samples)

    fresh = windows_of(own_front_end(16_000), samples)
    assert [window.log_mel.tobytes() for window in after] == [window.log_mel.tobytes() for window in fresh]


@pytest.mark.parametrize("block_samples", [1_000, 60_000])
def test_own_frames_are_where_they_were_at_the_longest_hop(block_samples: int) -> None:
    """A hop that is widened as far as it may be leaves no sound between two windows, and moves none."""
    samples, numbers, hop = noise(16_000, 7.5), own_numbers(), 4_012
    front_end = own_front_end(16_000, hop / 16_000)
    factor = numbers.longest_hop_samples // hop

    front_end.widen(factor)
    windows = windows_of(front_end, samples, block_samples)

    assert numbers.n_frames * numbers.hop_length_samples > numbers.longest_hop_samples == 16_000
    assert [window.first_sample for window in windows] == [index * 3 * hop for index in range(9)]
    for window in windows:
        alone = LogMel(numbers).window(samples[window.first_sample : window.first_sample + 16_000])
        assert window.log_mel.tobytes() == alone.tobytes()


def test_own_frames_take_any_hop_of_whole_samples() -> None:
    """No frame is shared, so a hop need not be a number of frames; but it is one of samples."""
    own_front_end(16_000, 0.1)
    own_front_end(16_000, 1.0)

    with pytest.raises(ConfigError, match=r"= 1\.1: expected at most the model's window, 1\.0 s"):
        own_front_end(16_000, 1.1)
    with pytest.raises(ConfigError, match=r"= 1e-05: expected a multiple of the model's sample, 6\.25e-05 s"):
        own_front_end(16_000, 0.00001)


@pytest.mark.parametrize("mel_norm", ["peak", "area"])
def test_magnitudes_and_half_decibels(mel_norm: str) -> None:
    """Twice the unit is the decibel, and bands over magnitude are what the words say."""
    numbers = NUMBERS.model_copy(update={"spectrum": "magnitude", "mel_norm": mel_norm, "level_max_db": 100.0})
    halved = numbers.model_copy(update={"level_unit": "half_db", "level_min_db": -55.0})
    samples = noise(16_000, 1.0)
    taper = np.hanning(961)[:960]
    slices = np.stack([samples[start : start + 960] for start in range(0, 16_000 - 959, 200)]).astype(np.float64)
    magnitudes = np.abs(np.fft.rfft(slices * taper * 2 / taper.sum(), 1024))
    expected = 20.0 * np.log10(magnitudes @ mel_filters(numbers))

    np.testing.assert_allclose(LogMel(numbers).frames(samples), expected, atol=0.01)
    np.testing.assert_allclose(LogMel(halved).frames(samples), expected / 2, atol=0.01)
