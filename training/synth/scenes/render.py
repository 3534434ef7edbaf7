"""Draws groups of paired clips: variants of one scene that are equal wherever their edits change nothing.

    group = render_group(pack, seed=1, bucket=Bucket(256, 144))
    for pair in group.pairs:
        source, target = group.clips[pair.source], group.clips[pair.target]      # (17, 144, 256, 3) uint8
        sentence = instruction(pair.edit, rng)

Everything is a pure function of the pack, the seed and the sizes.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from sama.shapes import Bucket
from training.synth.edits.choose import choose_edits
from training.synth.edits.styles import apply_style, apply_weather
from training.synth.edits.subtitles import subtitle_patch
from training.synth.edits.tasks import TASKS, Edit
from training.synth.edits.variants import EditPair, SceneEdits, SceneVariant
from training.synth.material.pack import Pack, Split
from training.synth.scenes.backdrop import canvas_size, middle
from training.synth.scenes.backgrounds import background
from training.synth.scenes.foreground import Foreground
from training.synth.scenes.layers import Layer, Patch, object_layer
from training.synth.scenes.light import Light, light_of
from training.synth.scenes.motion import Camera
from training.synth.scenes.scene import Scene, sample_scene
from training.synth.words.language import caption

_WEATHER_ADJECTIVES = {"snow": "snowy", "rain": "rainy", "fog": "foggy"}


@dataclass
class SceneGroup:
    """Variants of one scene and the directed edits between them.

    Attributes:
        clips: uint8 (T, H, W, 3) each, all of one size.
        pairs: edits from clip ``source`` to clip ``target``.
        captions: a description of each clip.
        labels: per clip (H, W) int16, which of ``names`` is seen at each pixel of frame 0.
        names: what the labels mean; ``names[0]`` is the scene's own background.
    """

    clips: list[np.ndarray]
    pairs: list[EditPair]
    captions: list[str]
    labels: list[np.ndarray]
    names: list[str]


def render_group(pack: Pack, seed: int, bucket: Bucket, frames: int = 17, split: Split = "train") -> SceneGroup:
    """Up to fourteen variants of a random scene with up to 22 pairs. Raises ValueError for frames below one."""
    scene, edits = _with_edits(pack, seed, bucket, frames, split, TASKS)
    artist = _Artist(pack, scene, edits)
    names = [scene.backdrop.words]
    clips = [artist.clip(variant) for variant in edits.variants]
    labels = [artist.labels(variant, names) for variant in edits.variants]
    rng = np.random.default_rng((seed, 1))
    captions = [_caption(edits, variant, rng) for variant in edits.variants]
    return SceneGroup(clips, edits.pairs, captions, labels, names)


@dataclass(frozen=True)
class DrawnCase:
    """One pair with the facts that scoring needs.

    Attributes:
        source, target: uint8 (T, H, W, 3).
        edit: what leads from one to the other.
        mask: (H, W) bool, frame 0's pixels of the object that appears, takes a colour, moves or changes its size, where
            it is seen in the target, without its shadow; None for other tasks.
        box: left, top, right, bottom of that object in the target's frame 0.
        flip: whether its drawing is mirrored.
        without: (H, W, 3) uint8, the target's frame 0 without that object.
    """

    source: np.ndarray
    target: np.ndarray
    edit: Edit
    mask: np.ndarray | None = None
    box: tuple[float, float, float, float] | None = None
    flip: bool = False
    without: np.ndarray | None = None


def render_case(pack: Pack, seed: int, bucket: Bucket, frames: int, split: Split, task: str) -> DrawnCase:
    """One pair of the given task, drawn as in :func:`render_group`.

    Raises ValueError for an unknown task, or when the pack has nothing to show for it.
    """
    if task not in TASKS:
        raise ValueError(f"unknown task {task!r}: use one of {', '.join(TASKS)}")
    for attempt in range(64):
        scene, edits = _with_edits(pack, seed, bucket, frames, split, (task,), attempt)
        pairs = [pair for pair in edits.pairs if pair.edit.task == task]
        if pairs:
            rng = np.random.default_rng((seed, 2))
            pair = pairs[int(rng.integers(len(pairs)))]
            return _Artist(pack, scene, edits).case(pair)
    raise ValueError(f"no scene of this pack allows the task {task!r}")


def _with_edits(
    pack: Pack, seed: int, bucket: Bucket, frames: int, split: Split, tasks: tuple[str, ...], attempt: int = 0
) -> tuple[Scene, SceneEdits]:
    if frames < 1:
        raise ValueError(f"a clip needs at least one frame, not {frames}")
    rng = np.random.default_rng((seed, 0, attempt))
    scene = sample_scene(pack, rng, bucket, frames, split)
    return scene, choose_edits(pack, scene, rng, split, tasks)


class _Artist:
    """Draws the variants of one scene and caches what they share."""

    def __init__(self, pack: Pack, scene: Scene, edits: SceneEdits) -> None:
        self.pack, self.scene, self.edits = pack, scene, edits
        self.times = [scene.time(i) for i in range(scene.frames)]
        self.layers: dict[tuple[int, str], Layer] = {}
        self.lights: dict[str, Light] = {"": scene.light}
        self.subtitles: dict[str, Patch] = {}
        self.backdrops: dict[str, np.ndarray] = {}
        self.composites: dict[tuple[str, tuple[int, ...]], np.ndarray] = {}

    def clip(self, variant: SceneVariant) -> np.ndarray:
        """The variant as (T, H, W, 3) uint8."""
        clip = self._composite(variant.background, variant.objects)
        if variant.style:
            clip = np.stack([apply_style(variant.style, frame) for frame in clip])
        elif variant.weather:
            clip = np.stack([apply_weather(variant.weather, frame, i) for i, frame in enumerate(clip)])
        if variant.text:
            clip = clip.copy()
            patch = self._subtitle(variant.text)
            for frame in clip:
                patch.over(frame)
        return clip

    def case(self, pair: EditPair) -> DrawnCase:
        """The drawn pair, with mask and box of the object that an edit adds or changes."""
        before, after = self.edits.variants[pair.source], self.edits.variants[pair.target]
        source, target = self.clip(before), self.clip(after)
        new = [number for number in after.objects if number not in before.objects]
        if pair.edit.task not in ("add", "replace", "recolour", "move", "resize") or len(new) != 1:
            return DrawnCase(source, target, pair.edit)
        thing, rest = self.edits.objects[new[0]], self.edits.without(after, new[0])
        return DrawnCase(
            source, target, pair.edit, self._visible(after, new[0]), thing.box(), thing.flip, self.clip(rest)[0]
        )

    def labels(self, variant: SceneVariant, names: list[str]) -> np.ndarray:
        """The label map of the variant's frame 0; names that it needs are added to ``names``."""

        def index(name: str) -> int:
            if name not in names:
                names.append(name)
            return names.index(name)

        place = variant.background or names[0]
        look = variant.style or _WEATHER_ADJECTIVES.get(variant.weather, "")
        ground = index(f"{look} {place}".strip())
        labels = np.full((self.scene.height, self.scene.width), ground, np.int16)
        for number in variant.objects:
            thing = self.edits.objects[number]
            labels[self._layer(number, variant.background).mask] = index(f"{thing.tint} {thing.name}".strip())
        if (front := self._foreground(variant.background)) is not None:
            labels[front.mask(self.scene.width, self.scene.height)] = ground
        if variant.text:
            patch = self._subtitle(variant.text)
            h, w = patch.keep.shape[:2]
            labels[patch.y : patch.y + h, patch.x : patch.x + w] = index(f'text "{variant.text}"')
        return labels

    def _visible(self, variant: SceneVariant, number: int) -> np.ndarray:
        """Visible pixels of the object in frame 0, (H, W) bool."""
        mask = self._layer(number, variant.background).mask.copy()
        for other in variant.objects[variant.objects.index(number) + 1 :]:
            mask &= ~self._layer(other, variant.background).mask
        if (front := self._foreground(variant.background)) is not None:
            mask &= ~front.mask(self.scene.width, self.scene.height)
        return mask

    def _composite(self, name: str, objects: tuple[int, ...]) -> np.ndarray:
        """Background and objects as (T, H, W, 3); all shadows are drawn below all objects."""
        key = (name, objects)
        if key not in self.composites:
            scene, clip = self.scene, self._backdrop(name).copy()
            layers = [self._layer(number, name) for number in objects]
            front = self._foreground(name)
            for i, frame in enumerate(clip):
                patches = [layer.shadows[i] for layer in layers] + [layer.patches[i] for layer in layers]
                for patch in patches:
                    if patch is not None:
                        patch.over(frame)
                if front is not None:
                    front.over(frame, scene.backdrop.camera, self.times[i])
            self.composites[key] = clip
        return self.composites[key]

    def _foreground(self, background: str) -> Foreground | None:
        """The foreground; a variant with another background has none."""
        return None if background else self.scene.foreground

    def _layer(self, number: int, background: str) -> Layer:
        key = (number, background)
        if key not in self.layers:
            scene, thing = self.scene, self.edits.objects[number]
            self.layers[key] = object_layer(
                thing, scene.backdrop.camera, self.times, scene.width, scene.height, self._light(background)
            )
        return self.layers[key]

    def _light(self, name: str) -> Light:
        if name not in self.lights:
            width, height = self.scene.width, self.scene.height
            self.lights[name] = light_of(middle(background(name, *canvas_size(width, height)), width, height), name)
        return self.lights[name]

    def _subtitle(self, text: str) -> Patch:
        if text not in self.subtitles:
            self.subtitles[text] = subtitle_patch(text, self.pack.font, self.scene.width, self.scene.height)
        return self.subtitles[text]

    def _backdrop(self, name: str) -> np.ndarray:
        if name not in self.backdrops:
            scene = self.scene
            own = scene.backdrop.pictures
            pictures = background(name, *canvas_size(scene.width, scene.height))[None] if name else own
            self.backdrops[name] = _filmed(pictures, scene.backdrop.camera, self.times, scene.width, scene.height)
        return self.backdrops[name]


