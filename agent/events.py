"""Events: segments become sound events with an onset and an offset.

In: `Segment`s, one for each window. Out: `SoundEvent`s: `start`, perhaps `update`s, and always `end`. Called on the
pipeline thread, by `replay` and by `model_export`.

*Whether* something sounds is decided by the summed likelihood, which is slow and sure; *where* it began and ended, by
the likelihoods of the single windows, which are quick. Durations and pauses are those of the sound as it was placed,
not of windows or sums: so they mean the same at every window hop.
"""

import itertools
from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from agent.values import EndReason, EventRule, EventState, FloatArray, Segment, SoundEvent


@dataclass(frozen=True, slots=True)
class _Durations:
    """What all classes share, in samples (`EventDetector` says what they are)."""

    onset_response: int
    offset_response: int
    update_interval: int


@dataclass(slots=True)
class _Occurrence:
    """Something is sounding, or has just fallen silent.

    Attributes:
        onset: where it began.
        sounded_until: so far it lasted for sure, whatever comes next.
        fell_at: where it fell silent; None while it sounds.
        told: whether anybody knows of it.
        id: given when it is told.
        next_update: when it is to be told again.
        likelihood, peak, total, n_segments: of the sum while it sounded; the newest, the largest, and for the mean.
        evidence: by how much the windows advanced that were as sure as the rule's `on` by themselves, in samples.
        evidence_at_fall: the same up to where it fell silent; what comes then is its own only if it goes on.
    """

    onset: int
    sounded_until: int
    fell_at: int | None = None
    told: bool = False
    id: int = -1
    next_update: int = 0
    likelihood: float = 0.0
    peak: float = 0.0
    total: float = 0.0
    n_segments: int = 0
    evidence: int = 0
    evidence_at_fall: int = 0

    def from_here(self, cut: int) -> "_Occurrence":
        """A new one that goes on where this one is cut."""
        return _Occurrence(
            onset=cut,
            sounded_until=max(cut, self.sounded_until),
            likelihood=self.likelihood,
            peak=self.likelihood,
            total=self.likelihood,
            n_segments=1,
        )


class EventDetector:
    """Two thresholds and three durations for each class.

    Args:
        labels: the classes, in the order of the likelihoods.
        rules: when a class counts as an event; a class without a rule (the background) never does.
        sample_rate_hz: the capture rate, in which time is counted.
        onset_response_s: how much of a beginning sound a window holds when its likelihood has risen half-way.
        offset_response_s: how much of an ending sound a window still holds when its likelihood has fallen half-way.
        update_interval_s: an open event is told again after this long.
    """

    def __init__(
        self,
        *,
        labels: Sequence[str],
        rules: Mapping[str, EventRule],
        sample_rate_hz: int,
        onset_response_s: float,
        offset_response_s: float,
        update_interval_s: float,
    ) -> None:
        self._labels = tuple(labels)
        self._sample_rate_hz = sample_rate_hz
        self._durations = _Durations(
            onset_response=round(onset_response_s * sample_rate_hz),
            offset_response=round(offset_response_s * sample_rate_hz),
            update_interval=round(update_interval_s * sample_rate_hz),
        )
        self._past = _Past()
        self._ids = itertools.count()
        self._tracks = [self._track(label, rules[label]) for label in labels if label in rules]
        self._last_ends: dict[str, int] = {}  # of classes that have no rule any more

    def change(self, rules: Mapping[str, EventRule], *, update_interval_s: float) -> list[SoundEvent]:
        """From now on, judge by other rules.

        An event belongs to one rule. What has been told and is still open when its rule changes ends there, with
        `rule_changed`; if it sounds by the new rule as well, a new event goes on from there.

        Args:
            rules: as at the start; a class may have come or gone.
            update_interval_s: as at the start; ends nothing.

        Returns:
            the ends.
        """
        update_interval = round(update_interval_s * self._sample_rate_hz)
        self._durations = replace(self._durations, update_interval=update_interval)
        before = {track.label: track for track in self._tracks}
        ends: list[SoundEvent] = []
        self._tracks = []
        for label in self._labels:
            old, rule = before.get(label), rules.get(label)
            if old is not None and old.rule == rule:
                old.durations = self._durations
                self._tracks.append(old)
                continue
            new = None if rule is None else self._track(label, rule, self._last_ends.pop(label, 0))
            if old is not None:
                ends += old.give_way(new)
                self._last_ends[label] = old.free_from
            if new is not None:
                self._tracks.append(new)
        return ends

    def _track(self, label: str, rule: EventRule, free_from: int = 0) -> "_Track":
        return _Track(
            index=self._labels.index(label),
            label=label,
            rule=rule,
            durations=self._durations,
            sample_rate_hz=self._sample_rate_hz,
            past=self._past,
            ids=self._ids,
            free_from=free_from,
        )

    def push(self, segment: Segment) -> Iterator[SoundEvent]:
        """Take a segment; tell what it starts, keeps up or ends, in the order of the labels."""
        self._past.append(segment)
        for track in self._tracks:
            yield from track.push(segment)

    def flush(self, reason: EndReason) -> Iterator[SoundEvent]:
        """The stream has ended, or there is a gap: end every open event."""
        for track in self._tracks:
            yield from track.flush(reason)

    def reset(self) -> None:
        """There is a gap: forget the past, but not the count of events."""
        self._past.clear()
        for track in self._tracks:
            track.reset()


