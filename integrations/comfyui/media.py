"""ComfyUI's pictures, masks and videos as files that SAMA edits, and back.

IMAGE: (B, H, W, C) float32 in [0, 1]. MASK: (B, H, W) float32 in [0, 1]. VIDEO: a `VideoInput`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

RATE = 24  # of a batch of pictures, which has none; nothing depends on it


def to_uint8(images: Tensor) -> NDArray[np.uint8]:
    """An IMAGE as (B, H, W, 3) uint8; transparency is left out. Raises ValueError for another shape."""
    if images.ndim != 4 or images.shape[-1] not in (3, 4) or not len(images):
        raise ValueError(f"An IMAGE has the shape (B, H, W, 3), not {tuple(images.shape)}; connect pictures.")
    pixels: NDArray[np.uint8] = (images[..., :3].float().clamp(0, 1) * 255).round().byte().cpu().numpy()
    return pixels


def to_image(pixels: NDArray[np.uint8]) -> Tensor:
    """(B, H, W, 3) uint8 as an IMAGE."""
    return torch.from_numpy(np.ascontiguousarray(pixels)).float() / 255


def resized(pixels: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    """Pictures (B, H, W, 3) at another size."""
    if pixels.shape[1:3] == (height, width):
        return pixels
    way = cv2.INTER_AREA if height * width < pixels.shape[1] * pixels.shape[2] else cv2.INTER_CUBIC
    return np.stack([cv2.resize(picture, (width, height), interpolation=way) for picture in pixels]).astype(np.uint8)


def write_lossless(pixels: NDArray[np.uint8], path: Path) -> None:
    """Pictures (B, H, W, 3) uint8 as a video file (.mkv, FFV1) that holds exactly them."""
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("ffv1", rate=RATE)
        stream.height, stream.width = pixels.shape[1:3]
        stream.pix_fmt = "bgr0"
        for picture in pixels:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            container.mux(stream.encode(frame.reformat(format="bgr0")))
        container.mux(stream.encode())


def write_mask(mask: Tensor, folder: Path) -> Path:
    """A MASK as a file in a folder: a picture for all frames, or a clip with a mask for each."""
    grey = (mask.float().clamp(0, 1) * 255).round().byte().cpu().numpy()
    if len(grey) == 1:
        Image.fromarray(grey[0]).save(folder / "mask.png")
        return folder / "mask.png"
    write_lossless(np.repeat(grey[..., None], 3, axis=-1), folder / "mask.mkv")
    return folder / "mask.mkv"


def file_of_video(video: Any, folder: Path) -> Path:
    """The file of a VIDEO; one that is not a file, or a part of one, is written into a folder."""
    source = video.get_stream_source() if hasattr(video, "get_stream_source") else None
    if isinstance(source, str) and _is_whole(video):
        return Path(source)
    path = folder / "source.mp4"
    video.save_to(str(path))
    return path


def _is_whole(video: Any) -> bool:
    """Whether a VIDEO shows all of its file, pictures and time: newer versions of ComfyUI cut without a new file. One
    that could have been cut and cannot tell is taken for cut."""
    if hasattr(video, "has_pending_frame_edits"):
        if video.has_pending_frame_edits():
            return False
    elif hasattr(video, "as_cropped"):
        return False
    if hasattr(video, "get_active_trim_window"):
        return tuple(video.get_active_trim_window()) == (0.0, 0.0)
    return not hasattr(video, "as_trimmed")


def heat(picture: NDArray[np.uint8], strength: NDArray[np.float32]) -> NDArray[np.uint8]:
    """A picture (H, W, 3) in grey, with orange where strength (H, W) in [0, 1] is high."""
    grey = np.repeat(picture.mean(-1, keepdims=True), 3, axis=-1) * 0.7
    shown = 0.75 * strength[..., None]
    return np.asarray((1 - shown) * grey + shown * np.array([255, 140, 0])).round().astype(np.uint8)
