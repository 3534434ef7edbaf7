"""Reads the pack of raw material: sprites, stills, the film with its shots, and a font.

    pack = Pack.load("data/pack")
    targets = pack.sprites("train", target=True)
    frames = pack.film(pack.shots("train")[0], start=0, count=17)      # (17, 216, 384, 3) uint8 RGB

``python -m training.synth.ingredients --out data/pack`` makes the pack. Sprites and stills are decoded on loading
(about a second); the film is decoded once, on first use, into a file beside it that all workers map into memory.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from filelock import FileLock
from PIL import Image, ImageFont

from sama.files import whole_file
from training.errors import PackError

Split = Literal["train", "test"]

_COMMAND = "python -m training.synth.ingredients --out"


@dataclass(frozen=True, eq=False)
class Sprite:
    """A named drawing.

    Attributes:
        id: unique, such as ``fluent-cat``.
        name: what a person would type, such as ``hot air balloon``.
        style: ``fluent``, ``noto`` or ``animated``.
        category: ``animal``, ``food``, ``vehicle``, ``plant``, ``clothing``, ``sport``, ``music``, ``toy``,
            ``household``, ``nature``, ``building`` or ``person``.
        colour: the dominant colour in a word, measured from the pixels.
        target: whether a model learns to draw it.
        holdout: kept for tests.
        frames: (h, w, 4) uint8 RGBA arrays, not premultiplied; one for a still drawing, a loop for an animated one.
        aliases: other names of the same thing.
    """

    id: str
    name: str
    style: str
    category: str
    colour: str
    target: bool
    holdout: bool
    frames: list[np.ndarray]
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Still:
    """A photograph: (h, w, 3) uint8 RGB with short side 288, its caption and its split."""

    image: np.ndarray
    caption: str
    split: Split


@dataclass(frozen=True)
class Shot:
    """Frames [start, end) of the film, one camera take, with its caption and split."""

    start: int
    end: int
    caption: str
    split: Split

    def __len__(self) -> int:
        return self.end - self.start


def require_pack(path: str | Path) -> Path:
    """The folder of a pack. Raises PackError, with the command that makes one, when there is none. Call it before slow
    work."""
    folder = Path(path)
    if not (folder / "pack.json").is_file():
        raise PackError(f"there is no pack in {folder}; make it with: {_COMMAND} {folder}")
    return folder


def _decode_sprite(entry: dict[str, Any], data: bytes) -> Sprite:
    strip = np.asarray(Image.open(BytesIO(data)).convert("RGBA"))
    count = entry["frames"]
    if len(strip) % count:
        raise PackError(f"sprite {entry['id']} is not a strip of {count} frames; make the pack again.")
    same = {name: entry[name] for name in ("id", "name", "style", "category", "colour", "target", "holdout")}
    return Sprite(**same, frames=np.split(strip, count), aliases=tuple(entry["aliases"]))


def _decode_still(folder: Path, entry: dict[str, Any]) -> Still:
    with Image.open(folder / entry["file"]) as image:
        return Still(np.asarray(image.convert("RGB")), entry["caption"], entry["split"])


def _read_sprites(path: Path, entries: list[dict[str, Any]]) -> list[Sprite]:
    with zipfile.ZipFile(path) as archive:
        data = [archive.read(f"{entry['id']}.webp") for entry in entries]
    with ThreadPoolExecutor() as threads:
        return list(threads.map(_decode_sprite, entries, data))


@dataclass
class Pack:
    """A loaded pack. It can be shared with forked and spawned workers; the film is memory-mapped, not copied."""

    folder: Path
    all_sprites: list[Sprite]
    all_stills: list[Still]
    all_shots: list[Shot]
    film_frames: int
    film_width: int
    film_height: int
    film_fps: int
    _mapped: np.ndarray | None = field(default=None, repr=False)

    @classmethod
    def load(cls, path: str | Path = "data/pack") -> Pack:
        """Reads the pack in the folder `path`.

        Raises:
            PackError: there is no pack, or a part of it is missing or unreadable.
        """
        folder = require_pack(path)
        try:
            table = json.loads((folder / "pack.json").read_text(encoding="utf-8"))
            film = table["film"]
            return cls(
                folder=folder,
                all_sprites=_read_sprites(folder / "sprites.zip", table["sprites"]),
                all_stills=[_decode_still(folder, entry) for entry in table["stills"]],
                all_shots=[Shot(e["start"], e["end"], e["caption"], e["split"]) for e in table["shots"]],
                film_frames=film["frames"],
                film_width=film["width"],
                film_height=film["height"],
                film_fps=film["fps"],
            )
        except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
            message = f"the pack in {folder} is broken ({error}); make it again with: {_COMMAND} {folder}"
            raise PackError(message) from error

    def sprites(
        self, split: Split | None = None, *, target: bool | None = None, style: str | None = None
    ) -> list[Sprite]:
        """Sprites of a split (``train`` are those not held out), by target flag and style; None means any."""
        return [
            sprite
            for sprite in self.all_sprites
            if (split is None or sprite.holdout == (split == "test"))
            and (target is None or sprite.target == target)
            and (style is None or sprite.style == style)
        ]

    def stills(self, split: Split | None = None) -> list[Still]:
        """Stills of a split; None means all."""
        return [still for still in self.all_stills if split in (None, still.split)]

    def shots(self, split: Split | None = None, *, min_frames: int = 1) -> list[Shot]:
        """Shots of a split with at least `min_frames` frames; None means both splits."""
        return [shot for shot in self.all_shots if split in (None, shot.split) and len(shot) >= min_frames]

    def font(self, size: int) -> ImageFont.FreeTypeFont:
        """The subtitle font (DejaVu Sans Mono Bold) at `size` pixels."""
        return ImageFont.truetype(str(self.folder / "font.ttf"), size)

    def film(self, shot: Shot, start: int = 0, count: int | None = None, step: int = 1) -> np.ndarray:
        """Frames of a shot, (count, H, W, 3) uint8 RGB at the film's size (216x384).

        Args:
            shot: one of `shots()`.
            start: first frame, counted from the start of the shot.
            count: how many; None means up to the end of the shot.
            step: every so many frames one, 2 for twice the speed.

        Raises:
            ValueError: the frames asked for do not lie in the shot.
            PackError: the film cannot be decoded.
        """
        count = -(-(len(shot) - start) // step) if count is None else count
        reach = step * (count - 1) + 1
        if start < 0 or count < 1 or start + reach > len(shot):
            raise ValueError(f"frames {start} to {start + reach} do not lie in a shot of {len(shot)} frames")
        first = shot.start + start
        planes = self._film_planes()[first : first + reach : step]
        return np.stack([cv2.cvtColor(plane, cv2.COLOR_YUV2RGB_I420) for plane in planes])

    def prepare_film(self) -> Path:
        """Decodes the film into its cache unless that is done already; returns the cache's path.

        The cache holds the decoded 4:2:0 planes, (frames, 3H/2, W) uint8: half the size of RGB (1.5 GB) and nothing
        lost. It is written whole or not at all, and one process does it while others wait.
        """
        film = self.folder / "film.mp4"
        if not film.is_file():
            raise PackError(f"{film} is missing; make the pack again with: {_COMMAND} {self.folder}")
        digest = hashlib.sha256(film.read_bytes()).hexdigest()  # another film is another cache
        cache = self.folder / f"film-{digest[:16]}.npy"
        if not cache.exists():
            with FileLock(self.folder / "film.lock"):
                if not cache.exists():
                    self._decode_film(film, cache)
        return cache

    def _decode_film(self, film: Path, cache: Path) -> None:
        import av  # here alone: a machine that is given the cache needs no reader of video

        shape = (self.film_frames, self.film_height * 3 // 2, self.film_width)
        with whole_file(cache) as part:
            planes = np.lib.format.open_memmap(part, mode="w+", dtype=np.uint8, shape=shape)
            decoded = 0
            with av.open(str(film)) as reader:
                reader.streams.video[0].thread_type = "AUTO"
                for frame in reader.decode(video=0):
                    if decoded < self.film_frames:
                        planes[decoded] = frame.to_ndarray(format="yuv420p")
                    decoded += 1
            planes.flush()
            if decoded != self.film_frames:
                raise PackError(
                    f"{film} has {decoded} frames where pack.json says {self.film_frames}; "
                    f"make the pack again with: {_COMMAND} {self.folder}"
                )

    def _film_planes(self) -> np.ndarray:
        if self._mapped is None:
            self._mapped = np.load(self.prepare_film(), mmap_mode="r")
        return self._mapped

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_mapped": None}  # pickling a map would copy the film
