"""`urbansound-model`: from recordings to a model (`build`, or step by step; `head`), and how good it is.

Events: `soundscapes` makes labelled scenes, `score` judges a model on them, `tune` sets its numbers.

`fetch` and `import-openl3` bring in the weights of others.

Heavy libraries are imported by the command that needs them. Results go to standard output, everything else to standard
error; exit codes as in `agent.cli`.
"""

import argparse
import json
import logging
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from agent.errors import AgentError, OutputError, UsageError
from agent.model_card import DEFAULT_MODEL
from agent.printout import let_go, open_closed_streams, put, say, take_any_text
from agent.stop import ended_by_sigterm
from model_export import clips as clip_lists
from model_export import openl3
from model_export.arguments import argument_parser

if TYPE_CHECKING:
    from agent.model_card import ModelFolder
    from model_export.calibration import Rescaling
    from model_export.clips import Clip
    from model_export.evaluate import Evaluation
    from model_export.tracks import Hears, Track
    from model_export.train import Recipe

log = logging.getLogger(__name__)

NOT_MEASURED = "Not measured for this build: run `urbansound-model crossvalidate`, then `package --results`.\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    open_closed_streams()
    options = argument_parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    take_any_text()
    try:
        with ended_by_sigterm():
            code = COMMANDS[options.command](options)
    except AgentError as error:
        say(f"urbansound-model: {error}")
        if isinstance(error, OutputError):
            let_go(sys.stdout)
        return error.exit_code
    except ModuleNotFoundError as error:
        missing = str(error.name).partition(".")[0]
        extra = "plot" if missing == "matplotlib" else "export"
        say(f"urbansound-model: {missing} is not installed; in its source, pip install '.[{extra}]'")
        return UsageError.exit_code
    except OSError as error:  # a full disk, a file that may not be read
        say(f"urbansound-model: {error.filename or 'a file'}: {error.strerror or error}")
        return OutputError.exit_code
    except KeyboardInterrupt:
        return 130
    return code or 0


def _clips(options: argparse.Namespace) -> "list[Clip]":
    return clip_lists.urbansound8k(options.us8k) + clip_lists.esc10(options.esc10)


def _scenery(options: argparse.Namespace) -> "tuple[list[Clip], list[Clip]]":
    """What scenes are made of: street sounds and grounds, and sounds that are neither."""
    strangers = clip_lists.esc10_strangers(options.esc10)
    files = {clip.file for clip in strangers}
    return [clip for clip in _clips(options) if clip.file not in files], strangers


def _recipe(options: argparse.Namespace) -> "Recipe":
    import dataclasses

    from model_export.train import Recipe

    changes = {
        name: getattr(options, name) for name in ("epochs", "seed", "likelihoods") if getattr(options, name) is not None
    }
    if changes.get("epochs", 1) < 1:
        raise UsageError(f"--epochs {options.epochs}: expected 1 or more")
    if changes.get("seed", 0) < 0:
        raise UsageError(f"--seed {options.seed}: expected 0 or more")
    if options.epochs is not None:
        changes["head_epochs"] = min(options.epochs, Recipe().head_epochs)
    return dataclasses.replace(Recipe(), **changes)


def _head(options: argparse.Namespace) -> None:
    from agent.model_card import load_model_folder
    from model_export.embeddings import EmbeddingCache
    from model_export.head import cross_validate, train_head, write_head
    from model_export.package import write_head_document
    from model_export.report import head_summary

    clips = clip_lists.class_folders(options.data)
    base = load_model_folder(options.base)
    if options.out.resolve() == base.path.resolve():
        raise UsageError(f"--out {options.out}: is the folder of --base, expected another")
    if options.seed < 0:
        raise UsageError(f"--seed {options.seed}: expected 0 or more")
    cache = options.cache or Path(f"{options.out.resolve()}.embeddings")
    embeddings = EmbeddingCache(base, cache).embeddings_of(clips)
    figures = cross_validate(clips, embeddings, seed=options.seed, with_curve=options.learning_curve)
    text = head_summary(figures)
    head = train_head(clips, embeddings, seed=options.seed)
    model, agreement = write_head(head, base, clips, embeddings, options.out)
    write_head_document(model, base, text, seed=options.seed)
    put(f"{text}\n")  # last: whoever reads it may have gone
    put(
        f"int8 against float on {agreement.n_windows} windows: same label in {agreement.same_label:.1%} of the "
        f"{agreement.n_decided} decided ones, mean difference {agreement.mean_difference:.4f}\n"
    )
    put(f"model {model.card.name} {model.card.version} sha256 {model.sha256} in {model.path}\n")


