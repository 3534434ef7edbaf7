"""What the plan says of where an edit is shown: a region of pixels that it does not mean is the model's own mistake."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from sama.edit.composing.compose import Mask

if TYPE_CHECKING:
    from torch import Tensor

    from sama.pipeline import SamaPipeline

MEANT = 0.5
"""A cell of the plan's region (1 - cosine) means a change from this share of the picture's own scale on, see
`sama.model.semantics.token_scale`; measured in `docs/region.md`."""


def source_tokens(pipeline: SamaPipeline, picture: NDArray[np.uint8]) -> Tensor | None:
    """The tower's tokens (65, C) of a picture (h, w, 3); None for a model whose plan cannot be laid over it: it has no
    tower, no anchors, or anchors without a place."""
    config = pipeline.transformer.config
    if pipeline.semantic_tower is None or not config.num_semantic_tokens or config.semantic_positions != "grid":
        return None
    from sama.model.semantics import picture_tokens

    return picture_tokens(pipeline.semantic_tower, picture)


def planned_region(source: Tensor | None, plan: Tensor) -> NDArray[np.float32] | None:
    """Where a plan (65, C) means to change the picture with the tokens `source`: (8, 8), see
    `sama.model.semantics.plan_region`; None without tokens."""
    from sama.model.semantics import plan_region

    return None if source is None else plan_region(source, plan.float().cpu()).numpy()


def means_a_change(region: NDArray[np.float32], scale: float) -> bool:
    """Whether the plan means a change anywhere. region, scale: as in `vouched`."""
    return bool((region >= MEANT * scale).any())


def vouched(mask: Mask, region: NDArray[np.float32], scale: float) -> Mask:
    """`mask` without what the plan does not mean: regions, connected in space and time, that are in the first frame and
    nowhere near a cell that the plan means to change there.

    The plan is of the first frame: what appears later is left as it is.

    mask: (T, h, w) in [0, 1]. region: (8, 8), by `sama.model.semantics.plan_region`. scale: of the source's tokens.
    """
    near = cv2.dilate((region >= MEANT * scale).astype(np.uint8), np.ones((3, 3), np.uint8))
    height, width = mask.shape[1:]
    meant = cv2.resize(near, (width, height), interpolation=cv2.INTER_NEAREST) > 0
    labels = _regions(mask > 0)
    refused = np.setdiff1d(labels[0], np.append(labels[0][meant], 0))
    return np.where(np.isin(labels, refused), np.float32(0), mask)


def _regions(shown: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Numbers, from 1, of the regions (T, h, w) that are connected in space and time; 0 for what is not shown."""
    counts, frames = zip(*(cv2.connectedComponents(frame.astype(np.uint8)) for frame in shown), strict=True)
    firsts = np.cumsum([0, *(count - 1 for count in counts)])
    labels = np.stack([np.where(frame > 0, frame + first, 0) for frame, first in zip(frames, firsts, strict=False)])
    name = np.arange(firsts[-1] + 1)

    def root(label: int) -> int:
        while name[label] != label:
            name[label] = label = int(name[name[label]])
        return label

    both = (labels[1:] > 0) & (labels[:-1] > 0)
    for earlier, later in np.unique(np.stack([labels[:-1][both], labels[1:][both]], axis=-1), axis=0):
        name[root(int(later))] = root(int(earlier))
    return np.array([root(label) for label in range(len(name))])[labels]
