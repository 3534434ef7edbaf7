"""Fetches the raw material of the paired-edit generator and builds the pack from it.

    python -m training.synth.ingredients --out data/pack

Everything comes by package name through ordinary clients (``pip download``, ``npm pack``, ``apt-get download``) and is
permissive: MIT, OFL, BSD, CC0, CC-BY or public domain. Downloads are kept in ``--downloads`` and reused. Files that
never change are checked against a SHA-256; Debian packages are checked by apt's own signatures. ``--without-animated``
leaves out the one large download (165 MB).

The pack (see :mod:`training.synth.material.pack` for reading it):

    pack.json       sprites, stills and shots: names, captions, splits
    sprites.zip     RGBA WebP, trimmed to the alpha box; an animated sprite is a vertical strip of frames
    stills/*.webp   RGB, short side 288 px
    film.mp4        Big Buck Bunny without credits, 384x216 at 24 fps, no sound
    font.ttf        DejaVu Sans Mono Bold
    LICENSES.json   licence and attribution of every file
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import shutil
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import Interpolation
from PIL import Image, ImageDraw, ImageFont

from sama.files import whole_folder
from training.errors import IngredientError
from training.synth.material.fetch import PACKAGES, check_file, fetch_package, tar_members, unpack_deb
from training.synth.material.names import Name, curated_names
from training.synth.material.palette import COLOURS, sprite_colour
from training.synth.material.sources import film_end, shots, stills
from training.synth.tables import read_table

log = logging.getLogger(__name__)

SPRITE_SIDE = 128
ANIMATED_SIDE = 96
ANIMATED_FRAMES = 12
ANIMATED_CATEGORIES = ("animal", "vehicle", "clothing", "sport", "music", "toy", "nature", "household", "plant")
STILL_SIDE = 288
FILM_SIZE = (384, 216)
FILM_FPS = 24
NOTO_SIZE = 109  # the one bitmap size inside the font
ALPHA_FLOOR = 8  # fainter pixels do not widen the box

FILM_ZIP = "docs/_static/medias/getting_started/moviepy_10_minutes/moviepy_10_minutes.zip"
FILM_SHA256 = "475fbbf34c4c367998f80c29ea03b15a743941179b12da3373fc6706e68621d0"


# --- sprites ----------------------------------------------------------------------------------------------------------


def _hexcodes(emojibase: Path, names: dict[str, Name]) -> dict[str, Name]:
    """The curated names by the emoji's hexcode: lower case, code points joined by "-", without variation selectors."""
    data = dict(tar_members(emojibase, "package/en/"))["data.json"]
    codes = {entry["label"].replace("’", "'"): entry["hexcode"] for entry in json.loads(data)}  # noqa: RUF001
    unknown = sorted(set(names) - set(codes))
    if unknown:
        raise IngredientError(f"names.yaml knows labels that emojibase does not: {', '.join(unknown)}")
    return {_plain(codes[label]): name for label, name in names.items()}


def _plain(hexcode: str) -> str:
    return "-".join(part for part in hexcode.lower().split("-") if part != "fe0f")


def _strip(frames: list[Image.Image], side: int) -> tuple[Image.Image, int] | None:
    """Trims frames to their common alpha box, scales the longest side to `side` and stacks them vertically."""
    alphas = np.stack([np.asarray(frame.getchannel("A")) for frame in frames]).max(0) > ALPHA_FLOOR
    if not alphas.any():
        return None
    rows, columns = np.flatnonzero(alphas.any(1)), np.flatnonzero(alphas.any(0))
    box = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
    width, height = box[2] - box[0], box[3] - box[1]
    scale = min(1.0, side / max(width, height))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    strip = Image.new("RGBA", (size[0], size[1] * len(frames)))
    for index, frame in enumerate(frames):
        strip.paste(frame.crop(box).resize(size, Image.Resampling.LANCZOS), (0, index * size[1]))
    return strip, len(frames)


def _fluent(path: Path, wanted: dict[str, Name]) -> Iterator[tuple[Name, list[Image.Image]]]:
    for file, data in tar_members(path, "package/assets/"):
        name = wanted.get(_plain(file.removesuffix(".webp")))
        if name is not None:
            yield name, [Image.open(BytesIO(data)).convert("RGBA")]