def _fetch(options: argparse.Namespace) -> None:
    from model_export.download import download, record_of

    name = openl3.PUBLISHED[options.name]
    done = download(f"{options.base.rstrip('/')}/{name}", options.out / name, options.sha256)
    how = "was there already" if done.was_there else "fetched"
    put(f"{done.file}: {how}, sha256 {done.sha256}\n")
    if not done.was_known:
        say(
            f"urbansound-model: nobody said what its sha256 must be; it is recorded in {record_of(done.file)} now, "
            "and a later fetch must have the same"
        )


def _import_openl3(options: argparse.Namespace) -> None:
    from model_export.openl3_folder import (
        RECORDINGS,
        SIGNALS,
        Import,
        import_openl3,
        recorded_windows,
        synthetic_windows,
    )

    asked = Import(options.file, options.input, options.size, options.front_end, options.dtype)
    if options.calibrate:
        heard, windows = RECORDINGS, recorded_windows(options.calibrate, asked.numbers)
    else:
        heard, windows = SIGNALS, synthetic_windows(asked.numbers)
    model, likeness = import_openl3(asked, windows, heard, options.out)
    put(
        f"{options.dtype} against the weights on {likeness.n_windows} windows of {heard}: cosine "
        f"{likeness.median:.4f} in the median, {likeness.least:.4f} at least, the mean taken off\n"
    )
    put(f"model {model.card.name} {model.card.version} sha256 {model.sha256} in {model.path}\n")


def _train(options: argparse.Namespace) -> None:
    from model_export.calibration import CALIBRATION_NAME
    from model_export.published import PublishedNetwork
    from model_export.train import train

    teachers = [PublishedNetwork(file) for file in options.teacher]
    train(
        _clips(options),
        _recipe(options),
        options.out,
        teachers=teachers,
        num_threads=options.threads,
        num_processes=_jobs(options),
    )
    (options.out / CALIBRATION_NAME).unlink(missing_ok=True)  # of the networks that stood there before


def _jobs(options: argparse.Namespace) -> int:
    if options.jobs < 0:
        raise UsageError(f"--jobs {options.jobs}: expected 0 or more")
    jobs: int = options.jobs
    return jobs


def _rescaling(results: Path) -> "Rescaling":
    from model_export.calibration import fit
    from model_export.results import PREDICTIONS_NAME, read_all_windows, read_predictions

    return fit(read_all_windows(results, read_predictions(results / PREDICTIONS_NAME)))


def _calibrate(options: argparse.Namespace) -> None:
    from model_export.report import rescaling_summary
    from model_export.trained import calibrated, load_networks

    rescaling = _rescaling(options.results)
    calibrated(load_networks(options.networks)[1], rescaling)  # first: what does not fit is not written
    rescaling.write(options.networks)
    put(rescaling_summary(rescaling))


def _quantize(options: argparse.Namespace) -> None:
    from model_export.quantize import quantize, representative_windows
    from model_export.trained import load_calibrated

    embedding, classifier = load_calibrated(options.networks)
    quantize(embedding, classifier, representative_windows(_clips(options), seed=0), options.out)


def _package(options: argparse.Namespace) -> None:
    from agent.inference import Classifier
    from model_export.calibration import read_rescaling
    from model_export.evaluate import evaluate_folder
    from model_export.package import write_card, write_document
    from model_export.report import summary
    from model_export.response import measure_response
    from model_export.trained import training_record

    figures = summary(evaluate_folder(options.results)) if options.results else NOT_MEASURED
    training = training_record(options.networks)
    folds = training["folds"]
    model = write_card(options.model, onset_response_s=0.5, offset_response_s=0.5, trained_on=folds)
    clips = [clip for clip in _clips(options) if clip.dataset == "us8k"]
    response = measure_response(Classifier(model), model.card.front_end, clips, n_clips=120, seed=0)
    model = write_card(
        options.model, onset_response_s=response.onset_s, offset_response_s=response.offset_s, trained_on=folds
    )
    write_document(model, training, figures, read_rescaling(options.networks))
    put(f"response: onset {response.onset_s} s, offset {response.offset_s} s, {response.n_clips} clips\n")
    put(f"model {model.card.name} {model.card.version} sha256 {model.sha256} in {model.path}\n")


