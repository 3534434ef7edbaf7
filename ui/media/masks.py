"""A visitor's mask: checked at once, kept like a clip, and shown over the clip that it is for."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sama.edit.composing.user_mask import MaskError, check_mask, is_still, open_mask
from sama.errors import EditError
from sama.video import UPLOAD_LIMITS, FrameReader
from ui.media.clips import PageClip, take_upload
from ui.media.folders import new_folder

_SIDE = 240
_DIMMED = 0.25


def take_mask(path: str | Path) -> Path:
    """A copy of a mask in a folder of its own: of a picture as it is, of a clip written anew, as every upload.

    Raises EditError or `VideoError` with a sentence for the user; nothing is then kept.
    """
    folder = new_folder()
    try:
        UPLOAD_LIMITS.check_file(Path(path))
        if is_still(path):
            count, mask = 1, Path(shutil.copyfile(path, folder / f"mask{Path(path).suffix.lower()}"))
        else:
            clip = take_upload(path)
            count, mask = clip.frames, Path(shutil.move(clip.path, folder / "mask.mp4"))
            shutil.rmtree(clip.path.parent, ignore_errors=True)
        check_mask(mask, 0, count)
    except MaskError as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise EditError(str(error).replace(mask.name, Path(path).name)) from error  # theirs, not ours
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return mask


def beside(mask: Path | None, folder: Path) -> Path | None:
    """A mask as a file of a run's folder, so that the run's settings can name it; None for none."""
    return None if mask is None else Path(shutil.copyfile(mask, folder / mask.name))


def over_clip(mask: Path, clip: PageClip) -> NDArray[np.uint8]:
    """The clip's first frame, small, (h, w, 3), dark where the mask is black."""
    scale = min(1.0, _SIDE / max(clip.width, clip.height))
    size = (max(2, round(clip.width * scale)), max(2, round(clip.height * scale)))
    with FrameReader(clip.path, 0, 1, size=size) as frames, open_mask(mask, 0, size) as weights:
        frame, weight = next(iter(frames)).image, next(weights)
    return np.rint(frame * (_DIMMED + (1 - _DIMMED) * weight[..., None])).astype(np.uint8)
