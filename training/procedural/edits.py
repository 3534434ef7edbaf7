"""What an edit is, before it is put into words: the structured record that the renderer fills and the language reads.

Everything that an instruction leaves open has one fixed meaning here (default place, default size, the colours, the
subtitle's words), so that the right answer to an instruction is determined and can be learned.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Edit:
    """One directed edit. Empty strings mean "not said"."""

    task: str  # one of TASKS
    object: str = ""  # name of the object concerned ("cat"); for replace: the old one
    new_object: str = ""  # add / replace: what appears
    colour: str = ""  # recolour: the new colour
    old_colour: str = ""  # the object's colour where it is worth saying ("red balloon")
    position: str = ""  # add: one of POSITIONS; "" = the default place (lower center)
    which: str = ""  # tells apart two of a kind: "left" "right" "top" "bottom" "small" "large"
    size: str = ""  # add: "small" "" "large"
    style: str = ""  # one of styles.STYLES
    weather: str = ""  # one of styles.WEATHERS
    background: str = ""  # one of backgrounds.BACKGROUNDS
    text: str = ""  # subtitle_add / subtitle_change: the new text
    old_text: str = ""  # subtitle_remove / subtitle_change: the text that was there


TASKS = (
    "add",
    "remove",
    "replace",
    "recolour",
    "style",
    "weather",
    "background",
    "subtitle_add",
    "subtitle_remove",
    "subtitle_change",
)

POSITIONS: dict[str, tuple[float, float]] = {
    "top left": (0.20, 0.24),
    "top": (0.50, 0.24),
    "top right": (0.80, 0.24),
    "left": (0.20, 0.52),
    "center": (0.50, 0.50),
    "right": (0.80, 0.52),
    "bottom left": (0.20, 0.76),
    "bottom": (0.50, 0.76),
    "bottom right": (0.80, 0.76),
}
"""Centre of an added object as fractions of the width and the height."""

DEFAULT_PLACE = (0.50, 0.62)
"""Where an added object appears when the instruction names no place: lower center."""

SIZES: dict[str, float] = {"small": 0.32, "": 0.48, "large": 0.66}
"""Longest side of an added object, as a fraction of ``min(height, 0.75 * width)`` (see :func:`object_side`)."""

COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")

_WORD_LIST = """
ACE ACORN AIR ALARM ALPHA AMBER ANCHOR ANGEL APPLE APRIL ARCH ARENA ARROW ATLAS AUGUST AWAY BABY BACK BAKER BAND
BANK BARN BASE BEACH BEAR BELL BEST BIKE BIRD BLAZE BLOOM BLUE BOAT BOLD BOOK BOX BRAVE BREAD BRIDGE BRIGHT BUS
CABIN CAFE CAKE CALL CALM CAMP CANDY CAR CARD CASTLE CAT CAVE CHEF CHESS CITY CLAY CLEAR CLIMB CLOCK CLOUD CLUB
COAST COAT COCOA COIN COLD COLOR COOK COOL CORAL CORN COZY CRAFT CROWN DAILY DANCE DARK DAWN DAY DEEP DEER DELTA
DESERT DIVE DOG DOOR DOVE DOWN DREAM DRIVE DROP DRUM DUCK DUNE DUSK EAGLE EARLY EARTH EAST EASY ECHO EDGE EIGHT ELF
END EVENT EVER FABLE FACE FALL FAME FARM FAST FEAST FIELD FILM FINAL FIRE FIRST FISH FIVE FLAG FLASH FLOW FLY FOG
FOREST FOUR FOX FREE FRESH FROG FROST FRUIT FUN FUTURE GAME GARDEN GATE GHOST GIANT GIFT GLASS GLOW GOAL GOLD GOOD
GRAND GRASS GREEN GUEST GUIDE HALL HAPPY HARBOR HAT HAWK HEART HELLO HERO HIDE HIGH HILL HOME HONEY HOPE HORSE HOT
HOTEL HOUR HOUSE ICE IDEA INK IRON ISLAND JAZZ JET JOIN JOKE JOY JULY JUMP JUNE JUNGLE KEEP KEY KIND KING KITE LAKE
LAMP LAND LAST LATE LEAF LEMON LIFE LIGHT LILY LION LITTLE LIVE LOCK LONG LOST LOUD LOVE LUCK LUNCH MAGIC MAIL MAP
MARCH MARS MAZE MEADOW MILK MINT MIRROR MOON MORE MOSS MOUSE MOVE MUSIC NEST NEW NICE NIGHT NINE NORTH NOVA NOW OAK
OCEAN OLIVE ONCE OPEN ORBIT OWL PAGE PAINT PALM PAPER PARK PARTY PATH PEACE PEARL PENNY PIANO PICNIC PILOT PINE
PIRATE PIXEL PIZZA PLAN PLANET PLAY POEM POND PORT POWER PRIDE PROUD PUPPY QUEEN QUEST QUICK QUIET RABBIT RACE RADIO
RAIN RANCH READY REAL RED RICE RIDE RING RISE RIVER ROAD ROBOT ROCK ROCKET ROOF ROOM ROSE ROUND ROYAL RUN SAFE SAIL
SALE SALT SAND SAVE SCHOOL SEA SEED SEVEN SHADOW SHELL SHIP SHOP SHORE SHOW SILVER SKY SLEEP SLOW SMALL SMILE SNOW
SOFT SOLAR SONG SOON SOUP SOUTH SPACE SPARK SPRING STAR START STAY STILL STONE STOP STORM STORY SUGAR SUMMER SUN
SUNNY SURF SWEET SWIM TALE TEA TEAM TENT THREE TIGER TIME TODAY TOWER TOWN TOY TRAIL TRAIN TREE TRIP TRUE TURBO TWIN
UNDER UP VALLEY VELVET VISIT WAIT WAKE WALK WALL WARM WATER WAVE WELCOME WEST WHALE WHEEL WHITE WILD WIND WINDOW
WINTER WISE WISH WOLF WONDER WOOD WORLD YES YOUNG ZEBRA ZERO ZONE
"""

WORDS = tuple(_WORD_LIST.split())
"""Vocabulary of the subtitles."""


def object_side(size: str, width: int, height: int) -> float:
    """Longest side in pixels of an object of the named size in a frame of ``width`` x ``height`` pixels."""
    return SIZES[size] * min(height, 0.75 * width)


def is_held_out_text(text: str) -> bool:
    """Whether a subtitle belongs to the test split: one word in 16 and one pair of words in 8 are never trained on."""
    words = text.split()
    if any(_bucket("word " + word) % 16 == 0 for word in words):
        return True
    return len(words) > 1 and _bucket("pair " + " ".join(words)) % 8 == 0


def subtitle_limit(width: int) -> int:
    """The most characters of a subtitle in a frame ``width`` pixels wide."""
    return 10 if width < 190 else 14


def subtitle(rng: np.random.Generator, width: int, split: str) -> str:
    """One or two words that fit a frame ``width`` pixels wide, from the given split ("train" or "test")."""
    limit, held_out = subtitle_limit(width), split == "test"
    while True:
        words = [WORDS[int(i)] for i in rng.integers(len(WORDS), size=2 if rng.random() < 0.7 else 1)]
        text = " ".join(words)
        if len(text) <= limit and is_held_out_text(text) == held_out:
            return text


def _bucket(text: str) -> int:
    """A number that depends on the text alone, the same in every process."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest(), "big")
