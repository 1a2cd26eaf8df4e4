"""Promises of `agent.numerics`: scipy's own functions, without the rest of scipy."""

import subprocess
import sys

import numpy as np
import pytest
import scipy.fft
import scipy.signal

from agent import numerics
from agent.values import FloatArray

SECTIONS = scipy.signal.butter(6, 0.1, output="sos")


@pytest.fixture
def frames() -> FloatArray:
    """float32 (83, 1024): not a multiple of what a processor takes at once."""
    return np.random.default_rng(0).normal(0.0, 0.1, (83, 1024)).astype(np.float32)


def test_spectra_are_those_of_scipy(frames: FloatArray) -> None:
    """To the last bit, in float32, and so those of the formula but for rounding."""
    spectra = numerics.spectra(frames)

    assert (spectra.shape, spectra.dtype) == ((83, 513), np.dtype(np.complex64))
    np.testing.assert_array_equal(spectra, scipy.fft.rfft(frames))
    np.testing.assert_allclose(spectra, np.fft.rfft(frames.astype(np.float64)), atol=1e-5)


def test_a_filter_goes_on_where_it_was(frames: FloatArray) -> None:
    """Piece by piece it gives what scipy gives of the whole, to the last bit, and leaves its input as it was."""
    samples, state = frames.reshape(-1).astype(np.float64), np.zeros((3, 2))
    before = samples.copy()

    pieces = [numerics.filter_on(SECTIONS, samples[n : n + 1_000], state) for n in range(0, len(samples), 1_000)]

    np.testing.assert_array_equal(np.concatenate(pieces), scipy.signal.sosfilt(SECTIONS, samples))
    np.testing.assert_array_equal(samples, before)


def test_no_frames_no_spectra() -> None:
    """A stream shorter than a frame is not an error."""
    assert numerics.spectra(np.empty((0, 1024), np.float32)).shape == (0, 513)


def test_a_scipy_that_is_built_otherwise_does_as_well(frames: FloatArray, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the files have other names, the public functions are used."""
    monkeypatch.setattr(numerics, "EXTENSION_SUFFIXES", [".other"])
    samples, state = frames.astype(np.float64)[:1], np.zeros((1, 3, 2))

    numerics._filter_of()(SECTIONS, samples, state)

    np.testing.assert_array_equal(numerics._transform_of()(frames), numerics.spectra(frames))
    expected = np.zeros((3, 2))
    np.testing.assert_array_equal(samples[0], numerics.filter_on(SECTIONS, frames[0].astype(np.float64), expected))
    np.testing.assert_array_equal(state[0], expected)


@pytest.mark.parametrize("first", ["scipy.fft", "agent.numerics"])
def test_it_does_not_matter_who_comes_first(first: str) -> None:
    """The function works alone, after the rest of scipy, and before it."""
    code = (
        f"import {first}, numpy; x = numpy.ones((3, 8), numpy.float32)\n"
        "import agent.numerics; a = agent.numerics.spectra(x)\n"
        "import scipy.fft; print((a == scipy.fft.rfft(x)).all(), (a == agent.numerics.spectra(x)).all())"
    )

    assert subprocess.check_output([sys.executable, "-c", code], text=True, timeout=60) == "True True\n"


def test_the_rest_of_scipy_stays_where_it_is() -> None:
    """A sensor does not load what it does not need: of scipy's packages only what its extensions have in common."""
    code = "import sys, agent.sensor; print(*sys.modules)"

    loaded = subprocess.check_output([sys.executable, "-c", code], text=True, timeout=60).split()

    assert not {f"scipy.{name}" for name in ("fft", "linalg", "signal", "sparse", "special")} & set(loaded)
