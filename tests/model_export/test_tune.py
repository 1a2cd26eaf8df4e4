"""Numbers of events, chosen from scenes."""

from collections.abc import Callable
from dataclasses import asdict, replace

import pytest

from agent.errors import UsageError
from agent.model_card import DEFAULT_MODEL, EventNumbers, event_rules, load_model_folder
from agent.values import EventRule
from model_export import tune as tune_module
from model_export.detection import total
from model_export.scenes import Sounding
from model_export.tracks import Track
from model_export.tune import Choice, gather, grid, one_rule, rule_for_each_label, tune, with_rules
from tests.model_export.heard import EVENTS, LABELS, RULE, heard

RULES = dict.fromkeys(LABELS, RULE)
CANDIDATES = [replace(RULE, on=on, off=0.6 * on) for on in (0.3, 0.5, 0.9, 1.0)]
AT_3, AT_5, AT_9, NEVER = range(4)


@pytest.fixture(autouse=True)
def _few_candidates(monkeypatch: pytest.MonkeyPatch) -> None:
    """A grid that differs in `on` alone."""
    monkeypatch.setattr(tune_module, "MIN_DURATION_S", (0.3,))
    monkeypatch.setattr(tune_module, "MERGE_GAP_S", (0.5,))
    monkeypatch.setattr(tune_module, "OFF", (0.6,))
    monkeypatch.setattr(tune_module, "SPAN_S", (0.3,))


def scenes(likelihoods_of: Callable[[int], dict[str, tuple[float, float]]], *, n_folds: int = 3) -> list[Track]:
    """Twelve groups of one scene: a siren and a dog that sound, and later ones that do not, 40 s in all.

    `likelihoods_of` gives for a group, label by label, the likelihood of the true one and of the false one.
    """
    tracks = []
    for group in range(12):
        true = [Sounding(2.0, 5.0, "siren"), Sounding(10.0, 13.0, "dog_bark")]
        loud = {}
        for one, (right, wrong) in zip(true, likelihoods_of(group).values(), strict=True):
            loud[one.label] = [(one.onset_s, one.offset_s, right), (one.onset_s + 20.0, one.offset_s + 20.0, wrong)]
        tracks.append(heard(40.0, loud, true=true, fold=1 + group % n_folds, group=f"group{group}", name=str(group)))
    return tracks


def choices(tracks: list[Track], budget: float) -> tuple[Choice, Choice]:
    """What one rule for all and a rule for each label choose on all of them."""
    evidence = gather(tracks, {label: [*CANDIDATES, RULE] for label in LABELS}, EVENTS)
    everywhere = range(len(evidence.groups))
    return one_rule(evidence, everywhere, budget), rule_for_each_label(evidence, everywhere, budget, 0.0)


def test_the_budget_decides_between_hearing_more_and_crying_wolf_less() -> None:
    """At 0.3 all is heard, with one false alarm in each scene; at 0.5 as much without."""
    tracks = scenes(lambda _: {"siren": (0.7, 0.4), "dog_bark": (0.7, 0.1)})

    assert choices(tracks, budget=2.0)[0] == dict.fromkeys(LABELS, AT_5)
    tracks = scenes(lambda _: {"siren": (0.7, 0.6), "dog_bark": (0.7, 0.1)})
    assert choices(tracks, budget=2.0)[0] == dict.fromkeys(LABELS, AT_9)  # nothing is heard, and nothing is false
    assert choices(tracks, budget=1_000.0)[0] == dict.fromkeys(LABELS, AT_3)


def test_a_label_gets_numbers_of_its_own_where_that_clearly_pays() -> None:
    """The siren's false alarms keep the rule for all high; the dog has none, and is heard at 0.3 in every group."""
    shared, own = choices(scenes(lambda _: {"siren": (0.95, 0.8), "dog_bark": (0.4, 0.1)}), budget=2.0)

    assert shared == dict.fromkeys(LABELS, AT_9)
    assert own == {"siren": AT_9, "dog_bark": AT_3}


def test_what_pays_in_one_group_only_is_not_taken() -> None:
    """One recording of a dog that is heard at 0.3 only says nothing about the next dog."""
    shared, own = choices(
        scenes(lambda group: {"siren": (0.95, 0.8), "dog_bark": (0.4 if group == 5 else 0.95, 0.1)}), budget=2.0
    )

    assert shared == own == dict.fromkeys(LABELS, AT_9)


