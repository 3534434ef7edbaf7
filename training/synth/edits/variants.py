"""Records of a scene's variants and of the edits between them. `choose` fills them, `render` draws them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from training.synth.edits.tasks import Edit
from training.synth.scenes.scene import Scene, SceneObject, depth_order

MOST_VARIANTS = 14
MOST_PAIRS = 22
"""The most that one scene gets: the places that a training stream keeps for it, less those for its pretext tasks."""


@dataclass(frozen=True)
class SceneVariant:
    """A version of the scene. ``objects`` index `SceneEdits.objects`, the last one in front."""

    objects: tuple[int, ...]
    background: str = ""  # "" = the scene's own
    style: str = ""
    weather: str = ""
    text: str = ""


@dataclass(frozen=True)
class EditPair:
    """An edit from variant ``source`` to variant ``target`` (indices); the same one for an edit that changes
    nothing."""

    source: int
    target: int
    edit: Edit


@dataclass
class SceneEdits:
    """The variants of a scene and the pairs between them. Variant 0 is the scene itself."""

    scene: Scene
    objects: list[SceneObject]
    variants: list[SceneVariant] = field(default_factory=list)
    pairs: list[EditPair] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not self.variants:
            self.variants.append(SceneVariant(tuple(range(len(self.objects))), text=self.scene.text))

    @property
    def base(self) -> SceneVariant:
        return self.variants[0]

    def add_object(self, thing: SceneObject) -> int:
        """Add an object that no variant shows yet; returns its number."""
        self.objects.append(thing)
        return len(self.objects) - 1

    def with_objects(self, variant: SceneVariant, numbers: tuple[int, ...]) -> SceneVariant:
        """The variant with these objects, sorted by depth."""
        return replace(variant, objects=depth_order(self.objects, numbers))

    def without(self, variant: SceneVariant, number: int) -> SceneVariant:
        return replace(variant, objects=tuple(other for other in variant.objects if other != number))

    def exchanged(self, variant: SceneVariant, old: int, new: int) -> SceneVariant:
        """The variant with object ``new`` in place of ``old``."""
        return self.with_objects(variant, tuple(new if other == old else other for other in variant.objects))

    def things(self, variant: SceneVariant) -> list[SceneObject]:
        return [self.objects[number] for number in variant.objects]

    def link(self, source: SceneVariant, target: SceneVariant, edit: Edit) -> bool:
        """Add a pair with its variants; False where no place is left or the same edit is there already."""
        new = [variant for variant in dict.fromkeys((source, target)) if variant not in self.variants]
        if len(self.variants) + len(new) > MOST_VARIANTS or len(self.pairs) >= MOST_PAIRS:
            return False
        self.variants += new
        pair = EditPair(self.variants.index(source), self.variants.index(target), edit)
        if any((pair.source, pair.edit) == (other.source, other.edit) for other in self.pairs):
            return False
        self.pairs.append(pair)
        return True
