"""From typed functions to commands: what is parsed, refused and told, and how every command ends."""

import inspect
import os
import signal
from importlib import import_module
from pathlib import Path
from typing import Annotated, Literal

import pytest
import yaml
from docstring_parser import parse
from lightning.pytorch.loops.fit_loop import _FitLoop
from tiny import exit_code as status
from tiny import stage_config

from eipnn.__main__ import COMMANDS
from eipnn.command_line import Count, Natural, Positive, Seed, call, parser_of
from eipnn.errors import InputError, UsageError, exit_code

COLOURS = {"red": 1, "blue": 2}


def paint(
    files: list[Path],
    *,
    output: Path,
    from_: list[str] | None = None,
    colour: Annotated[str, COLOURS] = "red",
    layers: list[Count | Literal["all"]] | None = None,
    seed: Seed = 0,
    left_out: list[Natural] = [7],  # noqa: B006 (nobody changes it)
    span: tuple[Positive, Positive] = (0.5, 2.0),
    dry: bool = False,
) -> None:
    """Paint files.

    Both sides.

    Args:
        files: to paint.
        output: folder.
        from_: words.
        colour: of the
            paint.
        layers: how many.
        seed: of the brush.
        left_out: numbers.
        span: 50 % to 200 %.
        dry: only look.
    """
    given.update(locals())


given: dict = {}


def test_arguments_come_as_their_types():
    call(paint, ["a", "007", "-o", "out"])
    assert given == {
        "files": [Path("a"), Path("007")],
        "output": Path("out"),
        "from_": None,
        "colour": "red",
        "layers": None,
        "seed": 0,
        "left_out": [7],
        "span": (0.5, 2.0),
        "dry": False,
    }
    words = ["--from", "null", "1", "--layers", "3", "all", "--span", "1", "1e1", "--dry"]
    call(paint, ["a", "--output=out", *words, "--colour", "blue", "--left-out", "0", "1"])
    assert given["from_"] == ["null", "1"]
    assert given["layers"] == [3, "all"]
    assert given["span"] == (1.0, 10.0)
    assert (given["dry"], given["colour"], given["left_out"]) == (True, "blue", [0, 1])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "FILES and -o/--output must be given"),
        (["a"], "-o/--output must be given"),
        (["-o", "out"], "FILES must be given"),
        (["a", "-o"], "-o/--output: expected one argument"),
        (
            ["a", "-o", "out", "--colours", "red"],
            "--colours red: there is no such option; --colour?",
        ),
        (["a", "-o", "out", "--huh"], "--huh: there is no such option"),
        (["a", "-o", "out", "--colour", "green"], "--colour: 'green' is not one of red, blue"),
        (["a", "-o", "out", "--layers"], "--layers: expected at least one argument"),
        (["a", "-o", "out", "--layers", "2", "0"], "'0' is not a whole number from 1 on or all"),
        (["a", "-o", "out", "--layers", "1.5"], "'1.5' is not a whole number from 1 on or all"),
        (
            ["a", "-o", "out", "--seed", "-1"],
            "--seed: '-1' is not a whole number from 0 to 4294967295",
        ),
        (
            ["a", "-o", "out", "--seed", "4294967296"],
            "'4294967296' is not a whole number from 0 to",
        ),
        (["a", "-o", "out", "--left-out", "-1"], "'-1' is not a whole number from 0 on"),
        (["a", "-o", "out", "--span", "1"], "--span: expected 2 arguments"),
        (["a", "-o", "out", "--span", "1", "nan"], "--span: 'nan' is not a positive number"),
        (["a", "-o", "out", "--span", "inf", "1"], "--span: 'inf' is not a positive number"),
        (["a", "-o", "out", "--span", "0", "1"], "--span: '0' is not a positive number"),
    ],
)
def test_mistakes_are_one_line(words, message):
    given.clear()
    with pytest.raises(UsageError) as told:
        call(paint, words)
    head, _, mend = str(told.value).partition(" (")
    assert message in head
    assert mend == "`eipnn paint --help` tells all)"
    assert not given


def test_the_docstring_is_the_help(capsys):
    with pytest.raises(SystemExit) as stop:
        call(paint, ["--help"])
    assert stop.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "Paint files. Both sides." in text
    assert "of the paint; of: red, blue (default: red)" in text
    assert "50 % to 200 % (default: 0.5 2.0)" in text


@pytest.mark.parametrize("command", COMMANDS)
def test_every_argument_of_a_command_is_explained(command):
    function = getattr(import_module(COMMANDS[command][0]), command)
    text = parse(inspect.getdoc(function) or "")
    assert text.short_description
    assert [p.arg_name for p in text.params] == list(inspect.signature(function).parameters)
    assert all(p.description for p in text.params)
    assert parser_of(function).prog == f"eipnn {command}"


def test_the_usage_names_all_commands(capsys):
    assert status("--help") == 0
    told = capsys.readouterr().out
    assert all(f"\n  {command} " in told for command in COMMANDS)


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (InputError("a: bad; mend it"), 1, "a: bad; mend it"),
        (UsageError("--b: bad"), 2, "--b: bad"),
        (
            FileNotFoundError(2, "No such file or directory", "c"),
            1,
            "No such file or directory: 'c'",
        ),
        (KeyboardInterrupt(), 130, "stopped; the same command goes on from here"),
    ],
)
def test_one_end_of_all_commands(capsys, error, code, told):
    def work():
        raise error

    assert exit_code("label", work) == code
    said = capsys.readouterr().err
    assert said.startswith("eipnn label: ")
    assert said.endswith(f"{told}\n")
    assert said.count("\n") == 1


def test_a_defect_keeps_its_traceback():
    def work():
        raise KeyError("x")

    with pytest.raises(KeyError):
        exit_code("label", work)


def test_sigterm_lets_a_command_put_its_things_away(capsys):
    before = signal.getsignal(signal.SIGTERM)
    steps = []

    def work():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            steps.append("went on")
        finally:
            os.kill(os.getpid(), signal.SIGTERM)  # a second one does not cut this off
            steps.append("put away")

    assert exit_code("label", work) == 143
    assert steps == ["put away"]
    assert capsys.readouterr().err == "eipnn label: ended by SIGTERM; the same command goes on from here\n"
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(
    ("number", "code", "told"),
    [(signal.SIGINT, 130, "stopped"), (signal.SIGTERM, 143, "ended by SIGTERM")],
)
def test_a_training_ends_as_all_commands(tiny, tmp_path, monkeypatch, capsys, number, code, told):
    monkeypatch.setattr(_FitLoop, "advance", lambda loop: os.kill(os.getpid(), number))
    config = tmp_path / "given.yaml"
    config.write_text(yaml.safe_dump(stage_config(tiny, "Finetune", tmp_path)))
    before = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)  # shells have it ignored in the background
    try:
        assert status("fit", "--config", config) == code
    finally:
        for n, handler in before.items():
            signal.signal(n, handler)
    mend = "with --ckpt_path .../checkpoints/last.ckpt it goes on from its last epoch"
    assert f"eipnn fit: {told}; {mend}\n" in capsys.readouterr().err
    assert not (tmp_path / "fit.json").exists()