def test_a_rule_of_ones_own_keeps_the_budget() -> None:
    """To hear the dog at 0.3 would cost a false alarm in each scene; the siren may stay there."""
    tracks = scenes(lambda _: {"siren": (0.95, 0.1), "dog_bark": (0.4, 0.35)})

    assert choices(tracks, budget=2.0)[1] == {"siren": AT_3, "dog_bark": AT_5}
    assert choices(tracks, budget=1_000.0)[1] == {"siren": AT_3, "dog_bark": AT_3}


def test_a_label_that_does_not_pay_is_not_told() -> None:
    """A dog that is told wrongly as surely as rightly makes all worse, in every group: it is not told at any price."""
    tracks = scenes(lambda group: {"siren": (0.95, 0.1), "dog_bark": (0.95 if group % 4 == 0 else 0.2, 0.95)})

    assert choices(tracks, budget=1_000.0)[1] == {"siren": AT_3, "dog_bark": NEVER}


def test_caution_charges_a_label_with_what_the_others_do() -> None:
    """A dog that is quiet at 0.3 may be so by chance where sirens are not: with caution, it is heard at 0.9 only."""
    tracks = scenes(lambda _: {"siren": (0.95, 0.8), "dog_bark": (0.95, 0.1)})
    evidence = gather(tracks, {label: [*CANDIDATES, RULE] for label in LABELS}, EVENTS)
    everywhere = range(len(evidence.groups))
    at_3 = evidence.false_alarms(everywhere, 0.5)[:, AT_3]

    assert at_3.tolist() == [12.0 + 0.5 * 6.0, 0.0 + 0.5 * 6.0]
    assert rule_for_each_label(evidence, everywhere, 2.0, 0.0)["siren"] == AT_9
    assert rule_for_each_label(evidence, everywhere, 2.0, 0.5) == dict.fromkeys(LABELS, AT_9)


def test_the_card_stays_where_nothing_is_better() -> None:
    """Numbers that are right already are kept, and written as they were."""
    tuning = tune(scenes(lambda _: {"siren": (0.9, 0.1), "dog_bark": (0.9, 0.1)}), RULES, EVENTS, budget=2.0)

    assert tuning.taken.name == "the card's"
    assert tuning.rules == RULES
    assert total(tuning.taken.held_out.values()).event_f1 == 1.0
    assert tuning.event_free_hours == pytest.approx(12 * 30 / 3600)


def test_scores_are_told_for_scenes_that_were_not_chosen_on() -> None:
    """In the third fold the siren's false alarm is surer: what the others choose is wrong there, and that is told."""
    tuning = tune(
        scenes(lambda group: {"siren": (0.95, 0.8 if group % 3 == 2 else 0.35), "dog_bark": (0.95, 0.1)}),
        {label: replace(RULE, on=0.3, off=0.2) for label in LABELS},
        EVENTS,
        budget=2.0,
    )

    (one,) = (tried for tried in tuning.tried if tried.name == "one rule")
    assert total(one.fitted.values()).false_alarms == 0
    assert total(one.held_out.values()).false_alarms == 4  # in the four groups of that fold
    assert total(one.held_out.values()).true == total(one.fitted.values()).true == 24


def test_a_label_that_is_more_often_wrong_than_right_elsewhere_is_not_told() -> None:
    """Dogs are heard so much more than sirens that nine right of twenty would pay; who reads of one expects a dog."""
    tuning = tune(
        scenes(
            lambda group: {
                "siren": (0.95 if group < 4 else 0.1, 0.1),
                "dog_bark": (0.95 if group < 9 else 0.1, 0.95 if group != 8 else 0.1),
            }
        ),
        RULES,
        EVENTS,
        budget=1_000.0,
    )

    for one in tuning.tried:
        silent = one.name == "a rule for each label"
        assert (one.fitted["dog_bark"].told, one.held_out["dog_bark"].told) == ((0, 0) if silent else (20, 20))
        assert one.held_out["dog_bark"].true == 12
        assert one.fitted["siren"].hits == 4


def test_a_label_that_is_told_is_held_out_in_every_fold() -> None:
    """Two folds have dogs, the third has what passes for one. All three tell dogs; without one of the two, none would.

    What dogs are worth elsewhere is said of all of them, not of the folds alone whose rest happens to tell them.
    """
    dogs = {0: (0.95, 0.1), 1: (0.95, 0.1), 2: (0.2, 0.95)}
    tracks = scenes(lambda group: {"siren": (0.95, 0.1), "dog_bark": dogs[group % 3]})

    tuning = tune(tracks, RULES, EVENTS, budget=1_000.0)

    of_labels = [one for one in tuning.tried if one.name == "a rule for each label"]
    assert {one.held_out["dog_bark"].told for one in of_labels} == {12}


