"""What a person reads about scores and a tuning."""

import json
from dataclasses import replace

import pytest

from model_export.detection import Counts, total
from model_export.scenes import Sounding
from model_export.score import score
from model_export.scorecard import score_figures, score_text, tuning_figures, tuning_text
from model_export.tracks import Track
from model_export.tune import Tried, Tuning
from tests.model_export.heard import EVENTS, LABELS, RULE, heard

RULES = dict.fromkeys(LABELS, RULE)


@pytest.fixture
def tracks() -> list[Track]:
    """A siren that is heard, a dog that is not, and a false alarm; 40 s, 30 of them without events."""
    true = [Sounding(2.0, 5.0, "siren"), Sounding(10.0, 13.0, "dog_bark")]
    return [heard(40.0, {"siren": [(2.0, 5.0, 0.9), (30.0, 32.0, 0.9)]}, true=true)]


def test_scores_are_a_table(tracks: list[Track]) -> None:
    """A line for each system, then the first one label by label."""
    ours = score("ours", tracks, RULES, EVENTS)

    text = score_text([ours, replace(ours, system="peer")])

    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    assert text.startswith("# Events in labelled scenes\n")
    assert "1 scenes, 0.01 h, 0.01 h of it without any event; 2 events." in text
    assert [row[0] for row in rows if row[0][0] != "-"] == ["system", "ours", "peer", "label", "dog_bark", "siren"]
    assert rows[2][1:4] == ["0.500", "0.500", "0.500"]
    assert rows[2][-1] == "120.0"
    assert rows[-1][:6] == ["siren", "1", "2", "0.50", "1.00", "0.67"]


def test_without_event_free_time_false_alarms_have_no_rate() -> None:
    """It cannot be computed: a figure of 0 would praise a model that nothing is known of."""
    ours = score("ours", [heard(10.0, {}, true=[Sounding(0.0, 10.0, "siren")])], RULES, EVENTS)

    rows = [line.strip("|").split("|")[-1].strip() for line in score_text([ours]).splitlines() if line[:1] == "|"]
    (figures,) = json.loads(json.dumps(score_figures([ours])))

    assert rows == ["false alarms/h", "-------------:", "–", "false alarms/h", "-------------:", "–", "–"]
    assert (figures["false_alarms_per_hour"], figures["event_free_hours"]) == (None, 0.0)


def test_figures_are_plain_values(tracks: list[Track]) -> None:
    """What stands in the tables, and the counts that it is made of, as JSON."""
    (figures,) = json.loads(json.dumps(score_figures([score("ours", tracks, RULES, EVENTS)])))

    assert figures["event_f1"] == 0.5
    assert figures["counts"]["siren"]["told"] == 2
    assert figures["false_alarms_per_hour"] == pytest.approx(120.0)


@pytest.fixture
def tuning(tracks: list[Track]) -> Tuning:
    counts = score("ours", tracks, RULES, EVENTS).counts
    held_out = counts | {"siren": counts["siren"] + Counts(told=1, segments_told=9, false_alarms=1)}
    taken = Tried("one rule", 1.0, 0.1, counts, held_out, dict.fromkeys(LABELS, 0))
    return Tuning(
        rules=RULES,
        budget=2.0,
        tried=[Tried("the card's", None, None, counts, counts, {}), taken],
        taken=taken,
        event_free_hours=0.25,
        curve={label: {0.5: counts[label], 0.9: counts[label]} for label in LABELS},
    )


def test_a_tuning_tells_what_is_fitted_and_what_is_held_out(tuning: Tuning) -> None:
    """Each way with both figures, the numbers of each label, precision and recall over `on`."""
    text = tuning_text(tuning)

    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    by_second = [f"{total(some.values()).segment_f1:.3f}" for some in (tuning.taken.fitted, tuning.taken.held_out)]
    assert rows[3] == ["one rule", "1", "0.1", "0.500", "0.400", *by_second, "4.0", "8.0", "taken"]
    assert by_second[0] > by_second[1]
    assert ["siren", "0.3", "0.5", "0.3", "0.3", "0.5", "1", "0.33", "1.00", "8.0"] in rows
    assert ["siren", "0.50 / 1.00", "0.50 / 1.00"] in rows
    assert "None keeps the budget" in text  # four an hour


def test_a_tuning_is_told_as_plain_values(tuning: Tuning) -> None:
    """Counts from which all scores follow."""
    figures = json.loads(json.dumps(tuning_figures(tuning)))

    assert figures["taken"] == {"numbers": "one rule", "within": 1.0, "caution": 0.1}
    assert figures["rules"]["siren"]["on"] == 0.5
    assert figures["tried"][1]["fitted"]["siren"]["false_alarms"] == 1
    assert figures["tried"][1]["held_out"]["siren"]["false_alarms"] == 2
    assert figures["curve"]["siren"][1]["on"] == 0.9
