"""Motion pretext tasks: perturb a clip so that only a sense of motion can restore it (paper, section 3.3).

Every task is a pure function of frames and a generator. It keeps the clip's length and size, and only the source is
perturbed: the target is the clip itself. The functions import torch when they are called: the app names the tasks and
their strengths before it has loaded it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Generator, Tensor

EDIT_PREFIX = "[Video edit]"
MASK_VALUE = 0.5  # mid-gray: a masked frame holds no light, no dark and no edge
CUBE_RATIO = 0.3
SPEED_FACTOR = 2
TUBES = (2, 2, 2)


@dataclass(frozen=True)
class Perturbed:
    """A perturbed clip.

    frames: (T, H, W, C), as the clip given.
    hidden: (T, H, W) bool, the places whose content was taken away or moved; what a restoration is judged on.
    detail: what was done, in numbers, for captions and tests.
    """

    frames: Tensor
    hidden: Tensor
    detail: dict[str, Any]


def cube_inpainting(frames: Tensor, generator: Generator, ratio: float = CUBE_RATIO) -> Perturbed:
    """Mask one block of consecutive frames, `ratio` of the clip, in mid-gray.

    The block spans whole frames. The first frame always stays: it says what the clip shows. A clip of one frame has
    nothing to take away and is returned as it is.

    frames: (T, H, W, C), uint8 or float in [0, 1].
    """
    import torch

    total = len(frames)
    length = min(max(1, round(ratio * total)), total - 1)
    start = 1 + _draw(total - length, generator) if length else 0
    out = frames.clone()
    out[start : start + length] = 127 if frames.dtype == torch.uint8 else MASK_VALUE
    hidden = torch.zeros(frames.shape[:3], dtype=torch.bool, device=frames.device)
    hidden[start : start + length] = True
    return Perturbed(out, hidden, {"start": start, "length": length})


def speed(frames: Tensor, generator: Generator, factor: float = SPEED_FACTOR) -> Perturbed:  # noqa: ARG001 - one signature
    """Play the clip `factor` times as fast.

    The faster clip would end early; instead of freezing, it turns round and plays back at the same speed, so that the
    length stays, every frame moves, and nothing is shown that the clip does not hold.

    frames: (T, H, W, C). factor: a whole number.
    """
    import torch

    total = len(frames)
    last = max(total - 1, 1)
    positions = torch.arange(total) * int(factor) % (2 * last)
    index = torch.where(positions > last, 2 * last - positions, positions).clamp_max(total - 1)
    hidden = (index != torch.arange(total)).view(-1, 1, 1).expand(frames.shape[:3]).clone()
    return Perturbed(frames[index.to(frames.device)], hidden.to(frames.device), {"index": index.tolist()})


def tube_shuffle(
    frames: Tensor, generator: Generator, moved: float | None = None, tubes: tuple[int, int, int] = TUBES
) -> Perturbed:
    """Cut the clip into t x h x w tubes and put them in a random order, across space and time.

    A clip of 4k+1 frames cannot be halved: the last frames beyond the largest even split stay where they are, and so
    do odd rows and columns, so that all tubes have one size and every order is possible, time included. The order is
    never the identity.

    frames: (T, H, W, C). moved: how many tubes change places, from 2; None for an order of all of them, in which a few
    may stay.
    """
    import torch

    sizes = [side // count for side, count in zip(frames.shape[:3], tubes, strict=True)]
    count = tubes[0] * tubes[1] * tubes[2]
    hidden = torch.zeros(frames.shape[:3], dtype=torch.bool, device=frames.device)
    if 0 in sizes:
        return Perturbed(frames.clone(), hidden, {"order": list(range(count))})
    order = torch.randperm(count, generator=generator)
    while torch.equal(order, torch.arange(count)):
        order = torch.randperm(count, generator=generator)
    if moved is not None and moved < count:
        chosen = order[: int(moved)]
        order = torch.arange(count)
        order[chosen] = chosen.roll(1)
    boxes = [
        tuple(slice(i * size, (i + 1) * size) for i, size in zip(corner, sizes, strict=True))
        for corner in torch.cartesian_prod(*(torch.arange(n) for n in tubes)).tolist()
    ]
    out = frames.clone()
    for place, origin in enumerate(order.tolist()):
        out[boxes[place]] = frames[boxes[origin]]
        hidden[boxes[place]] = place != origin
    return Perturbed(out, hidden, {"order": order.tolist(), "tubes": list(tubes)})


@dataclass(frozen=True)
class PretextTask:
    """A task, the token that stands before the caption, and its share of the paper's mixture.

    perturb: called with frames (T, H, W, C), a generator and, to depart from training, a strength. strengths: those
    there are, ascending: the share of the frames that is masked, how many times as fast, how many tubes change places.
    trained: the one of training.
    """

    name: str
    prefix: str
    weight: int
    perturb: Callable[..., Perturbed]
    strengths: tuple[float, ...]
    trained: float


PRETEXT_TASKS: dict[str, PretextTask] = {
    task.name: task
    for task in (
        PretextTask(
            "cube", "[Complete the missing regions in the video.]", 2, cube_inpainting,
            (0.1, 0.2, 0.3, 0.4, 0.5, 0.6), CUBE_RATIO,
        ),
        PretextTask("speed", "[Restore the video to normal playback speed.]", 3, speed, (2, 3, 4), SPEED_FACTOR),
        PretextTask(
            "tube", "[Restore the correct spatio-temporal order of the video segments.]", 4, tube_shuffle,
            tuple(range(2, math.prod(TUBES) + 1)), math.prod(TUBES),
        ),
    )
}  # fmt: skip
NO_PRETEXT_WEIGHT = 1
"""The share of unperturbed clips in the paper's mixture none : cube : speed : tube = 1 : 2 : 3 : 4."""


def _draw(count: int, generator: Generator) -> int:
    import torch

    return int(torch.randint(count, (1,), generator=generator))
