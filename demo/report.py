"""What of the street was recognised, honestly.

In: what truly sounds, and the events that the agent found. Out: lines for a person.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from demo.scene import Sounding


@dataclass(frozen=True, slots=True)
class Heard:
    """One event that the agent found.

    Attributes:
        label: what it is.
        onset_s: when it began, in seconds from the start of the street.
        offset_s: when it ended.
        likelihood_peak: the largest summed likelihood, in [0, 1].
    """

    label: str
    onset_s: float
    offset_s: float
    likelihood_peak: float

    def is_of(self, sounding: Sounding) -> bool:
        """Whether it has the label of the sound, and overlaps it."""
        end_s = sounding.onset_s + sounding.duration_s
        return self.label == sounding.label and self.onset_s < end_s and sounding.onset_s < self.offset_s


def report(soundings: Sequence[Sounding], events: Sequence[Heard]) -> Iterator[str]:
    """What was recognised, what was missed, and what was heard that is not there."""
    yield f"  {'in the street':33}heard"
    n_recognised = 0
    for sounding in soundings:
        matches = sorted((event for event in events if event.is_of(sounding)), key=lambda event: event.onset_s)
        n_recognised += bool(matches)
        truth = _span(sounding.onset_s, sounding.onset_s + sounding.duration_s)
        heard = ", ".join(_span(event.onset_s, event.offset_s) for event in matches) or "missed"
        yield f"  {sounding.label:15}{truth:18}{heard}"
    yield f"{n_recognised} of {len(soundings)} sounds recognised: an event with their label overlaps them."
    others = [event for event in events if not any(event.is_of(sounding) for sounding in soundings)]
    if others:
        named = ", ".join(f"{event.label} at {_span(event.onset_s, event.offset_s)}" for event in others)
        yield f"Heard where there is no such sound: {named}."


def _span(onset_s: float, offset_s: float) -> str:
    return f"{onset_s:.1f} to {offset_s:.1f} s"
