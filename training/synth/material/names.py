"""Names of the drawings by the labels of the emoji set, from `names.yaml`."""

from __future__ import annotations

from dataclasses import dataclass

from training.synth.tables import read_table


@dataclass(frozen=True)
class Name:
    """A drawing: its official label and its name here."""

    label: str
    name: str
    aliases: tuple[str, ...]
    category: str
    target: bool


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