def _filmed(pictures: np.ndarray, camera: Camera, times: list[float], width: int, height: int) -> np.ndarray:
    """Canvases (1 or T, h, w, 3) as the camera sees them: (T, height, width, 3)."""
    h, w = pictures.shape[1:3]
    clip = np.empty((len(times), height, width, 3), np.uint8)
    for i, u in enumerate(times):
        picture = pictures[i if len(pictures) > 1 else 0]
        zoom, ox, oy = camera.at(u)
        if not camera.moves or u == 0:
            clip[i] = middle(picture, width, height)
            continue
        x, y = (width - 1) / 2 - zoom * ((w - 1) / 2 + ox), (height - 1) / 2 - zoom * ((h - 1) / 2 + oy)
        matrix = np.array(((zoom, 0, x), (0, zoom, y)), np.float64)
        cv2.warpAffine(
            picture, matrix, (width, height), dst=clip[i], flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )
    return clip


def _caption(edits: SceneEdits, variant: SceneVariant, rng: np.random.Generator) -> str:
    """A description of the clip: objects, background and style or weather."""
    things = [edits.objects[number] for number in variant.objects]
    words = caption(
        variant.background or edits.scene.backdrop.words, [f"{t.tint} {t.name}".strip() for t in things], rng
    )
    looks = [f"in {variant.style} style"] if variant.style else []
    looks += (
        [{"snow": "in the snow", "rain": "in the rain", "fog": "in the fog"}[variant.weather]]
        if variant.weather
        else []
    )
    looks += [f'with the subtitle "{variant.text}"'] if variant.text else []
    return ", ".join([words.rstrip("."), *looks])
