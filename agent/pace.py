"""How wide the window hop has to be for a slow board to keep up.

In: how late the analysis is, while sound is heard. Out: how many times the configured hop. Called on the pipeline
thread. Time is in seconds of sound.

A wider hop places events less exactly; sound that is lost places none. So the hop is doubled while the analysis falls
behind, and halved after it has kept up for a while.
"""

from dataclasses import dataclass

CHECK_S = 1.0
LATE_S = 1.0  # sooner, a single slow hop would count
CALM_MIN_S, CALM_MAX_S = 60.0, 3600.0


@dataclass(slots=True)
class _Last:
    """The last look."""

    heard_s: float
    late_s: float


class Pace:
    """A factor for the window hop: 1, 2, 4 and so on.

    Args:
        widest: the largest factor that the model's window allows.
    """

    def __init__(self, widest: int) -> None:
        self.factor = 1
        self._widest = widest
        self._last = _Last(0.0, 0.0)
        self._kept_up_since_s = 0.0
        self._calm_s = CALM_MIN_S
        self._narrowed_at_s = float("-inf")

    def push(self, heard_s: float, late_s: float) -> int:
        """Look at most once a second.

        A sound server that stutters and then delivers everything makes the analysis late at once, and it catches up:
        the hop is widened only while it does not.

        Args:
            heard_s: how much of the stream is analysed, or on the way.
            late_s: how much sound waits.

        Returns:
            the factor from now on.
        """
        last = self._last
        if heard_s - last.heard_s < CHECK_S:
            return self.factor
        self._last = _Last(heard_s, late_s)
        if late_s < LATE_S:
            if heard_s - self._kept_up_since_s >= self._calm_s and self.factor > 1:
                self.factor //= 2
                self._kept_up_since_s = self._narrowed_at_s = heard_s
            return self.factor
        self._kept_up_since_s = heard_s
        if late_s >= last.late_s >= LATE_S and 2 * self.factor <= self._widest:
            # Narrowed too soon: the next try comes later.
            too_soon = heard_s - self._narrowed_at_s < self._calm_s
            self._calm_s = min(CALM_MAX_S, 2 * self._calm_s) if too_soon else CALM_MIN_S
            self.factor *= 2
        return self.factor
