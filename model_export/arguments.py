"""The command line of `urbansound-model`: words in, options out; what cannot be asked ends with exit code 2."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agent import __version__
from agent.model_card import DEFAULT_MODEL
from model_export import openl3


class _EachOnce(argparse.Action):
    """Numbers in order; one that is given twice counts once."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        setattr(namespace, self.dest, sorted(set(values or ())))


def argument_parser() -> argparse.ArgumentParser:
    """What can be asked; the options say in `command` which command it was."""
    parser = argparse.ArgumentParser(
        prog="urbansound-model",
        description="From labelled recordings to a verified, quantized model folder.",
        epilog="example: urbansound-model build --us8k UrbanSound8K --esc10 ESC-50 --out my-model",
    )
    parser.add_argument("--version", action="version", version=f"urbansound-model {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")

    data = argparse.ArgumentParser(add_help=False)
    data.add_argument("--us8k", type=Path, required=True, metavar="DIR", help="UrbanSound8K")
    data.add_argument("--esc10", type=Path, required=True, metavar="DIR", help="ESC-10 or ESC-50")
    training = argparse.ArgumentParser(add_help=False)
    training.add_argument(
        "--epochs", type=int, metavar="N", help="another number of epochs than the recipe's, in each generation"
    )
    training.add_argument("--seed", type=int, metavar="N", help="another seed than the recipe's")
    training.add_argument(
        "--likelihoods",
        choices=("sigmoid", "softmax"),
        help="of each label on its own (sigmoid, default), so that two sounds at a time can both be told, or of one of "
        "them (softmax)",
    )
    training.add_argument(
        "--teacher",
        type=Path,
        action="append",
        default=[],
        metavar="PATH",
        help="a published network, TFLite or a model folder, to be imitated besides the labels; repeatable",
    )
    training.add_argument("--threads", type=int, default=0, metavar="N", help="threads; 0 for all cores (default)")
    training.add_argument(
        "--jobs",
        type=int,
        default=0,
        metavar="N",
        help="other processes that prepare what is learnt from (default: 0, none)",
    )

    command = commands.add_parser("build", parents=[data, training], help="all steps: train to verify")
    command.add_argument("--out", type=Path, required=True, metavar="DIR", help="the model folder to write")
    command.add_argument(
        "--results", type=Path, metavar="DIR", help="what `crossvalidate` wrote, to calibrate and for the card"
    )
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
    _add_openl3(commands)
    command = commands.add_parser("train", parents=[data, training], help="train both networks (Keras)")
    command.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the trained networks")
    command = commands.add_parser("calibrate", help="make likelihoods say how often they are right")
    command.add_argument("--networks", type=Path, required=True, metavar="DIR", help="what `train` wrote")
    command.add_argument("--results", type=Path, required=True, metavar="DIR", help="what `crossvalidate` wrote")
    command = commands.add_parser("quantize", parents=[data], help="trained networks to int8 TFLite")
    command.add_argument("--networks", type=Path, required=True, metavar="DIR", help="what `train` wrote")
    command.add_argument("--out", type=Path, required=True, metavar="DIR", help="the model folder to write")
    command = commands.add_parser("package", parents=[data], help="measure the response, write metadata and card")
    command.add_argument("--networks", type=Path, required=True, metavar="DIR", help="what `train` wrote")
    command.add_argument("--model", type=Path, required=True, metavar="DIR", help="what `quantize` wrote")
    command.add_argument("--results", type=Path, metavar="DIR", help="what `crossvalidate` wrote, for the model card")
    command = commands.add_parser("verify", parents=[data], help="hold Keras, TFLite and the agent against each other")
    command.add_argument("--networks", type=Path, required=True, metavar="DIR", help="what `train` wrote")
    command.add_argument("--model", type=Path, required=True, metavar="DIR", help="what `package` wrote")
    _add_measuring(commands, [data, training])
    _add_scene_commands(commands, data)
    return parser


