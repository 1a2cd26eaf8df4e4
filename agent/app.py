"""The builder of everything between sound and event: configuration in, model, rules and stages out.

Called on the main thread. What it builds belongs to the thread that hears.
"""

import logging
from copy import copy
from dataclasses import dataclass

from agent.accelerator import Choice, choose
from agent.aggregation import Aggregator
from agent.config import Config, EventsConfig, InferenceConfig
from agent.errors import ConfigError
from agent.events import EventDetector
from agent.frontend import FrontEnd, join_period_s
from agent.inference import Classifier
from agent.level import Levels
from agent.litert import CPU, AcceleratorError
from agent.model_card import DEFAULT_MODEL, ModelCard, ModelFolder, event_rules, load_model_folder
from agent.values import EventRule, SoundEvent
from agent.wire import ModelIdentity

log = logging.getLogger(__name__)

AHEAD_S = 60.0  # more than a block of a recording: so far levels may be ahead of windows


@dataclass(frozen=True, slots=True)
class Stages:
    """The stages of one stream: they remember the past, and belong to one thread."""

    front_end: FrontEnd
    aggregator: Aggregator
    detector: EventDetector
    levels: Levels

    def widen(self, factor: int) -> None:
        """From now on, judge a window only each so many hops."""
        self.front_end.widen(factor)
        self.aggregator.widen(factor)

    def change(self, judge: "Judge") -> list[SoundEvent]:
        """From now on, judge by its rules; gives the ends of events whose rule is another."""
        self.aggregator.set_spans(judge.spans_s)
        ends = self.detector.change(judge.rules, update_interval_s=judge.config.events.update_interval_s)
        measured = [self.levels.measured(end) for end in ends]
        self.levels.keep(judge.longest_s)
        return measured


