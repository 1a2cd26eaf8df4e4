"""Score a model's events on labelled scenes, by the measures of the field.

In: tracks of scenes, rules. Out: a `Score`; and files that sed_eval and sed_scores_eval read, so that anybody can have
the same figures from those.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from agent.errors import UsageError
from agent.model_card import EventCard
from agent.values import EventRule
from model_export.detection import Counts, SegmentErrors, Truth, total
from model_export.psds import PSDS1, PSDS2, ScoredScene, psds
from model_export.scenes import Sounding, write_soundings
from model_export.tracks import Track, at_threshold, events_of, events_of_candidates, score_table

# Of a peer that nobody has set rules for: close together where most of its scores lie.
THRESHOLDS = (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
HOUR_S = 3600.0


@dataclass(frozen=True, slots=True)
class Score:
    """How well one system's events are.

    Attributes:
        system: its name.
        counts: of each label.
        errors: by second, over all labels.
        psds1: over all thresholds, asking for precise times.
        psds2: over all thresholds, asking for the right label.
        hours: of all scenes.
        event_free_hours: of them, in which nothing sounds that has a label.
        scenes: how many.
    """

    system: str
    counts: dict[str, Counts]
    errors: SegmentErrors
    psds1: float
    psds2: float
    hours: float
    event_free_hours: float
    scenes: int

    @property
    def total(self) -> Counts:
        """Over all labels."""
        return total(self.counts.values())

    def false_alarms_per_hour(self, counts: Counts) -> float | None:
        """For each event-free hour; None where there is no such time."""
        return counts.false_alarms / self.event_free_hours if self.event_free_hours else None


def score(system: str, tracks: Sequence[Track], rules: Mapping[str, EventRule], events: EventCard) -> Score:
    """Score the events that the rules make of the tracks.

    Args:
        system: its name.
        tracks: of all scenes.
        rules: one for each label that may be told.
        events: the responses.
    """
    labels = sorted(rules.keys() | {one.label for track in tracks for one in track.scene.soundings})
    counts = dict.fromkeys(labels, Counts())
    errors = SegmentErrors()
    free_s = 0.0
    for track in tracks:
        truth = Truth(track.scene.soundings, track.duration_s)
        told = by_label(events_of(track, rules, events))
        for label in labels:
            counts[label] += truth.counts(label, told.get(label, []))
        errors += truth.errors(told)
        free_s += truth.event_free_s
    scored = [_scored(track, rules) for track in tracks]
    return Score(
        system=system,
        counts=counts,
        errors=errors,
        psds1=psds(scored, list(rules), PSDS1),
        psds2=psds(scored, list(rules), PSDS2),
        hours=sum(track.duration_s for track in tracks) / HOUR_S,
        event_free_hours=free_s / HOUR_S,
        scenes=len(tracks),
    )


def by_label(soundings: Sequence[Sounding]) -> dict[str, list[Sounding]]:
    """The events of each label."""
    found: dict[str, list[Sounding]] = {}
    for one in soundings:
        found.setdefault(one.label, []).append(one)
    return found


def best_single_threshold(tracks: Sequence[Track], rules: Mapping[str, EventRule], events: EventCard) -> float:
    """The threshold, one for all labels, with the best event F1 on these very tracks: as good as the peer can be.

    Args:
        tracks: of all scenes.
        rules: their durations are kept; `off` keeps its distance to `on` as a factor.
        events: the responses.
    """
    candidates = {label: [at_threshold(rule, on) for on in THRESHOLDS] for label, rule in rules.items()}
    sums = [Counts()] * len(THRESHOLDS)
    for track in tracks:
        truth = Truth(track.scene.soundings, track.duration_s)
        found = events_of_candidates(track, candidates, events)
        missed = total(truth.counts(label, ()) for label in truth.labels - rules.keys())
        sums = [
            one + missed + total(truth.counts(label, told[place]) for label, told in found.items())
            for place, one in enumerate(sums)
        ]
    return max(zip(sums, THRESHOLDS, strict=True), key=lambda pair: pair[0].event_f1)[1]


def write_for_tools(tracks: Sequence[Track], rules: Mapping[str, EventRule], events: EventCard, folder: Path) -> None:
    """Write what is true, what was told, and the scores.

    `true/NAME.tsv` and `told/NAME.tsv` are event lists for sed_eval, `scores/NAME.tsv` tables for sed_scores_eval.

    Raises:
        UsageError: the folder cannot be written.
    """
    labels = list(rules)
    try:
        for track in tracks:
            name = f"{track.scene.name}.tsv"
            for part in ("true", "told", "scores"):
                (folder / part / name).parent.mkdir(parents=True, exist_ok=True)
            write_soundings(track.scene.soundings, folder / "true" / name)
            write_soundings(events_of(track, rules, events), folder / "told" / name)
            scored = _scored(track, rules)
            rows = zip(scored.edges_s[:-1], scored.edges_s[1:], scored.scores, strict=True)
            lines = ["\t".join(["onset", "offset", *labels])]
            lines += [
                "\t".join([f"{start:.6f}", f"{stop:.6f}", *(f"{s:.9g}" for s in row)]) for start, stop, row in rows
            ]
            (folder / "scores" / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    except OSError as error:
        raise UsageError(f"--out {folder}: {error.strerror}; expected a folder to write to") from error


def _scored(track: Track, rules: Mapping[str, EventRule]) -> ScoredScene:
    edges, scores = score_table(track, {label: rule.span_s for label, rule in rules.items()})
    return ScoredScene(edges, scores, track.scene.soundings)
