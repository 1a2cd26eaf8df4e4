"""Choose the numbers of events from labelled scenes, within a budget of false alarms.

In: tracks of scenes whose groups have no recording in common. Out: a `Tuning`: the numbers, and what they are worth on
scenes that they were not chosen on.

Few recordings stand behind many scenes, and numbers for each label that fit them well are wrong in the next street.
So a label gets numbers of its own only where that pays in nine of ten draws of the groups; and whether numbers of its
own, one rule for all, or the card's numbers are written, cross-validation over the folds decides. The budget is to be
kept on scenes that were not looked at, too, where other labels are the ones that cry wolf: so each label is charged
with a share of what all labels do, and cross-validation decides how large that share has to be. A label that is more
often wrong than right there is not told.
"""

import itertools
import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass

import numpy as np
from numpy.typing import NDArray

from agent.errors import UsageError
from agent.model_card import EventCard, EventNumbers
from agent.values import EventRule
from model_export.detection import Counts, Truth, total
from model_export.tracks import Track, at_threshold, events_of_candidates

log = logging.getLogger(__name__)

ON = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 1.0)  # the last one is silent
OFF = (0.3, 0.6)  # of `on`
MIN_DURATION_S = (0.1, 0.6)
MERGE_GAP_S = (1.0, 2.0)
SPAN_S = (0.5, 1.0, 2.0)
N_DRAWS = 400
BOOTSTRAP_SEED = 0
CLEAR = 0.1  # a gain that is there in all but this fraction of the draws
CAUTIONS = (0.0, 0.03, 0.1, 0.2, 0.3, 0.4, 0.6, 1.0, 2.0)
RIGHT = 0.5  # of a label's events, at least, in the mean of the folds that its rule was not chosen on; else not told
SPENT = (0.5, 1.0)  # of the budget, while choosing: the rest is for other streets
HOUR_S = 3600.0

HITS, TOLD, TRUE, SEGMENT_HITS, SEGMENTS_TOLD, SEGMENTS_TRUE, FALSE_ALARMS = range(7)  # places in `Counts`

Choice = dict[str, int]  # of each label, the place of its candidate
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Evidence:
    """What each candidate does on each group of scenes.

    Attributes:
        labels: in the order of the counts.
        candidates: of each label the rules, but for the longest duration the same for all, and in the same order; the
            last one is the card's.
        groups: names of the groups.
        units: of each group, what it is held out with: its fold, or itself.
        counts: float64 (n_groups, n_labels, n_candidates, 7), the fields of `Counts`.
        event_free_s: float64 (n_groups,).
    """

    labels: tuple[str, ...]
    candidates: Mapping[str, Sequence[EventRule]]
    groups: tuple[str, ...]
    units: tuple[str, ...]
    counts: Floats
    event_free_s: Floats

    def sums(self, groups: Sequence[int]) -> Floats:
        """float64 (n_labels, n_candidates, 7), over these groups."""
        summed: Floats = self.counts[list(groups)].sum(axis=0)
        return summed

    def false_alarms(self, groups: Sequence[int], caution: float) -> Floats:
        """How many false alarms each candidate is to be expected to have on these groups.

        Those that it had, and so much of those that the mean of all labels had with the same rule: a label that was
        quiet by chance is not taken for one that is always quiet.

        Returns:
            float64 (n_labels, n_candidates).
        """
        false_alarms: Floats = self.counts[list(groups)][..., FALSE_ALARMS].sum(axis=0)
        expected: Floats = false_alarms + caution * false_alarms.mean(axis=0)
        return expected

    def allowed(self, groups: Sequence[int], budget: float) -> float:
        """How many false alarms the budget allows on these groups."""
        return budget * float(self.event_free_s[list(groups)].sum()) / HOUR_S

    def is_silent(self, label: str, candidate: int) -> bool:
        """Whether this candidate tells nothing of the label."""
        return self.candidates[label][candidate].is_silent

    def chosen(self, choice: Choice, groups: Sequence[int]) -> dict[str, Counts]:
        """The counts of a choice on these groups."""
        sums = self.sums(groups)
        return {
            label: Counts(*(int(value) for value in sums[place, choice[label]]))
            for place, label in enumerate(self.labels)
        }


@dataclass(frozen=True, slots=True)
class Tried:
    """One way to choose, and what it is worth.

    Attributes:
        name: of the way.
        within: false alarms for each event-free hour while choosing; None where nothing was chosen.
        caution: the share of all labels' false alarms that each was charged with; None where none was.
        fitted: counts on the scenes that it was chosen on.
        held_out: counts on scenes that it was not chosen on, each fold by what was chosen on the others.
        choice: on all scenes.
    """

    name: str
    within: float | None
    caution: float | None
    fitted: dict[str, Counts]
    held_out: dict[str, Counts]
    choice: Choice