class Judge:
    """A model and the site's rules: everything between sound and event.

    Args:
        config: the effective configuration.
        live: whether sound is heard as it comes: only there `auto` looks for an accelerator. Recordings are heard many
            windows at once, by the CPU, for the same events on every machine.

    Attributes:
        config: the effective configuration.
        model, rules, classifier: what it judges by.
        streams: whether the embedding network runs in its streaming form on the CPU.
        forms: those in which it may run elsewhere, streaming or not; first as on the CPU.

    Raises:
        ModelError: the model folder is not what its card says, or has no classifier.
        ConfigError: the rules, the window hop or the form of inference do not fit the model.
    """

    def __init__(self, config: Config, *, live: bool = False) -> None:
        self.model: ModelFolder = load_model_folder(config.model.path or DEFAULT_MODEL)
        self.model.require_classifier()  # before the rules, which would say that there are no classes
        self.config = config
        card = self.model.card
        self.rules = _rules(card, config.events)
        self.stages(card.front_end.sample_rate_hz)  # what does not fit is said now, not when sound comes
        self.streams = _streams(card, config.inference)
        self.forms = (True, False) if self.streams and config.inference.form == "auto" else (self.streams,)
        asked = config.inference.accelerator
        if asked == "auto" and not live:
            self._choice = Choice(asked, CPU, "sound is not live", self.streams)
        else:
            self._choice = choose(asked, self.model, forms=self.forms)
        try:
            self.classifier = self._classifier()
        except AcceleratorError as error:  # it could a moment ago, in another process
            self._choice = self._choice.given_up(str(error), streaming=self.streams)
            self.classifier = self._classifier()
        if self._choice.refused:
            log.warning("accelerator.refused asked=%s reason=%s", asked, self._choice.reason)

    def _classifier(self) -> Classifier:
        return Classifier(
            self.model,
            num_threads=self.config.inference.num_threads,
            streaming=self._choice.streaming,
            device=self._choice.device,
            cpu_streaming=self.streams,
        )

    @property
    def accelerator(self) -> Choice:
        """Where the embedding network runs now, and why; it changes when an accelerator fails."""
        failure = self.classifier.failure
        if failure is None:
            return self._choice
        return self._choice.given_up(f"failed while it ran: {failure}", streaming=self.streams)

    def under(self, config: Config) -> "Judge":
        """The same model under another configuration of the events and of the broker.

        Raises:
            ConfigError: the rules do not fit the model.
        """
        other = copy(self)
        other.config = config
        other.rules = _rules(self.model.card, config.events)
        return other

    @property
    def spans_s(self) -> tuple[float, ...]:
        """What the likelihoods of each class are summed over; of one that is not told, the least there is."""
        return tuple(self.rules[label].span_s if label in self.rules else 0.0 for label in self.labels)

    @property
    def longest_s(self) -> float:
        """How long an event may be, with what passes until it is told."""
        told_s = (rule.max_duration_s + rule.merge_gap_s + rule.span_s for rule in self.rules.values())
        return max(told_s, default=0.0) + AHEAD_S

    @property
    def labels(self) -> tuple[str, ...]:
        """All classes, background included."""
        return self.model.card.labels

    @property
    def identity(self) -> ModelIdentity:
        """The model, for messages."""
        card = self.model.card
        return ModelIdentity(name=card.name, version=card.version, sha256=self.model.sha256)

    @property
    def window_hop_s(self) -> float:
        """As configured."""
        return self.config.inference.window_hop_s

    @property
    def widest(self) -> int:
        """How many hops may lie between two windows."""
        numbers = self.model.card.front_end
        return max(1, int(numbers.longest_hop_samples / (self.window_hop_s * numbers.sample_rate_hz)))

    @property
    def join_period_s(self) -> int:
        """A stream can be joined each time it is so old."""
        return join_period_s(self.model.card.front_end, window_hop_s=self.window_hop_s)

    def stages(self, sample_rate_hz: int) -> Stages:
        """Fresh stages for a stream at this rate."""
        card, config = self.model.card, self.config
        hop_s = config.inference.window_hop_s
        return Stages(
            FrontEnd(card.front_end, capture_rate_hz=sample_rate_hz, window_hop_s=hop_s),
            Aggregator(spans_s=self.spans_s, window_hop_s=hop_s),
            EventDetector(
                labels=card.labels,
                rules=self.rules,
                sample_rate_hz=sample_rate_hz,
                onset_response_s=card.events.onset_response_s,
                offset_response_s=card.events.offset_response_s,
                update_interval_s=config.events.update_interval_s,
            ),
            Levels(sample_rate_hz, keep_s=self.longest_s),
        )


def _rules(card: ModelCard, events: EventsConfig) -> dict[str, EventRule]:
    """The rule of each class that is told."""
    rules = event_rules(card.events, card.labels, events.default, events.classes)
    rules.pop(card.background_label or "", None)
    for label in events.labels or ():
        if label not in rules:
            raise ConfigError(f"events.labels: unknown class {label!r}, expected some of {', '.join(rules)}")
        if rules[label].is_silent:
            raise ConfigError(f"events.labels: {label} is not told, expected events.classes.{label}.on below 1")
    wanted = rules.keys() if events.labels is None else events.labels
    return {label: rule for label, rule in rules.items() if label in wanted and not rule.is_silent}


def _streams(card: ModelCard, inference: InferenceConfig) -> bool:
    """Whether the embedding network runs in its streaming form."""
    frame_hop_s = card.front_end.hop_length_samples / card.front_end.sample_rate_hz
    if inference.form == "windowed":
        return False
    if card.streaming is None:
        problem = f"model {card.name} has no streaming form"
    elif round(inference.window_hop_s / frame_hop_s) % card.streaming.chunk_frames:
        problem = (
            f"inference.window_hop_s = {inference.window_hop_s}, expected a multiple of the model's chunk, "
            f"{card.streaming.chunk_frames * frame_hop_s} s"
        )
    else:
        return True
    if inference.form == "streaming":
        raise ConfigError(f"inference.form = 'streaming': {problem}")
    return False
