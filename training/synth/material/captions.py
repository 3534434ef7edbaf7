"""Shots of the film and stills, captioned by hand after looking at each of them.

Frame numbers count from the first frame of the hash-checked *Big Buck Bunny* file (24 fps). A shot lies inside one
camera take: no cut, fade or title. Held-out shots are whole scenes where possible, so that a test shot has no near twin
among the training shots.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["FILM_END", "SHOTS", "STILLS", "StillSource"]

FILM_END = 11748  # the credits fade in after this frame

TRAIN, TEST = "train", "test"

# (first frame, end frame (exclusive), split, caption)
SHOTS: tuple[tuple[int, int, str, str], ...] = (
    (44, 283, TRAIN, "pine trees on a green hill under a pink cloudy sky"),
    (287, 376, TEST, "a small stream running through grass and flowers"),
    (380, 488, TRAIN, "a purple bird singing on a branch"),
    (556, 596, TRAIN, "a mossy burrow under a tree in a green meadow"),
    (800, 1143, TRAIN, "a big gray rabbit sleeping in a dark burrow under grass"),
    (1147, 1344, TRAIN, "a gray rabbit coming out of its burrow under a mossy tree"),
    (1348, 1454, TRAIN, "a white rabbit stretching against a blue sky with leaves"),
    (1458, 1529, TEST, "a white rabbit smiling under a blue sky"),
    (1533, 1664, TRAIN, "a white rabbit smelling white flowers"),
    (1668, 1709, TRAIN, "a white rabbit bending down in a green meadow"),
    (1713, 1761, TRAIN, "a brown squirrel on a branch looking down at a rabbit"),
    (1765, 1811, TRAIN, "a gray rabbit behind white flowers"),
    (1815, 1917, TRAIN, "a white rabbit and a pink butterfly on grass seen from above"),
    (1921, 2152, TRAIN, "a white rabbit with a red apple in a green meadow"),
    (2156, 2193, TRAIN, "the ear of a white rabbit in front of a green tree"),
    (2196, 2392, TRAIN, "a white rabbit holding a red apple in front of green trees"),
    (2396, 2492, TRAIN, "a squirrel in an apple tree watching a rabbit below"),
    (2496, 2702, TRAIN, "a gray rabbit and a purple butterfly in a green meadow"),
    (2706, 2829, TRAIN, "a gray rabbit walking in a green meadow with round trees"),
    (2833, 2899, TRAIN, "three squirrels laughing in front of green bushes"),
    (2903, 2961, TRAIN, "a gray rabbit chasing a purple butterfly by a tree"),
    (2965, 3043, TRAIN, "a brown squirrel behind a tree root in a meadow"),
    (3047, 3290, TRAIN, "a gray rabbit leaning on a tree with a purple butterfly"),
    (3290, 3511, TRAIN, "a gray rabbit sitting in front of a tree with a squirrel on it"),
    (3515, 3576, TEST, "a rabbit on green grass seen from high above"),
    (3580, 3742, TRAIN, "three squirrels playing at the foot of a tree"),
    (3746, 3858, TRAIN, "a gray rabbit standing in a green meadow"),
    (3921, 3987, TRAIN, "three squirrels at a tree trunk in the grass"),
    (3990, 4031, TRAIN, "a worried gray rabbit in a green meadow"),
    (4034, 4068, TRAIN, "three squirrels laughing by a tree trunk in the grass"),
    (4084, 4225, TRAIN, "a gray rabbit with fruit flying around it in a meadow"),
    (4229, 4265, TRAIN, "three squirrels throwing fruit by a tree trunk"),
    (4268, 4330, TRAIN, "a gray rabbit hit by a red apple in a meadow"),
    (4334, 4461, TRAIN, "squirrels throwing fruit from behind a tree"),
    (4465, 4542, TEST, "a brown squirrel and a pink butterfly against a blue sky"),
    (4546, 4610, TRAIN, "a gray rabbit standing in a meadow with red apples"),
    (4614, 4670, TEST, "a brown squirrel holding a stone next to a pink butterfly"),
    (4728, 4794, TRAIN, "a frightened gray rabbit in front of a pink sky"),
    (4798, 4834, TRAIN, "a brown squirrel in front of a tree trunk"),
    (4836, 4898, TRAIN, "a squirrel holding a purple butterfly in its hand"),
    (4901, 4941, TRAIN, "a sad gray rabbit in a green meadow"),
    (4944, 4978, TRAIN, "a red squirrel with purple butterfly wings by a tree"),
    (5015, 5077, TRAIN, "a red squirrel with butterfly wings next to a brown squirrel"),
    (5081, 5129, TRAIN, "a red squirrel jumping past a tree in a meadow"),
    (5133, 5290, TRAIN, "a brown squirrel and a red squirrel by a tree"),
    (5309, 5369, TRAIN, "a gray rabbit looking at its hand in a meadow with fruit"),
    (5373, 5428, TEST, "a green meadow with trees under a soft blue sky"),
    (5432, 5516, TRAIN, "a gray rabbit hiding behind a brown tree"),
    (5520, 5577, TRAIN, "three small squirrels near a big tree in a meadow"),
    (5581, 5785, TRAIN, "an angry gray rabbit leaning against a tree trunk"),
    (5810, 5843, TRAIN, "a white rabbit running through a sunny park"),
    (5846, 6016, TRAIN, "a gray rabbit walking through a green forest"),
    (6090, 6127, TRAIN, "a gray rabbit in the tall grass of a forest"),
    (6130, 6167, TRAIN, "the feet of a gray rabbit on stony ground"),
    (6170, 6207, TRAIN, "a gray rabbit carving a piece of wood in the grass"),
    (6230, 6267, TRAIN, "a gray rabbit pushing a tree trunk in the forest"),
    (6270, 6307, TRAIN, "a close-up of a gray rabbit with a green leaf"),
    (6310, 6347, TRAIN, "a gray rabbit holding an arrow in the grass"),
    (6350, 6387, TEST, "wooden spikes leaning on a tree stump"),
    (6390, 6486, TRAIN, "a gray rabbit pulling a green vine in the forest"),
    (6490, 6621, TRAIN, "a white rabbit jumping rope in the forest"),
    (6625, 6668, TEST, "a wooden stake in brown soil"),
    (6671, 6712, TRAIN, "a gray rabbit holding a vine in a green forest"),
    (6715, 6752, TRAIN, "a white rabbit dropping a bunch of green leaves"),
    (6755, 6831, TRAIN, "a close-up of the angry face of a gray rabbit"),
    (6835, 7011, TEST, "squirrels running through a green meadow past a tree"),
    (7015, 7081, TRAIN, "a white rabbit with a wooden bow in a dark forest"),
    (7095, 7130, TRAIN, "an arrow in the trunk of a brown tree"),
    (7133, 7174, TRAIN, "a white rabbit holding a wooden bow in the dark"),
    (7226, 7323, TRAIN, "three squirrels in tall yellow grass in front of a forest"),
    (7327, 7398, TRAIN, "squirrels walking on a forest path by a big tree"),
    (7402, 7498, TRAIN, "a forest floor with green leaves seen from above"),
    (7502, 7544, TRAIN, "three squirrels walking through a forest"),
    (7548, 7611, TRAIN, "the hands of a gray rabbit pulling a bow string"),
    (7615, 7659, TRAIN, "three squirrels with a nut in the forest"),
    (7663, 7716, TRAIN, "a gray rabbit aiming a bow among green leaves"),
    (7734, 7768, TEST, "green vines hanging in a dark forest"),
    (7771, 7870, TRAIN, "three squirrels walking through a green forest"),
    (7886, 7951, TRAIN, "squirrels looking at a log hanging in the bright sky"),
    (7955, 8022, TRAIN, "a squirrel hit by a swinging log under a bright sky"),
    (8026, 8083, TRAIN, "a close-up of the dizzy face of a red squirrel"),
    (8093, 8152, TRAIN, "dark green trees in front of a bright blue sky"),
    (8156, 8300, TRAIN, "a small gray chinchilla by a mossy stone in the forest"),
    (8300, 8400, TRAIN, "a big rock tied with vines in the forest"),
    (8402, 8436, TRAIN, "a small gray chinchilla among stones and vines"),
    (8480, 8620, TRAIN, "a hollow log on the forest floor"),
    (8650, 8905, TRAIN, "a white rabbit standing in a sunny green forest"),
    (8912, 8945, TRAIN, "a white rabbit in the forest next to a bent branch"),
    (8947, 9007, TEST, "green pine trees under a blue sky with a white cloud"),
    (9011, 9078, TRAIN, "a white rabbit standing in a forest clearing"),
    (9082, 9146, TRAIN, "a brown squirrel at the foot of a tree in the forest"),
    (9150, 9377, TEST, "a purple bird on a branch next to a tree trunk"),
    (9386, 9419, TRAIN, "a flying squirrel landing on a branch above the trees"),
    (9422, 9466, TRAIN, "a forest with pink rocks seen from above"),
    (9470, 9506, TRAIN, "an angry flying squirrel under a blue sky"),
    (9509, 9573, TRAIN, "a flying squirrel on a branch under a cloudy sky"),
    (9595, 9703, TRAIN, "a flying squirrel jumping from a branch in the blue sky"),
    (9721, 9793, TRAIN, "a gray rabbit in front of dark green leaves"),
    (9797, 9848, TRAIN, "a flying squirrel gliding through the blue sky"),
    (9852, 9890, TRAIN, "a flying squirrel on a branch with an orange fruit"),
    (9893, 9960, TRAIN, "an orange fruit falling from a tall tree"),
    (10018, 10079, TEST, "an orange fruit falling in front of a tree"),
    (10127, 10182, TRAIN, "wooden spikes on a sunny forest path"),
    (10186, 10232, TRAIN, "a flying squirrel in the blue sky with white clouds"),
    (10261, 10302, TRAIN, "a gray rabbit pointing down in tall green grass"),
    (10305, 10338, TRAIN, "a flying squirrel with spread arms in the blue sky"),
    (10341, 10407, TRAIN, "a brown flying squirrel seen from above over a forest"),
    (10410, 10452, TRAIN, "a scared flying squirrel in the blue sky"),
    (10470, 10572, TRAIN, "a flying squirrel passing over green bushes"),
    (10682, 10748, TRAIN, "a flying squirrel above wooden spikes in a forest"),
    (10750, 10840, TRAIN, "a row of wooden spikes in front of green trees"),
    (10844, 10997, TEST, "a gray rabbit meeting a squirrel on a branch"),
    (11001, 11050, TRAIN, "a gray rabbit holding a small squirrel"),
    (11100, 11180, TRAIN, "a sunny meadow with tall trees"),
    (11205, 11310, TRAIN, "a big tree root in a green meadow with a pink butterfly"),
    (11314, 11348, TRAIN, "a close-up of the friendly face of a white rabbit"),
    (11351, 11522, TRAIN, "a white rabbit and a pink butterfly in a sunny park"),
    (11526, 11559, TRAIN, "a close-up of the scared face of a red squirrel"),
    (11562, 11610, TRAIN, "a flying squirrel tied to a string in the blue sky"),
    (11614, 11669, TEST, "a rabbit flying a kite in a green meadow"),
    (11673, 11725, TRAIN, "a smiling white rabbit in a sunny park"),
)


@dataclass(frozen=True)
class StillSource:
    """One still: where it lies in its package, its licence and what is on it."""

    name: str
    package: str
    path: str
    caption: str
    split: str
    licence: str
    attribution: str


def _lomiri(name: str, file: str, caption: str, author: str, licence: str = "CC-BY-4.0") -> StillSource:
    attribution = f"{file} by {author}, 2018, from Lomiri wallpapers"
    return StillSource(
        name, "lomiri-wallpapers-16.04", f"usr/share/backgrounds/{file}", caption, TRAIN, licence, attribution
    )


def _libjxl(name: str, file: str, caption: str, split: str, licence: str, attribution: str) -> StillSource:
    return StillSource(
        name, "libjxl-testdata", f"usr/share/libjxl-testdata/{file}", caption, split, licence, attribution
    )


def _skimage(name: str, file: str, caption: str, split: str, licence: str, attribution: str) -> StillSource:
    return StillSource(name, "scikit-image", f"skimage/data/{file}", caption, split, licence, attribution)


_WESATURATE = "external/wesaturate/500px"

STILLS: tuple[StillSource, ...] = (
    _lomiri(
        "fig",
        "Picture_0B_by_freespace.jpg",
        "half a fig in a red bowl on a gray table",
        "Trevor 'Freespace'",
    ),
    _lomiri("brushes", "Picture_1A_by_freespace.jpg", "colorful paint brushes", "Trevor 'Freespace'"),
    _lomiri("lounge", "Wine_by_Jakkub_Mede.jpg", "a living room with a wooden table and a cushion", "Jakub Mede"),
    _lomiri(
        "autumn-mountain",
        "aitzgorri_by_Aitzol_Berasategi.jpg",
        "a green field and autumn trees in front of a mountain",
        "Aitzol Berasategi",
    ),
    _lomiri(
        "two-dogs",
        "friends_by_Aitzol_Berasategi.jpg",
        "two brown dogs looking out of the window of a white house",
        "Aitzol Berasategi",
    ),
    _lomiri("forest-stream", "life_by_Aitzol_Berasategi.jpg", "a rocky stream in a forest", "Aitzol Berasategi"),
    _lomiri(
        "rocky-mountain",
        "picosdeeuropa_by_Aitzol_Berasategi.jpg",
        "a path on a green hill in front of rocky mountains",
        "Aitzol Berasategi",
    ),
    _lomiri(
        "dandelions",
        "seeding_by_Clements_Engelhardt.jpg",
        "dandelions in a meadow at sunset",
        "Clemens Engelhardt",
        "CC0-1.0",
    ),
    _lomiri("sunset", "sunset_by_Aitzol_Berasategi.jpg", "a sunset over hills", "Aitzol Berasategi"),
    _lomiri("colors", "umang_by_Abhishek_Mudgal.jpg", "an abstract of purple, orange and green", "Abhishek Mudgal"),
    _libjxl(
        "lake",
        f"{_WESATURATE}/cvo9xd_keong_macan_srgb8.png",
        "dark rocks by a calm lake",
        TEST,
        "CC0-1.0",
        "Keong Macan, wesaturate, from libjxl testdata",
    ),
    _libjxl(
        "tulips",
        f"{_WESATURATE}/tmshre_riaphotographs_srgb8.png",
        "pink tulips in a garden",
        TRAIN,
        "CC0-1.0",
        "riaphotographs, wesaturate, from libjxl testdata",
    ),
    _libjxl(
        "blossom",
        f"{_WESATURATE}/u76c0g_bliznaca_srgb8.png",
        "a branch with pink blossom",
        TRAIN,
        "CC0-1.0",
        "bliznaca, wesaturate, from libjxl testdata",
    ),
    _libjxl(
        "room",
        "jxl/hdr_room.png",
        "an old room with red chairs and two windows",
        TEST,
        "BSD-3-Clause",
        "the JPEG XL Project Authors, libjxl testdata",
    ),
    _libjxl(
        "pink-flowers",
        "jxl/flower/flower.png",
        "pink flowers with yellow centers",
        TRAIN,
        "BSD-3-Clause",
        "the JPEG XL Project Authors, libjxl testdata",
    ),
    _skimage(
        "astronaut",
        "astronaut.png",
        "a smiling astronaut in an orange suit",
        TRAIN,
        "public domain",
        "NASA, from scikit-image",
    ),
    _skimage("brick-wall", "brick.png", "a gray brick wall", TRAIN, "CC0-1.0", "CC0Textures, from scikit-image"),
    _skimage("gravel", "gravel.png", "gray gravel", TRAIN, "CC0-1.0", "CC0Textures, from scikit-image"),
    _skimage(
        "cat-face", "chelsea.png", "a close-up of a brown cat", TEST, "CC0-1.0", "Stefan van der Walt, scikit-image"
    ),
    _skimage(
        "coffee",
        "coffee.png",
        "a red cup of coffee on a wooden table",
        TRAIN,
        "CC0-1.0",
        "Rachel Michetti, from scikit-image",
    ),
    _skimage(
        "launch-pad",
        "rocket.jpg",
        "a rocket on a launch pad at night",
        TRAIN,
        "public domain",
        "SpaceX, from scikit-image",
    ),
    _skimage(
        "galaxies",
        "hubble_deep_field.jpg",
        "a night sky full of galaxies",
        TRAIN,
        "public domain",
        "NASA, from scikit-image",
    ),
)
