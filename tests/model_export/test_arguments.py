"""Promises of `model_export.arguments`: what can be asked, and what is said of what cannot."""

import pytest

from model_export.arguments import argument_parser
from model_export.cli import COMMANDS


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_says_what_it_takes(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Each command that is answered can be asked, and its help names it."""
    with pytest.raises(SystemExit, match="0"):
        argument_parser().parse_args([command, "--help"])

    assert f"usage: urbansound-model {command} " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["learn"], "invalid choice: 'learn'"),
        (["train", "--us8k", "a"], "the following arguments are required: --esc10, --out"),
        (["evaluate", "--results", "a", "--us8k", "b"], "not allowed with argument"),
        (["fetch", "openl4"], "invalid choice: 'openl4'"),
        (["import-openl3", "w.h5", "--input", "mel512", "--size", "512", "--out", "o"], "invalid choice: 'mel512'"),
    ],
)
def test_a_word_that_means_nothing_is_said(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong command line ends with 2 and says what was expected."""
    with pytest.raises(SystemExit, match="2"):
        argument_parser().parse_args(words)

    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ["crossvalidate", "--us8k", "a", "--esc10", "b", "--out", "c"],
        ["evaluate", "--us8k", "a"],
        ["probe"],
        ["soundscapes", "--us8k", "a", "--esc10", "b", "--out", "c"],
    ],
    ids=lambda words: words[0],
)
def test_each_fold_counts_once(words: list[str]) -> None:
    """However often it is named, and in whichever order."""
    assert argument_parser().parse_args([*words, "--folds", "10", "3", "10"]).folds == [3, 10]
