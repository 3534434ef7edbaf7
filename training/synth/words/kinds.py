"""What the named things are: which names a model should know best, which of them fly, and words for whole kinds.

Nothing here is a property of a drawing: it is what a person knows about a cat, a cloud or a fire truck.
"""

from __future__ import annotations

from training.synth.words.nouns import head

_COMMON = """
bird; black cat; butterfly; camel; cat; squirrel; cow; crab; crocodile; deer; dog; dolphin; dragon; duck; elephant;
sheep; fish; flamingo; hedgehog; bee; horse; ladybug; monkey; mouse; octopus; owl; parrot; penguin; pig; rabbit;
shark; snail; snake; swan; dinosaur; tiger; turtle; whale; zebra; castle; church; house; tent; backpack; crown;
dress; handbag; high heel; boot; pair of jeans; sneaker; sunglasses; t-shirt; top hat; avocado; banana; cake;
broccoli; carrot; cheese; cherries; croissant; cupcake; donut; corn; eggplant; grapes; hamburger; cup of coffee;
lemon; lollipop; pineapple; slice of pizza; apple; ice cream cone; strawberry; orange; teapot; tomato; watermelon;
alarm clock; bed; bucket; camera; candle; chair; door; hammer; key; laptop; light bulb; suitcase; open book;
cardboard box; scissors; tv; umbrella; traffic light; bell; drum; guitar; headphones; trumpet; christmas tree;
cloud; moon; rainbow; heart; snowflake; snowman; star; sun; flower; cactus; tree; mushroom; palm tree;
potted plant; rose; sunflower; soccer ball; basketball; trophy; balloon; dice; ghost; pumpkin; teddy bear;
gift box; airplane; car; bicycle; bus; truck; fire truck; ufo; helicopter; train; motorcycle; rocket; sailboat;
police car; tractor
"""

COMMON = frozenset(" ".join(name.split()) for name in _COMMON.split(";"))
"""Names that people ask for most and whose drawings are told apart at a glance: new objects are mostly these."""

RARE_SHARE = 0.2
"""How often another name is asked for, compared with a common one."""

_FLYING = """
bird bat bee fly mosquito butterfly dove eagle parrot blackbird airplane helicopter ufo satellite balloon kite
parachute cloud comet moon star sun rainbow snowflake planet thundercloud tornado bolt sparkler globe ghost note
windsock rocket drop heart
"""
_FLYING_HEADS = frozenset(_FLYING.split())
_NOT_FLYING = frozenset(("cricket bat", "nut and bolt"))

_KIND_WORDS: dict[str, tuple[str, ...]] = {
    "animal": ("animal", "creature"),
    "vehicle": ("vehicle",),
    "food": ("food",),
    "plant": ("plant",),
    "building": ("building",),
    "music": ("instrument",),
}
_NO_INSTRUMENT = frozenset(("headphones", "microphone", "studio microphone", "megaphone", "radio", "musical note"))
_NO_PLANT = frozenset(("empty nest", "nest with eggs", "maple leaf", "autumn leaves"))


def familiarity(name: str) -> float:
    """How likely a name is asked for as a new object, compared with others: 1 for common ones."""
    return 1.0 if name in COMMON else RARE_SHARE


def flies(name: str) -> bool:
    """Whether the thing hangs in the air wherever it is, so that nothing of it rests on the ground."""
    return head(name) in _FLYING_HEADS and name not in _NOT_FLYING


def kind_words(name: str, category: str) -> tuple[str, ...]:
    """Words for the kind of thing ("animal"); empty where no word fits beyond doubt."""
    if name in _NO_INSTRUMENT or name in _NO_PLANT or category not in _KIND_WORDS:
        return ()
    return _KIND_WORDS[category]
