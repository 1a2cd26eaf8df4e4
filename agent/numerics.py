"""What of scipy a sensor needs, the transform of STFT frames and a filter in sections: the owner of scipy.

In: arrays. Out: arrays. Called by `frontend` and by `level`.

Nothing is faster than `scipy.fft` in float32, or than `scipy.signal.sosfilt`, but their import fetches half of scipy:
28 MiB and a quarter of a second, of which a sensor needs two functions. So these functions' own files are loaded. This
can go when scipy fetches no more than it needs.
"""

import importlib.util
from collections.abc import Callable
from importlib.machinery import EXTENSION_SUFFIXES, ExtensionFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.values import FloatArray

TRANSFORM = "scipy.fft._pocketfft.pypocketfft"  # as it is called in scipy 1.14 to 1.17
FILTER = "scipy.signal._sosfilt"

Doubles = NDArray[np.float64]


def spectra(frames: FloatArray) -> NDArray[np.complex64]:
    """Transform real frames, each on its own.

    Args:
        frames: float32 (n_frames, fft_length).

    Returns:
        complex64 (n_frames, fft_length / 2 + 1).
    """
    transformed: NDArray[np.complex64] = _transform(frames)
    return transformed


def filter_on(sections: Doubles, samples: Doubles, state: Doubles) -> Doubles:
    """Filter samples by one section after the other, on from where the state is.

    Args:
        sections: float64 (n_sections, 6): three coefficients of what goes in, then three of what comes out.
        samples: float64 (n,).
        state: float64 (n_sections, 2), zeros at first; changed to that behind the samples.

    Returns:
        float64 (n,).
    """
    filtered = samples.copy()  # it is written to, as the state is
    _filter(sections, filtered[np.newaxis], state[np.newaxis])
    return filtered


def _transform_of() -> Callable[[FloatArray], Any]:
    module = _alone(TRANSFORM)
    if module is not None:
        return lambda frames: module.r2c(frames, (-1,), True, 0, None, 1)
    from scipy.fft import rfft

    transform: Callable[[FloatArray], Any] = rfft
    return transform


def _filter_of() -> Callable[[Doubles, Doubles, Doubles], object]:
    module = _alone(FILTER)
    if module is not None:
        function: Callable[[Doubles, Doubles, Doubles], object] = module._sosfilt
        return function
    from scipy.signal import sosfilt

    def filtered(sections: Doubles, samples: Doubles, state: Doubles) -> None:
        samples[:], after = sosfilt(sections, samples, zi=state.swapaxes(0, 1))
        state[:] = after.swapaxes(0, 1)

    return filtered


def _alone(name: str) -> ModuleType | None:
    """A module of scipy from its file; None in a scipy that is built otherwise, which has a front door."""
    package = importlib.util.find_spec("scipy")
    assert package is not None
    assert package.origin is not None
    file_of = Path(package.origin).parent.joinpath(*name.split(".")[1:])
    for file in (file_of.with_name(f"{file_of.name}{suffix}") for suffix in EXTENSION_SUFFIXES):
        if file.is_file():
            loader = ExtensionFileLoader(name, str(file))
            spec = importlib.util.spec_from_loader(name, loader)
            assert spec is not None
            module = importlib.util.module_from_spec(spec)
            loader.exec_module(module)
            return module
    return None


_transform = _transform_of()
_filter = _filter_of()