def _verify(options: argparse.Namespace) -> None:
    from agent.model_card import load_model_folder
    from model_export.metadata import check_metadata
    from model_export.quantize import representative_windows
    from model_export.trained import load_calibrated
    from model_export.verify import check_model

    model = load_model_folder(options.model)
    check_metadata(model)
    embedding, classifier = load_calibrated(options.networks)
    windows = representative_windows(_clips(options), seed=1)
    agreement = check_model(embedding, classifier, model, windows)
    put(
        f"verified on {agreement.n_windows} windows: same label in {agreement.same_label:.1%} of the "
        f"{agreement.n_decided} decided ones, mean difference "
        f"{agreement.mean_difference:.4f}, agent against TFLite at most {agreement.max_step:.4f}\n"
    )


def _crossvalidate(options: argparse.Namespace) -> None:
    from model_export.crossvalidate import crossvalidate, train_fold
    from model_export.evaluate import evaluate_folder
    from model_export.peers import peers_of
    from model_export.published import PublishedNetwork
    from model_export.report import summary
    from model_export.results import folder_of

    clips = _clips(options)
    folds = sorted({clip.fold for clip in clips})
    unknown = sorted(set(options.folds or []) - set(folds))
    if unknown:
        raise UsageError(
            f"--folds {unknown[0]}: neither in --us8k {options.us8k} nor in --esc10 {options.esc10}, "
            f"expected of {', '.join(map(str, folds))}"
        )
    tested = options.folds or sorted({clip.fold for clip in clips if clip.dataset == "us8k"})
    recipe, teachers = _recipe(options), [PublishedNetwork(file) for file in options.teacher]
    effort = {"num_threads": options.threads, "num_processes": _jobs(options)}
    if options.train_only:
        for fold in tested:
            train_clips, _ = clip_lists.hold_out_fold(clips, fold)
            train_fold(train_clips, recipe, folder_of(options.out, fold), teachers=teachers, **effort)
        return
    crossvalidate(
        clips,
        recipe,
        options.out,
        folds=tested,
        peers=peers_of(options.peer, cache=options.out),
        ten_classes=clip_lists.esc10_as_published(options.esc10),
        teachers=teachers,
        **effort,
    )
    put(summary(evaluate_folder(options.out)))


def _evaluate(options: argparse.Namespace) -> None:
    import dataclasses

    from model_export.evaluate import evaluate_folder
    from model_export.report import report

    for name in ("model", "esc10", "folds", "peer", "out"):
        if options.results and getattr(options, name) is not None:
            raise UsageError(f"--{name}: goes with --us8k, not with --results")
    if options.plots:
        from model_export.diagrams import draw  # first of all: what is not installed is said before the work
    evaluations = evaluate_folder(options.results) if options.results else _benchmark(options)
    put(report(evaluations))
    if options.json:
        _write_json({dataset: dataclasses.asdict(one) for dataset, one in evaluations.items()}, options.json)
    if options.plots:
        with _writing(options.plots):
            for file in draw(evaluations, options.plots):
                log.info("evaluate.drawn file=%s", file)


def _benchmark(options: argparse.Namespace) -> "dict[str, Evaluation]":
    """Judge a model folder as it is."""
    from agent.model_card import load_model_folder
    from model_export.benchmark import benchmark, trial_of
    from model_export.evaluate import evaluate
    from model_export.results import FILES, write_predictions

    peers = []
    if options.peer:
        from model_export.peers import peers_of

        peers = peers_of(options.peer, cache=options.out)
    model = load_model_folder(options.model or DEFAULT_MODEL)
    clips = clip_lists.urbansound8k(options.us8k)
    ten_classes = clip_lists.esc10_as_published(options.esc10) if options.esc10 else []
    clips += clip_lists.esc10(options.esc10) if options.esc10 else []
    runs = benchmark(model, trial_of(model, clips, ten_classes, options.folds), peers)
    if options.out:
        with _writing(options.out):
            options.out.mkdir(parents=True, exist_ok=True)
            for name in FILES.values():
                (options.out / name).unlink(missing_ok=True)  # of another model, which was tested on more
            for dataset, its_runs in runs.items():
                write_predictions(its_runs, options.out / FILES[dataset])
    return {dataset: evaluate(its_runs) for dataset, its_runs in runs.items()}


def _edgetpu_check(options: argparse.Namespace) -> int:
    from model_export.edgetpu import as_text, operators_of

    operators = operators_of(options.file)
    put(as_text(options.file, operators))
    return 1 if any(operator.problem for operator in operators) else 0


