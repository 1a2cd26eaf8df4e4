"""What flows through the house: frozen values, read-only arrays.

Time is a sample count at the capture rate, from the start of the stream. UTC appears once, in `messages`.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
SampleArray = NDArray[np.int64]  # places in a stream

EventState = Literal["start", "update", "end"]
GapCause = Literal["not_running", "device", "stalled", "dropped", "overrun", "trickle"]
EndReason = Literal["quiet", "max_duration", "gap", "rule_changed", "end_of_stream", "shutdown"]


@dataclass(frozen=True, slots=True)
class AudioBlock:
    """A run of samples as the sound card or a recording hands it over, any length.

    Attributes:
        samples: float32 (n,), mono, in [-1, 1].
        first_sample: index of `samples[0]` in the stream; lost samples are counted too.
        lost_before: samples lost just before this block. Above 0, the stages start afresh.
    """

    samples: FloatArray
    first_sample: int
    lost_before: int = 0


@dataclass(frozen=True, slots=True)
class Window:
    """The network's input.

    Attributes:
        log_mel: float32 (n_frames, n_mels), in the unit of the model's card.
        first_sample: where the window begins.
        n_samples: how much sound it covers; less than a whole window only where a short recording was padded.
        n_new_frames: how many frames at its end the window before it did not have; None where there is none before it,
            or where no two windows share frames.
    """

    log_mel: FloatArray
    first_sample: int
    n_samples: int
    n_new_frames: int | None = None


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the network says about one window.

    Attributes:
        likelihoods: float32 (n_classes,), in [0, 1].
        embedding: float32 (d,).
        first_sample: where the window begins.
        n_samples: how much sound it covers.
    """

    likelihoods: FloatArray
    embedding: FloatArray
    first_sample: int
    n_samples: int


@dataclass(frozen=True, slots=True)
class Segment:
    """The likelihoods of the windows in a sliding span of each class, summed and divided by their number.

    Attributes:
        likelihoods: float32 (n_classes,), mean over the windows of the span of each class, in [0, 1].
        newest: float32 (n_classes,), of the newest window alone: it tells where the evidence rose or fell.
        onsets: int64 (n_classes,), where the oldest window of each class's span begins.
        offset: where the newest window ends, with which all spans end.
        newest_onset: where the newest window begins.
    """

    likelihoods: FloatArray
    newest: FloatArray
    onsets: SampleArray
    offset: int
    newest_onset: int


@dataclass(frozen=True, slots=True)
class LevelReading:
    """How loud a slice of sound was: A-weighted squares, relative to full scale.

    Attributes:
        first_sample: where the slice begins.
        n_samples: how much sound it covers.
        mean_square: of the weighted samples.
        fast_max: the largest value of their squares under the time weighting F.
        fast: the value of F at the end of the slice.
    """

    first_sample: int
    n_samples: int
    mean_square: float
    fast_max: float
    fast: float


@dataclass(frozen=True, slots=True)
class LevelStatistics:
    """How loud a span of sound was, and how that was spread over it: A-weighted squares, relative to full scale.

    Attributes:
        mean_square: of the weighted samples: the equivalent level.
        fast_max: the largest value of their squares under the time weighting F.
        fast_10: the value of F that was exceeded for 10 % of the time.
        fast_50: for half of it.
        fast_90: for 90 % of it.
    """

    mean_square: float
    fast_max: float
    fast_10: float
    fast_50: float
    fast_90: float


@dataclass(frozen=True, slots=True)
class IntervalLevel:
    """How loud an interval of time was, of which all was heard.

    Attributes:
        start_ns: when it began, in nanoseconds since 1970.
        end_ns: when it was over.
        statistics: how loud it was.
        silent_ns: how much of it the samples did not move, to about a second.
        clipped_ns: how much of it they were at full scale, to about a second.
    """

    start_ns: int
    end_ns: int
    statistics: LevelStatistics
    silent_ns: int
    clipped_ns: int


@dataclass(frozen=True, slots=True)
class SoundLevel:
    """How loud a span of sound was: A-weighted squares, relative to full scale.

    Attributes:
        n_samples: how much sound was measured.
        mean_square: of the weighted samples: the equivalent level.
        fast_max: the largest value of their squares under the time weighting F.
        background: the value of F that was exceeded for 90 % of the time before; None where too little is known of it.
    """

    n_samples: int
    mean_square: float
    fast_max: float
    background: float | None


@dataclass(frozen=True, slots=True)
class SoundEvent:
    """One occurrence of a sound, told once or more: `start`, perhaps `update`s, and always `end`.

    Attributes:
        id: counts the events of this stream from 0; the same in `start`, `update` and `end`.
        state: which of the three this is.
        label: the class.
        onset: where the sound began; the same in every message about it.
        offset: where it ended; None while it is open.
        heard_until: the end of the newest window that was judged when this was told.
        likelihood_peak: the largest summed likelihood so far, in [0, 1].
        likelihood_mean: the mean of the summed likelihoods so far, in [0, 1].
        end_reason: why it ended; None while it is open.
        evidence: how long, so far, windows were by themselves as sure as it takes to start an event, in samples; the
            same at every window hop.
        level: how loud it was so far; None where nobody measured, or not for an eighth of a second.
    """

    id: int
    state: EventState
    label: str
    onset: int
    offset: int | None
    heard_until: int
    likelihood_peak: float
    likelihood_mean: float
    end_reason: EndReason | None = None
    evidence: int = 0
    level: SoundLevel | None = None


@dataclass(frozen=True, slots=True)
class EventRule:
    """When one class counts as an event.

    Attributes:
        on: the summed likelihood at which an event starts, in [0, 1].
        off: the summed likelihood below which it is over, in [0, 1], not above `on`.
        min_duration_s: shorter occurrences are not told.
        merge_gap_s: pauses up to this long belong to the event.
        max_duration_s: a longer event ends here, and a new one starts.
        span_s: likelihoods are summed over the windows that begin within this time.
    """

    on: float
    off: float
    min_duration_s: float
    merge_gap_s: float
    max_duration_s: float
    span_s: float

    @property
    def is_silent(self) -> bool:
        """Whether no likelihood goes beyond it: the class is not told."""
        return self.on >= 1.0


@dataclass(frozen=True, slots=True)
class Gap:
    """A time of which not everything was heard.

    Attributes:
        start_ns: when it began, in nanoseconds since 1970.
        end_ns: when it was over.
        lost_ns: how much of it was lost; all of it, unless the cause is `trickle`.
        cause: `not_running`, the agent did not run; `device`, the microphone was away; `stalled`, it gave nothing, or
            the analysis did not move; `dropped`, on the way from the microphone; `overrun`, the analysis was too slow;
            `trickle`, dropped a little at a time.
        start_is_right: whether `start_ns` is right though the clock may not be set now: another run knew it.
    """

    start_ns: int
    end_ns: int
    lost_ns: int
    cause: GapCause
    start_is_right: bool = False