def test_a_fold_that_says_a_label_often_counts_no_more_than_the_others() -> None:
    """One of one dog is right in the first fold, four of eight in the second, two of six in the third: dogs are told.

    All together, seven of fifteen would be too few.
    """
    right = {0, 1, 4, 7, 10, 2, 5}
    tracks = scenes(
        lambda group: {
            "siren": (0.95 if group < 4 else 0.1, 0.1),
            "dog_bark": (0.95 if group in right else 0.1, 0.95 if group % 3 else 0.1),
        }
    )

    tuning = tune(tracks, RULES, EVENTS, budget=1_000.0)

    for one in tuning.tried:
        assert (one.held_out["dog_bark"].hits, one.held_out["dog_bark"].told) == (7, 15)


def test_the_longest_duration_of_each_label_stays() -> None:
    """It is no candidate: a siren that may go on for ten minutes says nothing about dogs."""
    rules = {label: replace(RULE, on=0.3, off=0.2) for label in LABELS}
    rules["siren"] = replace(rules["siren"], max_duration_s=600.0)

    tuning = tune(scenes(lambda _: {"siren": (0.9, 0.4), "dog_bark": (0.9, 0.4)}), rules, EVENTS, budget=2.0)

    assert tuning.taken.name != "the card's"
    assert {label: rule.max_duration_s for label, rule in tuning.rules.items()} == {"siren": 600.0, "dog_bark": 60.0}


def test_where_none_keeps_the_budget_the_quietest_is_taken() -> None:
    """A false alarm that is as sure as can be cannot be chosen away."""
    tuning = tune(scenes(lambda _: {"siren": (1.0, 1.0), "dog_bark": (0.9, 0.1)}), RULES, EVENTS, budget=2.0)

    assert total(tuning.taken.held_out.values()).false_alarms == 12


def test_the_curve_goes_over_on() -> None:
    """From 0.8 on the dog is missed, below it is heard."""
    tuning = tune(scenes(lambda _: {"siren": (0.95, 0.1), "dog_bark": (0.75, 0.1)}), RULES, EVENTS, budget=2.0)

    assert {on: counts.recall for on, counts in tuning.curve["dog_bark"].items()} == {
        on: 1.0 if on < 0.75 else 0.0 for on in tune_module.ON
    }


def test_scenes_of_one_group_are_refused() -> None:
    """What is chosen could not be judged."""
    with pytest.raises(UsageError, match="scenes of 1 group, expected two or more"):
        tune([heard(5.0, {}, group="same"), heard(5.0, {}, group="same")], RULES, EVENTS, budget=2.0)


def test_every_candidate_is_a_rule() -> None:
    """`off` never lies above `on`, and all have the longest duration that is asked for."""
    assert len(grid(60.0)) == len(set(grid(60.0)))
    for rule in grid(60.0):
        assert rule.off <= rule.on
        assert rule.max_duration_s == 60.0


def test_rules_come_back_from_the_card() -> None:
    """What most labels share is the default; the agent reads the same rules again."""
    card = load_model_folder(DEFAULT_MODEL).card
    own = EventRule(0.7, 0.4, 0.1, 2.0, 60.0, 0.5)
    rules = dict.fromkeys(card.labels[:-1], RULE) | {"siren": own}

    written = with_rules(card.events, rules)

    assert written.default.model_dump() == asdict(RULE)
    assert written.classes == {"siren": EventNumbers(on=0.7, off=0.4, min_duration_s=0.1, merge_gap_s=2.0, span_s=0.5)}
    read = event_rules(written, card.labels, EventNumbers(), {})
    assert {label: read[label] for label in rules} == rules


def test_what_is_not_told_is_nobodys_default() -> None:
    """However many labels are silent, a label that the card says nothing else of is told."""
    card = load_model_folder(DEFAULT_MODEL).card
    silent = replace(RULE, on=1.0)

    written = with_rules(card.events, {"siren": RULE, "dog_bark": silent, "drilling": silent})

    assert written.default.on == RULE.on
    assert written.classes == {label: EventNumbers(on=1.0) for label in ("dog_bark", "drilling")}