@dataclass(frozen=True, slots=True)
class Tuning:
    """What was chosen.

    Attributes:
        rules: of each label.
        budget: false alarms for each event-free hour.
        tried: all ways, in the order in which they were tried.
        taken: the name of the one whose rules these are.
        event_free_hours: of the scenes.
        curve: of each label and each `on`, the counts with its other numbers as chosen.
    """

    rules: dict[str, EventRule]
    budget: float
    tried: list[Tried]
    taken: Tried
    event_free_hours: float
    curve: dict[str, dict[float, Counts]]


def grid(max_duration_s: float) -> list[EventRule]:
    """The candidates of a label, with the longest duration that it has."""
    return [
        EventRule(on, round(on * off, 3), min_duration_s, merge_gap_s, max_duration_s, span_s)
        for span_s, on, off, min_duration_s, merge_gap_s in itertools.product(
            SPAN_S, ON, OFF, MIN_DURATION_S, MERGE_GAP_S
        )
    ]


def gather(tracks: Sequence[Track], candidates: Mapping[str, Sequence[EventRule]], events: EventCard) -> Evidence:
    """Run the agent's detector over all tracks with all candidates.

    Raises:
        UsageError: the scenes are of one group only.
    """
    groups = tuple(sorted({track.scene.group for track in tracks}))
    if len(groups) < 2:
        raise UsageError(f"scenes of {len(groups)} group, expected two or more with no recording in common")
    labels = tuple(candidates)
    n_candidates = len(candidates[labels[0]])
    counts = np.zeros((len(groups), len(labels), n_candidates, len(astuple(Counts()))))
    free_s = np.zeros(len(groups))
    for number, track in enumerate(tracks, start=1):
        group = groups.index(track.scene.group)
        truth = Truth(track.scene.soundings, track.duration_s)
        free_s[group] += truth.event_free_s
        found = events_of_candidates(track, candidates, events)
        for place, label in enumerate(labels):
            for candidate, told in enumerate(found[label]):
                counts[group, place, candidate] += astuple(truth.counts(label, told))
        if number % 30 == 0:
            log.info("tune.gathered scenes=%d of=%d", number, len(tracks))
    folds = {track.scene.group: str(track.scene.fold) for track in tracks}
    of_folds = tuple(folds[group] for group in groups)
    units = of_folds if len(set(of_folds)) > 1 else groups
    return Evidence(labels, candidates, groups, units, counts, free_s)


def tune(tracks: Sequence[Track], rules: Mapping[str, EventRule], events: EventCard, *, budget: float) -> Tuning:
    """Choose a rule for each label.

    Args:
        tracks: of all scenes.
        rules: the card's.
        events: the responses.
        budget: false alarms for each event-free hour, all labels together.

    Raises:
        UsageError: the scenes are of one group only.
    """
    candidates = {label: [*grid(rule.max_duration_s), rule] for label, rule in rules.items()}
    evidence = gather(tracks, candidates, events)
    tried = list(_ways(evidence, budget))
    taken = _best(tried, evidence, budget)
    chosen = {label: evidence.candidates[label][taken.choice[label]] for label in evidence.labels}
    return Tuning(
        rules=chosen,
        budget=budget,
        tried=tried,
        taken=taken,
        event_free_hours=float(evidence.event_free_s.sum()) / HOUR_S,
        curve=_curve(tracks, chosen, events),
    )


def _ways(evidence: Evidence, budget: float) -> Iterator[Tried]:
    """The card's numbers; one rule for all; a rule for each label, with more and more caution."""
    everywhere = range(len(evidence.groups))
    card = dict.fromkeys(evidence.labels, len(next(iter(evidence.candidates.values()))) - 1)
    kept = evidence.chosen(card, everywhere)
    yield Tried("the card's", None, None, kept, kept, card)
    for within, caution in ((budget, None), *itertools.product([spent * budget for spent in SPENT], CAUTIONS)):

        def choose(
            groups: Sequence[int],
            told: Collection[str] | None,
            within: float = within,
            caution: float | None = caution,
        ) -> Choice:
            if caution is None:
                return one_rule(evidence, groups, within)
            return rule_for_each_label(evidence, groups, within, caution, told)

        choice = choose(everywhere, None)
        told = {label for label, place in choice.items() if not evidence.is_silent(label, place)}
        folds = _held_out(evidence, choose, told)
        while caution is not None and (wrong := {label for label in told if _right(folds, label) < RIGHT}):
            told -= wrong
            choice = choose(everywhere, told)
            folds = _held_out(evidence, choose, told)
        name = "one rule" if caution is None else "a rule for each label"
        held_out = {label: total(fold[label] for fold in folds) for label in evidence.labels}
        yield Tried(name, within, caution, evidence.chosen(choice, everywhere), held_out, choice)


