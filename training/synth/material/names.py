"""What the drawings are called, by the labels of the emoji set: `names.yaml`."""

from __future__ import annotations

from dataclasses import dataclass

from training.synth.tables import read_table

__all__ = ["Name", "categories", "curated_names"]


@dataclass(frozen=True)
class Name:
    """One curated drawing: its official label and what we call it."""

    label: str
    name: str
    aliases: tuple[str, ...]
    category: str
    target: bool


def categories() -> tuple[str, ...]:
    """The kinds of drawings, for example "animal"."""
    return tuple(read_table("material/names.yaml"))


def curated_names() -> dict[str, Name]:
    """The drawings to keep, by official label.

    Raises:
        ValueError: a label or a target's name occurs twice in the tables.
    """
    kept: dict[str, Name] = {}
    targets: set[str] = set()
    for category, lines in read_table("material/names.yaml").items():
        for line in lines.splitlines():
            entry = _parse(line, category)
            if entry.label in kept:
                raise ValueError(f"label {entry.label!r} is named twice")
            if entry.target and entry.name in targets:
                raise ValueError(f"two targets are called {entry.name!r}")
            kept[entry.label] = entry
            if entry.target:
                targets.add(entry.name)
    return kept


def _parse(line: str, category: str) -> Name:
    target = line.startswith("*")
    label, equals, names = line.removeprefix("*").partition("=")
    if not equals:  # "label | alias": the label is the name
        label, _, rest = label.partition("|")
        names = f"{label}|{rest}" if rest else label
    name, *aliases = (part.strip() for part in names.split("|"))
    return Name(label.strip(), name, tuple(aliases), category, target)