@dataclass(frozen=True, slots=True)
class _Heard:
    """One window of the recent past."""

    number: int  # since the last reset
    first_sample: int
    end_sample: int
    advance: int  # from the window before; 0 for the first
    likelihoods: FloatArray


@dataclass(frozen=True, slots=True)
class _Step:
    """Where the likelihood of a class rose or fell, between two windows.

    Attributes:
        number: the first window after it.
        first_sample, end_sample: of the window, between those two, whose likelihood would be half-way.
        before, after: the mean likelihood on either side.
    """

    number: int
    first_sample: int
    end_sample: int
    before: float
    after: float


class _Past:
    """The windows of the recent past: of each class as far back as a change can be that its sum shows, two spans."""

    def __init__(self) -> None:
        self._windows: deque[_Heard] = deque()
        self._n_heard = 0
        self._horizons: list[int] = []  # of each class

    def append(self, segment: Segment) -> None:
        advance = segment.newest_onset - self._windows[-1].first_sample if self._windows else 0
        self._windows.append(_Heard(self._n_heard, segment.newest_onset, segment.offset, advance, segment.newest))
        self._n_heard += 1
        self._horizons = [2 * onset - segment.offset for onset in segment.onsets.tolist()]
        farthest = min(self._horizons)
        while self._windows[0].first_sample < farthest:
            self._windows.popleft()

    def clear(self) -> None:
        self._windows.clear()
        self._n_heard = 0

    def first(self, label_index: int) -> _Heard:
        """The oldest window that is remembered for a class."""
        return self._since(0, label_index)[0]

    @property
    def newest(self) -> _Heard:
        """The newest window."""
        return self._windows[-1]

    @property
    def heard_until(self) -> int:
        """The end of the newest window."""
        return self._windows[-1].end_sample

    def evidence(self, label_index: int, *, since: int, on: float) -> int:
        """By how much the windows advanced that were so sure of a class, from the one with number `since` on."""
        windows = self._since(since, label_index)
        return sum(window.advance for window in windows if window.likelihoods[label_index] >= on)

    def step(self, label_index: int, *, since: int, direction: Literal["rise", "fall"]) -> _Step:
        """Fit one step to the likelihoods of a class, by least squares.

        A step is used, and not the first window over some threshold, because likelihoods flicker; and it adapts to
        sounds that the network is only half sure of.

        Args:
            label_index: the class.
            since: number of the first window to look at.
            direction: which way it goes.

        Returns:
            The step. Where there is only one window to look at: that window, and its likelihood on either side.
        """
        windows = self._since(since, label_index)
        n = len(windows)
        values = np.array([window.likelihoods[label_index] for window in windows], np.float64)  # (n,)
        if n == 1:
            only, value = windows[0], float(values[0])
            return _Step(only.number, only.first_sample, only.end_sample, before=value, after=value)
        sums = np.cumsum(values)
        n_before = np.arange(1, n)
        before = sums[:-1] / n_before
        after = (sums[-1] - sums[:-1]) / (n - n_before)
        height = after - before if direction == "rise" else before - after
        split = int(np.argmax(height * np.sqrt(n_before * (n - n_before))))  # least squares, with the sign kept
        last, first = windows[split], windows[split + 1]
        half_way = (before[split] + after[split]) / 2
        jump = values[split + 1] - values[split]
        fraction = 0.5 if jump == 0.0 else min(1.0, max(0.0, float((half_way - values[split]) / jump)))
        return _Step(
            number=first.number,
            first_sample=round(last.first_sample + fraction * (first.first_sample - last.first_sample)),
            end_sample=round(last.end_sample + fraction * (first.end_sample - last.end_sample)),
            before=float(before[split]),
            after=float(after[split]),
        )

    def _since(self, number: int, label_index: int) -> list[_Heard]:
        """What is remembered for a class, from the window with this number on."""
        horizon = self._horizons[label_index]
        return [window for window in self._windows if window.number >= number and window.first_sample >= horizon]