def _held_out(
    evidence: Evidence, choose: Callable[[Sequence[int], Collection[str]], Choice], told: Collection[str]
) -> list[dict[str, Counts]]:
    """Of each fold, what is chosen without it does on it; the labels that are told are those told in the end."""
    groups = range(len(evidence.groups))
    folds = []
    for unit in sorted(set(evidence.units)):
        test = [group for group in groups if evidence.units[group] == unit]
        train = [group for group in groups if evidence.units[group] != unit]
        folds.append(evidence.chosen(choose(train, told), test))
    return folds


def _right(folds: Sequence[dict[str, Counts]], label: str) -> float:
    """How many of a label's events are right, in the mean of the folds where it is told; 0 if it is told in none.

    The fold whose network says a label most often, and most often wrongly, counts no more than the others.
    """
    told = [fold[label].precision for fold in folds if fold[label].told]
    return sum(told) / len(told) if told else 0.0


def _best(tried: Sequence[Tried], evidence: Evidence, budget: float) -> Tried:
    """The best of those that keep the budget; else the quietest.

    What was fitted promises too much. What was held out promises too little: it was chosen on fewer networks and
    streets than what is written. So both count half.
    """
    allowed = evidence.allowed(range(len(evidence.groups)), budget)

    def false_alarms(one: Tried) -> float:
        return sum(counts.false_alarms for both in (one.fitted, one.held_out) for counts in both.values()) / 2

    def worth_of(one: Tried) -> float:
        return sum(
            worth(np.array([astuple(counts) for counts in both.values()])) for both in (one.fitted, one.held_out)
        )

    quiet = [one for one in tried if false_alarms(one) <= max(allowed, min(map(false_alarms, tried)))]
    return max(quiet, key=worth_of)


def worth(counts: Floats) -> float:
    """What is sought: the mean of F1 by event and F1 by second, over all labels.

    Args:
        counts: float64 (n_labels, 7).
    """
    sums = counts.sum(axis=0)
    by_event = 2 * sums[HITS] / max(1.0, sums[TOLD] + sums[TRUE])
    by_second = 2 * sums[SEGMENT_HITS] / max(1.0, sums[SEGMENTS_TOLD] + sums[SEGMENTS_TRUE])
    return float(by_event + by_second) / 2


def one_rule(evidence: Evidence, groups: Sequence[int], budget: float) -> Choice:
    """The best rule that is the same for all labels and keeps the budget; the best of the quietest if none does."""
    sums = evidence.sums(groups)[:, :-1]  # the card's are not the same for all
    false_alarms = sums[..., FALSE_ALARMS].sum(axis=0)  # (n_candidates,)
    worths = np.array([worth(sums[:, candidate]) for candidate in range(sums.shape[1])])
    allowed = max(evidence.allowed(groups, budget), false_alarms.min())
    return dict.fromkeys(evidence.labels, int(np.argmax(np.where(false_alarms <= allowed, worths, -1.0))))


def rule_for_each_label(
    evidence: Evidence, groups: Sequence[int], budget: float, caution: float, told: Collection[str] | None = None
) -> Choice:
    """From the best rule for all on, what clearly pays for a label, and what the budget demands of it.

    A label that no rule clearly pays for, compared with silence, is not told, unless it is said which ones are `told`:
    then these are, and no others. What a label's rule adds to the worth of all is linear in its counts, near the worth
    that there is. A false alarm has a price; the lowest price at which the budget is kept is used, and if none does,
    the highest.
    """
    start = one_rule(evidence, groups, np.inf)
    allowed = evidence.allowed(groups, budget)
    counts = evidence.counts[list(groups)]  # (n_groups, n_labels, n_candidates, 7)
    gains = _gains(counts, start, evidence.labels)  # (n_groups, n_labels, n_candidates)
    silence = {label: _silence(rules) for label, rules in evidence.candidates.items()}
    if told is None:
        pays = _sure_gains(_compared_with(gains, silence, evidence.labels)).max(axis=1) > 0.0  # (n_labels,)
    else:
        pays = np.array([label in told for label in evidence.labels])
    start = {label: start[label] if pays[place] else silence[label] for place, label in enumerate(evidence.labels)}
    sure = _sure_gains(_compared_with(gains, start, evidence.labels))  # (n_labels, n_candidates)
    if told is not None:
        sure[_are_silent(evidence) & pays[:, None]] = -np.inf
    false_alarms = evidence.false_alarms(groups, caution)
    choice = start
    for price in (0.0, *np.geomspace(1e-5, 1.0, 51)):
        scores = sure - price * false_alarms
        choice = {}
        for place, label in enumerate(evidence.labels):
            best = int(np.argmax(scores[place]))
            better = pays[place] and scores[place, best] > scores[place, start[label]]
            choice[label] = best if better else start[label]
        if sum(false_alarms[place, choice[label]] for place, label in enumerate(evidence.labels)) <= allowed:
            break
    return choice


