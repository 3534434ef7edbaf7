"""The finished repairs that come with the app: loads them from a manifest, and makes them with the real model.

python -m ui.repair.shipped build --example sunset-towers --task cube

`assets/examples/repairs/manifest.json` is a list of {"name", "example"}: a folder beside it, as `ui.repair.record`
describes, and the finished edit whose clip was broken.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from sama.files import whole_file
from sama.model.pretext import PRETEXT_TASKS
from ui.errors import sentence
from ui.jobs.jobs import Jobs, Restoration, Restored
from ui.media.clips import source_clip
from ui.media.runs import FinishedEdit
from ui.repair.damage import Break, damage
from ui.repair.record import Repair, save_repair
from ui.settings import ASSETS, Settings

logger = logging.getLogger(__name__)
FOLDER = "repairs"
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Shipped:
    """A finished repair, and the name of the example whose clip was broken."""

    example: str
    repair: Repair

    @property
    def choice(self) -> Break:
        return self.repair.choice


def load_shipped(examples: Path) -> list[Shipped]:
    """The repairs in a folder of examples, in the manifest's order. A broken one is left out, and the log says why."""
    manifest = examples / FOLDER / MANIFEST
    if not manifest.is_file():
        return []
    found = []
    for entry in json.loads(manifest.read_text("utf-8")):
        try:
            repair = Repair.load(examples / FOLDER / entry["name"])
            if not repair.finished:
                raise FileNotFoundError(f"{entry['name']} is not repaired: build it again")
            found.append(Shipped(entry["example"], repair))
        except (OSError, ValueError, KeyError, TypeError) as error:
            logger.warning("a repair of %s is left out: %s", examples, error)
    return found


def build_repair(edit: FinishedEdit, choice: Break, jobs: Jobs, examples: Path, steps: int | None = None) -> Shipped:
    """Break an example's clip, repair it and keep it: its folder, and its line in the manifest (an older one is
    replaced)."""
    folder, name = examples / FOLDER, f"{choice.task}-{edit.folder.name}"
    folder.mkdir(parents=True, exist_ok=True)
    damaged = damage(source_clip(edit), choice, jobs.settings.preset)
    order = Restoration(damaged.given, damaged.prefix, edit.caption, choice.seed, steps, clean=damaged.clean)
    with tempfile.TemporaryDirectory(prefix=".build-", dir=folder) as temporary:
        part = Path(temporary)
        for event in jobs.restore(order):
            if isinstance(event, Restored):
                assert event.ceiling is not None  # asked for with the clean clip
                facts = {"caption": edit.caption, "model": jobs.settings.preset}
                save_repair(damaged, event.frames, event.ceiling, part, facts, ".webp")
        part.chmod(0o755)
        shutil.rmtree(folder / name, ignore_errors=True)
        shutil.copytree(part, folder / name)
    manifest = folder / MANIFEST
    entries = json.loads(manifest.read_text("utf-8")) if manifest.is_file() else []
    entries = [old for old in entries if old["name"] != name] + [{"name": name, "example": edit.folder.name}]
    with whole_file(manifest) as part_file:
        part_file.write_text(json.dumps(entries, indent=2) + "\n", "utf-8")
    return Shipped(edit.folder.name, Repair.load(folder / name))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m ui.repair.shipped", description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    build = commands.add_parser("build", help="make a finished repair with the real model")
    build.add_argument("--example", required=True, help="the finished edit whose clip is broken: a folder of --folder")
    build.add_argument("--task", required=True, choices=list(PRETEXT_TASKS))
    build.add_argument("--start", type=int, default=0)
    build.add_argument("--seed", type=int, default=0)
    build.add_argument("--strength", type=float, help="that of training if left out")
    build.add_argument("--steps", type=int)
    build.add_argument("--preset", default="tiny")
    build.add_argument("--folder", type=Path, default=ASSETS / "examples")
    args = parser.parse_args(arguments)
    try:
        caption = {entry["name"]: entry["caption"] for entry in json.loads((args.folder / MANIFEST).read_text("utf-8"))}
        edit = FinishedEdit.load(args.folder / args.example, caption=caption[args.example])
        choice = Break.of(args.task, args.start, args.seed, args.strength)
        shipped = build_repair(edit, choice, Jobs(Settings(preset=args.preset)), args.folder, args.steps)
    except KeyError:
        sys.stderr.write(f"There is no example {args.example!r}; choose one of {', '.join(caption)}.\n")
        return 2
    except Exception as error:
        sys.stderr.write(sentence(error) + "\n")
        return 2
    size = sum(file.stat().st_size for file in shipped.repair.folder.iterdir())
    sys.stdout.write(f"{shipped.repair.folder} ({size // 1000} kB)\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