def _probe(options: argparse.Namespace) -> None:
    import dataclasses

    from agent.model_card import load_model_folder
    from model_export.probe import drawn, probe, recordings_in
    from model_export.report import probe_report

    def chosen(clips: "list[Clip]", data: str) -> "list[Clip]":
        folds = sorted({clip.fold for clip in clips})
        unknown = sorted(set(options.folds or []) - set(folds))
        if unknown:
            raise UsageError(f"--folds {unknown[0]}: not in {data}, expected of {', '.join(map(str, folds))}")
        return [clip for clip in clips if clip.fold in (options.folds or folds)]

    if options.clips < 1:
        raise UsageError(f"--clips {options.clips}: expected 1 or more")
    model = load_model_folder(options.model)
    clips, recordings = [], recordings_in(options.background) if options.background else {}
    if options.us8k:
        clips = drawn(chosen(clip_lists.urbansound8k(options.us8k), f"--us8k {options.us8k}"), options.clips)
    if options.esc10:
        for clip in chosen(clip_lists.esc10_as_published(options.esc10), f"--esc10 {options.esc10}"):
            if clip_lists.ESC10_LABELS.get(clip.label) == clip_lists.BACKGROUND:
                recordings.setdefault(clip.label, []).append(clip.file)
    found = probe(model, clips, recordings)
    put(probe_report(found))
    if options.json:
        _write_json(dataclasses.asdict(found), options.json)


@contextmanager
def _writing(place: Path) -> Iterator[None]:
    """What cannot be written is a usage error that names it."""
    try:
        yield
    except OSError as error:  # that of a full disk names no file
        raise UsageError(f"{error.filename or place}: {error.strerror}; expected a place to write to") from error


def _soundscapes(options: argparse.Namespace) -> None:
    from model_export.soundscapes import Street, soundscapes, write_soundscape

    _check_hours(options.hours, options.seed)
    clips, strangers = _scenery(options)
    made = soundscapes(
        clips,
        strangers=strangers,
        folds=options.folds,
        hours=options.hours,
        seed=options.seed,
        street=Street(stranger_probability=options.strangers),
    )
    n_events = n_scenes = 0
    for soundscape in made:
        write_soundscape(soundscape, options.out)
        n_scenes, n_events = n_scenes + 1, n_events + len(soundscape.scene.soundings)
    put(f"{n_scenes} scenes with {n_events} events in {options.out}\n")


def _check_hours(hours: float, seed: int) -> None:
    if not 0.0 < hours <= 1000.0:
        raise UsageError(f"--hours {hours:g}: expected more than 0 and at most 1000")
    if seed < 0:
        raise UsageError(f"--seed {seed}: expected 0 or more")


def _tracks(options: argparse.Namespace, model: "ModelFolder", peer: "Hears | None" = None) -> "list[Track]":
    """The scenes as the model hears them, or its networks of a cross-validation; or as a peer does."""
    from model_export.package import is_calibrated
    from model_export.tracks import Listener, hear_folder, hear_made, rules_of

    if options.scenes:
        return hear_folder(peer or Listener(model), options.scenes, list(rules_of(model.card)))
    if not options.us8k or not options.esc10:
        raise UsageError("--crossvalidation: needs --us8k and --esc10 as well")
    _check_hours(options.hours, options.seed)
    if is_calibrated(model) and not options.calibrated:
        log.warning(
            "scenes.not_calibrated model=%s: is calibrated, and these networks are not; --calibrated", model.path
        )
    folders = {int(path.name[4:]): path for path in options.crossvalidation.glob("fold*") if path.name[4:].isdecimal()}
    if not folders:
        raise UsageError(f"--crossvalidation {options.crossvalidation}: no folder fold1, fold2, ... in it")
    with tempfile.TemporaryDirectory() as scratch:
        models = {} if peer else _fold_models(options, folders, Path(scratch))
        listeners: dict[int, Hears] = dict.fromkeys(folders, peer) if peer else {}
        for fold, one in models.items():
            if one.card.labels != model.card.labels:
                raise UsageError(f"{one.path}: labels {', '.join(one.card.labels)}, expected those of {model.path}")
            if fold in (one.card.trained_on or {}).get("us8k", ()):
                raise UsageError(f"{one.path}: was trained on fold {fold} (trained_on.us8k), expected on the others")
            listeners[fold] = Listener(one)
        return hear_made(listeners, _scenery(options)[0], hours=options.hours, seed=options.seed)