def _are_silent(evidence: Evidence) -> NDArray[np.bool_]:
    """Which candidates tell nothing, (n_labels, n_candidates)."""
    return np.array([[rule.is_silent for rule in evidence.candidates[label]] for label in evidence.labels])


def _silence(candidates: Sequence[EventRule]) -> int:
    """The first candidate that tells nothing."""
    return next(place for place, rule in enumerate(candidates) if rule.is_silent)


def _gains(counts: Floats, start: Choice, labels: Sequence[str]) -> Floats:
    """How much each candidate adds to the worth on each group, near the worth of a choice.

    Returns:
        float64 (n_groups, n_labels, n_candidates).
    """
    chosen = np.stack([counts[:, place, start[label]] for place, label in enumerate(labels)], axis=1)
    sums = chosen.sum(axis=(0, 1))  # (7,)
    gains = np.zeros(counts.shape[:3])
    for hits, told, true in ((HITS, TOLD, TRUE), (SEGMENT_HITS, SEGMENTS_TOLD, SEGMENTS_TRUE)):
        both = max(1.0, sums[told] + sums[true])
        f1 = 2 * sums[hits] / both
        gains += (2 * counts[..., hits] - f1 * counts[..., told]) / both / 2
    return gains


def _compared_with(gains: Floats, choice: Choice, labels: Sequence[str]) -> Floats:
    """By how much the gain of each candidate differs from that of what is chosen; the shape stays."""
    return np.stack(
        [gains[:, place] - gains[:, place, choice[label], None] for place, label in enumerate(labels)], axis=1
    )


def _sure_gains(gains: Floats) -> Floats:
    """The gain that is there in nearly all draws of the groups; 0 for what the candidates are compared with.

    Args:
        gains: float64 (n_groups, n_labels, n_candidates).

    Returns:
        float64 (n_labels, n_candidates).
    """
    rng = np.random.default_rng(BOOTSTRAP_SEED)
    draws = rng.multinomial(len(gains), np.full(len(gains), 1 / len(gains)), size=N_DRAWS)  # (n_draws, n_groups)
    return np.stack([np.quantile(draws @ of_label, CLEAR, axis=0) for of_label in np.swapaxes(gains, 0, 1)])


def _curve(
    tracks: Sequence[Track], rules: Mapping[str, EventRule], events: EventCard
) -> dict[str, dict[float, Counts]]:
    """Counts of each label over `on`."""
    candidates = {label: [at_threshold(rule, on) for on in ON] for label, rule in rules.items()}
    curve = {label: dict.fromkeys(ON, Counts()) for label in rules}
    for track in tracks:
        truth = Truth(track.scene.soundings, track.duration_s)
        found = events_of_candidates(track, candidates, events)
        for label, of_label in found.items():
            for on, told in zip(ON, of_label, strict=True):
                curve[label][on] += truth.counts(label, told)
    return curve


def with_rules(events: EventCard, rules: Mapping[str, EventRule]) -> EventCard:
    """The card with these rules: what most labels that are told have is the default, what one has else is its own."""
    plain = {label: asdict(rule) for label, rule in rules.items()}
    names = EventNumbers.model_fields
    told = [numbers for label, numbers in plain.items() if not rules[label].is_silent] or list(plain.values())
    default = {name: Counter(numbers[name] for numbers in told).most_common(1)[0][0] for name in names}
    own = {
        label: {name: numbers[name] for name in names if numbers[name] != default[name]}
        for label, numbers in plain.items()
    }
    return EventCard(
        onset_response_s=events.onset_response_s,
        offset_response_s=events.offset_response_s,
        default=EventNumbers(**default),
        classes={label: EventNumbers(**numbers) for label, numbers in own.items() if numbers},
    )
