"""`urbansound-model`: train, quantize, package, verify, or all of it by `build`; cross-validate, evaluate; `head`.

`fetch` and `import-openl3` bring in the weights of others.

Heavy libraries are imported by the command that needs them. Exit codes as in `agent.errors`.
"""

import argparse
import json
import logging
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from agent import __version__
from agent.errors import AgentError, UsageError
from agent.model_card import DEFAULT_MODEL
from model_export import clips as clip_lists
from model_export import openl3

if TYPE_CHECKING:
    from model_export.clips import Clip
    from model_export.train import Recipe

log = logging.getLogger(__name__)

NOT_MEASURED = "Not measured for this build: run `urbansound-model crossvalidate`, then `package --results`.\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        options.run(options)
    except AgentError as error:
        print(f"urbansound-model: {error}", file=sys.stderr)
        return error.exit_code
    except ModuleNotFoundError as error:
        missing = str(error.name).partition(".")[0]
        extra = "plot" if missing == "matplotlib" else "export"
        print(
            f"urbansound-model: {missing} is not installed; pip install 'urban-sound-agent[{extra}]'",
            file=sys.stderr,
        )
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="urbansound-model",
        description="From labelled recordings to a verified, quantized model folder.",
        epilog="example: urbansound-model build --us8k UrbanSound8K --esc10 ESC-50 --out my-model",
    )
    parser.add_argument("--version", action="version", version=f"urbansound-model {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    data = argparse.ArgumentParser(add_help=False)
    data.add_argument("--us8k", type=Path, required=True, metavar="DIR", help="UrbanSound8K")
    data.add_argument("--esc10", type=Path, required=True, metavar="DIR", help="ESC-10 or ESC-50")
    training = argparse.ArgumentParser(add_help=False)
    training.add_argument("--epochs", type=int, metavar="N", help="another number of epochs than the recipe's")
    training.add_argument("--seed", type=int, metavar="N", help="another seed than the recipe's")
    training.add_argument(
        "--teacher",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="a TFLite file that takes a waveform, which the network learns to imitate besides the labels; repeatable",
    )
    training.add_argument("--threads", type=int, default=0, metavar="N", help="threads; 0 for all cores (default)")

    command = commands.add_parser("build", parents=[data, training], help="all steps: train to verify")
    command.add_argument("--out", type=Path, required=True, metavar="DIR", help="the model folder to write")
    command.add_argument("--results", type=Path, metavar="DIR", help="what `crossvalidate` wrote, for the model card")
    command.set_defaults(run=_build)
    command = commands.add_parser("head", help="one's own classes on the embedding of a model that is there already")
    command.add_argument(
        "--data", type=Path, required=True, metavar="DIR", help="a folder of recordings for each class"
    )
    command.add_argument(
        "--base",
        type=Path,
        default=DEFAULT_MODEL,
        metavar="DIR",
        help="the model folder with the embedding (default: the shipped one)",
    )
    command.add_argument("--out", type=Path, required=True, metavar="DIR", help="the model folder to write")
    command.add_argument(
        "--cache",
        type=Path,
        metavar="DIR",
        help="the folder that keeps embeddings from run to run (default: OUT.embeddings)",
    )
    command.add_argument("--learning-curve", action="store_true", help="test with fewer recordings of each class, too")
    command.add_argument("--seed", type=int, default=0, metavar="N", help="of the training (default: 0)")
    command.set_defaults(run=_head)
    _add_openl3(commands)
    command = commands.add_parser("train", parents=[data, training], help="train both networks (Keras)")
    command.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the trained networks")
    command.set_defaults(run=_train)
    command = commands.add_parser("quantize", parents=[data], help="trained networks to int8 TFLite")
    command.add_argument("--networks", type=Path, required=True, metavar="DIR", help="what `train` wrote")
    command.add_argument("--out", type=Path, required=True, metavar="DIR", help="the model folder to write")
    command.set_defaults(run=_quantize)
    command = commands.add_parser("package", parents=[data], help="measure the response, write metadata and card")
    command.add_argument("--networks", type=Path, required=True, metavar="DIR", help="what `train` wrote")
    command.add_argument("--model", type=Path, required=True, metavar="DIR", help="what `quantize` wrote")
    command.add_argument("--results", type=Path, metavar="DIR", help="what `crossvalidate` wrote, for the model card")
    command.set_defaults(run=_package)
    command = commands.add_parser("verify", parents=[data], help="hold Keras, TFLite and the agent against each other")
    command.add_argument("--networks", type=Path, required=True, metavar="DIR", help="what `train` wrote")
    command.add_argument("--model", type=Path, required=True, metavar="DIR", help="what `package` wrote")
    command.set_defaults(run=_verify)
    command = commands.add_parser(
        "crossvalidate", parents=[data, training], help="train and test on each fold, beside published peers"
    )
    command.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for networks and figures")
    command.add_argument("--folds", type=int, nargs="+", metavar="N", help="these folds only (default: all)")
    command.add_argument(
        "--peer",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="a TFLite file that takes a waveform, to compare with",
    )
    command.set_defaults(run=_crossvalidate)
    command = commands.add_parser("evaluate", help="how sure cross-validation's figures are, confusions, calibration")
    command.add_argument("--results", type=Path, required=True, metavar="DIR", help="what `crossvalidate` wrote")
    command.add_argument("--json", type=Path, metavar="FILE", help="write all figures to this file as well")
    command.add_argument("--plots", type=Path, metavar="DIR", help="draw confusions and calibration into this folder")
    command.set_defaults(run=_evaluate)
    return parser


def _add_openl3(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    command = commands.add_parser("fetch", help="download weights that others publish; no other command does")
    command.add_argument("name", choices=sorted(openl3.PUBLISHED), metavar="NAME", help=", ".join(openl3.PUBLISHED))
    command.add_argument(
        "--out", type=Path, default=Path(), metavar="DIR", help="the folder to write to (default: this one)"
    )
    command.add_argument(
        "--sha256", metavar="HEX", help="what the file must have (default: what it had the first time, recorded beside)"
    )
    command.add_argument(
        "--from", dest="base", default=openl3.ADDRESS, metavar="URL", help=f"the folder (default: {openl3.ADDRESS})"
    )
    command.set_defaults(run=_fetch)
    command = commands.add_parser(
        "import-openl3", help="published OpenL3 weights to an embedding that `head` stands on"
    )
    command.add_argument("file", type=Path, metavar="FILE", help="weights of the audio network, .h5 or .h5.gz")
    command.add_argument("--input", choices=openl3.REPRESENTATIONS, required=True, help="what the weights read")
    command.add_argument("--size", type=int, choices=openl3.SIZES, required=True, help="values of the embedding")
    command.add_argument("--out", type=Path, required=True, metavar="DIR", help="the model folder to write")
    command.add_argument(
        "--front-end",
        choices=openl3.FRONT_ENDS,
        default="training",
        help="the one the weights were trained with (default), or one of OpenL3 0.4's",
    )
    command.add_argument("--dtype", choices=("int8", "float32"), default="int8", help="of the network (default: int8)")
    command.add_argument(
        "--calibrate",
        type=Path,
        nargs="+",
        default=[],
        metavar="PATH",
        help="recordings or folders of them, for the ranges of int8 (default: synthetic signals)",
    )
    command.set_defaults(run=_import_openl3)


def _clips(options: argparse.Namespace) -> "list[Clip]":
    return clip_lists.urbansound8k(options.us8k) + clip_lists.esc10(options.esc10)


def _recipe(options: argparse.Namespace) -> "Recipe":
    import dataclasses

    from model_export.train import Recipe

    changes = {name: getattr(options, name) for name in ("epochs", "seed") if getattr(options, name) is not None}
    if changes.get("epochs", 1) < 1:
        raise UsageError(f"--epochs {options.epochs}: expected 1 or more")
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
    print(text)
    head = train_head(clips, embeddings, seed=options.seed)
    model, agreement = write_head(head, base, clips, embeddings, options.out)
    write_head_document(model, base, text, seed=options.seed)
    print(
        f"int8 against float on {agreement.n_windows} windows: same label in {agreement.same_label:.1%} of the "
        f"{agreement.n_decided} decided ones, mean difference {agreement.mean_difference:.4f}"
    )
    print(f"model {model.card.name} {model.card.version} sha256 {model.sha256} in {model.path}")


def _fetch(options: argparse.Namespace) -> None:
    from model_export.download import download, record_of

    name = openl3.PUBLISHED[options.name]
    done = download(f"{options.base.rstrip('/')}/{name}", options.out / name, options.sha256)
    how = "was there already" if done.was_there else "fetched"
    print(f"{done.file}: {how}, sha256 {done.sha256}")
    if not done.was_known:
        print(
            f"urbansound-model: nobody said what its sha256 must be; it is recorded in {record_of(done.file)} now, "
            "and a later fetch must have the same",
            file=sys.stderr,
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
    print(
        f"{options.dtype} against the weights on {likeness.n_windows} windows of {heard}: cosine "
        f"{likeness.median:.4f} in the median, {likeness.least:.4f} at least, the mean taken off"
    )
    print(f"model {model.card.name} {model.card.version} sha256 {model.sha256} in {model.path}")


def _train(options: argparse.Namespace) -> None:
    from model_export.published import PublishedNetwork
    from model_export.train import train

    teachers = [PublishedNetwork(file) for file in options.teacher]
    train(
        _clips(options),
        _recipe(options),
        options.out,
        teachers=teachers,
        unlabelled=clip_lists.esc10_others(options.esc10),
        num_threads=options.threads,
    )


def _quantize(options: argparse.Namespace) -> None:
    from model_export.crossvalidate import load_networks
    from model_export.quantize import quantize, representative_windows

    embedding, classifier = load_networks(options.networks)
    quantize(embedding, classifier, representative_windows(_clips(options), seed=0), options.out)


def _package(options: argparse.Namespace) -> None:
    from agent.inference import Classifier
    from model_export.evaluate import evaluate_folder
    from model_export.package import write_card, write_document
    from model_export.report import summary
    from model_export.response import measure_response
    from model_export.train import TRAINING_NAME

    figures = summary(evaluate_folder(options.results)) if options.results else NOT_MEASURED
    model = write_card(options.model, onset_response_s=0.5, offset_response_s=0.5)
    clips = [clip for clip in _clips(options) if clip.dataset == "us8k"]
    response = measure_response(Classifier(model), model.card.front_end, clips, n_clips=120, seed=0)
    print(f"response: onset {response.onset_s} s, offset {response.offset_s} s, {response.n_clips} clips")
    model = write_card(options.model, onset_response_s=response.onset_s, offset_response_s=response.offset_s)
    training = json.loads((options.networks / TRAINING_NAME).read_text(encoding="utf-8"))
    write_document(model, training, figures)
    print(f"model {model.card.name} {model.card.version} sha256 {model.sha256} in {model.path}")


def _verify(options: argparse.Namespace) -> None:
    from agent.model_card import load_model_folder
    from model_export.crossvalidate import load_networks
    from model_export.metadata import check_metadata
    from model_export.quantize import representative_windows
    from model_export.verify import check_model

    model = load_model_folder(options.model)
    check_metadata(model)
    embedding, classifier = load_networks(options.networks)
    windows = representative_windows(_clips(options), seed=1)
    agreement = check_model(embedding, classifier, model, windows)
    print(
        f"verified on {agreement.n_windows} windows: same label in {agreement.same_label:.1%} of the "
        f"{agreement.n_decided} decided ones, mean difference "
        f"{agreement.mean_difference:.4f}, agent against TFLite at most {agreement.max_step:.4f}"
    )


def _crossvalidate(options: argparse.Namespace) -> None:
    from model_export.crossvalidate import crossvalidate
    from model_export.evaluate import evaluate
    from model_export.published import PublishedNetwork
    from model_export.report import summary

    clips = _clips(options)
    folds = sorted({clip.fold for clip in clips if clip.dataset == "us8k"})
    unknown = sorted(set(options.folds or []) - set(folds))
    if unknown:
        raise UsageError(
            f"--folds {unknown[0]}: not in --us8k {options.us8k}, expected of {', '.join(map(str, folds))}"
        )
    runs = crossvalidate(
        clips,
        _recipe(options),
        options.out,
        folds=options.folds or folds,
        peers=[PublishedNetwork(file, cache=options.out) for file in options.peer],
        teachers=[PublishedNetwork(file) for file in options.teacher],
        unlabelled=clip_lists.esc10_others(options.esc10),
        num_threads=options.threads,
    )
    print(summary(evaluate(runs)), end="")


def _evaluate(options: argparse.Namespace) -> None:
    import dataclasses

    from model_export.evaluate import evaluate_folder
    from model_export.report import report

    if options.plots:
        from model_export.diagrams import draw  # first of all: what is not installed is said before the work
    evaluation = evaluate_folder(options.results)
    print(report(evaluation), end="")
    try:
        if options.json:
            options.json.parent.mkdir(parents=True, exist_ok=True)
            options.json.write_text(json.dumps(dataclasses.asdict(evaluation), indent=1) + "\n", encoding="utf-8")
        if options.plots:
            for file in draw(evaluation, options.plots):
                log.info("evaluate.drawn file=%s", file)
    except OSError as error:
        raise UsageError(f"{error.filename}: {error.strerror}; expected a place to write to") from error


def _build(options: argparse.Namespace) -> None:
    work = options.out.with_name(f"{options.out.name}.networks")
    steps = argparse.Namespace(**vars(options) | {"networks": work, "model": options.out})
    _train(argparse.Namespace(**vars(options) | {"out": work}))
    _quantize(steps)
    _package(steps)
    _verify(steps)
    shutil.rmtree(work)


if __name__ == "__main__":
    sys.exit(main())
