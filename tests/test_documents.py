"""The documents name paths, functions and classes that are there, and all that can be chosen."""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENTS = ("ARCHITECTURE.md", "CONTRIBUTING.md", "README.md", "RELEASE.md", "SECURITY.md")
FOLDERS = "bench|extract|kernels|retrieve|sdc|tests|train"
NAMED = re.compile(rf"`((?:{FOLDERS})/[\w/.-]*)(?::(\w+)(?:\.(\w+))?)?`")
LINK = re.compile(r"\]\(([^)#:]+)\)")


@functools.cache
def parsed(path: str) -> list[ast.stmt]:
    return ast.parse((ROOT / path).read_text(encoding="utf-8")).body


def definitions(body: list[ast.stmt]) -> dict[str, ast.stmt]:
    """What a module or class defines, by name."""
    names: dict[str, ast.stmt] = {}
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.AsyncFunctionDef)):
            names[node.name] = node
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        names |= {target.id: node for target in targets if isinstance(target, ast.Name)}
    return names


@pytest.mark.parametrize("document", DOCUMENTS)
def test_documents_name_what_is_there(document):
    text = (ROOT / document).read_text(encoding="utf-8")
    unknown = [target for target in LINK.findall(text) if not (ROOT / target).exists()]
    for path, name, member in NAMED.findall(text):
        if "NAME" in path or "→" in path:
            continue
        if not (ROOT / path).exists():
            unknown.append(path)
        elif name:
            found = definitions(parsed(path))
            inside = definitions(getattr(found.get(name), "body", [])) if member else found
            if name not in found or (member or name) not in inside:
                unknown.append(f"{path}:{name}{member and '.' + member}")
    assert not unknown


def test_the_readme_names_all_that_can_be_chosen():
    from sdc.commands import COMMANDS
    from sdc.extract.backbones import BACKBONES
    from sdc.extract.datasets import DATASETS
    from sdc.extract.readers import READERS
    from sdc.retrieve.engines import ENGINES
    from sdc.retrieve.index import INDEX_TYPES
    from sdc.train.calibrations import CALIBRATIONS
    from sdc.train.methods import METHODS

    text = (ROOT / "README.md").read_text(encoding="utf-8")
    readers = {ending[1:] for ending in READERS} - {"h5", "pth"}  # other endings of hdf5 and pt
    names = {*COMMANDS, *BACKBONES, *DATASETS, *readers, *ENGINES, *INDEX_TYPES, *CALIBRATIONS, *METHODS}
    assert not {name for name in names if not re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", text)}
