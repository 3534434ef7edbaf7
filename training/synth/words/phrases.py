"""The phrases that fill the slots of instructions: places, sizes, "which of two", styles, weathers and backgrounds.

As in ``grammar.py``, ``(a|b|)`` are alternatives. An entry that stands twice is twice as likely.
"""

from __future__ import annotations

from collections.abc import Mapping

_MIDDLE = "(middle|center|centre)"
_OF = "(|| of the (video|frame|scene|picture|screen))"


def _side(side: str) -> tuple[str, ...]:
    return (
        f"on the {side}",
        f"on the {side}( side|){_OF}",
        f"to the {side}",
        f"at the {side}",
        f"on the {side}-hand side",
    )


def _corner(row: str, side: str) -> tuple[str, ...]:
    up = "(top|upper)" if row == "top" else "(bottom|lower)"
    return (
        f"in the {up} {side}",
        f"(in|at) the {up} {side} corner{_OF}",
        f"(at|on) the {row} {side}{_OF}",
        f"on the {up} {side}( side|)",
        f"in the {up}-{side}( corner|)",
    )


PLACES: dict[str, tuple[str, ...]] = {
    "top left": _corner("top", "left"),
    "top": (f"at the top{_OF}", f"in the (upper|top) part{_OF}", "at the top center", f"near the top{_OF}"),
    "top right": _corner("top", "right"),
    "left": _side("left"),
    "center": (f"in the {_MIDDLE}{_OF}", f"at the (center|centre){_OF}", "right in the middle"),
    "right": _side("right"),
    "bottom left": _corner("bottom", "left"),
    "bottom": (
        f"at the bottom{_OF}",
        f"in the (lower|bottom) part{_OF}",
        "at the bottom center",
        f"near the bottom{_OF}",
    ),
    "bottom right": _corner("bottom", "right"),
}

PLACES_OF_TEXT: dict[str, tuple[str, ...]] = {
    "top": (f"at the top{_OF}", f"along the top{_OF}", "on top"),
    "bottom": (f"at the bottom{_OF}", f"along the bottom{_OF}", "below"),
}

WHICH: dict[str, tuple[str, ...]] = {
    "left": (
        "_on the left",
        "_on the left",
        "left_",
        "_on the left side",
        "leftmost_",
        "left-hand_",
        "_to the left",
    ),
    "right": (
        "_on the right",
        "_on the right",
        "right_",
        "_on the right side",
        "rightmost_",
        "right-hand_",
        "_to the right",
    ),
    "top": ("_at the top", "top_", "upper_", "_on top", "topmost_", "higher_", "_further up"),
    "bottom": ("_at the bottom", "bottom_", "lower_", "_below", "bottommost_", "_further down"),
    "small": ("small_", "smaller_", "little_", "smallest_"),
    "large": ("large_", "larger_", "big_", "bigger_", "biggest_", "largest_"),
    "middle": ("_in the middle", "_in the middle", "middle_", "_in the center", "_between the others", "central_"),
    "first": ("first_", "first_ from the left", "_that comes first"),
    "second": ("second_", "second_ from the left", "_that comes second"),
    "third": ("third_", "third_ from the left", "last_"),
}
"""Words before and after the noun, apart by "_"."""

SIZE_WORDS: dict[str, tuple[str, ...]] = {
    "small": ("small", "small", "little", "tiny"),
    "large": ("large", "large", "big", "big", "huge"),
}

_TO = "(to|over to)"

DESTINATIONS: dict[str, tuple[str, ...]] = {
    "left": (f"{_TO} the left", f"{_TO} the left", f"{_TO} the left side", "to the left-hand side", "on the left"),
    "right": (
        f"{_TO} the right",
        f"{_TO} the right",
        f"{_TO} the right side",
        "to the right-hand side",
        "on the right",
    ),
    "top": ("to the top", "to the top", "up to the top", "to the upper part", "all the way up"),
    "bottom": ("to the bottom", "to the bottom", "down to the bottom", "to the lower part", "all the way down"),
    "center": (f"(to|into) the {_MIDDLE}", f"(to|into) the {_MIDDLE}", f"right to the {_MIDDLE}"),
    "top left": ("to the (top|upper) left", "(into|to|in) the (top|upper) left corner"),
    "top right": ("to the (top|upper) right", "(into|to|in) the (top|upper) right corner"),
    "bottom left": ("to the (bottom|lower) left", "(into|to|in) the (bottom|lower) left corner"),
    "bottom right": ("to the (bottom|lower) right", "(into|to|in) the (bottom|lower) right corner"),
}
"""Where an object is moved to."""

