"""The record of one run's plan: its anchor tokens and the pictures that formed with them, as a file beside the run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from sama.files import whole_file
from sama.model.named import EMBEDDED, Named


@dataclass(frozen=True)
class Tokens:
    """Anchor tokens of one run.

    plan: (steps, 65, C), of the first window. source, result: (65, C), of the anchor frames by the vision tower; None
        for a model that is loaded without one, until somebody asks for them (`ui.media.towers`).
    anchor_source, anchor_result: (H, W, 3) uint8, the first frame as the model saw it and as it painted it.
    ordered: whether a token's index is its cell of the grid.
    pictures: the run's estimate of the clean first frame, a JPEG for each step; none in older records.
    encoder: the tower, for people.
    named: names of the tokens of source, result and each step's plan, in this order, (2 + steps, 65, 3); None where the
        tower's names are not kept with the record.
    """

    plan: np.ndarray
    source: np.ndarray | None
    result: np.ndarray | None
    anchor_source: np.ndarray
    anchor_result: np.ndarray
    ordered: bool
    pictures: tuple[bytes, ...] = ()
    encoder: str = EMBEDDED
    named: Named | None = None

    def save(self, path: Path) -> None:
        """Write the record, whole or not at all; tokens in float16."""
        arrays = {name: getattr(self, name) for name in ("plan", "source", "result")}
        half = {name: array.astype(np.float16) for name, array in arrays.items() if array is not None}
        sizes = np.array([len(picture) for picture in self.pictures], np.int64)
        names = {f"named_{field}": value for field, value in (self.named.arrays() if self.named else {}).items()}
        with whole_file(path) as part, part.open("wb") as file:  # given a name, numpy adds a suffix to it
            np.savez_compressed(
                file,
                **cast(Any, half | names),
                anchor_source=self.anchor_source,
                anchor_result=self.anchor_result,
                ordered=np.array(self.ordered),
                pictures=np.frombuffer(b"".join(self.pictures), np.uint8),
                picture_sizes=sizes,
                encoder=np.array(self.encoder),
            )

    @classmethod
    def load(cls, path: Path) -> Tokens:
        """The record of a file, an older one too. Raises OSError or ValueError for a file that is no record."""
        with np.load(path, allow_pickle=False) as data:
            held = dict(data)
        ends = np.cumsum(held.get("picture_sizes", np.zeros(0, np.int64)))
        packed = held.get("pictures", np.zeros(0, np.uint8)).tobytes()
        starts = [0, *ends[:-1]]
        names = {key.removeprefix("named_"): value for key, value in held.items() if key.startswith("named_")}
        return cls(
            held["plan"],
            held.get("source"),
            held.get("result"),
            held["anchor_source"],
            held["anchor_result"],
            bool(held["ordered"]),
            tuple(packed[start:end] for start, end in zip(starts, ends, strict=False)),
            str(held.get("encoder", EMBEDDED)),  # older records are all of that one
            Named.of_arrays(names) if names else None,
        )


def small_jpeg(image: np.ndarray, longest: int = 320, quality: int = 80) -> bytes:
    """A picture (H, W, 3) uint8 as a JPEG whose longer side is at most `longest` pixels."""
    import cv2

    scale = longest / max(image.shape[:2])
    if scale < 1:
        size = tuple(max(1, round(side * scale)) for side in image.shape[1::-1])
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    ok, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not ok:
        raise ValueError(f"a picture of shape {image.shape} cannot be encoded")
    return bytes(data.tobytes())