class _Track:
    """One class: silent, sounding, or fallen silent for no longer than a pause."""

    def __init__(
        self,
        *,
        index: int,
        label: str,
        rule: EventRule,
        durations: _Durations,
        sample_rate_hz: int,
        past: _Past,
        ids: Iterator[int],
        free_from: int,
    ) -> None:
        self._index = index
        self.label = label
        self.rule = rule
        self.durations = durations
        self._min_duration = round(rule.min_duration_s * sample_rate_hz)
        self._merge_gap = round(rule.merge_gap_s * sample_rate_hz)
        self._max_duration = max(1, round(rule.max_duration_s * sample_rate_hz))
        self._past = past
        self._ids = ids
        self.reset()
        self.free_from = free_from

    def reset(self) -> None:
        self._occurrence: _Occurrence | None = None
        self._changed_at = 0  # the first window after the last rise or fall
        self.free_from = 0  # where the last occurrence ended

    def push(self, segment: Segment) -> Iterator[SoundEvent]:
        likelihood = float(segment.likelihoods[self._index])
        occurrence = self._occurrence
        if occurrence is not None:
            occurrence.evidence += self._evidence(self._past.newest.number)
        if occurrence is None:
            if likelihood >= self.rule.on:
                self._begin(self._rise())
        elif occurrence.fell_at is None:
            # Two thresholds: with one, a siren hovering there becomes forty events a minute.
            if likelihood < self.rule.off:
                occurrence.fell_at = self._fall()
                occurrence.evidence_at_fall = occurrence.evidence - self._evidence(self._changed_at)
        elif likelihood >= self.rule.on:
            again = self._rise()
            if again - occurrence.fell_at <= self._merge_gap:
                occurrence.fell_at = None
            else:
                yield from self._end(occurrence, occurrence.fell_at, "quiet")
                self._begin(again)
        elif self._pause_is_over(segment, occurrence.fell_at):
            yield from self._end(occurrence, occurrence.fell_at, "quiet")
        if self._occurrence is not None:
            if self._occurrence.fell_at is None:
                self._note(self._occurrence, segment)
            yield from self._tell(self._occurrence)

    def flush(self, reason: EndReason) -> Iterator[SoundEvent]:
        occurrence = self._occurrence
        if occurrence is None:
            return
        if occurrence.fell_at is not None:
            yield from self._end(occurrence, occurrence.fell_at, "quiet")
            return
        fall = self._past.step(self._index, since=self._changed_at, direction="fall")
        if fall.after >= self.rule.off:  # it sounds until the last sample
            yield from self._end(occurrence, self._past.heard_until, reason)
        else:
            occurrence.evidence -= self._evidence(fall.number)
            yield from self._end(occurrence, fall.first_sample + self.durations.offset_response, reason)

    def give_way(self, successor: "_Track | None") -> Iterator[SoundEvent]:
        """The rule is another: end what has been told; what still sounds goes on by the successor's rule."""
        occurrence = self._occurrence
        if occurrence is not None and occurrence.told:
            for end in self.flush("rule_changed"):
                yield end
                still_there = end.end_reason == "rule_changed" and end.offset == self._past.heard_until
                if successor is not None and still_there and occurrence.likelihood >= successor.rule.on:
                    successor._occurrence = occurrence.from_here(self._past.heard_until)
        if successor is not None:
            successor.free_from = self.free_from

    def _rise(self) -> int:
        """Where the sound began that the sum has just shown."""
        rise = self._past.step(self._index, since=self._changed_at, direction="rise")
        first = self._past.first(self._index)
        before = min(rise.before, float(first.likelihoods[self._index]))  # a mean of few windows holds the rise itself
        if first.number == self._changed_at == 0 and before >= self.rule.off:
            return first.first_sample  # it was there before the stream was
        self._changed_at = rise.number
        return max(rise.end_sample - self.durations.onset_response, first.first_sample)

    def _fall(self) -> int:
        """Where the sound ended whose end the sum has just shown."""
        fall = self._past.step(self._index, since=self._changed_at, direction="fall")
        self._changed_at = fall.number
        return fall.first_sample + self.durations.offset_response

    def _pause_is_over(self, segment: Segment, fell_at: int) -> bool:
        """Whether a sound that began within the merge gap would have filled the sum by now, and has not."""
        oldest_end = int(segment.onsets[self._index]) + (segment.offset - segment.newest_onset)
        return oldest_end - self.durations.onset_response >= fell_at + self._merge_gap

    def _begin(self, onset: int) -> None:
        onset = max(onset, self.free_from)
        self._occurrence = _Occurrence(onset=onset, sounded_until=onset, evidence=self._evidence(self._changed_at))

    def _evidence(self, since: int) -> int:
        return self._past.evidence(self._index, since=since, on=self.rule.on)

    def _note(self, occurrence: _Occurrence, segment: Segment) -> None:
        """Add what the segment says about a sounding occurrence."""
        occurrence.likelihood = float(segment.likelihoods[self._index])
        occurrence.peak = max(occurrence.peak, occurrence.likelihood)
        occurrence.total += occurrence.likelihood
        occurrence.n_segments += 1
        if segment.newest[self._index] >= self.rule.off:
            # Were the next window silent, the fall would lie here.
            certain = min(segment.newest_onset + self.durations.offset_response, segment.offset)
            occurrence.sounded_until = max(occurrence.sounded_until, certain)

    def _tell(self, occurrence: _Occurrence) -> Iterator[SoundEvent]:
        """Tell what is due: a start that has become sure, an update, an end because it lasts too long."""
        while True:
            if not occurrence.told:
                # Not as soon as the sum crosses: it could still turn out that a shorter sound was all there was.
                if occurrence.sounded_until - occurrence.onset >= self._min_duration:
                    yield self._start(occurrence)
            elif self._past.heard_until >= occurrence.next_update:
                occurrence.next_update += self.durations.update_interval
                yield self._event(occurrence, "update")
            if occurrence.sounded_until - occurrence.onset < self._max_duration:
                return
            occurrence = yield from self._cut(occurrence)

    def _cut(self, occurrence: _Occurrence) -> Generator[SoundEvent, None, _Occurrence]:
        """End an occurrence that lasts too long, and go on with a new one from there."""
        cut = occurrence.onset + self._max_duration
        yield from self._close(occurrence, cut, "max_duration")
        self._occurrence = occurrence.from_here(cut)
        return self._occurrence

    def _end(self, occurrence: _Occurrence, offset: int, reason: EndReason) -> Iterator[SoundEvent]:
        """End an occurrence where it was placed."""
        offset = min(offset, self._past.heard_until)
        while offset - occurrence.onset > self._max_duration:
            occurrence = yield from self._cut(occurrence)
        yield from self._close(occurrence, offset, reason)

    def _close(self, occurrence: _Occurrence, offset: int, reason: EndReason) -> Iterator[SoundEvent]:
        """Forget an occurrence; it is told, unless it was too short."""
        self._occurrence = None
        if occurrence.told:
            # A fall can be placed a little before the window that made the start sure.
            offset = max(offset, occurrence.onset + self._min_duration)
        self.free_from = max(self.free_from, offset)  # a fall can be placed before a cut
        if offset - occurrence.onset < self._min_duration:
            return
        if not occurrence.told:
            yield self._start(occurrence)
        yield self._event(occurrence, "end", offset, reason)

    def _start(self, occurrence: _Occurrence) -> SoundEvent:
        occurrence.told, occurrence.id = True, next(self._ids)
        occurrence.next_update = self._past.heard_until + self.durations.update_interval
        return self._event(occurrence, "start")

    def _event(
        self, occurrence: _Occurrence, state: EventState, offset: int | None = None, reason: EndReason | None = None
    ) -> SoundEvent:
        return SoundEvent(
            id=occurrence.id,
            state=state,
            label=self.label,
            onset=occurrence.onset,
            offset=offset,
            heard_until=self._past.heard_until,
            likelihood_peak=occurrence.peak,
            likelihood_mean=occurrence.total / occurrence.n_segments,
            end_reason=reason,
            evidence=occurrence.evidence if occurrence.fell_at is None else occurrence.evidence_at_fall,
        )
