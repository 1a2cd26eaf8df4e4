"""The text of an evaluation: Markdown whose tables also line up on a terminal.

In: an `Evaluation`, or the `HeadFigures` of one's own classes. Out: text.
"""

from collections.abc import Iterator, Sequence

from model_export.calibration import N_BINS
from model_export.clips import BACKGROUND, LABELS
from model_export.evaluate import Evaluation, PairedTest, Rate, SystemFigures
from model_export.head import N_DRAWS, HeadFigures
from model_export.results import OURS

ABBREVIATION = 5  # letters of a label at the head of a column


def summary(evaluation: Evaluation) -> str:
    """How often what is recognised, as Markdown without headings."""
    return "\n\n".join([*_accuracy_part(evaluation.systems), *_recall_part(evaluation.systems)]) + "\n"


def report(evaluation: Evaluation) -> str:
    """All figures as Markdown."""
    systems = evaluation.systems
    parts = [
        "# Cross-validation",
        summary(evaluation).rstrip(),
        *_background_part(systems),
        *_test_part(evaluation.tests),
        *_calibration_part(systems),
        *(part for one in systems for part in _confusion_part(one)),
    ]
    return "\n\n".join(parts) + "\n"


def head_summary(figures: HeadFigures) -> str:
    """How well one's own classes are told apart, as Markdown without headings."""
    return "\n\n".join(_head_parts(figures)) + "\n"


def _head_parts(figures: HeadFigures) -> Iterator[str]:
    yield (
        f"Cross-validation in {figures.n_folds} folds, no recording in both training and test: percent of the clips ±\n"
        "binomial standard error (standard error by bootstrap over recordings, whose clips are not independent)."
    )
    recall = [[f"recall of {label}", _size(rate), _cell(rate)] for label, rate in figures.recall.items()]
    yield table(
        ["", "clips of recordings", "percent"],
        [["accuracy", _size(figures.accuracy), _cell(figures.accuracy)], *recall],
    )
    yield from _confusion(figures.labels, figures.confusion)
    if figures.curve:
        *_, most = figures.curve
        yield (
            "Learning curve: accuracy on the same clips with so many recordings of each class in training, drawn\n"
            f"{N_DRAWS} times; a class that has fewer is there with all of them."
        )
        yield table(
            ["recordings of each class", "accuracy"],
            [[f"{size} (all)" if size == most else str(size), _cell(rate)] for size, rate in figures.curve.items()],
        )


def _accuracy_part(systems: Sequence[SystemFigures]) -> Iterator[str]:
    yield (
        "Accuracy on street sounds, each fold: percent of the clips ± binomial standard error (standard error by\n"
        "bootstrap over recordings: clips of one recording are not independent)."
    )
    clips = [_size(rate) for rate in systems[0].accuracy.values()]
    rows = [
        [one.system, str(one.runs), *map(_cell, one.accuracy.values()), _cell(one.mean_accuracy)] for one in systems
    ]
    yield table(
        ["system", "runs", *(f"fold {fold}" for fold in systems[0].accuracy), "mean of folds"],
        [["clips of recordings", "", *clips, ""], *rows],
    )


def _recall_part(systems: Sequence[SystemFigures]) -> Iterator[str]:
    yield "Recall of each label, all folds together:"
    yield table(
        ["label", "clips of recordings", *(one.system for one in systems)],
        [
            [label, _size(rate), *(_cell(one.recall[label]) for one in systems)]
            for label, rate in systems[0].recall.items()
        ],
    )


def _background_part(systems: Sequence[SystemFigures]) -> Iterator[str]:
    yield "## Background"
    yield table(
        ["system", "recall of background", "street sounds taken for background"],
        [[one.system, _cell(one.recall.get(BACKGROUND)), _cell(one.street_missed)] for one in systems],
    )


def _test_part(tests: Sequence[PairedTest]) -> Iterator[str]:
    yield f"## {OURS} against the others, recording by recording"
    yield (
        "Accuracy on the street sounds of each recording, each recording counting once: mean difference in points\n"
        "(above 0, ours is better), and Wilcoxon's signed-rank test, two-sided, on the n recordings where they differ."
    )
    yield table(
        ["against", "recordings", "better", "worse", "n", "mean difference", "statistic", "p"],
        [
            [
                test.system,
                str(test.recordings),
                str(test.better),
                str(test.worse),
                str(test.n),
                f"{100 * test.mean_difference:+.1f}",
                f"{test.statistic:g}",
                f"{test.p_value:.2g}",
            ]
            for test in tests
        ],
    )


def _calibration_part(systems: Sequence[SystemFigures]) -> Iterator[str]:
    yield "## Calibration, each clip, background among them"
    yield (
        "The largest likelihood of a clip against how often it is that of the true label. ECE is the expected\n"
        f"calibration error, in {N_BINS} bins."
    )
    overall = [(one.system, one.calibration) for one in systems]
    yield table(
        ["system", "mean likelihood", "right", "ECE"],
        [[system, f"{c.likelihood:.3f}", f"{c.right:.3f}", f"{c.error:.3f}"] for system, c in overall],
    )
    for one in systems:
        yield f"### Reliability: {one.system}"
        yield table(
            ["likelihood", "clips", "mean likelihood", "right"],
            [
                [f"{b.lower:.1f} to {b.upper:.1f}", f"{b.clips:.0f}", f"{b.likelihood:.3f}", f"{b.right:.3f}"]
                for b in one.calibration.bins
            ],
        )
    yield "### ECE of each label's likelihood"
    yield "Over all clips; most have another label and a likelihood near 0, so it is smaller by nature than the above."
    yield table(
        ["label", *(one.system for one in systems)],
        [[label, *(f"{one.calibration.label_errors[label]:.3f}" for one in systems)] for label in LABELS],
    )


def _confusion_part(figures: SystemFigures) -> Iterator[str]:
    yield f"## What {figures.system} takes for what"
    yield from _confusion(LABELS, figures.confusion)


def _confusion(labels: Sequence[str], confusion: Sequence[Sequence[float]]) -> Iterator[str]:
    yield "Percent of the clips of each true label (rows) that get each label (columns)."
    rows = []
    for label, counts in zip(labels, confusion, strict=True):
        if sum(counts):
            cells = [f"{100 * count / sum(counts):.0f}" if count else "·" for count in counts]
            rows.append([label, f"{sum(counts):.0f}", *cells])
    yield table(["", "clips", *(label[:ABBREVIATION] for label in labels)], rows)


def _size(rate: Rate) -> str:
    return f"{rate.clips} of {rate.recordings}"


def _cell(rate: Rate | None) -> str:
    if rate is None:
        return "–"
    by_recording = "–" if rate.recording_error is None else f"{100 * rate.recording_error:.1f}"
    return f"{100 * rate.value:.1f} ± {100 * rate.binomial_error:.1f} ({by_recording})"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table with its columns in line: the first to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    rule = ["-" * widths[0], *(f"{'-' * (width - 1)}:" for width in widths[1:])]
    lines = [
        [cells[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True))]
        for cells in (head, rule, *rows)
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
