"""What OpenL3 is, in numbers: its representations, front ends and layers, and the files that its authors publish.

The network hears 1 s at 48 kHz. Before it, sound was turned into one of three representations, and by one of three
front ends: the one that the weights were trained with, or one of the two that later versions of the package have.

Source: Cramer, Wu, Salamon, Bello, "Look, Listen, and Learn More", ICASSP 2019; marl/openl3 (MIT) 0.3.1 and 0.4.2;
kapre 0.1.4 and 0.3.5.
"""

from typing import Literal, get_args

from agent.model_card import FrontEndNumbers

Representation = Literal["linear", "mel128", "mel256"]
FrontEndName = Literal["training", "kapre", "librosa"]
Content = Literal["music", "env"]
Size = Literal[512, 6144]

REPRESENTATIONS: tuple[Representation, ...] = get_args(Representation)
FRONT_ENDS: tuple[FrontEndName, ...] = get_args(FrontEndName)
SIZES: tuple[Size, ...] = get_args(Size)

FILTERS = (64, 128, 256, 512)  # of the two convolutions in each block
N_LAYERS = 4 * len(FILTERS)  # with weights: one normalization before all, and one after each convolution but the last
POOLS = {512: (1, 1), 6144: (4, 3)}  # what is left of the last map, (frequency, time), by the size of the embedding

ADDRESS = "https://github.com/marl/openl3/raw/models/"
PUBLISHED = {
    f"openl3-{representation}-{content}": f"openl3_audio_{representation}_{content}-v0_4_0.h5.gz"
    for representation in REPRESENTATIONS
    for content in get_args(Content)
}

LICENCE = "CC-BY-4.0 (OpenL3 weights by J. Cramer, H.-H. Wu, J. Salamon and J. P. Bello; converted to TFLite)"

_N_BANDS = {"linear": 257, "mel128": 128, "mel256": 256}
# The order of power and mel, the mel scale and the padding are all that the mel front ends differ in. The HTK scale was
# lost in the package's move to TensorFlow 2.
_MEL: dict[FrontEndName, dict[str, str]] = {
    "training": {"spectrum": "power", "mel_scale": "htk", "padding": "same"},
    "kapre": {"spectrum": "magnitude", "mel_scale": "slaney", "padding": "end"},
    "librosa": {"spectrum": "magnitude", "mel_scale": "slaney", "padding": "centre"},
}
# Linear is the same in all three: bins of frames that lie wholly inside the window.
_LINEAR = {"spectrum": "magnitude", "mel_scale": "none", "padding": "none"}


def front_end(representation: Representation, name: FrontEndName = "training") -> FrontEndNumbers:
    """The numbers of a front end.

    Args:
        representation: what the network reads.
        name: `training`, what the weights expect (up to OpenL3 0.3.1); `kapre` or `librosa`, those of OpenL3 0.4, the
            latter with librosa from 0.9 on, which pads with zeros.
    """
    n_bands = _N_BANDS[representation]
    taper = 512 if representation == "linear" else 2048
    return FrontEndNumbers.model_validate(
        {
            "sample_rate_hz": 48_000,
            "window_length_samples": 48_000,
            "hop_length_samples": 242,
            "taper_length_samples": taper,
            "fft_length": taper,
            "n_mels": n_bands,
            "mel_min_hz": 0.0,
            "mel_max_hz": 24_000.0,
            "mel_norm": "area",
            "level_min_db": -80.0,
            "level_max_db": 0.0,
            "level_unit": "half_db",
            "level_reference": "window_maximum",
            "axes": "frequency_time",
        }
        | (_LINEAR if representation == "linear" else _MEL[name])
    )


def layer_shapes() -> list[tuple[tuple[int, ...], ...]]:
    """The shapes of the arrays of each layer that has any, in order.

    A convolution has a kernel (3, 3, in, out) and a bias (out,); a normalization has scale, offset, mean and variance.
    """
    shapes: list[tuple[tuple[int, ...], ...]] = [((1,),) * 4]
    n_inputs = 1
    for n_filters in FILTERS:
        for n_read in (n_inputs, n_filters):
            shapes += [((3, 3, n_read, n_filters), (n_filters,)), ((n_filters,),) * 4]
        n_inputs = n_filters
    return shapes[:N_LAYERS]  # no normalization after the last convolution: that is the embedding