def _fold_models(options: argparse.Namespace, folders: dict[int, Path], scratch: Path) -> "dict[int, ModelFolder]":
    """The networks of each fold of a cross-validation, where asked for calibrated on the other folds."""
    from agent.model_card import load_model_folder

    if not options.calibrated:
        return {fold: load_model_folder(folder) for fold, folder in sorted(folders.items())}
    from model_export.calibration import fit
    from model_export.crossvalidate import calibrated_model
    from model_export.results import PREDICTIONS_NAME, read_all_windows, read_predictions

    clips = _clips(options)
    windows = read_all_windows(options.crossvalidation, read_predictions(options.crossvalidation / PREDICTIONS_NAME))
    return {
        fold: calibrated_model(
            folder,
            fit([one for one in windows if one.run.fold != fold]),
            clip_lists.hold_out_fold(clips, fold)[0],
            scratch / folder.name,
        )
        for fold, folder in sorted(folders.items())
    }


def _score(options: argparse.Namespace) -> None:
    from agent.model_card import load_model_folder
    from model_export.score import best_single_threshold, score, write_for_tools
    from model_export.scorecard import score_figures, score_text
    from model_export.tracks import at_threshold, rules_of

    model = load_model_folder(options.model)
    peer = None
    if options.peer:
        from model_export.audioset import YamnetListener

        peer = YamnetListener(options.peer)
    rules, events = rules_of(model.card), model.card.events
    its_rules = {label: rule for label, rule in rules.items() if peer and label in peer.labels}
    if peer and not its_rules:
        raise UsageError(f"--peer {options.peer}: knows none of the model's labels, {', '.join(rules)}")
    tracks = _tracks(options, model)
    scores = [score(model.card.name, tracks, rules, events)]
    if options.out:
        write_for_tools(tracks, rules, events, options.out)
    if peer:
        heard, its_events = _tracks(options, model, peer), peer.event_card(events)
        best = best_single_threshold(heard, its_rules, its_events)
        its_rules = {label: at_threshold(rule, best) for label, rule in its_rules.items()}
        scores.append(score(f"{peer.name} at {best:g}", heard, its_rules, its_events))
    put(score_text(scores))
    if options.json:
        _write_json(score_figures(scores), options.json)


def _tune(options: argparse.Namespace) -> None:
    from agent.model_card import load_model_folder
    from model_export.package import write_events
    from model_export.scorecard import tuning_figures, tuning_text
    from model_export.tracks import rules_of
    from model_export.tune import tune, with_rules

    model = load_model_folder(options.model)
    if options.budget < 0.0:
        raise UsageError(f"--budget {options.budget:g}: expected 0 or more")
    events = model.card.events
    tuning = tune(_tracks(options, model), rules_of(model.card), events, budget=options.budget)
    text = tuning_text(tuning)
    try:
        if options.json:
            _write_json(tuning_figures(tuning), options.json)
        tuned = write_events(model, with_rules(events, tuning.rules), text, options.out or options.model)
    finally:  # last: whoever reads it may have gone; but even if nothing else can be written
        put(text)
    put(f"model {tuned.card.name} {tuned.card.version} sha256 {tuned.sha256} in {tuned.path}\n")


def _write_json(figures: object, file: Path) -> None:
    with _writing(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


def _build(options: argparse.Namespace) -> None:
    work = Path(f"{options.out.resolve()}.networks")
    steps = argparse.Namespace(**vars(options) | {"networks": work, "model": options.out})
    # First of all: what is not there is said before the work, and before there is a folder.
    _recipe(options)
    _clips(options)
    if options.results:
        _rescaling(options.results)
    with _writing(options.out):
        options.out.mkdir(parents=True, exist_ok=True)
    _train(argparse.Namespace(**vars(options) | {"out": work}))
    if options.results:
        _calibrate(steps)
    _quantize(steps)
    _package(steps)
    _verify(steps)
    shutil.rmtree(work)


COMMANDS: dict[str, Callable[[argparse.Namespace], int | None]] = {
    "build": _build,
    "head": _head,
    "train": _train,
    "calibrate": _calibrate,
    "quantize": _quantize,
    "package": _package,
    "verify": _verify,
    "crossvalidate": _crossvalidate,
    "evaluate": _evaluate,
    "probe": _probe,
    "edgetpu-check": _edgetpu_check,
    "soundscapes": _soundscapes,
    "score": _score,
    "tune": _tune,
    "fetch": _fetch,
    "import-openl3": _import_openl3,
}

if __name__ == "__main__":
    sys.exit(main())
