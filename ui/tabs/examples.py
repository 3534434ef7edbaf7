"""The finished examples: loads them from a manifest, and makes them with the real pipeline.

python -m ui.tabs.examples build --source clip.mp4 --name snowy-swan --instruction "Make it snowy"
python -m ui.tabs.examples measure    # notes how much an example changed where an older version did not

`assets/examples/manifest.json` is a list of {"name", "title", "caption", "credit"}; each name is a folder beside it,
as `ui.media.runs` describes.
"""

from __future__ import annotations

import argparse
import json
import logging
import re
import shutil
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from sama.edit.request import EditRequest
from sama.files import whole_file
from sama.video import FrameReader, normalise_upload
from ui.errors import sentence
from ui.jobs.jobs import Edited, Jobs
from ui.media.runs import FinishedEdit, compose_film, finish, pack, write_poster
from ui.settings import ASSETS, Settings

logger = logging.getLogger(__name__)
MANIFEST = "manifest.json"


def load_examples(folder: Path) -> list[FinishedEdit]:
    """The examples of a folder, in the manifest's order. One that is broken is left out, and the log says why."""
    manifest = folder / MANIFEST
    if not manifest.is_file():
        return []
    examples = []
    for entry in json.loads(manifest.read_text("utf-8")):
        try:
            edit = FinishedEdit.load(
                folder / entry["name"], entry["title"], entry.get("caption", ""), entry.get("credit", "")
            )
            if edit.packed is None or not edit.poster.is_file():
                raise FileNotFoundError(f"{entry['name']} is incomplete: build the example again")
            examples.append(edit)
        except (OSError, ValueError, KeyError) as error:
            logger.warning("an example of %s is left out: %s", folder, error)
    return examples


def build_example(
    request: EditRequest, jobs: Jobs, folder: Path, entry: dict[str, str], film: bool = False
) -> FinishedEdit:
    """Run an edit and keep it as an example: its folder, and its line in the manifest (an older one is replaced).

    request: its output is ignored, and its video is transcoded as an upload is.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".build-", dir=folder) as name:
        part = Path(name)
        clean = part / "source.mp4"
        normalise_upload(request.video, clean)  # what a visitor's browser plays, not what a camera wrote
        for event in jobs.edit(replace(request, video=clean, output=part / "result.mp4")):
            if isinstance(event, Edited):
                edit = finish(part, clean, event.tokens)
                pack(edit)
                write_poster(edit)
                if film:
                    compose_film(edit)
        part.chmod(0o755)
        target = folder / entry["name"]
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(part, target)
    manifest = folder / MANIFEST
    entries = json.loads(manifest.read_text("utf-8")) if manifest.is_file() else []
    names = [old["name"] for old in entries]
    entries = [entry if old["name"] == entry["name"] else old for old in entries]
    entries += [] if entry["name"] in names else [entry]
    with whole_file(manifest) as part_file:
        part_file.write_text(json.dumps(entries, indent=2, ensure_ascii=False) + "\n", "utf-8")
    return FinishedEdit.load(target, entry["title"], entry.get("caption", ""), entry.get("credit", ""))


def measure_change(edit: FinishedEdit) -> float:
    """The share of the picture that an edit changed, 0 to 1, from its two files at the model's size: near what
    `sama.edit` measures while it paints."""
    from sama.edit.composing.change import changed_share, shown_change
    from sama.edit.composing.compose import differences

    size = tuple(edit.settings["bucket"])
    with (
        FrameReader(edit.source, edit.start, edit.frames, size=size) as before,
        FrameReader(edit.result, size=size) as after,
    ):
        source, result = (np.stack([frame.image for frame in frames]) for frames in (before, after))
    change = shown_change(differences(result, source), None)
    return float(np.mean([changed_share(frame) for frame in change]))


def note_changes(folder: Path) -> list[str]:
    """Write what they changed into the settings of the examples that do not say it; returns a line for each."""
    lines = []
    for edit in load_examples(folder):
        if "changed" in edit.settings:
            continue
        told = edit.settings | {"changed": round(measure_change(edit), 4)}
        with whole_file(edit.settings_file) as part:
            part.write_text(json.dumps(told, indent=2, ensure_ascii=False) + "\n", "utf-8")
        lines.append(f"{edit.folder.name}: {told['changed']}")
    return lines


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m ui.tabs.examples", description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    build = commands.add_parser("build", help="make a finished example with the real pipeline")
    build.add_argument("--source", type=Path, required=True)
    build.add_argument("--name", required=True, help="folder name: letters, digits and hyphens")
    build.add_argument("--instruction", required=True)
    build.add_argument("--title", help="on the page; the instruction if left out")
    build.add_argument("--caption", default="", help="what the clip shows, for restorations")
    build.add_argument("--credit", default="", help="author and licence of the clip")
    build.add_argument("--preset", default="tiny")
    build.add_argument("--seed", type=int, default=0)
    build.add_argument("--steps", type=int)
    build.add_argument("--guidance", type=float)
    build.add_argument("--start", type=int, default=0)
    build.add_argument("--frames", type=int)
    build.add_argument("--keep-source", default="auto", choices=["auto", "on", "off"])
    build.add_argument("--detail", default="auto", choices=["auto", "on", "off"])
    build.add_argument("--folder", type=Path, default=ASSETS / "examples")
    measure = commands.add_parser("measure", help="note how much an example changed where its settings do not say it")
    measure.add_argument("--folder", type=Path, default=ASSETS / "examples")
    args = parser.parse_args(arguments)
    if args.command == "measure":
        sys.stdout.write("".join(line + "\n" for line in note_changes(args.folder)))
        return 0
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", args.name):
        parser.error("a name has small letters, digits and hyphens")
    request = EditRequest(
        video=args.source, instruction=args.instruction, output="", preset=args.preset, seed=args.seed,
        steps=args.steps, guidance=args.guidance, start=args.start, frames=args.frames, keep_source=args.keep_source,
        detail=args.detail,
    )  # fmt: skip
    entry = {"name": args.name, "title": args.title or args.instruction, "caption": args.caption, "credit": args.credit}
    try:
        edit = build_example(request, Jobs(Settings(preset=args.preset)), args.folder, entry)
    except Exception as error:
        sys.stderr.write(sentence(error) + "\n")
        return 2
    sys.stdout.write(f"{edit.folder} ({edit.frames} frames, {edit.width} x {edit.height})\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
