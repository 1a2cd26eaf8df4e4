"""Front end: samples at the capture rate become log-mel windows at the model's rate, statefully.

In: `AudioBlock`s of any length. Out: `Window`s, one each `window_hop_s`. Called on the pipeline thread, by `replay`
and by `model_export`: there is one front end.

The work is done in steps of one fixed size, whatever the size of the blocks, and each STFT frame is computed once:
so the windows are the same to the last bit, however the sound card slices the sound. Where a block holds many steps,
they are computed at once, by the same sums. A network that was trained with padding around each window, or with each
window's own maximum as its reference, gets frames that are its window's own.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from agent.errors import ConfigError
from agent.model_card import FrontEndNumbers
from agent.numerics import spectra
from agent.resampler import STEPS_PER_S, Resampler
from agent.values import AudioBlock, FloatArray, Window

STEPS_AT_ONCE = 10  # more would not stay in a processor's cache
JOIN_PERIOD_MIN_S = 120
LEAST_MAGNITUDE = 1e-10  # what is less counts as this, where a window's maximum is the reference (kapre 0.1.4)


def mel_filters(numbers: FrontEndNumbers) -> NDArray[np.float64]:
    """Triangular mel filters: with peak 1, a full-scale sine in a band's centre reads 0 dB; or with area 1 over hertz.

    Returns:
        float64 (n_bins, n_mels), n_bins = fft_length / 2 + 1. Without a mel scale each bin is a band.

    Source: librosa.filters.mel's construction (edges equally spaced in mel), its area normalization where asked for.
    """
    if numbers.mel_scale == "none":
        return np.eye(numbers.n_mels)
    bin_hz = np.fft.rfftfreq(numbers.fft_length, 1.0 / numbers.sample_rate_hz)  # (n_bins,)
    to_mel, to_hz = _MEL_SCALES[numbers.mel_scale]
    edges_mel = np.linspace(
        to_mel(np.float64(numbers.mel_min_hz)), to_mel(np.float64(numbers.mel_max_hz)), numbers.n_mels + 2
    )
    edges_hz = to_hz(edges_mel)  # (n_mels + 2,)
    rising = (bin_hz[:, None] - edges_hz[:-2]) / (edges_hz[1:-1] - edges_hz[:-2])  # (n_bins, n_mels)
    falling = (edges_hz[2:] - bin_hz[:, None]) / (edges_hz[2:] - edges_hz[1:-1])  # (n_bins, n_mels)
    triangles = np.maximum(0.0, np.minimum(rising, falling))
    return triangles if numbers.mel_norm == "peak" else triangles * 2.0 / (edges_hz[2:] - edges_hz[:-2])


def htk_mel(hz: NDArray[np.float64] | np.float64) -> NDArray[np.float64]:
    """Hertz to mel, by HTK's formula."""
    return np.asarray(2595.0 * np.log10(1.0 + hz / 700.0))