BESIDE: tuple[str, ...] = (
    "to the {side} of",
    "to the {side} of",
    "{side} of",
    "on the {side} side of",
    "on the {side} of",
)
"""Places next to another thing, which is named after them."""

RESIZING: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "large": {
        "comparative": ("bigger", "bigger", "larger", "larger", "greater in size"),
        "scale": ("enlarge", "scale up", "magnify", "blow up", "grow", "upscale"),
        "scale_size": ("increase", "raise"),
        "sized": ("big", "large", "giant"),
        "opposite": ("small", "little", "tiny"),
    },
    "small": {
        "comparative": ("smaller", "smaller", "smaller", "littler", "tinier"),
        "scale": ("shrink", "scale down", "reduce", "downsize", "downscale", "minimize"),
        "scale_size": ("decrease", "reduce"),
        "sized": ("small", "little", "tiny"),
        "opposite": ("big", "large"),
    },
}
"""Words for a new size; "opposite" is what the object is too much of."""

Phrases = Mapping[str, Mapping[str, tuple[str, ...]]]

STYLE_PHRASES: Phrases = {
    "watercolor": {
        "attribute": ("watercolor", "watercolor", "watercolour", "water color", "aquarelle"),
        "likeness": ("a watercolor painting", "a watercolor", "a watercolour painting"),
    },
    "oil painting": {
        "attribute": ("oil painting", "oil painting", "oil paint", "oil on canvas", "painted"),
        "likeness": ("an oil painting", "a painting", "an oil on canvas"),
    },
    "pixel art": {
        "attribute": ("pixel art", "pixel art", "8-bit", "pixel", "retro video game"),
        "likeness": ("pixel art", "an old video game", "an 8-bit game", "a retro game"),
        "adjective": ("pixelated", "8-bit"),
    },
    "pencil sketch": {
        "attribute": ("pencil sketch", "pencil sketch", "sketch", "pencil drawing", "pencil"),
        "likeness": ("a pencil sketch", "a pencil drawing", "a sketch", "a drawing"),
    },
    "black and white": {
        "attribute": ("black and white", "black and white", "black-and-white", "monochrome", "grayscale"),
        "likeness": ("a black and white film", "an old black and white movie", "black and white"),
        "adjective": ("black and white", "black and white", "black-and-white", "grayscale", "monochrome", "colorless"),
    },
    "sepia": {
        "attribute": ("sepia", "sepia", "sepia tone", "vintage", "old photo"),
        "likeness": ("an old photograph", "a sepia photo", "a vintage film"),
        "adjective": ("sepia", "sepia-toned", "vintage"),
    },
    "cartoon": {
        "attribute": ("cartoon", "cartoon", "illustration", "animation", "toon"),
        "likeness": ("a cartoon", "an illustration", "a children's cartoon"),
        "adjective": ("cartoonish", "cartoon-like"),
    },
    "comic": {
        "attribute": ("comic", "comic book", "comic strip", "graphic novel"),
        "likeness": ("a comic", "a comic book", "a comic strip", "a graphic novel"),
    },
    "cyberpunk": {
        "attribute": ("cyberpunk", "cyberpunk", "neon", "cyberpunk neon"),
        "likeness": ("a cyberpunk world", "a cyberpunk movie", "a neon city", "cyberpunk"),
        "adjective": ("cyberpunk", "neon"),
    },
    "night": {
        "attribute": ("night", "night", "nighttime", "night-time"),
        "likeness": ("night", "a night scene", "nighttime", "a moonlit night"),
        "adjective": ("night", "nighttime", "nightly", "dark like at night"),
    },
    "sunset": {
        "attribute": ("sunset", "sunset", "golden hour", "dusk"),
        "likeness": ("a sunset", "a sunset scene", "sunset"),
        "adjective": ("sunset", "sunset-colored"),
    },
    "pop art": {
        "attribute": ("pop art", "pop art", "pop-art", "Warhol"),
        "likeness": ("pop art", "a pop art poster", "a pop art print"),
    },
    "negative": {
        "attribute": ("negative", "negative", "inverted color", "photo negative"),
        "likeness": ("a negative", "a film negative", "a photo negative"),
        "adjective": ("negative", "inverted", "inverted in color"),
    },
    "blueprint": {
        "attribute": ("blueprint", "blueprint", "technical drawing"),
        "likeness": ("a blueprint", "a blueprint drawing", "a technical drawing"),
    },
}
"""Per style: what stands before "style", what a video can look like, and (where there is one) an adjective."""

