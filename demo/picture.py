"""The demo's picture: what the street sounded like, what the network made of it, which events came out.

In: the samples, what truly sounds in them, and the events that were found. Out: a PNG. The agent's own front end,
networks and aggregation compute what is drawn.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from agent.app import Judge
from agent.config import Config
from agent.frontend import mel_filters
from agent.model_card import FrontEndNumbers
from agent.values import AudioBlock, FloatArray, Window
from demo.report import Heard
from demo.scene import Sounding

SIZE_INCHES = (13.0, 8.6)
DOTS_PER_INCH = 130
SHOWN_DB = (-95.0, -25.0)
PITCHES_HZ = (125, 250, 500, 1_000, 2_000, 4_000, 7_000)
INK, FAINT, SHADE = "#22272e", "#c3c9d2", "#eef0f3"
COLOURS = ("#d1495b", "#c77d0a", "#2e86ab", "#3a7d44", "#7b4ea3", "#8c564b", "#c44f93", "#566373", "#148a8a", "#7f7f15")
BAR_HEIGHT = 0.38
WIDE_BAR_S = 2.0  # a number fits into it


@dataclass(frozen=True, slots=True)
class Hearing:
    """A recording as the network hears it.

    Attributes:
        log_mel: float32 (n_frames, n_mels), decibels relative to a full-scale sine.
        duration_s: what the frames cover.
        times_s: float64 (n_segments, n_classes), the middle of what each likelihood was summed over.
        likelihoods: float32 (n_segments, n_classes), the mean over each class's span of windows.
    """

    log_mel: FloatArray
    duration_s: float
    times_s: NDArray[np.float64]
    likelihoods: FloatArray


def listen(samples: FloatArray, sample_rate_hz: int, judge: Judge) -> Hearing:
    """Run a recording through front end, networks and aggregation, and keep what they say."""
    stages = judge.stages(sample_rate_hz)
    block = AudioBlock(samples, first_sample=0)
    windows = [*stages.front_end.push(block), *stages.front_end.flush()]
    segments = [segment for window in windows for segment in stages.aggregator.push(judge.classifier.predict(window))]
    numbers = judge.model.card.front_end
    log_mel = _joined(windows, numbers, sample_rate_hz)
    return Hearing(
        log_mel=log_mel,
        duration_s=len(log_mel) * numbers.hop_length_samples / numbers.sample_rate_hz,
        times_s=np.stack([(segment.onsets + segment.offset) / 2 / sample_rate_hz for segment in segments]),
        likelihoods=np.stack([segment.likelihoods for segment in segments]),
    )


def _joined(windows: Sequence[Window], numbers: FrontEndNumbers, sample_rate_hz: int) -> FloatArray:
    """The frames of overlapping windows, each once: float32 (n_frames, n_mels)."""
    frame_hop = numbers.hop_length_samples * sample_rate_hz / numbers.sample_rate_hz  # at the capture rate
    parts, n_frames = [], 0
    for window in windows:
        first = round(window.first_sample / frame_hop)
        parts.append(window.log_mel[n_frames - first :])
        n_frames = first + len(window.log_mel)
    return np.concatenate(parts)


def draw(
    file: Path, samples: FloatArray, sample_rate_hz: int, soundings: Sequence[Sounding], events: Sequence[Heard]
) -> None:
    """Write the picture; its folder is made where it is missing."""
    judge = Judge(Config())
    hearing = listen(samples, sample_rate_hz, judge)
    colours = dict(zip(_shown_labels(soundings, events), itertools.cycle(COLOURS)))
    figure = Figure(figsize=SIZE_INCHES, dpi=DOTS_PER_INCH, layout="constrained", facecolor="white")
    spectrogram, likelihoods, bars = figure.subplots(
        3, 1, sharex=True, gridspec_kw={"height_ratios": [3.0, 2.6, 0.4 * len(colours) + 0.4]}
    )
    for axes in (spectrogram, likelihoods, bars):
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(FAINT)
        axes.tick_params(color=FAINT, labelcolor=INK, labelsize=9)
    _draw_spectrogram(spectrogram, hearing, judge.model.card.front_end)
    _draw_likelihoods(likelihoods, hearing, judge, soundings, colours)
    _draw_bars(bars, soundings, events, colours)
    bars.set_xlim(0.0, len(samples) / sample_rate_hz)
    bars.set_xlabel("time (s)", fontsize=9, color=INK)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file)


def _shown_labels(soundings: Sequence[Sounding], events: Sequence[Heard]) -> dict[str, None]:
    """The classes that sound, in their order, and then those that were heard besides."""
    first = {one.label: None for one in sorted(soundings, key=lambda one: one.onset_s)}
    return first | {event.label: None for event in sorted(events, key=lambda event: event.onset_s)}


def _draw_spectrogram(axes: Axes, hearing: Hearing, numbers: FrontEndNumbers) -> None:
    bin_hz = np.fft.rfftfreq(numbers.fft_length, 1.0 / numbers.sample_rate_hz)
    band_hz = bin_hz[mel_filters(numbers).argmax(axis=0)]  # (n_mels,)
    image = axes.imshow(
        hearing.log_mel.T,
        origin="lower",
        aspect="auto",
        extent=(0.0, hearing.duration_s, -0.5, numbers.n_mels - 0.5),
        cmap="magma",
        vmin=SHOWN_DB[0],
        vmax=SHOWN_DB[1],
        interpolation="nearest",
    )
    axes.set_yticks(np.interp(PITCHES_HZ, band_hz, np.arange(numbers.n_mels)), [f"{hz:,}" for hz in PITCHES_HZ])
    axes.set_ylabel("frequency (Hz), mel scale", fontsize=9, color=INK)
    axes.set_title("What the network is given: the mel spectrogram of the street", loc="left", fontsize=11, color=INK)
    scale = axes.figure.colorbar(image, cax=axes.inset_axes((1.008, 0.0, 0.010, 1.0)))
    scale.set_label("level (dB, full-scale sine = 0)", color=INK, fontsize=9)
    scale.outline.set_visible(False)
    scale.ax.tick_params(labelsize=8, color=FAINT, labelcolor=INK)


def _draw_likelihoods(
    axes: Axes, hearing: Hearing, judge: Judge, soundings: Sequence[Sounding], colours: Mapping[str, str]
) -> None:
    for one in soundings:
        axes.axvspan(one.onset_s, one.onset_s + one.duration_s, color=SHADE, linewidth=0)
    starts: dict[float, list[str]] = {}
    for label in filter(judge.rules.__contains__, colours):
        starts.setdefault(judge.rules[label].on, []).append(label)
    for on, labels in starts.items():
        axes.axhline(on, color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
        axes.annotate(
            "\n".join(["starts:", *labels]),
            (1.0, on),
            xycoords=axes.get_yaxis_transform(),
            xytext=(4, 3),
            textcoords="offset points",
            va="top",
            fontsize=7,
            color=INK,
        )
    for label, colour in colours.items():
        column = judge.labels.index(label)
        times_s, track = hearing.times_s[:, column], hearing.likelihoods[:, column]
        axes.plot(times_s, track, color=colour, linewidth=1.7)
        highest = int(track.argmax())
        if label in judge.rules and track[highest] >= judge.rules[label].on:
            axes.annotate(
                label,
                (times_s[highest], track[highest]),
                xytext=(0, 4),
                textcoords="offset points",
                ha="center",
                fontsize=9,
                fontweight="bold",
                color=colour,
            )
    axes.set_ylim(0.0, 1.14)
    axes.set_yticks([0.0, 0.2, 0.4, 0.6, 0.8, 1.0])
    axes.set_ylabel("likelihood (0 to 1)", fontsize=9, color=INK)
    axes.set_title(
        "What it answers: likelihoods, averaged over the span of each class; dashed: where its events start",
        loc="left",
        fontsize=11,
        color=INK,
    )


def _draw_bars(axes: Axes, soundings: Sequence[Sounding], events: Sequence[Heard], colours: Mapping[str, str]) -> None:
    rows = {label: row for row, label in enumerate(colours)}
    for one in soundings:
        axes.barh(rows[one.label] - BAR_HEIGHT / 2, one.duration_s, BAR_HEIGHT, left=one.onset_s, color=FAINT)
    for event in events:
        row, length_s = rows[event.label] + BAR_HEIGHT / 2, event.offset_s - event.onset_s
        axes.barh(row, length_s, BAR_HEIGHT, left=event.onset_s, color=colours[event.label])
        is_wide = length_s >= WIDE_BAR_S
        axes.annotate(
            f"{event.likelihood_peak:.2f}",
            (event.onset_s + length_s / 2 if is_wide else event.offset_s, row),
            xytext=(0 if is_wide else 3, -0.5),
            textcoords="offset points",
            ha="center" if is_wide else "left",
            va="center",
            fontsize=8,
            color="white" if is_wide else INK,
        )
    axes.set_yticks(range(len(rows)), list(rows))
    for tick, colour in zip(axes.get_yticklabels(), colours.values(), strict=True):
        tick.set(color=colour, fontweight="bold")
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_title(
        "What was in the street (grey), and the events told (coloured, with peak likelihood), short pauses included",
        loc="left",
        fontsize=11,
        color=INK,
    )
    axes.grid(axis="x", color=FAINT, linewidth=0.6, alpha=0.6)
    axes.set_axisbelow(True)
