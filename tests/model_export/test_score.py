"""Scores of a system on labelled scenes, and the field's own tools on the same."""

import json
import subprocess
import venv
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent.errors import UsageError
from model_export.detection import Counts
from model_export.scenes import Sounding
from model_export.score import best_single_threshold, by_label, score, write_for_tools
from model_export.tracks import Track, at_threshold
from tests.model_export.heard import EVENTS, LABELS, RULE, heard

RULES = dict.fromkeys(LABELS, RULE)
# sed_scores_eval 0.0.4 cannot read its own tables with pandas 3, whose arrays are read-only.
TOOLS = ("sed_eval==0.2.1", "sed_scores_eval==0.0.4", "pandas<3")
MEASURE = """
import json, sys
from pathlib import Path
import dcase_util, sed_eval
from sed_scores_eval.intersection_based import psds
import pandas

folder, durations = Path(sys.argv[1]), json.loads(sys.argv[2])
labels = json.loads(sys.argv[3])

def events(part, name):
    lines = [line.split("\\t") for line in (folder / part / f"{name}.tsv").read_text().splitlines()]
    return [(float(onset), float(offset), label) for onset, offset, label in lines]

def container(part, name):
    return dcase_util.containers.MetaDataContainer([
        {"filename": name, "onset": onset, "offset": offset, "event_label": label}
        for onset, offset, label in events(part, name)
    ])

by_event = sed_eval.sound_event.EventBasedMetrics(labels, evaluate_offset=False, t_collar=1.0)
by_second = sed_eval.sound_event.SegmentBasedMetrics(labels, time_resolution=1.0)
for name, duration in durations.items():
    by_event.evaluate(container("true", name), container("told", name))
    by_second.evaluate(container("true", name), container("told", name), evaluated_length_seconds=duration)
scores = {name: pandas.read_csv(folder / "scores" / f"{name}.tsv", sep="\\t") for name in durations}
truth = {name: events("true", name) for name in durations}
precise = dict(dtc_threshold=0.7, gtc_threshold=0.7, alpha_st=1.0)
of_label = dict(dtc_threshold=0.1, gtc_threshold=0.1, cttc_threshold=0.3, alpha_ct=0.5, alpha_st=1.0)
print(json.dumps({
    "event": {label: by_event.results_class_wise_metrics()[label]["f_measure"]["f_measure"] for label in labels},
    "event_all": by_event.results_overall_metrics()["f_measure"]["f_measure"],
    "segment": {label: by_second.results_class_wise_metrics()[label]["f_measure"]["f_measure"] for label in labels},
    "segment_all": by_second.results_overall_metrics()["f_measure"]["f_measure"],
    "error_rate": by_second.results_overall_metrics()["error_rate"]["error_rate"],
    "psds1": psds(scores, truth, durations, **precise)[0],
    "psds2": psds(scores, truth, durations, **of_label)[0],
}))
"""


def busy_tracks() -> list[Track]:
    """Scenes of 30.5 s in which much is right, and much is not; in one of them nothing sounds."""
    rng = np.random.default_rng(4)
    tracks = []
    for number in range(8):
        true, loud = [], {}
        for label in LABELS:
            stretches = []
            at = float(rng.uniform(0.5, 3.0))
            while number != 3 and at < 26.0:
                length = float(rng.uniform(0.3, 6.0))
                true.append(Sounding(round(at, 3), round(at + length, 3), label))
                late = float(rng.choice([0.0, 0.0, 0.1, 1.3]))
                stretches.append((at + late, at + late + length * float(rng.uniform(0.9, 1.1)), rng.uniform(0.2, 0.9)))
                at += length + float(rng.uniform(1.0, 5.0))
            stretches.append((28.0, 29.0, float(rng.uniform(0.0, 1.0))))
            loud[label] = [(start, stop, float(likelihood)) for start, stop, likelihood in stretches]
        tracks.append(heard(30.5, loud, true=true, name=f"scene{number}"))
    return tracks


def test_a_perfect_system_has_perfect_scores() -> None:
    """What sounds is told, nothing else is, and no threshold is wrong."""
    true = [Sounding(2.0, 6.0, "siren"), Sounding(9.0, 11.0, "dog_bark")]
    track = heard(20.0, {"siren": [(2.0, 6.0, 0.9)], "dog_bark": [(9.0, 11.0, 0.9)]}, true=true)

    scored = score("perfect", [track, heard(20.0, {}, name="quiet")], RULES, EVENTS)

    assert scored.counts["siren"] == Counts(1, 1, 1, scored.counts["siren"].segment_hits, 5, 4)  # ends a hop late
    assert scored.total.event_f1 == 1.0
    assert scored.false_alarms_per_hour(scored.total) == 0.0
    assert scored.psds2 == pytest.approx(1.0)
    assert scored.scenes == 2
    assert scored.hours == pytest.approx(40 / 3600)
    assert scored.event_free_hours == pytest.approx((40 - 6 - 4) / 3600)


def test_false_alarms_are_per_event_free_hour() -> None:
    """One false alarm in 36 s without any event are a hundred an hour; a label that no rule tells is missed."""
    tracks = [
        heard(36.0, {"siren": [(10.0, 12.0, 0.9)]}),
        heard(10.0, {}, true=[Sounding(0.0, 10.0, "dog_bark")], name="dogs"),
    ]

    scored = score("nervous", tracks, {"siren": RULE}, EVENTS)

    assert scored.false_alarms_per_hour(scored.total) == pytest.approx(100.0)
    assert scored.counts["dog_bark"].true == 1
    assert scored.counts["dog_bark"].recall == 0.0


