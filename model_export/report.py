"""The text of an evaluation: Markdown whose tables also line up on a terminal.

In: the `Evaluation` of each data set, or the `HeadFigures` of one's own classes. Out: text.
"""

from collections.abc import Iterator, Mapping, Sequence

from model_export.calibration import N_BINS, Rescaling
from model_export.clips import BACKGROUND
from model_export.evaluate import Evaluation, PairedTest, Rate, SystemFigures
from model_export.head import N_DRAWS, HeadFigures
from model_export.probe import Ground, Probe

ABBREVIATION = 5  # letters of a label at the head of a column
TITLES = {
    "us8k": "UrbanSound8K: street sounds and background",
    "esc10": "ESC-10: its ten classes, by an MLP on each frozen embedding",
}


def summary(evaluations: Mapping[str, Evaluation]) -> str:
    """How often what is recognised, as Markdown without headings.

    Args:
        evaluations: by data set.
    """
    parts = [part for dataset, one in evaluations.items() for part in (f"{TITLES[dataset]}.", *_rates(one))]
    return "\n\n".join(parts) + "\n"


def report(evaluations: Mapping[str, Evaluation]) -> str:
    """All figures as Markdown.

    Args:
        evaluations: by data set.
    """
    parts = [part for dataset, one in evaluations.items() for part in (f"# {TITLES[dataset]}", *_all_parts(one))]
    return "\n\n".join(parts) + "\n"


def _rates(evaluation: Evaluation) -> Iterator[str]:
    yield from _accuracy_part(evaluation)
    yield from _recall_part(evaluation.systems)


def _all_parts(evaluation: Evaluation) -> Iterator[str]:
    systems = evaluation.systems
    yield from _rates(evaluation)
    if BACKGROUND in evaluation.labels:
        yield from _background_part(systems)
    if evaluation.tests:
        yield from _test_part(systems[0].system, evaluation.tests)
    yield from _calibration_part(evaluation)
    for one in systems:
        yield f"## What {one.system} takes for what"
        yield from _confusion(evaluation.labels, one.confusion)


def rescaling_summary(rescaling: Rescaling) -> str:
    """What calibration does to each label, as Markdown without headings."""
    folds = ", ".join(map(str, rescaling.folds))
    intro = f"Fitted on {rescaling.clips} clips of the folds {folds}; before its {rescaling.output}, each sum is then"
    rows = [
        [label, f"{scale:.3f}", f"{bias:+.3f}"]
        for label, scale, bias in zip(rescaling.labels, rescaling.scale, rescaling.bias, strict=True)
    ]
    return f"{intro}\n\n{table(['label', 'multiplied by', 'shifted by'], rows)}\n"


def probe_report(probe: Probe) -> str:
    """What gain changes, and what noise and background are taken for, as Markdown."""
    return "\n\n".join([f"# {probe.model}, probed", *_gain_part(probe), *_ground_part(probe.grounds)]) + "\n"


def _gain_part(probe: Probe) -> Iterator[str]:
    if not probe.clips:
        return
    heard = "of which it has heard how many is not known"
    if probe.heard_before is not None:
        heard = f"of which it has heard {probe.heard_before} in training"
    yield "## Gain"
    yield f"How many of {probe.clips} clips ({heard}) and their {probe.windows} windows get another label, in percent:"
    yield table(
        ["gain", "clips", "windows"],
        [
            [f"{one.gain_db:+.0f} dB", f"{100 * one.clips_changed:.1f}", f"{100 * one.windows_changed:.1f}"]
            for one in probe.gains
        ],
    )


def _ground_part(grounds: Sequence[Ground]) -> Iterator[str]:
    yield "## What is none of the classes"
    yield (
        "Windows in percent: background has the largest likelihood; another label reaches the likelihood at which its\n"
        "events start. Levels are relative to a full-scale sine; recordings are scaled by the gain."
    )
    yield table(
        ["sound", "level", "gain", "windows", "background", "told", "otherwise"],
        [
            [
                one.sound,
                "" if one.level_db is None else f"{one.level_db:.0f} dB",
                "" if one.gain_db is None else f"{one.gain_db:+.0f} dB",
                str(one.windows),
                "–" if one.as_background is None else f"{100 * one.as_background:.0f}",
                f"{100 * one.told:.0f}",
                one.otherwise or "",
            ]
            for one in grounds
        ],
    )


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


def _accuracy_part(evaluation: Evaluation) -> Iterator[str]:
    systems = evaluation.systems
    told = "Accuracy on street sounds" if BACKGROUND in evaluation.labels else "Accuracy"
    yield (
        f"{told}, each fold: percent of the clips ± binomial standard error (standard error by\n"
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


def _test_part(first: str, tests: Sequence[PairedTest]) -> Iterator[str]:
    yield f"## {first} against the others, recording by recording"
    yield (
        f"Accuracy as above on each recording, each recording counting once: mean difference in points (above 0,\n"
        f"{first} is better), and Wilcoxon's signed-rank test, two-sided, on the n recordings where they differ."
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


def _calibration_part(evaluation: Evaluation) -> Iterator[str]:
    systems = evaluation.systems
    yield "## Calibration, clip by clip"
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
        [[label, *(f"{one.calibration.label_errors[label]:.3f}" for one in systems)] for label in evaluation.labels],
    )


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
