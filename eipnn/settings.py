"""What jsonargparse says of wrong settings, in one line: where, what is wrong, the nearest name that exists."""

import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from importlib import import_module

from jsonargparse import ArgumentParser

SCAFFOLD = re.compile(
    "Does not validate against|Subtypes:|Errors:|Expected a <class 'NoneType'>|Expected a path but|Given value type:|"
    r"Expected a dot import path string|Given value: |Subclass types expect|a class path \(str\)|a dict with"
)
"""How lines begin that say nothing about the mistake itself."""

LONGEST = 400
"""Characters of a message; what a user gave may be of any length."""


def in_one_line(message: str, names: Iterable[str], arguments: Mapping[str, str] | None = None) -> str:
    """The deepest of the reasons that jsonargparse nests, with the path that leads there.

    Args:
        message: of an error of its parser.
        names: all that the parser knows.
        arguments: how those are called that have another name within the parser.
    """
    place: list[tuple[int, str, str]] = []  # indentation, key, class path
    reasons: dict[tuple[tuple[int, str, str], ...], list[str]] = {}
    value = ""
    for line in message.splitlines():
        depth = len(line) - len(line.lstrip())
        text = line.strip().removeprefix("- ")
        while place and place[-1][0] >= depth:
            place.pop()
        if key := re.match(r'Parser key "([^"]*)"( element \d+)?:\s*(.*)', text):
            place.append((depth, key[1] + (key[2] or ""), ""))
            text = key[3]
        elif found := re.match(r"Problem with given class_path '(.*)':", text):
            place.append((depth, "", found[1]))
            continue
        if text.startswith("Given value: "):
            value = value or text.removeprefix("Given value: ")
        if text and not SCAFFOLD.match(text):
            reasons.setdefault(tuple(place), []).append(text)
    if not reasons:
        return _cut(message)
    deepest = max(reasons, key=len)
    where = ".".join(key for _, key, _ in deepest if key)
    owner = next((path for _, _, path in reversed(deepest) if path), "")
    if required := re.match(r"the following arguments are required: (.*)", reasons[deepest][0]):
        keys = [(arguments or {}).get(key, key.removeprefix("fit.")) for key in required[1].split(", ")]
        return " and ".join(f"{where}.{key}" if where else key for key in keys) + " must be given"
    said = _said(list(dict.fromkeys(reasons[deepest])), value, owner, names)
    return _cut(f"{where}: {said}" if where and not said.startswith(where) else said)


def _said(texts: list[str], value: str, owner: str, names: Iterable[str]) -> str:
    """The reasons of one place, in the words of this program."""
    text = texts[0]
    unknown = r"(?:Subcommand '.*' does not accept o|Group '(.*)' does not accept o|O)ption '([^']*)'"
    if option := re.match(unknown, text):
        name = ".".join(filter(None, option.groups()))
        known = settings_of(owner) if owner else names
        return f"there is no setting {name}{near(name, known)}"
    if option := re.match(r"unrecognized arguments: (.*)", text):
        flag = option[1].split()[0].partition("=")[0]
        return f"{option[1]}: there is no such option{near(flag, [f'--{n}' for n in names])}"
    if absent := re.search(r"module '(.*)' has no attribute '([^']*)'", text):
        module = import_module(absent[1])
        there = [*vars(module), *getattr(module, "__all__", ())]
        return f"there is no {absent[1]}.{absent[2]}{near(absent[2], there)}"
    if absent := re.match(r"No module named '(.*)'", text):
        return f"{owner}: no module {absent[1]} can be imported"
    wanted = [match.groups() for t in texts if (match := re.match(r"Expected an? (.*?)(?:\. Got value: (.*))?$", t))]
    if wanted:
        given = next((got for _, got in wanted if got), value)
        return f"{given!r} is not {' or '.join(_kind(kind) for kind, _ in wanted)}"
    return text.removeprefix("argument ")


def near(name: str, names: Iterable[str]) -> str:
    """The nearest of the names that exist, as a question; nothing where none is near."""
    found = get_close_matches(name, list(names), n=1, cutoff=0.65)
    return f"; {found[0]}?" if found else ""


def settings_of(class_path: str) -> list[str]:
    """The arguments of a class, those that it hands on included; none where it cannot be imported."""
    module, _, name = class_path.rpartition(".")
    try:
        return ArgumentParser().add_class_arguments(getattr(import_module(module), name), fail_untyped=False)
    except (ImportError, AttributeError, ValueError):
        return []


def _kind(text: str) -> str:
    """A type in short: ``<class 'int'>`` is int, ``typing.Literal['a', 'b']`` is 'a' or 'b'."""
    text = re.sub(r"<class '(?:[^']*\.)?([^'.]*)'>", r"\1", text)
    if choices := re.fullmatch(r"typing\.Literal\[(.*)\]", text):
        return f"one of {choices[1]}"
    return re.sub(r"\b(?:[a-z_]+\.)+", "", text)


def _cut(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 4]} ..."
