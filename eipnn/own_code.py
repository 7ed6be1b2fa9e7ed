"""The source of classes that a user wrote: what a ``class_path`` names outside of installed packages."""

import ast
import hashlib
import sys
from collections.abc import Iterable, Iterator
from importlib.machinery import ModuleSpec
from importlib.util import find_spec, resolve_name
from pathlib import Path
from typing import Any

INSTALLED = {"site-packages", "dist-packages"}


def class_paths(content: Any) -> Iterator[str]:
    """Every ``class_path`` in a configuration, at any depth."""
    if isinstance(content, dict):
        if isinstance(content.get("class_path"), str):
            yield content["class_path"]
        content = list(content.values())
    if isinstance(content, list):
        for part in content:
            yield from class_paths(part)


def source_digests(paths: Iterable[str]) -> dict[str, str]:
    """SHA-256 of the files behind some class paths and of what these import, by name of the module.

    Only modules that belong to no installed package count, such as files of the working directory: those are edited
    between two runs. What cannot be found or parsed is left to the import itself to complain of.
    """
    digests: dict[str, str] = {}
    due = [path.rpartition(".")[0] for path in paths]
    seen = {""}
    while due:
        if (name := due.pop()) in seen:
            continue
        seen.add(name)
        around = name.rpartition(".")[0]
        due.append(around)
        if (spec := _own_spec(name)) and spec.origin:
            source = Path(spec.origin).read_bytes()
            digests[name] = hashlib.sha256(source).hexdigest()
            due += _imports(source, name if spec.submodule_search_locations else around)
    return dict(sorted(digests.items()))


def _own_spec(name: str) -> ModuleSpec | None:
    """The module of that name, where it is a file, or a folder of files, of the user's."""
    top = name.partition(".")[0]
    if top == "eipnn" or top in sys.stdlib_module_names:
        return None
    try:
        spec = find_spec(name) if name == top or _own_spec(name.rpartition(".")[0]) else None
    except (ImportError, ValueError, AttributeError):
        return None
    if spec is None:
        return None
    places = [spec.origin] if spec.origin else list(spec.submodule_search_locations or ())
    own = all(not INSTALLED & set(Path(place).parts) for place in places)
    return spec if own and (not spec.origin or spec.origin.endswith(".py")) else None


def _imports(source: bytes, package: str) -> Iterator[str]:
    """The modules that a module in `package` names in its imports."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            relative = "." * node.level + (node.module or "")
            try:
                base = resolve_name(relative, package)
            except ImportError:  # beyond the top of a package
                continue
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)
