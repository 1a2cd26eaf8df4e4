"""The Fourier transform of STFT frames: the owner of scipy.

In: frames in float32. Out: their spectra. Called by `frontend`.

`scipy.fft` is the fastest there is in float32, but its import fetches half of scipy: 28 MiB and a quarter of a second,
of which a sensor needs one function. So that function's own file is loaded. This can go when `scipy.fft` fetches no
more than it needs.
"""

import importlib.util
from collections.abc import Callable
from importlib.machinery import EXTENSION_SUFFIXES, ExtensionFileLoader
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.values import FloatArray

MODULE = "scipy.fft._pocketfft.pypocketfft"  # as it is called in scipy 1.14 to 1.17


def spectra(frames: FloatArray) -> NDArray[np.complex64]:
    """Transform real frames, each on its own.

    Args:
        frames: float32 (n_frames, fft_length).

    Returns:
        complex64 (n_frames, fft_length / 2 + 1).
    """
    transformed: NDArray[np.complex64] = _transform(frames)
    return transformed


def _fetched() -> Callable[[FloatArray], Any]:
    """The function from its file, or by the front door in a scipy that is built otherwise."""
    package = importlib.util.find_spec("scipy")
    assert package is not None
    assert package.origin is not None
    folders = Path(package.origin).parent.joinpath(*MODULE.split(".")[1:-1])
    for file in (folders / f"pypocketfft{suffix}" for suffix in EXTENSION_SUFFIXES):
        if file.is_file():
            loader = ExtensionFileLoader(MODULE, str(file))
            spec = importlib.util.spec_from_loader(MODULE, loader)
            assert spec is not None
            module = importlib.util.module_from_spec(spec)
            loader.exec_module(module)
            return lambda frames: module.r2c(frames, (-1,), True, 0, None, 1)
    from scipy.fft import rfft

    transform: Callable[[FloatArray], Any] = rfft
    return transform


_transform = _fetched()
