"""Writes docs/api.md, the public interface of the library, from its docstrings.

python -m benchmarks.api_page
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "api.md"

# Modules, and their public names in the order of the page.
CONTENTS: dict[str, tuple[str, ...]] = {
    "sama": ("SamaPipeline", "SamaTransformer3DModel", "EditRequest", "EditResult", "edit_video"),
    "sama.pipeline": ("SamaPipelineOutput", "SamaStep"),
    "sama.edit": ("EditEvent",),
    "sama.edit.batch": ("read_jobs", "run_batch", "Row", "RowEvent"),
    "sama.loading": ("load_pipeline", "assemble"),
    "sama.checkpoints": (
        "load_transformer", "from_base_wan", "from_official", "to_official", "iterate_tensors", "read_state_dict",
        "save_official",
    ),
    "sama.conversion": ("to_folder",),
    "sama.video": ("probe", "read_clip", "write_clip", "FrameReader", "VideoWriter", "VideoInfo", "VideoLimits"),
    "sama.errors": ("EditError", "EditFailedError", "CheckpointError", "VideoError"),
}  # fmt: skip

_HEAD = """# The library

Public names of sama {version}, from their docstrings. `python -m benchmarks.api_page` writes this page; scripts that
use the library are in [examples](../examples).
"""


def page() -> str:
    """The page as text."""
    from sama import __version__

    parts = [_HEAD.format(version=__version__), *_contents()]
    for module, names in CONTENTS.items():
        parts.append(f"## Module {module}\n")
        parts += [text for name in names for text in _entry(module, name)]
    return "\n".join(parts)


def documented() -> Iterator[tuple[str, Any]]:
    """Every object of the page, methods included, by its full name."""
    for module, names in CONTENTS.items():
        for name in names:
            found = getattr(importlib.import_module(module), name)
            yield f"{module}.{name}", found
            for method, member in _methods(found):
                yield f"{module}.{name}.{method}", member


def _contents() -> Iterator[str]:
    for module, names in CONTENTS.items():
        yield f"- [{module}](#{_anchor(f'Module {module}')}): " + ", ".join(
            f"[{name}](#{_anchor(name)})" for name in names
        )
    yield ""


def _entry(module: str, name: str) -> Iterator[str]:
    found = getattr(importlib.import_module(module), name)
    file = Path(inspect.getsourcefile(found) or "").resolve().relative_to(ROOT).as_posix()
    yield f"### {name}\n"
    yield f"[{file}](../{file})\n"
    if not (inspect.isclass(found) and issubclass(found, Exception)):
        yield f"```python\n{_signature(name, found)}\n```"
    yield _text(found)
    for method, member in _methods(found):
        yield f"#### {name}.{method}\n"
        if not isinstance(member, property):
            yield f"```python\n{_signature(method, member)}\n```"
        yield _text(member)


def _methods(found: Any) -> list[tuple[str, Any]]:
    """Documented public methods and properties of a class that are this project's own, in the order of their names."""
    if not inspect.isclass(found) or (is_dataclass(found) and not hasattr(found, "forward")):
        return []
    members: dict[str, Any] = {}
    for base in reversed(found.__mro__):
        if base.__module__.partition(".")[0] == "sama":
            members |= vars(base)
    wanted = {
        name: member.__func__ if isinstance(member, (classmethod, staticmethod)) else member
        for name, member in members.items()
        if name in ("__call__", "forward") or not name.startswith("_")
    }
    return sorted((name, member) for name, member in wanted.items() if inspect.getdoc(member) and _is_code(member))


def _is_code(member: Any) -> bool:
    return isinstance(member, property) or inspect.isfunction(member)


def _signature(name: str, found: Any) -> str:
    """A call as its source has it, one argument a line where it is long."""
    signature = inspect.signature(found)
    arguments, star = [], False
    for parameter in signature.parameters.values():
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY and not star:
            arguments.append("*")
        star |= parameter.kind in (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_POSITIONAL)
        arguments.append(_argument(parameter))
    result = signature.return_annotation
    end = f") -> {_type(result)}" if result not in (inspect.Signature.empty, None, "None") else ")"
    line = f"{name}({', '.join(arguments)}{end}"
    return line if len(line) <= 110 else "\n".join([f"{name}(", *(f"    {each}," for each in arguments), end])


def _argument(parameter: inspect.Parameter) -> str:
    text = {"VAR_POSITIONAL": "*", "VAR_KEYWORD": "**"}.get(parameter.kind.name, "") + parameter.name
    if parameter.annotation is not inspect.Parameter.empty:
        text += f": {_type(parameter.annotation)}"
    if parameter.default is not inspect.Parameter.empty:
        text += f" = {re.sub(' object at 0x[0-9a-f]+', '', repr(parameter.default))}"
    return text


def _type(annotation: Any) -> str:
    return annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)


def _text(found: Any) -> str:
    """A docstring as Markdown: paragraphs stay, the explanations of arguments become a list."""
    lines = (inspect.getdoc(found) or "").replace("``", "`").splitlines()
    out: list[str] = []
    for line in lines:
        starts = re.match(r"([a-z_][\w, ]*): \S", line)
        if starts and not line.startswith(" "):
            if out and out[-1] and not out[-1].startswith(("- ", "  ")):
                out.append("")
            out.append(f"- {line}")
        elif line.startswith("    ") and out and out[-1].startswith(("- ", "  ")):
            out.append(f"  {line.strip()}")
        else:
            if out and out[-1].startswith(("- ", "  ")) and line.strip():
                out.append("")
            out.append(line)
    return "\n".join(out) + "\n"


def _anchor(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def main() -> None:
    PAGE.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
