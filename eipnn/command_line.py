"""From a typed function to a command: its parameters are the arguments, its docstring is their help.

Parameters before the ``*`` are positional arguments, those after it options: ``energy_key`` is ``--energy-key``,
``output`` is ``-o`` too and ``number`` ``-n``, and an underscore at the end (``from_``) only keeps clear of Python's
own words. Types:

================================  ========================================================
``str``, ``Path``, ``int``, ...   one value, which the type takes as a text
`Count`, `Natural`, `Seed`, ...   such a number (see `Which`)
``Annotated[str, names]``         one of `names`
``Literal["a", "b"]``             one of these
``X | Y``, ``X | None``           what one of them takes; None: the option need not be given
``list[X]``                       one value and more
``tuple[X, X]``                   as many values
``bool``                          a flag
================================  ========================================================
"""

import argparse
import inspect
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, NoReturn, Union, get_args, get_origin, get_type_hints

from docstring_parser import parse
from jsonargparse import ArgumentParser

from eipnn.errors import UsageError, exit_code
from eipnn.settings import in_one_line


@dataclass(frozen=True)
class Which:
    """Which numbers an argument takes; NaN fails every comparison."""

    name: str
    holds: Callable[[float], bool]


SHORT = {"output": ["-o"], "number": ["-n"]}
"""The options that have a short form."""

Count = Annotated[int, Which("a whole number from 1 on", lambda n: n >= 1)]
Natural = Annotated[int, Which("a whole number from 0 on", lambda n: n >= 0)]
Seed = Annotated[int, Which(f"a whole number from 0 to {2**32 - 1}", lambda n: 0 <= n < 2**32)]
Positive = Annotated[float, Which("a positive number", lambda x: 0 < x < inf)]


class Parser(ArgumentParser):
    """Tells a mistake as `UsageError`, in one line."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise `UsageError`."""
        names = {a.dest: "/".join(a.option_strings) or str(a.metavar) for a in self._actions}
        said = in_one_line(message, [flag[2:] for flag in self._option_string_actions], names)
        raise UsageError(f"{said} (`{self.prog} --help` tells all)") from ex


def script(function: Callable[..., None]) -> int:
    """Call `function` as the command that the running script is; the exit code (see `eipnn.errors.exit_code`)."""
    name = Path(sys.argv[0]).name
    return exit_code(function.__name__, lambda: call(function, sys.argv[1:], name), name)


def call(function: Callable[..., None], arguments: Sequence[str], name: str = "") -> None:
    """Call `function` with the arguments of a command line, which `name` stands before (default: eipnn FUNCTION).

    Raises:
        UsageError: an argument is unknown, missing or not of its type.
    """
    given = vars(parser_of(function, name).parse_args(list(arguments)))
    pairs = {name for name, hint in get_type_hints(function).items() if get_origin(hint) is tuple}
    function(**{name: tuple(value) if name in pairs else value for name, value in given.items()})


def parser_of(function: Callable[..., None], name: str = "") -> Parser:
    """The parser of the command that `function` is."""
    text = parse(inspect.getdoc(function) or "")
    parser = Parser(
        prog=name or f"eipnn {function.__name__}",
        description="\n\n".join(filter(None, (text.short_description, text.long_description))),
        formatter_class=argparse.HelpFormatter,
    )
    described = {p.arg_name: " ".join((p.description or "").split()).rstrip(".") for p in text.params}
    hints = get_type_hints(function, include_extras=True)
    for name, parameter in inspect.signature(function).parameters.items():
        positional = parameter.kind is parameter.POSITIONAL_OR_KEYWORD
        flag = f"--{name.rstrip('_').replace('_', '-')}"
        flags = [name] if positional else [*SHORT.get(name, ()), flag]
        settings = _settings(name, hints[name], parameter.default, described[name])
        settings |= {} if positional else {"dest": name, "required": parameter.default is parameter.empty}
        parser.add_argument(*flags, **settings)
    return parser


def _settings(name: str, hint: Any, default: Any, text: str) -> dict[str, Any]:
    """What `add_argument` is told of a parameter."""
    if hint is bool:
        return {"action": "store_true", "help": text}
    settings: dict[str, Any] = {"metavar": name.rstrip("_").upper()}
    members = [part for part in get_args(hint) if part is not type(None)]
    if get_origin(hint) in (Union, UnionType) and len(members) == 1:
        (hint,) = members
    if get_origin(hint) in (list, tuple):
        settings["nargs"] = "+" if get_origin(hint) is list else len(get_args(hint))
        hint = get_args(hint)[0]
    settings["type"] = _reader(hint)
    if names := _names(hint):
        text = f"{text}; of: {', '.join(names)}"
    if default is not inspect.Parameter.empty:
        several = isinstance(default, (list, tuple))
        settings["default"] = list(default) if several else default
        if default is not None:
            text += f" (default: {' '.join(map(str, default)) if several else default})"
    return settings | {"help": text.replace("%", "%%")}


def _reader(hint: Any) -> Callable[[str], Any]:
    """From a text to a value of the type; what it raises says what the text should have been."""
    union = get_origin(hint) in (Union, UnionType)
    kinds = [_kind(member) for member in (get_args(hint) if union else [hint])]

    def read(text: str) -> Any:
        for kind, which in kinds:
            try:
                value = kind(text)
            except (ValueError, OverflowError):
                continue
            if which.holds(value):
                return value
        wanted = " or ".join(which.name for _, which in kinds)
        raise argparse.ArgumentTypeError(f"{text!r} is not {wanted}")

    return read


def _kind(hint: Any) -> tuple[Callable[[str], Any], Which]:
    """What makes a value of a text, and which values are taken."""
    if names := _names(hint):
        return str, Which(f"one of {', '.join(names)}" if len(names) > 1 else names[0], names.__contains__)
    if get_origin(hint) is Annotated:
        return get_args(hint)
    return hint, Which({str: "a text", Path: "a path"}[hint], lambda value: True)


def _names(hint: Any) -> tuple[str, ...]:
    """The texts that alone are taken; empty for a type without such."""
    if get_origin(hint) is Literal:
        return get_args(hint)
    of = hint.__metadata__[0] if get_origin(hint) is Annotated else ()
    return () if isinstance(of, Which) else tuple(of)