WEATHER_PHRASES: Phrases = {
    "snow": {
        "noun": ("snow", "snow", "falling snow", "snowfall", "snowflakes"),
        "adjective": ("snowy", "snowy", "snowy", "wintry"),
        "verb": ("snow",),
        "setting": ("a snowy day", "a snowy scene", "a winter scene", "winter", "a snowstorm"),
    },
    "rain": {
        "noun": ("rain", "rain", "falling rain", "rainfall", "raindrops"),
        "adjective": ("rainy", "rainy", "rainy", "wet and rainy"),
        "verb": ("rain",),
        "setting": ("a rainy day", "a rainy scene", "a rainstorm"),
    },
    "fog": {
        "noun": ("fog", "fog", "mist", "thick fog", "haze"),
        "adjective": ("foggy", "foggy", "misty", "hazy"),
        "setting": ("a foggy day", "a foggy scene", "a misty morning"),
    },
}

BACKGROUND_NOUNS: Mapping[str, tuple[str, ...]] = {
    "beach": (
        "a beach",
        "a beach",
        "a sandy beach",
        "a tropical beach",
        "the beach",
        "a sunny beach",
        "a beach by the sea",
        "the seaside",
    ),
    "green meadow": (
        "a green meadow",
        "a meadow",
        "a grassy field",
        "a meadow with flowers",
        "a green field",
        "the countryside",
        "a flower meadow",
    ),
    "starry night sky": (
        "a starry night sky",
        "a starry sky",
        "a night sky full of stars",
        "a sky full of stars",
        "a starry night",
        "stars and a moon",
    ),
    "snowy mountains": (
        "snowy mountains",
        "snowy mountains",
        "some snowy mountains",
        "snow-covered mountains",
        "mountains in winter",
        "white mountain peaks",
    ),
    "desert": ("a desert", "a desert", "a sandy desert", "the desert", "desert dunes", "a desert with sand dunes"),
    "city skyline at night": (
        "a city skyline at night",
        "a city at night",
        "a night city skyline",
        "skyscrapers at night",
        "a city with lit windows",
        "a big city at night",
    ),
    "sunset over the sea": (
        "a sunset over the sea",
        "a sunset over the ocean",
        "a sea at sunset",
        "the sea at sunset",
        "the sun setting over the sea",
        "an ocean sunset",
    ),
    "brick wall": ("a brick wall", "a brick wall", "a wall of bricks", "a red brick wall", "an old brick wall"),
    "checkered floor": (
        "a checkered floor",
        "a checkerboard floor",
        "a checkered room",
        "a black and white tiled floor",
        "a floor like a chessboard",
    ),
    "wooden room": (
        "a wooden room",
        "a wooden room",
        "a room made of wood",
        "a room with a wooden floor",
        "a room with a window",
    ),
    "outer space": ("outer space", "outer space", "space", "the galaxy", "the universe", "deep space"),
    "forest": (
        "a forest",
        "a forest",
        "the woods",
        "a green forest",
        "a pine forest",
        "a forest of fir trees",
        "the forest",
    ),
    "underwater": (
        "an underwater scene",
        "an underwater world",
        "the bottom of the sea",
        "the sea floor",
        "the deep blue sea",
        "the ocean floor",
    ),
    "autumn park": (
        "an autumn park",
        "a park in autumn",
        "a park in the fall",
        "trees in autumn",
        "an autumn forest",
        "a park with autumn leaves",
    ),
    "road": (
        "a road",
        "a road",
        "a country road",
        "a highway",
        "an empty road",
        "a road to the mountains",
        "a long straight road",
    ),
    "volcano": ("a volcano", "a volcano", "an erupting volcano", "a volcano with lava", "a fiery volcano"),
}
"""The named backgrounds as noun phrases; a name that is missing here ("plain blue") gets its own in ``language.py``."""
