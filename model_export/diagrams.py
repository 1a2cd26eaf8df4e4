"""The pictures of an evaluation: what each system takes for what, and how far its likelihoods can be believed.

In: the `Evaluation` of each data set. Out: PNGs.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from model_export.calibration import N_BINS
from model_export.evaluate import Evaluation, SystemFigures

DOTS_PER_INCH = 130
INK, FAINT, SHADE, BLUE = "#22272e", "#c3c9d2", "#eef0f3", "#2e86ab"
BLUES = LinearSegmentedColormap.from_list("blues", ["white", BLUE, "#17506b"])
CONFUSION_INCHES = (8.4, 7.4)
PANEL_INCHES = (3.9, 5.2)
DARK = 0.4  # a share above this is written in white
POINTS_OF_ALL_CLIPS = 900.0  # area of a dot that stands for all clips, in square points


def draw(evaluations: Mapping[str, Evaluation], folder: Path) -> list[Path]:
    """Write `DATASET-confusion-SYSTEM.png` for each system and `DATASET-calibration.png`; make the folder.

    Args:
        evaluations: by data set.
        folder: where to.

    Returns:
        the files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    figures: dict[str, Figure] = {}
    for dataset, evaluation in evaluations.items():
        for one in evaluation.systems:
            figures[f"{dataset}-confusion-{_file_name(one.system)}.png"] = _confusion(one, evaluation)
        figures[f"{dataset}-calibration.png"] = _calibration(evaluation.systems)
    for name, figure in figures.items():
        figure.savefig(folder / name)
    return [folder / name for name in figures]


def _file_name(system: str) -> str:
    return re.sub(r"[\W_]+", "-", system.lower()).strip("-")  # letters of any script: they tell peers apart


def _figure(size_inches: tuple[float, float]) -> Figure:
    return Figure(figsize=size_inches, dpi=DOTS_PER_INCH, layout="constrained", facecolor="white")


def _confusion(one: SystemFigures, evaluation: Evaluation) -> Figure:
    tested = [row for row in range(len(evaluation.labels)) if sum(one.confusion[row])]
    counts = np.array(one.confusion)[tested]  # (n_tested, n_labels)
    shares = counts / counts.sum(axis=1, keepdims=True)
    figure = _figure(CONFUSION_INCHES)
    axes = figure.subplots()
    axes.imshow(shares, cmap=BLUES, vmin=0.0, vmax=1.0, aspect="auto")
    for row, column in np.argwhere(shares >= 0.005).tolist():
        is_right = tested[row] == column
        axes.text(
            column,
            row,
            f"{100 * shares[row, column]:.0f}",
            ha="center",
            va="center",
            fontsize=9,
            fontweight="bold" if is_right else "normal",
            color="white" if shares[row, column] > DARK else INK,
        )
    names = [label.replace("_", " ") for label in evaluation.labels]
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(tested)), [f"{names[row]} ({sum(one.confusion[row]):.0f})" for row in tested])
    axes.set_xticks(np.arange(len(names) + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(len(tested) + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=1.5)
    axes.tick_params(which="both", length=0, labelcolor=INK, labelsize=9)
    axes.spines[:].set_color(FAINT)
    axes.set_xlabel("taken for", fontsize=9, color=INK)
    axes.set_ylabel("true label (clips)", fontsize=9, color=INK)
    axes.set_title(
        f"What {one.system} takes for what: percent of each label's clips", loc="left", fontsize=11, color=INK
    )
    return figure


def _calibration(systems: Sequence[SystemFigures]) -> Figure:
    """Above, how often a likelihood is right; below, how many clips have it. One column for each system."""
    width, height = PANEL_INCHES
    figure = _figure((width * len(systems), height))
    rows = figure.subplots(
        2, len(systems), sharex=True, sharey="row", squeeze=False, gridspec_kw={"height_ratios": [3.2, 1.0]}
    )
    for reliability, clips, one in zip(*rows, systems, strict=True):
        _draw_reliability(reliability, one)
        _draw_clips(clips, one)
    rows[0, 0].set_ylabel("right (fraction of the clips)", fontsize=9, color=INK)
    rows[1, 0].set_ylabel("clips (percent)", fontsize=9, color=INK)
    return figure


def _draw_reliability(axes: Axes, one: SystemFigures) -> None:
    bins = one.calibration.bins
    _style(axes)
    axes.plot([0, 1], [0, 1], color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
    n_clips = sum(each.clips for each in bins)
    # A dot's area is its share of the clips: a bin of two clips says little, and looks it.
    axes.scatter(
        [each.likelihood for each in bins],
        [each.right for each in bins],
        s=[POINTS_OF_ALL_CLIPS * each.clips / n_clips for each in bins],
        color=BLUE,
        linewidth=0,
        zorder=3,
        clip_on=False,
    )
    axes.set_xlim(0.0, 1.0)
    axes.set_ylim(0.0, 1.0)
    axes.set_xticks(np.linspace(0.0, 1.0, 6))
    axes.annotate("too sure of itself", (0.97, 0.04), ha="right", fontsize=8, color=INK)
    axes.annotate("too modest", (0.03, 0.9), fontsize=8, color=INK)
    axes.set_title(f"{one.system}: calibration error {one.calibration.error:.3f}", loc="left", fontsize=10, color=INK)


def _draw_clips(axes: Axes, one: SystemFigures) -> None:
    bins = one.calibration.bins
    n_clips = sum(each.clips for each in bins)
    _style(axes)
    axes.bar(
        [each.lower for each in bins],
        [100 * each.clips / n_clips for each in bins],
        1 / N_BINS,
        align="edge",
        color=BLUE,
        edgecolor="white",
    )
    axes.set_xlabel("largest likelihood of a clip", fontsize=9, color=INK)


def _style(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)
    axes.tick_params(color=FAINT, labelcolor=INK, labelsize=9)
    axes.grid(color=SHADE, linewidth=0.8)
    axes.set_axisbelow(True)
