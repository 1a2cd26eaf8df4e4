"""Promises of `agent.fourier`: scipy's own transform, without the rest of scipy."""

import subprocess
import sys

import numpy as np
import pytest
import scipy.fft

from agent import fourier
from agent.values import FloatArray


@pytest.fixture
def frames() -> FloatArray:
    """float32 (83, 1024): not a multiple of what a processor takes at once."""
    return np.random.default_rng(0).normal(0.0, 0.1, (83, 1024)).astype(np.float32)


def test_spectra_are_those_of_scipy(frames: FloatArray) -> None:
    """To the last bit, in float32, and so those of the formula but for rounding."""
    spectra = fourier.spectra(frames)

    assert (spectra.shape, spectra.dtype) == ((83, 513), np.dtype(np.complex64))
    np.testing.assert_array_equal(spectra, scipy.fft.rfft(frames))
    np.testing.assert_allclose(spectra, np.fft.rfft(frames.astype(np.float64)), atol=1e-5)


def test_no_frames_no_spectra() -> None:
    """A stream shorter than a frame is not an error."""
    assert fourier.spectra(np.empty((0, 1024), np.float32)).shape == (0, 513)


def test_a_scipy_that_is_built_otherwise_does_as_well(frames: FloatArray, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the file has another name, the public function is used."""
    monkeypatch.setattr(fourier, "EXTENSION_SUFFIXES", [".other"])

    np.testing.assert_array_equal(fourier._fetched()(frames), fourier.spectra(frames))


@pytest.mark.parametrize("first", ["scipy.fft", "agent.fourier"])
def test_it_does_not_matter_who_comes_first(first: str) -> None:
    """The function works alone, after the rest of scipy, and before it."""
    code = (
        f"import {first}, numpy; x = numpy.ones((3, 8), numpy.float32)\n"
        "import agent.fourier; a = agent.fourier.spectra(x)\n"
        "import scipy.fft; print((a == scipy.fft.rfft(x)).all(), (a == agent.fourier.spectra(x)).all())"
    )

    assert subprocess.check_output([sys.executable, "-c", code], text=True, timeout=60) == "True True\n"


def test_the_rest_of_scipy_stays_where_it_is() -> None:
    """A sensor does not load what it does not need."""
    code = "import sys, agent.sensor; print([name for name in sys.modules if name.startswith('scipy')])"

    assert subprocess.check_output([sys.executable, "-c", code], text=True, timeout=60) == "[]\n"