def _animated(path: Path, wanted: dict[str, Name]) -> Iterator[tuple[Name, list[Image.Image]]]:
    for file, data in tar_members(path, "package/assets/"):
        name = wanted.get(_plain(file.removesuffix(".webp")))
        if name is None or name.category not in ANIMATED_CATEGORIES:
            continue
        image = Image.open(BytesIO(data))
        count = getattr(image, "n_frames", 1)
        if count < ANIMATED_FRAMES:
            continue
        frames = []
        for index in range(ANIMATED_FRAMES):
            image.seek(index * count // ANIMATED_FRAMES)
            frames.append(image.convert("RGBA"))
        yield name, frames


def _noto(path: Path, wanted: dict[str, Name]) -> Iterator[tuple[Name, list[Image.Image]]]:
    font = ImageFont.truetype(str(path), NOTO_SIZE, layout_engine=ImageFont.Layout.BASIC)
    for hexcode, name in wanted.items():
        if "-" in hexcode:  # a joined sequence needs a shaper, and only a handful of names are sequences
            continue
        canvas = Image.new("RGBA", (160, 160))
        ImageDraw.Draw(canvas).text((8, 8), chr(int(hexcode, 16)), font=font, embedded_color=True)
        yield name, [canvas]


def _colour(name: str, strip: Image.Image) -> str:
    """The colour word of a drawing: the first word of its name ("black cat") if that is a colour, else measured."""
    first = name.split()[0]
    return first if first in COLOURS else sprite_colour(np.asarray(strip))


def _share(key: str) -> float:
    """A hash of the text in [0, 1), so that splits are the same in every build."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big") / 2**32


def _hold_out(sprites: list[dict[str, Any]]) -> None:
    """Sets ``holdout``: 10 % of the other names, and the Noto drawing of 15 % of the targets drawn in both styles."""
    fluent = {sprite["name"] for sprite in sprites if sprite["style"] == "fluent"}
    for sprite in sprites:
        name = sprite["name"]
        if sprite["target"]:
            sprite["holdout"] = sprite["style"] == "noto" and name in fluent and _share(f"noto {name}") < 0.15
        else:
            sprite["holdout"] = _share(f"name {name}") < 0.10


def _build_sprites(sources: dict[str, Path], out: Path) -> list[dict[str, Any]]:
    wanted = _hexcodes(sources["emojibase"], curated_names())
    styles: list[tuple[str, int, Iterator[tuple[Name, list[Image.Image]]]]] = [
        ("fluent", SPRITE_SIDE, _fluent(sources["fluent"], wanted)),
        ("noto", SPRITE_SIDE, _noto(sources["noto"], wanted)),
    ]
    if "animated" in sources:
        styles.append(("animated", ANIMATED_SIDE, _animated(sources["animated"], wanted)))
    sprites: dict[str, dict[str, Any]] = {}
    with zipfile.ZipFile(out / "sprites.zip", "w", zipfile.ZIP_STORED) as archive:
        for style, side, drawings in styles:
            for name, frames in drawings:
                identity = f"{style}-{'-'.join(name.label.lower().replace(chr(39), '').split())}"
                made = _strip(frames, side)
                if made is None or identity in sprites:
                    continue
                strip, count = made
                buffer = BytesIO()
                strip.save(buffer, "WEBP", quality=90 if count == 1 else 80, method=4)
                info = zipfile.ZipInfo(f"{identity}.webp")  # its fixed date keeps two builds alike
                archive.writestr(info, buffer.getvalue())
                sprites[identity] = {
                    "id": identity,
                    "name": name.name,
                    "aliases": list(name.aliases),
                    "style": style,
                    "category": name.category,
                    "colour": _colour(name.name, strip),
                    "target": name.target,
                    "frames": count,
                }
            log.info("%s: %d sprites so far", style, len(sprites))
    ordered = sorted(sprites.values(), key=lambda sprite: sprite["id"])
    _hold_out(ordered)
    return ordered


# --- stills and film --------------------------------------------------------------------------------------------------


def _build_stills(roots: dict[str, Path], out: Path) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """Writes the stills; returns their entries of pack.json and of LICENSES.json."""
    (out / "stills").mkdir()
    entries, licences = [], []
    for still in stills():
        image = Image.open(roots[still.package] / still.path).convert("RGB")
        scale = STILL_SIDE / min(image.size)
        size = (round(image.width * scale), round(image.height * scale))
        file = f"stills/{still.name}.webp"
        image.resize(size, Image.Resampling.LANCZOS).save(out / file, "WEBP", quality=85, method=5)
        entries.append({"file": file, "caption": still.caption, "split": still.split})
        licences.append(
            {
                "files": file,
                "licence": still.licence,
                "attribution": still.attribution,
                "source": f"{still.package}: {still.path}",
            }
        )
    return entries, licences


def film_source(sdist: Path, work: Path) -> Path:
    """Extract the 720p film from the source distribution of moviepy; checks its hash."""
    with tarfile.open(sdist) as archive:
        member = archive.extractfile(f"moviepy-2.2.1/{FILM_ZIP}")
        if member is None:
            raise IngredientError(f"{sdist.name} holds no {FILM_ZIP}")
        with zipfile.ZipFile(BytesIO(member.read())) as inner:
            path = Path(inner.extract("moviepy_10_minutes/resources/bbb.mp4", work))
    check_file(path, FILM_SHA256)
    return path


def _encode_film(source: Path, destination: Path) -> None:
    """Encode the film without credits and sound at FILM_SIZE."""
    (width, height), end = FILM_SIZE, film_end()
    with av.open(str(source)) as reader, av.open(str(destination), "w") as writer:
        stream = writer.add_stream("libx264", rate=FILM_FPS, options={"crf": "28", "preset": "medium"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        reader.streams.video[0].thread_type = "AUTO"
        for index, frame in enumerate(reader.decode(video=0)):
            if index == end:
                break
            small = frame.reformat(width, height, "yuv420p", interpolation=Interpolation.AREA)
            small.pts, small.time_base = index, Fraction(1, FILM_FPS)
            writer.mux(stream.encode(small))
        writer.mux(stream.encode(None))


# --- the whole --------------------------------------------------------------------------------------------------------


def _assemble(sources: dict[str, Path], work: Path, out: Path) -> None:
    roots = {key: unpack_deb(path, work / key) for key, path in sources.items() if path.suffix == ".deb"}
    roots["scikit-image"] = work / "scikit-image"
    with zipfile.ZipFile(sources["scikit-image"]) as wheel:
        wheel.extractall(roots["scikit-image"], [still.path for still in stills() if still.package == "scikit-image"])
    sources = {**sources, "noto": roots["noto"] / "usr/share/fonts/truetype/noto/NotoColorEmoji.ttf"}

    sprites = _build_sprites(sources, out)
    entries, licences = _build_stills(roots, out)
    shutil.copyfile(roots["dejavu"] / "usr/share/fonts/truetype/dejavu/DejaVuSansMono-Bold.ttf", out / "font.ttf")
    log.info("encoding the film")
    _encode_film(film_source(sources["moviepy"], work), out / "film.mp4")
    film = {"frames": film_end(), "width": FILM_SIZE[0], "height": FILM_SIZE[1], "fps": FILM_FPS}
    pack = {
        "version": 1,
        "film": film,
        "shots": [shot._asdict() for shot in shots()],
        "stills": entries,
        "sprites": sprites,
    }
    (out / "pack.json").write_text(json.dumps(pack, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    text = json.dumps([*read_table("material/licences.yaml"), *licences], indent=1, ensure_ascii=False)
    (out / "LICENSES.json").write_text(text + "\n", encoding="utf-8")


def build_pack(out: Path, downloads: Path, animated: bool = True) -> None:
    """Fetches what is missing and writes the pack to the folder `out`, which appears whole or not at all.

    Args:
        out: the folder to make; a pack that is already there is replaced.
        downloads: a folder that keeps the downloaded packages (about 300 MB).
        animated: also take moving sprites (165 MB of the download).

    Raises:
        IngredientError: a package cannot be fetched, or a file is not the expected one.
    """
    downloads.mkdir(parents=True, exist_ok=True)
    sources = {
        key: fetch_package(package, downloads) for key, package in PACKAGES.items() if animated or key != "animated"
    }
    with whole_folder(out) as made, tempfile.TemporaryDirectory(dir=out.parent, prefix=".pack-") as work:
        _assemble(sources, Path(work), made)


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m training.synth.ingredients", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--out", type=Path, default=Path("data/pack"), help="folder of the pack (default: data/pack)")
    parser.add_argument("--downloads", type=Path, default=Path("data/downloads"), help="folder that keeps downloads")
    parser.add_argument("--without-animated", action="store_true", help="leave out the moving sprites")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        build_pack(options.out, options.downloads, animated=not options.without_animated)
    except IngredientError as error:
        log.error("%s", error)
        return 1
    size = sum(path.stat().st_size for path in options.out.rglob("*") if path.is_file())
    log.info("%s: %.1f MB", options.out, size / 1e6)
    return 0


if __name__ == "__main__":
    sys.exit(main())
