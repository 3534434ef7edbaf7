"""Converts HDR and wide-gamut pictures to BT.709: transfer functions, tone curve, and a lookup table of both.

The formulas (BT.2100 transfer functions, BT.2390 tone curve) are evaluated once, in numpy, for a cube of colours;
libavfilter then looks up every pixel in it.
"""

from __future__ import annotations

import tempfile
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from av.filter import Graph
from av.sidedata.sidedata import Type
from av.video.format import VideoFormat
from av.video.frame import VideoFrame
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]

DEEP_RGB = "gbrp16le"
"""The pixel format that `ColorTable.apply` takes: full-range RGB of 16 bits, still with the source's own transfer."""

WHITE_NITS = 203.0
"""HDR's reference white (BT.2408), which becomes the brightest that an SDR picture can show."""

DEFAULT_PEAK_NITS = 1000.0
"""The brightest colour of an HLG clip, and of a PQ clip whose metadata name no other."""

_PQ, _HLG = 16, 18  # transfer characteristics of ITU-T H.273
_SCREEN_GAMMA = 2.2
_PEAK_RANGE = (400.0, 10_000.0)
_STEPS = 40  # of the cube, on each axis

# Linear RGB to linear BT.709 RGB, by the colour primaries of ITU-T H.273. All have the white point D65.
_TO_BT709 = {
    9: np.array([[1.660491, -0.587641, -0.072850], [-0.124550, 1.132900, -0.008349], [-0.018151, -0.100579, 1.118730]]),
    12: np.array([[1.224940, -0.224940, 0.0], [-0.042057, 1.042057, 0.0], [-0.019638, -0.078636, 1.098274]]),
}
_PRIMARIES = {9: "BT.2020", 12: "Display P3"}
_TRANSFERS = {_PQ: "PQ", _HLG: "HLG"}


class Coding(NamedTuple):
    """The colour coding of a picture: `transfer` and `primaries` by ITU-T H.273; `peak_nits` is used for PQ only."""

    transfer: int
    primaries: int
    peak_nits: float = DEFAULT_PEAK_NITS

    @property
    def is_hdr(self) -> bool:
        return self.transfer in _TRANSFERS

    @property
    def notice(self) -> str:
        """One sentence for the user about the conversion."""
        if self.is_hdr:
            return f"HDR ({_TRANSFERS[self.transfer]}): tone-mapped to SDR."
        return f"Wide colours ({_PRIMARIES[self.primaries]}): converted to BT.709."


def coding_of(frame: VideoFrame) -> Coding | None:
    """The coding of a frame that must be converted; None for BT.709 and similar codings."""
    transfer, primaries = int(frame.color_trc), int(frame.color_primaries)
    if transfer not in _TRANSFERS and primaries not in _TO_BT709:
        return None
    if transfer in _TRANSFERS and primaries not in (1, *_TO_BT709):
        primaries = 9  # HDR without primaries is BT.2020 in practice
    return Coding(transfer, primaries, _peak_of(frame) if transfer == _PQ else DEFAULT_PEAK_NITS)


def to_bt709(signal: Floats, coding: Coding) -> Floats:
    """Convert RGB `signal` (..., 3) in [0, 1] of `coding` to the BT.709 signal in [0, 1] that looks alike on a
    screen."""
    matrix = _TO_BT709.get(coding.primaries, np.eye(3))
    if not coding.is_hdr:
        return np.clip(signal**_SCREEN_GAMMA @ matrix.T, 0, 1) ** (1 / _SCREEN_GAMMA)
    nits = np.maximum(_nits(signal, coding) @ matrix.T, 0)
    # One factor for all three channels keeps the hue; the curve of the largest one keeps it below white.
    largest = np.maximum(nits.max(axis=-1, keepdims=True), 1e-6)
    mapped = nits * (tone_curve(largest, coding.peak_nits, WHITE_NITS) / largest)
    return np.clip(mapped / WHITE_NITS, 0, 1) ** (1 / _SCREEN_GAMMA)


