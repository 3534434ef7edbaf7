"""Puts this library's code into a saved pipeline, so that diffusers loads the pipeline where the library is not
installed:

    DiffusionPipeline.from_pretrained(folder, custom_pipeline="pipeline", trust_remote_code=True)

diffusers takes one file of code for a pipeline, without folders; the modules therefore stand in it as text, each under
its name, and are imported from there.
"""

from __future__ import annotations

import ast
import os
from pathlib import Path

from sama.errors import EditError
from sama.files import whole_file

CODE_FILE = "pipeline.py"
_PACKAGE = Path(__file__).parent
_ENTRY = "sama.pipeline"

_TEMPLATE = '''"""SAMA's pipeline for diffusers: the code of sama {version}, unless a package sama is installed.

    DiffusionPipeline.from_pretrained(FOLDER, custom_pipeline="pipeline", trust_remote_code=True)

Written by `python -m sama bundle`. License: Apache-2.0.
"""

import importlib
import importlib.abc
import importlib.util
import sys

SOURCES = {{
{sources}
}}
PACKAGES = {packages}


class Modules(importlib.abc.MetaPathFinder, importlib.abc.InspectLoader):
    """Imports the modules above."""

    def find_spec(self, name, path=None, target=None):
        if name not in SOURCES:
            return None
        spec = importlib.util.spec_from_loader(name, self, origin=__file__, is_package=name in PACKAGES)
        spec.has_location = True
        return spec

    def get_source(self, name):
        return SOURCES[name]

    def is_package(self, name):
        return name in PACKAGES


if importlib.util.find_spec("sama") is None:
    sys.meta_path.append(Modules())
SamaPipeline = importlib.import_module("{entry}").SamaPipeline
'''


def write_code(folder: str | os.PathLike[str]) -> Path:
    """Writes `pipeline.py` into the folder of a saved pipeline and returns its path. Raises EditError for a folder
    without one, or with a `pipeline.py` of somebody else."""
    from sama import __version__

    place = Path(folder)
    if not (place / "model_index.json").is_file():
        raise EditError(f"There is no saved pipeline in {str(folder)!r}; give the folder with model_index.json.")
    target = place / CODE_FILE
    if target.exists() and "Written by `python -m sama bundle`" not in target.read_text(encoding="utf-8"):
        raise EditError(f"{target} is a file of yours; move it away first.")
    modules = needed_modules()
    sources = "\n".join(f"    {name!r}: {_text(name)!r}," for name in modules)
    packages = {name for name in modules if _file(name).name == "__init__.py"}
    text = _TEMPLATE.format(version=__version__, sources=sources, packages=sorted(packages), entry=_ENTRY)
    with whole_file(target) as part:
        part.write_text(text, encoding="utf-8")
    return target


def needed_modules() -> list[str]:
    """The modules of this package that the pipeline imports when it runs, and their packages."""
    found, left = set(), [_ENTRY]
    while left:
        name = left.pop()
        if name in found:
            continue
        found.add(name)
        left += [name.rpartition(".")[0]] if "." in name else []
        left += _imported(name)
    return sorted(found)


def _imported(name: str) -> list[str]:
    names: list[str] = []
    left: list[ast.AST] = [ast.parse(_text(name))]
    while left:
        node = left.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        left += ast.iter_child_nodes(node)
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return [each for each in names if each.split(".")[0] == "sama" and _file(each).is_file()]


def _file(name: str) -> Path:
    path = _PACKAGE.parent.joinpath(*name.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def _text(name: str) -> str:
    return _file(name).read_text(encoding="utf-8")