def _htk_hz(mel: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(700.0 * (10.0 ** (mel / 2595.0) - 1.0))


def _slaney_mel(hz: NDArray[np.float64] | np.float64) -> NDArray[np.float64]:
    return np.where(hz < 1000.0, 3.0 * hz / 200.0, 15.0 + 27.0 * np.log(np.maximum(hz, 1.0) / 1000.0) / np.log(6.4))


def _slaney_hz(mel: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(mel < 15.0, 200.0 * mel / 3.0, 1000.0 * 6.4 ** ((mel - 15.0) / 27.0))


_MEL_SCALES = {"htk": (htk_mel, _htk_hz), "slaney": (_slaney_mel, _slaney_hz)}


class LogMel:
    """Samples at the model's rate to log-mel frames. It remembers nothing, but works in one place: for one thread.

    As a rule, the level is 10·log10 of the mel power relative to a full-scale sine, clipped to the card's range.
    """

    def __init__(self, numbers: FrontEndNumbers) -> None:
        taper = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(numbers.taper_length_samples) / numbers.taper_length_samples)
        self._numbers = numbers
        self._filters = mel_filters(numbers).astype(np.float32)
        self._frames_per_step = frames_per_step(numbers)
        # Room for one round of work; fresh memory each time would cost more than the sums.
        n_frames, n_bins = STEPS_AT_ONCE * self._frames_per_step, numbers.fft_length // 2 + 1
        self._tapered = np.zeros((n_frames, numbers.fft_length), np.float32)
        self._power, self._squared = np.empty((2, n_frames, n_bins), np.float32)
        # Levels are so many times log10 of what the bands hold.
        factor = {"power": 10.0, "magnitude": 20.0}[numbers.spectrum] * {"db": 1.0, "half_db": 0.5}[numbers.level_unit]
        self._factor = np.float32(factor)
        if numbers.level_reference == "full_scale_sine":
            # A sine of amplitude 1 has |X| = sum(taper) / 2 in its bin: scaled to 1.
            taper = taper * 2.0 / taper.sum()
            self._floor = np.float32(10.0 ** (numbers.level_min_db / factor))
            self._ceiling = np.float32(10.0 ** (numbers.level_max_db / factor))
        else:
            self._floor = np.float32(LEAST_MAGNITUDE ** {"power": 2, "magnitude": 1}[numbers.spectrum])
            self._ceiling = np.float32(np.inf)
        self._taper = taper.astype(np.float32)

    def frames(self, samples: FloatArray) -> FloatArray:
        """Log-mel of every frame that lies wholly inside the samples.

        Args:
            samples: float32 (n,), in [-1, 1].

        Returns:
            float32 (n_frames, n_mels), relative to a full-scale sine, or to nothing yet where the reference is the
            window's maximum.
        """
        if len(samples) < self._numbers.taper_length_samples:
            return np.empty((0, self._numbers.n_mels), np.float32)
        slices = np.lib.stride_tricks.sliding_window_view(samples, self._numbers.taper_length_samples)
        slices = slices[:: self._numbers.hop_length_samples]  # (n_frames, taper)
        bands = np.empty((len(slices), self._numbers.n_mels), np.float32)
        for begin in range(0, len(slices), len(self._tapered)):
            some = slice(begin, begin + len(self._tapered))
            self._fill(slices[some], out=bands[some])
        np.clip(bands, self._floor, self._ceiling, out=bands)
        log_mel: FloatArray = self._factor * np.log10(bands)
        return log_mel

    def _fill(self, slices: FloatArray, out: FloatArray) -> None:
        """What the bands hold, (n_frames, n_mels), of at most as many frames as there is room for."""
        n_frames = len(slices)
        tapered, power, squared = self._tapered[:n_frames], self._power[:n_frames], self._squared[:n_frames]
        np.multiply(slices, self._taper, out=tapered[:, : len(self._taper)])
        transformed = spectra(tapered)  # (n_frames, n_bins)
        np.square(transformed.real, out=power)
        np.square(transformed.imag, out=squared)
        np.add(power, squared, out=power)
        if self._numbers.spectrum == "magnitude":
            np.sqrt(power, out=power)
        # Step by step: BLAS rounds larger matrices differently.
        for begin in range(0, n_frames, self._frames_per_step):
            step = slice(begin, begin + self._frames_per_step)
            np.matmul(power[step], self._filters, out=out[step])

    def window(self, samples: FloatArray) -> FloatArray:
        """Log-mel of one window on its own, with its padding and relative to its maximum where the card says so.

        Args:
            samples: float32 (window_length_samples,), in [-1, 1].

        Returns:
            float32 (n_frames, n_mels), in the card's unit.

        Source: OpenL3 with kapre 0.1.4; Cramer et al., ICASSP 2019. Silence reads the maximum, 0, everywhere.
        """
        log_mel = self.frames(np.pad(samples, self._numbers.padding_samples))
        if self._numbers.level_reference == "window_maximum":
            log_mel = np.maximum(log_mel - log_mel.max(), np.float32(self._numbers.level_min_db))
        return log_mel


def join_period_s(numbers: FrontEndNumbers, *, window_hop_s: float) -> int:
    """Each time a stream is this old, it can be joined: another front end that begins there gives the same windows.

    The same to the last bit, if they begin `LEAD_S` later or more. So long recordings can be heard in parts.
    """
    window_hop = round(window_hop_s * numbers.sample_rate_hz)
    step = 1 if numbers.has_own_frames else frames_per_step(numbers) * numbers.hop_length_samples
    # Tens of seconds, in which recordings are read; and even ones: halves of a sample round alike.
    samples = math.lcm(window_hop, step, 10 * numbers.sample_rate_hz)
    seconds = samples // numbers.sample_rate_hz
    return -(-JOIN_PERIOD_MIN_S // seconds) * seconds


def frames_per_step(numbers: FrontEndNumbers) -> int:
    """STFT frames that are computed in one step."""
    return max(1, numbers.sample_rate_hz // STEPS_PER_S // numbers.hop_length_samples)


class _SharedFrames:
    """Frames of one stream, each computed once; a window is so many of them.

    Args:
        numbers: the front-end part of the model's card.
        hop_samples: from one window to the next, a whole number of frames.
    """

    def __init__(self, numbers: FrontEndNumbers, hop_samples: int) -> None:
        self._numbers = numbers
        self._log_mel = LogMel(numbers)
        self.hop_samples, self.new_frames = hop_samples, hop_samples // numbers.hop_length_samples
        self._model_step = frames_per_step(numbers) * numbers.hop_length_samples
        self._samples: FloatArray  # from the next frame's first sample on
        self._frames: FloatArray  # from the next window's first frame on
        self.reset()

    def push(self, samples: Sequence[FloatArray]) -> None:
        """Append samples at the model's rate; compute the frames of all whole steps."""
        self._samples = np.concatenate((self._samples, *samples))
        overlap = self._numbers.taper_length_samples - self._numbers.hop_length_samples
        n_steps = max(0, len(self._samples) - overlap) // self._model_step
        if n_steps:
            self._compute(self._samples[: overlap + n_steps * self._model_step])

    def flush(self) -> None:
        """The stream has ended: compute the frames of the last step, which is not whole."""
        self._compute(self._samples)

    def windows(self) -> Iterator[FloatArray]:
        """The log-mel of each window whose frames are there, float32 (n_frames, n_mels)."""
        while len(self._frames) >= self._numbers.n_frames:
            log_mel = self._frames[: self._numbers.n_frames]
            self._frames = self._frames[self.new_frames :]
            yield log_mel

    def widen(self, hop_samples: int) -> None:
        """From the next window on, they are so far apart."""
        self.hop_samples, self.new_frames = hop_samples, hop_samples // self._numbers.hop_length_samples

    def reset(self) -> None:
        """Forget the past."""
        self._samples = np.empty(0, np.float32)
        self._frames = np.empty((0, self._numbers.n_mels), np.float32)

    def _compute(self, samples: FloatArray) -> None:
        frames = self._log_mel.frames(samples)
        self._frames = np.concatenate((self._frames, frames))
        self._frames.flags.writeable = False
        self._samples = self._samples[len(frames) * self._numbers.hop_length_samples :]


class _OwnFrames:
    """Frames that belong to one window, because they hold its padding or are relative to its maximum.

    Args:
        numbers: the front-end part of the model's card.
        hop_samples: from one window to the next, any number.
    """

    def __init__(self, numbers: FrontEndNumbers, hop_samples: int) -> None:
        self._window_samples = numbers.window_length_samples
        self.hop_samples = hop_samples
        self._log_mel = LogMel(numbers)
        self.new_frames: int | None = None
        self._samples: FloatArray  # from the next window's first sample on
        self.reset()

    def push(self, samples: Sequence[FloatArray]) -> None:
        """Append samples at the model's rate."""
        self._samples = np.concatenate((self._samples, *samples))

    def flush(self) -> None:
        """The stream has ended; no window waits for more than its samples."""

    def windows(self) -> Iterator[FloatArray]:
        """The log-mel of each window whose samples are there, float32 (n_frames, n_mels)."""
        while len(self._samples) >= self._window_samples:
            log_mel = self._log_mel.window(self._samples[: self._window_samples])
            self._samples = self._samples[self.hop_samples :]
            yield log_mel

    def widen(self, hop_samples: int) -> None:
        """From the next window on, they are so far apart."""
        self.hop_samples = hop_samples

    def reset(self) -> None:
        """Forget the past."""
        self._samples = np.empty(0, np.float32)


class FrontEnd:
    """Samples of any rate and block size to log-mel windows.

    Args:
        numbers: the front-end part of the model's card.
        capture_rate_hz: rate of the samples that are pushed.
        window_hop_s: from one window to the next; a whole number of frames, where windows share them, else of samples.

    Raises:
        ConfigError: the window hop is not such a number, or longer than the window, or than the frames of one window
            where windows share them.
    """

    def __init__(self, numbers: FrontEndNumbers, *, capture_rate_hz: int, window_hop_s: float) -> None:
        if numbers.has_own_frames:
            step_samples, step, most = 1, "sample", "the model's window"
        else:
            step_samples, step, most = numbers.hop_length_samples, "frame hop", "the frames of the model's window"
        step_s = step_samples / numbers.sample_rate_hz
        n_steps = round(window_hop_s / step_s)
        if n_steps < 1 or abs(n_steps * step_s - window_hop_s) > 1e-9:
            raise ConfigError(
                f"inference.window_hop_s = {window_hop_s}: expected a multiple of the model's {step}, {step_s} s"
            )
        if n_steps * step_samples > numbers.longest_hop_samples:
            most_s = numbers.longest_hop_samples / numbers.sample_rate_hz
            raise ConfigError(f"inference.window_hop_s = {window_hop_s}: expected at most {most}, {most_s} s")
        self._numbers = numbers
        self._capture_rate_hz = capture_rate_hz
        self._hop_samples = n_steps * step_samples  # at the model's rate
        self._framing = (_OwnFrames if numbers.has_own_frames else _SharedFrames)(numbers, self._hop_samples)
        self._resampler: Resampler | None = None
        if capture_rate_hz != numbers.sample_rate_hz:
            period_s = join_period_s(numbers, window_hop_s=window_hop_s)
            self._resampler = Resampler(capture_rate_hz, numbers.sample_rate_hz, period_s)
        self._waiting: list[FloatArray]  # at the capture rate, less than one step
        self._n_steps: int  # since the reset
        self._n_pushed: int  # at the capture rate, since the reset
        self._n_model_samples: int  # at the model's rate, since the reset
        self._n_windows: int  # since the reset
        self._n_passed: int  # samples at the model's rate before the next window, since the reset
        self._n_new_frames: int | None = None  # of the next window, where it shares frames with the last one
        self._origin = 0
        self.reset()

    @property
    def window_length(self) -> int:
        """Samples at the capture rate that one window covers."""
        return self._at_capture_rate(self._numbers.window_length_samples)

    def widen(self, factor: int) -> None:
        """From the next window on, give one only each so many hops; together they are at most a window long."""
        self._framing.widen(factor * self._hop_samples)

    def push(self, block: AudioBlock) -> Iterator[Window]:
        """Take a block; give the windows that are complete with it."""
        if self._n_pushed == 0:
            self._origin = block.first_sample
        self._n_pushed += len(block.samples)
        self._waiting.append(block.samples)
        n_whole = self._n_pushed * STEPS_PER_S // self._capture_rate_hz
        if n_whole == self._n_steps:
            return
        first, first_waiting = self._n_steps, self._step_begin(self._n_steps)
        waiting = np.concatenate(self._waiting)
        self._n_steps, self._waiting = n_whole, [waiting[self._step_begin(n_whole) - first_waiting :].copy()]
        edges = [self._step_begin(step) - first_waiting for step in range(first, n_whole + 1)]
        steps = (self._resampled(waiting[begin:end]) for begin, end in itertools.pairwise(edges))
        while at_once := list(itertools.islice(steps, STEPS_AT_ONCE)):
            self._take(at_once)
            yield from self._windows()

    def flush(self) -> Iterator[Window]:
        """The stream has ended: give what is still inside.

        A stream shorter than one window is padded with silence at its end and gives one window.
        """
        rest = np.concatenate(self._waiting) if self._waiting else np.empty(0, np.float32)
        self._waiting = []
        if self._n_pushed == 0:
            return
        self._take([rest if self._resampler is None else self._resampler.flush(rest)])
        missing = self._numbers.window_length_samples - self._n_model_samples
        if missing > 0:
            self._take([np.zeros(missing, np.float32)])
        self._framing.flush()
        for window in self._windows():
            # The frames of a window end a little before it does, and so may the stream.
            heard = self._origin + self._n_pushed - window.first_sample
            yield replace(window, n_samples=min(window.n_samples, heard))

    def reset(self) -> None:
        """There is a gap: forget the past. The next block says where the stream goes on."""
        if self._resampler is not None:
            self._resampler.reset()
        self._n_pushed = 0
        self._waiting = []
        self._n_steps = 0
        self._n_model_samples = 0
        self._framing.reset()
        self._n_windows = 0
        self._n_passed = 0

    def _resampled(self, step: FloatArray) -> FloatArray:
        return step if self._resampler is None else self._resampler.push(step)

    def _take(self, samples: Sequence[FloatArray]) -> None:
        """Take samples at the model's rate."""
        self._n_model_samples += sum(map(len, samples))
        self._framing.push(samples)

    def _windows(self) -> Iterator[Window]:
        for log_mel in self._framing.windows():
            log_mel.flags.writeable = False
            first_sample = self._origin + self._at_capture_rate(self._n_passed)
            n_new_frames = self._n_new_frames if self._n_windows else None
            self._n_windows += 1
            self._n_passed += self._framing.hop_samples
            self._n_new_frames = self._framing.new_frames
            yield Window(log_mel, first_sample, self.window_length, n_new_frames)

    def _step_begin(self, step: int) -> int:
        """The first sample of a step, at the capture rate, since the reset: each tenth step begins a second."""
        return -(-step * self._capture_rate_hz // STEPS_PER_S)

    def _at_capture_rate(self, model_samples: int) -> int:
        return round(model_samples * self._capture_rate_hz / self._numbers.sample_rate_hz)