def _add_measuring(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]", training: list[argparse.ArgumentParser]
) -> None:
    """The commands that say how good a model is."""
    command = commands.add_parser(
        "crossvalidate", parents=training, help="train and test on each fold, beside published peers"
    )
    command.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for networks and figures")
    command.add_argument(
        "--folds", type=int, nargs="+", action=_EachOnce, metavar="N", help="these folds only (default: all of --us8k)"
    )
    command.add_argument(
        "--peer",
        type=Path,
        action="append",
        default=[],
        metavar="PATH",
        help="a published network, TFLite or a model folder, to compare with; repeatable",
    )
    command.add_argument("--train-only", action="store_true", help="leave the tests to a later run of the same command")
    command = commands.add_parser(
        "evaluate", help="how good a model is, or what cross-validation measured, and how sure that is"
    )
    source = command.add_mutually_exclusive_group(required=True)
    source.add_argument("--results", type=Path, metavar="DIR", help="what `crossvalidate` wrote")
    source.add_argument("--us8k", type=Path, metavar="DIR", help="UrbanSound8K, to judge a model folder as it is")
    command.add_argument(
        "--model", type=Path, metavar="DIR", help="with --us8k: the model folder (default: the shipped one)"
    )
    command.add_argument("--esc10", type=Path, metavar="DIR", help="with --us8k: ESC-10 or ESC-50, too")
    command.add_argument(
        "--folds",
        type=int,
        nargs="+",
        action=_EachOnce,
        metavar="N",
        help="with --us8k: these folds only (default: all it has not heard)",
    )
    command.add_argument(
        "--peer",
        type=Path,
        action="append",
        metavar="PATH",
        help="with --us8k: as for `crossvalidate`; repeatable",
    )
    command.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="with --us8k: keep the predictions and the peers' embeddings in this folder",
    )
    command.add_argument("--json", type=Path, metavar="FILE", help="write all figures to this file as well")
    command.add_argument("--plots", type=Path, metavar="DIR", help="draw confusions and calibration into this folder")
    command = commands.add_parser(
        "probe", help="whether gain changes labels, and what noise and background are taken for"
    )
    command.add_argument(
        "--model", type=Path, default=DEFAULT_MODEL, metavar="DIR", help="the model folder (default: the shipped one)"
    )
    command.add_argument("--us8k", type=Path, metavar="DIR", help="UrbanSound8K, to try gain on")
    command.add_argument("--esc10", type=Path, metavar="DIR", help="ESC-10 or ESC-50, of which background is tried")
    command.add_argument(
        "--folds", type=int, nargs="+", action=_EachOnce, metavar="N", help="these folds only (default: all)"
    )
    command.add_argument(
        "--clips", type=int, default=200, metavar="N", help="try gain on at most N clips (default: 200)"
    )
    command.add_argument(
        "--background",
        type=Path,
        metavar="DIR",
        help="recordings that hold none of the classes: speech, music, a place",
    )
    command.add_argument("--json", type=Path, metavar="FILE", help="write all figures to this file as well")
    command = commands.add_parser("edgetpu-check", help="what of a network would not map to an Edge TPU")
    command.add_argument("file", type=Path, metavar="FILE", help="a .tflite file, not yet compiled")


def _add_scene_commands(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]", data: argparse.ArgumentParser
) -> None:
    command = commands.add_parser("soundscapes", parents=[data], help="make labelled street scenes from recordings")
    command.add_argument(
        "--folds", type=int, nargs="+", action=_EachOnce, required=True, metavar="N", help="from clips of these folds"
    )
    command.add_argument("--hours", type=float, default=1.0, metavar="H", help="of all scenes together (default: 1)")
    command.add_argument("--seed", type=int, default=0, metavar="N", help="another one gives others (default: 0)")
    command.add_argument(
        "--strangers",
        type=float,
        default=0.0,
        metavar="P",
        help="probability of a sound that is none of the labels, in each scene (default: 0)",
    )
    command.add_argument("--out", type=Path, required=True, metavar="DIR", help="the folder to write")

    scenes = argparse.ArgumentParser(add_help=False)
    scenes.add_argument("--model", type=Path, required=True, metavar="DIR", help="the model folder")
    source = scenes.add_mutually_exclusive_group(required=True)
    source.add_argument("--scenes", type=Path, metavar="DIR", help="recordings with a TSV of labels beside each")
    source.add_argument(
        "--crossvalidation",
        type=Path,
        metavar="DIR",
        help="what `crossvalidate` wrote: scenes of each fold are made and heard by the network that has not heard it",
    )
    scenes.add_argument(
        "--calibrated",
        action="store_true",
        help="for a model that was built with --results: calibrate each fold's network on the other folds",
    )
    scenes.add_argument("--us8k", type=Path, metavar="DIR", help="UrbanSound8K, for --crossvalidation")
    scenes.add_argument("--esc10", type=Path, metavar="DIR", help="ESC-10 or ESC-50, for --crossvalidation")
    scenes.add_argument("--hours", type=float, default=4.0, metavar="H", help="of scenes to make (default: 4)")
    scenes.add_argument("--seed", type=int, default=0, metavar="N", help="of the scenes to make (default: 0)")
    scenes.add_argument("--json", type=Path, metavar="FILE", help="write all figures to this file as well")

    command = commands.add_parser("score", parents=[scenes], help="judge a model's events on labelled scenes")
    command.add_argument("--peer", type=Path, metavar="FILE", help="`yamnet.tflite`, with its own classes")
    command.add_argument("--out", type=Path, metavar="DIR", help="write what sed_eval and sed_scores_eval read")
    command = commands.add_parser("tune", parents=[scenes], help="set a model's numbers of events from labelled scenes")
    command.add_argument(
        "--budget", type=float, default=2.0, metavar="X", help="false alarms in an hour without events (default: 2)"
    )
    command.add_argument("--out", type=Path, metavar="DIR", help="write here instead of into the model's folder")


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