def test_the_best_threshold_of_a_peer_is_found() -> None:
    """What sounds is at 0.35, what does not at 0.25: a threshold of 0.3 tells them apart."""
    true = [Sounding(2.0, 6.0, "siren"), Sounding(12.0, 15.0, "dog_bark")]
    loud = {
        "siren": [(2.0, 6.0, 0.35), (20.0, 23.0, 0.25)],
        "dog_bark": [(12.0, 15.0, 0.35), (25.0, 28.0, 0.25)],
    }

    assert best_single_threshold([heard(30.0, loud, true=true)], RULES, EVENTS) == 0.3


def test_the_best_threshold_is_best_for_what_is_scored() -> None:
    """With all that a peer does not know and so misses, finding one siren more is worth three false ones."""
    sirens = [Sounding(2.0, 5.0, "siren"), Sounding(10.0, 13.0, "siren")]
    dogs = [Sounding(60.0 + 4 * number, 61.0 + 4 * number, "dog_bark") for number in range(8)]
    loud = [
        (2.0, 5.0, 0.9),
        (10.0, 13.0, 0.35),
        *((20.0 + 10 * number, 23.0 + 10 * number, 0.35) for number in range(3)),
    ]
    tracks = [heard(100.0, {"siren": loud}, true=[*sirens, *dogs])]

    best = best_single_threshold(tracks, {"siren": RULE}, EVENTS)

    low, high = (score("peer", tracks, {"siren": at_threshold(RULE, on)}, EVENTS).total for on in (best, 0.4))
    assert (low.hits, low.told, high.hits, high.told) == (2, 5, 1, 1)
    assert low.event_f1 > high.event_f1


def test_off_stays_in_proportion() -> None:
    """Another `on` with the same distance to `off`, and the same durations."""
    rule = at_threshold(RULE, 0.1)

    assert rule.on == 0.1
    assert rule.off == pytest.approx(0.06)
    assert (rule.min_duration_s, rule.merge_gap_s) == (RULE.min_duration_s, RULE.merge_gap_s)


def test_soundings_are_sorted_by_label() -> None:
    """Each label with its own."""
    one, other = Sounding(0.0, 1.0, "siren"), Sounding(2.0, 3.0, "dog_bark")

    assert by_label([one, other, one]) == {"siren": [one, one], "dog_bark": [other]}


def test_files_for_other_tools_are_plain_tables(tmp_path: Path) -> None:
    """Event lists without a head, and a table of scores with one."""
    track = heard(5.0, {"siren": [(1.0, 3.0, 0.9)]}, true=[Sounding(1.0, 3.0, "siren")], name="deep/scene")

    write_for_tools([track], RULES, EVENTS, tmp_path)

    assert (tmp_path / "true" / "deep" / "scene.tsv").read_text() == "1.000\t3.000\tsiren\n"
    assert (tmp_path / "told" / "deep" / "scene.tsv").read_text().endswith("\tsiren\n")
    head, first, *_ = (tmp_path / "scores" / "deep" / "scene.tsv").read_text().splitlines()
    assert head.split("\t") == ["onset", "offset", *LABELS]
    assert [float(cell) for cell in first.split("\t")] == [0.0, 0.55, 0.0, 0.0]
    with pytest.raises(UsageError, match="--out"):
        write_for_tools([track], RULES, EVENTS, tmp_path / "true" / "deep" / "scene.tsv")


@pytest.fixture
def fields_python(tmp_path: Path) -> str:
    """The Python of an environment with the field's tools; `model_export/psds.py` says why they are not in ours."""
    try:
        venv.create(tmp_path / "env", with_pip=True)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no environment with pip can be made: {error}")
    python = str(tmp_path / "env" / "bin" / "python")
    pip = [python, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--retries=1", *TOOLS]
    installed = subprocess.run(pip, capture_output=True, text=True, check=False)
    if installed.returncode:  # sed_scores_eval is compiled while it is installed
        pytest.skip(f"{', '.join(TOOLS)} cannot be installed: {installed.stderr.strip().splitlines()[-1:]}")
    return python


@pytest.mark.slow
@pytest.mark.timeout(1_200)
def test_the_fields_tools_compute_the_same(fields_python: str, tmp_path: Path) -> None:
    """sed_eval and sed_scores_eval, on the files that `score --out` writes, give the figures that `score` prints."""
    tracks = busy_tracks()
    write_for_tools(tracks, RULES, EVENTS, tmp_path / "files")
    durations = {track.scene.name: track.duration_s for track in tracks}

    command = [fields_python, "-c", MEASURE, str(tmp_path / "files"), json.dumps(durations), json.dumps(LABELS)]
    measured = subprocess.run(command, capture_output=True, text=True, check=False)

    assert measured.returncode == 0, measured.stderr
    theirs: dict[str, Any] = json.loads(measured.stdout.splitlines()[-1])
    ours = score("ours", tracks, RULES, EVENTS)
    assert 0.2 < ours.total.event_f1 < 0.9
    assert 0.05 < ours.psds1 < ours.psds2 < 0.95
    for label in LABELS:
        assert ours.counts[label].event_f1 == pytest.approx(theirs["event"][label])
        assert ours.counts[label].segment_f1 == pytest.approx(theirs["segment"][label])
    assert ours.total.event_f1 == pytest.approx(theirs["event_all"])
    assert ours.total.segment_f1 == pytest.approx(theirs["segment_all"])
    assert ours.errors.rate == pytest.approx(theirs["error_rate"])
    assert ours.psds1 == pytest.approx(theirs["psds1"])
    assert ours.psds2 == pytest.approx(theirs["psds2"])
