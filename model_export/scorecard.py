"""The text of scores and of a tuning: Markdown whose tables also line up on a terminal.

In: `Score`s, or a `Tuning`. Out: text, or plain values for JSON.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from agent.values import EventRule
from model_export.detection import Counts, total
from model_export.report import table
from model_export.score import Score
from model_export.tune import Tried, Tuning


def score_text(scores: Sequence[Score]) -> str:
    """All scores as Markdown; the first one label by label."""
    ours = scores[0]
    measures = ["event F1", "precision", "recall", "1-s segment F1", "error rate", "PSDS1", "PSDS2", "false alarms/h"]
    rows = [
        [
            one.system,
            *(f"{value:.3f}" for value in (one.total.event_f1, one.total.precision, one.total.recall)),
            *(f"{value:.3f}" for value in (one.total.segment_f1, one.errors.rate, one.psds1, one.psds2)),
            _per_hour(one.total, one.event_free_hours),
        ]
        for one in scores
    ]
    parts = [
        "# Events in labelled scenes",
        f"{ours.scenes} scenes, {ours.hours:.2f} h, {ours.event_free_hours:.2f} h of it without any event; "
        f"{ours.total.true} events.",
        table(["system", *measures], rows),
        f"## {ours.system}, label by label",
        _labels_table(ours.counts, ours.event_free_hours),
    ]
    return "\n\n".join(parts) + "\n"


def _per_hour(counts: Counts, event_free_hours: float) -> str:
    return f"{counts.false_alarms / event_free_hours:.1f}" if event_free_hours else "–"


def _labels_table(counts: Mapping[str, Counts], event_free_hours: float) -> str:
    return table(
        ["label", "events", "told", "precision", "recall", "event F1", "1-s segment F1", "false alarms/h"],
        [
            [
                label,
                str(one.true),
                str(one.told),
                *(f"{value:.2f}" for value in (one.precision, one.recall, one.event_f1, one.segment_f1)),
                _per_hour(one, event_free_hours),
            ]
            for label, one in counts.items()
        ],
    )


def score_figures(scores: Sequence[Score]) -> list[dict[str, Any]]:
    """All scores as plain values."""
    return [
        asdict(one)
        | {
            "event_f1": one.total.event_f1,
            "segment_f1": one.total.segment_f1,
            "error_rate": one.errors.rate,
            "false_alarms_per_hour": one.false_alarms_per_hour(one.total),
        }
        for one in scores
    ]


def tuning_text(tuning: Tuning) -> str:
    """What was chosen and what it is worth, as Markdown without headings."""
    return "\n\n".join(_tuning_parts(tuning)) + "\n"


def _tuning_parts(tuning: Tuning) -> Iterator[str]:
    hours = tuning.event_free_hours
    taken = tuning.taken
    yield (
        f"For at most {tuning.budget:g} false alarms in an hour without events, chosen on scenes with\n"
        f"{total(taken.fitted.values()).true} events and {hours:.1f} h without any. Held out: each fold by what was\n"
        "chosen on the others. Fitted figures promise too much, those held out too little: the best that keeps the\n"
        "budget in the mean of both is taken."
    )
    yield table(
        [
            "numbers",
            "within",
            "caution",
            "event F1",
            "held out",
            "1-s segment F1",
            "held out",
            "false alarms/h",
            "held out",
            "",
        ],
        [_tried_row(one, hours, is_taken=one is taken) for one in tuning.tried],
    )
    if sum(total(both.values()).false_alarms for both in (taken.fitted, taken.held_out)) / 2 > tuning.budget * hours:
        yield "None keeps the budget; the quietest is taken."
    yield (
        "The numbers, and what they are worth label by label on scenes that they were not chosen on. A label whose\n"
        "`on` is 1 is not told:"
    )
    yield table(
        [
            "label",
            "span_s",
            "on",
            "off",
            "min_duration_s",
            "merge_gap_s",
            "events",
            "precision",
            "recall",
            "false alarms/h",
        ],
        [
            [
                label,
                *(f"{value:g}" for value in (rule.span_s, rule.on, rule.off, rule.min_duration_s, rule.merge_gap_s)),
                str(taken.held_out[label].true),
                f"{taken.held_out[label].precision:.2f}",
                f"{taken.held_out[label].recall:.2f}",
                _per_hour(taken.held_out[label], hours),
            ]
            for label, rule in tuning.rules.items()
        ],
    )
    yield "Precision / recall by event over `on`, `off` in proportion and the other numbers as chosen, on all scenes:"
    levels = list(next(iter(tuning.curve.values())))
    yield table(
        ["label", *(f"{on:g}" for on in levels)],
        [
            [label, *(f"{of_label[on].precision:.2f} / {of_label[on].recall:.2f}" for on in levels)]
            for label, of_label in tuning.curve.items()
        ],
    )


def _tried_row(one: Tried, hours: float, *, is_taken: bool) -> list[str]:
    fitted, held_out = total(one.fitted.values()), total(one.held_out.values())
    return [
        one.name,
        "–" if one.within is None else f"{one.within:g}",
        "–" if one.caution is None else f"{one.caution:g}",
        f"{fitted.event_f1:.3f}",
        f"{held_out.event_f1:.3f}",
        f"{fitted.segment_f1:.3f}",
        f"{held_out.segment_f1:.3f}",
        *(_per_hour(counts, hours) for counts in (fitted, held_out)),
        "taken" if is_taken else "",
    ]


def tuning_figures(tuning: Tuning) -> dict[str, Any]:
    """The same as plain values: counts of each label, from which all scores follow."""

    def plain(counts: Mapping[str, Counts]) -> dict[str, Any]:
        return {label: asdict(one) for label, one in counts.items()}

    def rules(chosen: Mapping[str, EventRule]) -> dict[str, Any]:
        return {label: asdict(rule) for label, rule in chosen.items()}

    return {
        "budget": tuning.budget,
        "event_free_hours": tuning.event_free_hours,
        "taken": {"numbers": tuning.taken.name, "within": tuning.taken.within, "caution": tuning.taken.caution},
        "rules": rules(tuning.rules),
        "tried": [
            {
                "numbers": one.name,
                "within": one.within,
                "caution": one.caution,
                "fitted": plain(one.fitted),
                "held_out": plain(one.held_out),
            }
            for one in tuning.tried
        ],
        "curve": {
            label: [{"on": on} | asdict(counts) for on, counts in of_label.items()]
            for label, of_label in tuning.curve.items()
        },
    }
