"""Checks the shape of the code: `make check` runs it, ARCHITECTURE.md explains it.

    python tests/structure.py            (prints the figures, exits 1 where one is over its limit)

Imports inside functions count as imports. A name that is imported from a package's face (its `__init__`) counts as
imported from the module that defines it, so that a face adds no link to a chain.
"""

from __future__ import annotations

import ast
import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[1]
STAGES = ("extract", "kernels", "train", "retrieve")
LONGEST_CHAIN, FOLDER, CLASS, FUNCTION, FILE = 12, 15, 200, 60, 300
# Folders that are registries: a file an item, however many there are.
REGISTRIES = ("train/methods", "extract/datasets", "sdc/commands")
# What every package may import from by module: the ground, which stands in `sdc` itself.
GROUND = "sdc"


def product_files(root: Path) -> Iterator[tuple[str, Path]]:
    """The dotted name and the path of each module of the product; the links to the stages are not followed."""
    for top in ("sdc", *STAGES):
        for path in sorted((root / top).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            if parts[0] == "sdc" and len(parts) > 1 and parts[1] in STAGES:
                continue
            named = parts if parts[0] == "sdc" else ("sdc", *parts)
            yield ".".join(named[:-1] if named[-1] == "__init__" else named), path


class Code:
    """The modules of the product, their syntax trees and what they import from each other."""

    def __init__(self, root: Path) -> None:
        self.paths = dict(product_files(root))
        self.trees = {module: ast.parse(path.read_text(encoding="utf-8")) for module, path in self.paths.items()}
        self.packages = {module for module, path in self.paths.items() if path.name == "__init__.py"}
        self.faces = {package: self._face(package) for package in self.packages}
        self.imports = {module: {self.home(*pair) for pair in self.pairs(module)} - {module} for module in self.paths}

    def pairs(self, module: str) -> Iterator[tuple[str, str]]:
        """(module, name) of each import of ours, those inside functions too; an imported module has an empty name."""
        for node in ast.walk(self.trees[module]):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "sdc":
                for alias in node.names:
                    full = f"{node.module}.{alias.name}"
                    yield (full, "") if full in self.paths else (node.module, alias.name)
            elif isinstance(node, ast.Import):
                yield from ((alias.name, "") for alias in node.names if alias.name in self.paths)

    def _face(self, package: str) -> dict[str, str]:
        """Where the names come from that a package hands on."""
        names = {}
        for node in ast.walk(self.trees[package]):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith(package):
                names |= {alias.asname or alias.name: node.module for alias in node.names}
        return names

    def home(self, module: str, name: str) -> str:
        """The module that defines what is imported from `module` as `name`."""
        while module in self.faces and name in self.faces[module]:
            module = self.faces[module][name]
        return module


def circles(code: Code) -> list[str]:
    try:
        tuple(TopologicalSorter(code.imports).static_order())
    except CycleError as error:
        return [" -> ".join(error.args[1])]
    return []


def longest_chain(code: Code) -> list[str]:
    """The modules of the longest chain of imports, each importing the next. There must be no circle."""
    best: dict[str, list[str]] = {}
    for module in TopologicalSorter(code.imports).static_order():
        below = max((best[target] for target in code.imports[module] if target in best), key=len, default=[])
        best[module] = [module, *below]
    return max(best.values(), key=len)


def past_faces(code: Code) -> Iterator[str]:
    """Imports from a module inside a package by code outside it, and of names that the package's face does not list."""
    for module in code.paths:
        for target, name in code.pairs(module):
            package = target if target in code.packages else target.rpartition(".")[0]
            shared = package
            while not (module + ".").startswith(shared + "."):
                shared = shared.rpartition(".")[0]
            if shared == package or package == GROUND:
                continue
            where = f"{code.paths[module].relative_to(ROOT)} imports {target}{f'.{name}' if name else ''}"
            if target not in code.packages:
                yield f"{where}: import it from {package}"
            elif name and name not in public(code, package):
                yield f"{where}: it is not in __all__ of {package}"


def public(code: Code, package: str) -> set[str]:
    for node in code.trees[package].body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets):
            return set(ast.literal_eval(node.value))
    return set()


def large_folders(code: Code) -> Iterator[str]:
    sizes: dict[Path, int] = defaultdict(int)
    for path in code.paths.values():
        sizes[path.parent] += path.name != "__init__.py"
    for folder, size in sizes.items():
        name = str(folder.relative_to(ROOT))
        if size > FOLDER and name not in REGISTRIES:
            yield f"{name} has {size} modules (at most {FOLDER})"


def large_definitions(code: Code) -> Iterator[str]:
    for module, tree in code.trees.items():
        for node in ast.walk(tree):
            if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                assert node.end_lineno is not None
                lines, limit = node.end_lineno - node.lineno + 1, CLASS if isinstance(node, ast.ClassDef) else FUNCTION
                if lines > limit:
                    where = code.paths[module].relative_to(ROOT)
                    yield f"{where}:{node.lineno}: {node.name} has {lines} lines (at most {limit})"


def long_files(code: Code) -> Iterator[str]:
    """Files over the limit whose reason does not stand in ARCHITECTURE.md's table of long files."""
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8") if (ROOT / "ARCHITECTURE.md").exists() else ""
    explained = set(re.findall(r"^\| `([\w/.]+)` \| \d+ \|", text, re.MULTILINE))
    for path in code.paths.values():
        lines = len(path.read_text(encoding="utf-8").splitlines())
        name = str(path.relative_to(ROOT))
        if lines > FILE and name not in explained:
            yield f"{name} has {lines} lines (over {FILE} needs a reason in ARCHITECTURE.md)"


def main() -> int:
    code = Code(ROOT)
    faults = [f"import circle: {circle}" for circle in circles(code)]
    if not faults:
        chain = longest_chain(code)
        links = len(chain) - 1
        print(f"longest import chain: {links} links (at most {LONGEST_CHAIN}): {' -> '.join(chain)}")
        if links > LONGEST_CHAIN:
            faults.append(f"the longest import chain has {links} links, at most {LONGEST_CHAIN}")
    for check in (past_faces, large_folders, large_definitions, long_files):
        faults += sorted(set(check(code)))
    print(f"{len(code.paths)} modules, {len(faults)} faults")
    print("\n".join(faults), end="\n" if faults else "")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
