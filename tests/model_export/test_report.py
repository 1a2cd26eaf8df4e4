"""The text of an evaluation."""

from dataclasses import replace

import numpy as np

from model_export.calibration import Rescaling
from model_export.evaluate import Rate, evaluate
from model_export.head import HeadFigures
from model_export.probe import Gain, Ground, Probe
from model_export.report import head_summary, probe_report, report, rescaling_summary, summary, table
from model_export.results import OURS, FoldPredictions
from tests.model_export.predicted import predicted

ROWS = [
    ("a", "siren", "siren", 0.9),
    ("a", "siren", "siren", 0.9),
    ("b", "siren", "drilling", 0.9),
    ("c", "dog_bark", "dog_bark", 0.9),
    ("d", "background", "background", 0.9),
]
WORSE = [("a", "siren", "drilling", 0.9), *ROWS[1:]]


def told_apart(system: str = OURS) -> FoldPredictions:
    """One run on two clips of two labels, one of them right."""
    return replace(
        predicted([("a", "siren", "siren", 0.9)] * 2, system=system),
        labels=("rain", "rooster"),
        recordings=("a", "b"),
        targets=np.array([0, 1]),
        likelihoods=np.array([[0.8, 0.7], [0.8, 0.7]]),
    )


def lines_of(text: str) -> list[str]:
    """Lines with single blanks."""
    return [" ".join(line.split()) for line in text.splitlines()]


def test_columns_line_up() -> None:
    """The table is Markdown, and can be read as it stands."""
    assert table(["name", "n"], [["a", "100"], ["longer", "2"]]).splitlines() == [
        "| name   |   n |",
        "| ------ | --: |",
        "| a      | 100 |",
        "| longer |   2 |",
    ]


def test_every_figure_has_its_place() -> None:
    """Accuracy and recall with their errors, background, the test with its n, calibration and confusions."""
    text = report({"us8k": evaluate([predicted(ROWS), predicted(WORSE, system="peer")])})

    lines = lines_of(text)
    assert "| clips of recordings | | 4 of 3 | |" in lines
    assert any(line.startswith("| l3-edge int8 | 1 | 75.0 ± 21.7 (") for line in lines)
    assert any(line.startswith("| siren | 3 of 2 | 66.7 ± 27.2 (") for line in lines)
    assert "| l3-edge int8 | 100.0 ± 0.0 (–) | 0.0 ± 0.0 (0.0) |" in lines  # background
    assert "| peer | 3 | 1 | 0 | 1 | +16.7 | 0 | 1 |" in lines
    assert "| l3-edge int8 | 0.900 | 0.800 | 0.100 |" in lines  # calibration
    assert "| 0.9 to 1.0 | 5 | 0.900 | 0.800 |" in lines
    assert "| siren | 3 | · | · | · | · | 33 | · | · | · | 67 | · | · |" in lines


def test_the_summary_is_the_first_part() -> None:
    """For a model card: accuracy and recall of each data set, without headings of its own."""
    evaluation = evaluate([predicted(ROWS)])

    text = summary({"us8k": evaluation})

    _, _, tables = text.partition("\n\n")
    assert tables.rstrip() in report({"us8k": evaluation})
    assert "| siren | 3 of 2 |" in "\n".join(lines_of(text))
    assert "#" not in text


def test_without_background_clips_nothing_is_said_of_them() -> None:
    """No recall is invented for what was not in the test."""
    text = report({"us8k": evaluate([predicted(ROWS[:4])])})

    assert "| l3-edge int8 | – | 0.0 ± 0.0 (0.0) |" in lines_of(text)


def test_a_data_set_without_background_has_no_such_part() -> None:
    """ESC-10's ten classes are all to be told apart; its tables come after UrbanSound8K's, by the same rules."""
    text = report({"us8k": evaluate([predicted(ROWS)]), "esc10": evaluate([told_apart(), told_apart("yamnet + MLP")])})

    street, _, ten = text.partition("# ESC-10")
    assert "## Background" in street
    assert "Background" not in ten
    assert "Accuracy, each fold" in ten
    assert "## l3-edge int8 against the others" in ten
    assert any(line.startswith("| l3-edge int8 | 1 | 50.0 ± 35.4 (") for line in lines_of(ten))
    assert "| rain | 1 | 100 | · |" in lines_of(ten)


def test_what_calibration_does_is_told() -> None:
    """For each label what it is multiplied and shifted by, and what that was fitted on."""
    rescaling = Rescaling("sigmoid", ("rain", "siren"), (0.5, 1.25), (-0.1, 0.0), (1, 2), 40)

    text = rescaling_summary(rescaling)

    assert text.startswith("Fitted on 40 clips of the folds 1, 2; before its sigmoid")
    assert "| siren | 1.250 | +0.000 |" in lines_of(text)


def test_a_probe_is_told() -> None:
    """What gain changes, and for each sound how often it is background and what it is taken for otherwise."""
    grounds = [Ground("pink", -40.0, None, 50, 0.9, 0.06, "drilling"), Ground("speech", None, 20.0, 7, None, 0.0, None)]
    found = Probe("mine 2", 10, 200, 4, [Gain(-20.0, 0.1, 0.255)], grounds)

    lines = lines_of(probe_report(found))

    assert "How many of 10 clips (of which it has heard 4 in training) and their 200 windows" in " ".join(lines)
    assert "| -20 dB | 10.0 | 25.5 |" in lines
    assert "| pink | -40 dB | | 50 | 90 | 6 | drilling |" in lines
    assert "| speech | | +20 dB | 7 | – | 0 | |" in lines
    assert "Gain" not in probe_report(replace(found, clips=0))


def test_own_classes_and_their_learning_curve_are_told() -> None:
    """Accuracy, recall and confusions of labels that are not ours, and the curve to its end."""
    rate = Rate(value=0.75, clips=8, recordings=4, binomial_error=0.15, recording_error=0.2)
    figures = HeadFigures(
        labels=("church_bell", "tram"),
        n_folds=2,
        accuracy=rate,
        recall={"church_bell": replace(rate, value=1.0), "tram": replace(rate, value=0.5)},
        confusion=[[4.0, 0.0], [2.0, 2.0]],
        curve={1: replace(rate, value=0.6), 2: rate},
    )

    lines = lines_of(head_summary(figures))

    assert "| accuracy | 8 of 4 | 75.0 ± 15.0 (20.0) |" in lines
    assert "| recall of tram | 8 of 4 | 50.0 ± 15.0 (20.0) |" in lines
    assert "| tram | 4 | 50 | 50 |" in lines
    assert "| 1 | 60.0 ± 15.0 (20.0) |" in lines
    assert "| 2 (all) | 75.0 ± 15.0 (20.0) |" in lines
    assert not any("urve" in line for line in lines_of(head_summary(replace(figures, curve={}))))
