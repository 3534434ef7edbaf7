"""How much device memory an edit needs in each way of placing the weights, and which way suits what is free.

Pure arithmetic: weights are counted, working memory is a number of tensors per token or per pixel. These numbers were
measured with `benchmarks.speed`; docs/performance.md compares predictions with measurements.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

GB = 1e9


class MemoryMode(StrEnum):
    """Where the weights are kept between their uses, from the fastest mode to the one that needs the least memory.

    RESIDENT: all on the device.
    OFFLOAD: the text encoder in main memory; its blocks visit the device while the texts are encoded.
    FLOAT8: as OFFLOAD, and the transformer's matrices stored as float8: half the memory, no longer exact.
    STREAMED: the transformer's blocks in main memory, too; each visits the device when its turn comes.
    STREAMED_DISK: as STREAMED, from the file that the weights are in: main memory holds two blocks.
    """

    RESIDENT = "resident"
    OFFLOAD = "offload"
    FLOAT8 = "float8"
    STREAMED = "streamed"
    STREAMED_DISK = "streamed-disk"


MEMORY_MODES = ("auto", *(mode.value for mode in MemoryMode))
"""Names of the memory modes that a request may give."""
COMPILE = ("auto", "on", "off")
"""Whether the transformer's blocks are compiled."""

_ACTIVATIONS, _ACTIVATIONS_COMPILED = 12.5, 7.6  # tensors of (tokens, width) at a block's peak
_DECODER = 5.8e3  # elements per pixel of one frame, of a decoder with 96 base channels, at its peak
_OUTPUT = 8.0  # elements per pixel and frame: the clip as it comes out, and its conversion
_TEXT_WORK = 0.3e9
_SLACK = 1.03  # what the allocator holds beyond what is used


@dataclass(frozen=True)
class Weights:
    """Bytes of a pipeline's weights, in the types that they are computed with.

    blocks, block: all blocks of the transformer, and its largest one. outside: the transformer's other layers.
    text, text_visit: the text encoder, and the largest part of it that is on the device when its blocks visit.
    vae: the autoencoder.
    """

    blocks: float
    block: float
    outside: float
    text: float
    text_visit: float
    vae: float


@dataclass(frozen=True)
class Work:
    """The sizes of one computation: a window's pass through the transformer and through the autoencoder.

    tokens: length of a sequence. width: channels of a token. size, vae_size: bytes of an element in the transformer and
    in the autoencoder. pixels: number in one frame. frames: number in a window. channels: width of the decoder's last
    blocks relative to Wan's 96, and less where it works on patches. compiled: whether the blocks are compiled. shared:
    whether one more tensor is kept that evaluations of a step share. shares: share of the picture in the largest
    stripe, rim included, when the autoencoder takes it in one stripe, two, and so on.
    """

    tokens: int
    width: int
    size: int
    pixels: int
    frames: int
    vae_size: int = 2
    channels: float = 1.0
    compiled: bool = False
    shared: bool = True
    shares: tuple[float, ...] = (1.0,)

    @property
    def activations(self) -> float:
        """Bytes that a block needs beside its weights."""
        copies = (_ACTIVATIONS_COMPILED if self.compiled else _ACTIVATIONS) + self.shared
        return copies * self.tokens * self.width * self.size

    def coding(self, share: float = 1.0) -> float:
        """Bytes that the autoencoder needs beside its weights when a stripe has this share of the picture."""
        frame = _DECODER * self.channels * share
        return self.pixels * self.vae_size * (frame + _OUTPUT * self.frames)

    def stripes(self, free: float) -> int:
        """The number of stripes in which the autoencoder takes the picture: the smallest one that fits into `free`
        bytes, or the one that needs least."""
        fitting = (count for count, share in enumerate(self.shares, start=1) if self.coding(share) <= free)
        return next(fitting, 1 + self.shares.index(min(self.shares)))


@dataclass(frozen=True)
class Choice:
    """A mode, the device memory in bytes that it is expected to take at the peak, why it was chosen, and whether it
    fits."""

    mode: MemoryMode
    needs: float
    reason: str
    fits: bool = True


def peak_bytes(mode: MemoryMode, weights: Weights, work: Work, free: float | None = None) -> float:
    """Device memory at the peak of an edit, with the autoencoder in as few stripes as fit into `free` bytes, or in as
    many as help; in one if None."""
    still, painting = _held(mode, weights, work)
    text = _TEXT_WORK + (0.0 if mode is MemoryMode.RESIDENT else weights.text_visit)
    share = 1.0 if free is None else work.shares[work.stripes(free / _SLACK - still) - 1]
    return _SLACK * (still + max(painting, work.coding(share), text))


def painting_bytes(mode: MemoryMode, weights: Weights, work: Work) -> float:
    """Device memory while the transformer computes."""
    return _SLACK * sum(_held(mode, weights, work))


def _held(mode: MemoryMode, weights: Weights, work: Work) -> tuple[float, float]:
    """Bytes on the device that stay, and those that the transformer's evaluations add."""
    rest = weights.outside + weights.vae
    if mode is MemoryMode.RESIDENT:
        return weights.blocks + weights.text + rest, work.activations
    if mode is MemoryMode.OFFLOAD:
        return weights.blocks + rest, work.activations
    if mode is MemoryMode.FLOAT8:
        return weights.blocks / work.size + rest, weights.block / 2 + work.activations
    return rest, 2 * weights.block + work.activations


def choose(
    asked: str, needs: Mapping[MemoryMode, float], free: float, host_needs: float = 0.0, host_free: float | None = None
) -> Choice:
    """The mode that was asked for; for "auto", the fastest exact mode that fits.

    needs: device memory that each mode needs at least. free: device memory that is available. host_needs, host_free:
    main memory that streaming needs to hold the weights, and that is available; None where that is not known.
    Raises ValueError for an unknown mode.
    """
    if asked not in MEMORY_MODES:
        raise ValueError(f"There is no memory mode {asked!r}: choose one of {', '.join(MEMORY_MODES)}.")
    if asked != "auto":
        mode = MemoryMode(asked)
        fits = needs[mode] <= free
        doubt = "" if fits else f", though it may not fit: {_gb(needs[mode])} are needed and {_gb(free)} are free"
        return Choice(mode, needs[mode], f"asked for{doubt}", fits)
    for mode, what in (
        (MemoryMode.RESIDENT, "the whole model fits"),
        (MemoryMode.OFFLOAD, "the model fits without its text encoder"),
    ):
        if needs[mode] <= free:
            return Choice(mode, needs[mode], f"{what}: {_gb(needs[mode])} of {_gb(free)} that are free")
    whole = f"the model needs {_gb(needs[MemoryMode.OFFLOAD])} and {_gb(free)} are free"
    mode = MemoryMode.STREAMED
    if host_free is not None and host_needs > host_free:
        mode = MemoryMode.STREAMED_DISK
        whole += f"; main memory has {_gb(host_free)} free of {_gb(host_needs)} that the weights take"
    fits = needs[mode] <= free
    if not fits:
        whole += (
            f"; even block by block it needs {_gb(needs[mode])}: choose fewer frames if the memory does not suffice"
        )
    return Choice(mode, needs[mode], whole, fits)


def _gb(size: float) -> str:
    return f"{size / GB:.1f} GB"