def tone_curve(nits: Floats, peak: float, white: float) -> Floats:
    """Compress light of up to `peak` nits to at most `white` nits by the curve of BT.2390, which keeps dark tones."""
    top = pq_signal(np.array(white)) / pq_signal(np.array(peak))
    knee = 1.5 * top - 0.5
    tone = np.minimum(pq_signal(nits) / pq_signal(np.array(peak)), 1)
    t = np.clip((tone - knee) / (1 - knee), 0, 1)
    shoulder = (2 * t**3 - 3 * t**2 + 1) * knee + (t**3 - 2 * t**2 + t) * (1 - knee) + (-2 * t**3 + 3 * t**2) * top
    return pq_nits(np.where(tone < knee, tone, shoulder) * pq_signal(np.array(peak)))


def pq_nits(signal: Floats) -> Floats:
    """The light, 0 to 10 000 nits, of a PQ signal in [0, 1]."""
    power = np.maximum(signal, 0) ** (32 / 2523)
    return 10_000 * (np.maximum(power - 3424 / 4096, 0) / (2413 / 128 - 2392 / 128 * power)) ** (16384 / 2610)


def pq_signal(nits: Floats) -> Floats:
    """The PQ signal in [0, 1] of a light of 0 to 10 000 nits."""
    power = (np.maximum(nits, 0) / 10_000) ** (2610 / 16384)
    return ((3424 / 4096 + 2413 / 128 * power) / (1 + 2392 / 128 * power)) ** (2523 / 32)


def hlg_nits(signal: Floats, peak: float = DEFAULT_PEAK_NITS) -> Floats:
    """The light in nits that a screen of `peak` nits shows for an HLG signal (..., 3) in [0, 1] of BT.2020 RGB."""
    a = 0.17883277
    b, c = 1 - 4 * a, 0.5 - a * np.log(4 * a)
    scene = np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12)
    luminance = scene @ np.array([0.2627, 0.6780, 0.0593])
    return peak * scene * np.maximum(luminance, 1e-9)[..., None] ** 0.2


class ColorTable:
    """Converts frames of one coding and one size to BT.709 by a table.

    ``size`` is (width, height) of the frames.
    """

    def __init__(self, coding: Coding, size: tuple[int, int]) -> None:
        self._graph = Graph()
        self._graph.threads = 4
        source = self._graph.add_buffer(
            width=size[0], height=size[1], format=VideoFormat(DEEP_RGB), time_base=Fraction(1, 1000)
        )
        sink = self._graph.add("buffersink")
        with tempfile.TemporaryDirectory(prefix="sama-") as folder:
            cube = Path(folder) / "table.cube"
            cube.write_text(_cube(coding), encoding="ascii")
            lookup = self._graph.add("lut3d", file=str(cube), interp="tetrahedral")
        source.link_to(lookup)
        lookup.link_to(sink)
        self._graph.configure()

    def apply(self, frame: VideoFrame) -> VideoFrame:
        """Convert a `DEEP_RGB` frame of the source's coding to BT.709, still in `DEEP_RGB`."""
        frame.time_base = frame.time_base or Fraction(1, 1000)
        self._graph.vpush(frame)
        return self._graph.vpull()


def _cube(coding: Coding) -> str:
    """The lookup table of a coding as the text of a .cube file: one output colour a line, red changing fastest."""
    axis = np.linspace(0, 1, _STEPS)
    blue, green, red = np.meshgrid(axis, axis, axis, indexing="ij")
    colours = to_bt709(np.stack([red, green, blue], axis=-1), coding).reshape(-1, 3)
    lines = (f"{r:.6f} {g:.6f} {b:.6f}" for r, g, b in colours.tolist())
    return "\n".join([f"LUT_3D_SIZE {_STEPS}", *lines, ""])


def _nits(signal: Floats, coding: Coding) -> Floats:
    return pq_nits(signal) if coding.transfer == _PQ else hlg_nits(signal)


def _peak_of(frame: VideoFrame) -> float:
    """The peak luminance in nits by the mastering display's metadata; the default where that is missing or
    implausible."""
    side_data: Any = frame.side_data
    if Type.MASTERING_DISPLAY_METADATA not in side_data:
        return DEFAULT_PEAK_NITS
    # FFmpeg's AVMasteringDisplayMetadata: ten fractions of two int32, the last the largest luminance, then two flags.
    values = np.frombuffer(bytes(side_data[Type.MASTERING_DISPLAY_METADATA]), dtype="=i4")
    if len(values) < 22 or not values[21] or not values[19]:
        return DEFAULT_PEAK_NITS
    return float(np.clip(values[18] / values[19], *_PEAK_RANGE))
