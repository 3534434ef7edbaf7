"""What the drawings are called: plain English names for a hand-picked part of the emoji set.

Emoji labels are not what people type ("automobile", "deciduous tree", "steaming bowl"), and most emoji are not objects
at all. The tables below pick the drawings that are objects and name them as a person would. One line is one drawing:

    [*] official label [= name [| alias | alias ...]]

``*`` marks a target, an object that a model learns to draw; without ``=`` the label is the name. A label is the English
label of emojibase, apostrophes written ``'``. Two targets never share a name, so a name always means one drawing a
style.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["CATEGORIES", "Name", "curated_names"]


@dataclass(frozen=True)
class Name:
    """One curated drawing: its official label and what we call it."""

    label: str
    name: str
    aliases: tuple[str, ...]
    category: str
    target: bool


_TABLES: dict[str, str] = {
    "animal": """
        * monkey
        gorilla
        orangutan
        dog face = dog head
        * dog | puppy
        guide dog = labrador
        poodle
        wolf = wolf head
        fox = fox head
        raccoon = raccoon head
        cat face = cat head
        * cat | kitten
        * black cat
        lion = lion head
        tiger face = tiger head
        * tiger
        leopard
        horse face = horse head
        moose = moose head
        donkey
        * horse | pony
        unicorn = unicorn head
        * zebra
        * deer
        bison
        cow face = cow head
        ox
        water buffalo = buffalo
        * cow
        pig face = pig head
        * pig
        boar = boar head
        ram
        * ewe = sheep
        goat
        * camel
        two-hump camel
        llama
        giraffe
        * elephant
        mammoth
        rhinoceros = rhino
        hippopotamus = hippo
        mouse face = mouse head
        * mouse
        rat
        hamster = hamster head
        rabbit face = rabbit head
        * rabbit | bunny
        * chipmunk = squirrel | chipmunk
        beaver
        * hedgehog
        bat
        bear = bear head
        polar bear = polar bear head
        koala = koala head
        panda = panda head
        sloth
        otter
        skunk
        kangaroo
        badger
        turkey
        chicken = chicken head
        * rooster
        hatching chick = chick in an egg
        * front-facing baby chick = chick | baby chick
        * bird
        * penguin
        * dove | pigeon
        eagle
        * duck
        * swan
        * owl
        dodo
        * flamingo
        peacock
        * parrot
        black bird = blackbird
        goose
        frog = frog head
        * crocodile
        * turtle
        lizard
        * snake
        dragon face = dragon head
        * dragon
        sauropod = long-necked dinosaur
        * T-Rex = dinosaur
        spouting whale
        * whale
        * dolphin
        seal
        * fish
        tropical fish
        blowfish = pufferfish
        * shark
        * octopus
        jellyfish
        * crab
        lobster
        shrimp
        squid
        * snail
        * butterfly
        bug = caterpillar
        ant
        * honeybee = bee
        beetle
        * lady beetle = ladybug
        cricket = grasshopper
        spider
        scorpion
        mosquito
        fly
        worm
    """,
    "food": """
        * grapes
        melon
        * watermelon
        * tangerine = orange | tangerine
        * lemon
        lime
        * banana
        * pineapple
        mango
        * red apple = apple
        green apple
        * pear
        * peach
        * cherries
        * strawberry
        blueberries
        kiwi fruit = kiwi
        * tomato
        olive
        coconut
        * avocado
        * eggplant
        potato
        * carrot
        * ear of corn = corn
        * hot pepper = chili pepper
        bell pepper
        cucumber
        leafy green = lettuce
        * broccoli
        garlic
        onion
        peanuts
        chestnut
        ginger root = ginger
        pea pod
        brown mushroom
        * bread = loaf of bread
        * croissant
        baguette bread = baguette
        flatbread
        pretzel
        bagel
        * pancakes
        waffle
        * cheese wedge = cheese
        meat on bone = meat on a bone
        poultry leg = chicken leg
        cut of meat = steak
        bacon
        * hamburger | burger
        * french fries
        * pizza = slice of pizza | pizza
        * hot dog
        * sandwich
        * taco
        burrito
        tamale
        stuffed flatbread = pita sandwich
        egg
        cooking = frying pan
        pot of food = pot of stew
        bowl with spoon = bowl of soup
        green salad = bowl of salad
        * popcorn
        butter
        salt = salt shaker
        canned food = tin can
        bento box
        rice cracker
        rice ball
        cooked rice = bowl of rice
        curry rice = plate of curry
        steaming bowl = bowl of noodles
        spaghetti = plate of spaghetti
        sushi
        fried shrimp
        moon cake = mooncake
        dango = dango skewer
        dumpling
        fortune cookie
        takeout box
        * soft ice cream = ice cream cone | ice cream
        shaved ice
        ice cream = bowl of ice cream
        * doughnut = donut
        * cookie
        * birthday cake = cake | birthday cake
        shortcake = slice of cake
        * cupcake
        pie
        * chocolate bar
        candy
        * lollipop
        custard = pudding
        honey pot
        glass of milk
        * hot beverage = cup of coffee | cup
        * teapot
        teacup without handle = cup of tea
        bottle with popping cork = champagne bottle
        wine glass = glass of wine
        cocktail glass = cocktail
        tropical drink = fruit drink
        beer mug = mug of beer
        clinking beer mugs = two beer mugs
        tumbler glass = glass of whiskey
        * cup with straw = soda cup
        bubble tea
        beverage box = juice box
        ice = ice cube
    """,
    "vehicle": """
        * locomotive = steam train | steam locomotive
        railway car = train carriage
        high-speed train
        bullet train
        * train
        metro = subway train
        light rail = light rail train
        tram
        monorail
        mountain railway = mountain train
        tram car = streetcar
        * bus
        oncoming bus = bus from the front
        trolleybus
        minibus
        * ambulance
        * fire engine = fire truck
        * police car
        oncoming police car = police car from the front
        * taxi
        oncoming taxi = taxi from the front
        * automobile = car
        oncoming automobile = car from the front
        sport utility vehicle = jeep
        * pickup truck
        * delivery truck = truck
        articulated lorry = semi truck
        * tractor
        * racing car = race car | sports car
        * motorcycle | motorbike
        * motor scooter = scooter
        manual wheelchair = wheelchair
        motorized wheelchair = electric wheelchair
        auto rickshaw = rickshaw
        * bicycle | bike
        kick scooter
        * skateboard
        roller skate
        * sailboat
        canoe
        speedboat
        passenger ship = cruise ship
        ferry
        * motor boat = motorboat | boat
        * ship
        * airplane | plane
        small airplane
        * helicopter
        suspension railway = suspended train
        mountain cableway = cable car
        aerial tramway = gondola lift
        satellite
        * rocket
        * flying saucer = ufo
    """,
    "plant": """
        * bouquet = bouquet of flowers
        cherry blossom
        lotus
        * rose
        wilted flower
        hibiscus
        * sunflower
        * blossom = flower
        * tulip
        hyacinth
        seedling
        * potted plant
        * evergreen tree = pine tree
        * deciduous tree = tree
        * palm tree
        * cactus
        sheaf of rice = rice plant
        herb = green leaves
        shamrock
        four leaf clover
        * maple leaf
        fallen leaf = autumn leaves
        * mushroom
        nest with eggs
        empty nest
    """,
    "clothing": """
        * glasses = pair of glasses | glasses
        * sunglasses
        goggles
        lab coat
        safety vest
        necktie = shirt and tie
        * t-shirt
        * jeans = pair of jeans
        * scarf
        gloves = pair of gloves
        coat
        socks = pair of socks
        * dress
        kimono
        sari
        one-piece swimsuit = swimsuit
        briefs = underpants
        shorts = pair of shorts
        bikini
        woman's clothes = blouse
        running shirt = tank top
        purse
        * handbag
        clutch bag
        shopping bags = two shopping bags
        * backpack
        thong sandal = flip-flop
        man's shoe = leather shoe
        * running shoe = sneaker | shoe
        * hiking boot = boot
        flat shoe = ballet flat
        * high-heeled shoe = high heel
        woman's sandal = sandal
        ballet shoes
        woman's boot = tall boot
        * crown | golden crown
        * woman's hat = sun hat | hat
        * top hat | black hat
        graduation cap
        * billed cap = baseball cap | cap
        * military helmet = helmet
        rescue worker's helmet = hard hat
        lipstick
        * ring = diamond ring
        * gem stone = diamond
        martial arts uniform = karate suit
        ribbon = bow ribbon
    """,
    "sport": """
        * soccer ball | football
        * baseball
        softball
        * basketball
        * volleyball
        * american football
        rugby football = rugby ball
        * tennis = tennis racket
        flying disc = frisbee
        bowling = bowling ball
        cricket game = cricket bat
        field hockey = field hockey stick
        ice hockey = hockey stick
        lacrosse = lacrosse stick
        ping pong = ping pong paddle
        badminton = badminton racket
        boxing glove
        goal net
        flag in hole = golf flag
        ice skate
        fishing pole
        diving mask
        skis = pair of skis
        sled
        curling stone
        * trophy
        sports medal = medal
        1st place medal = gold medal
        2nd place medal = silver medal
        3rd place medal = bronze medal
        bow and arrow
        boomerang
        parachute
    """,
    "music": """
        * saxophone
        * trumpet
        trombone
        accordion
        * guitar
        musical keyboard = piano keyboard
        * violin
        banjo
        * drum
        long drum
        maracas
        flute
        harp
        studio microphone
        * microphone
        * headphone = headphones
        radio
        musical note
        postal horn
        megaphone
        * bell
    """,
    "toy": """
        bullseye = dartboard
        yo-yo
        * kite
        water pistol = water gun
        * pool 8 ball = billiard ball
        crystal ball
        magic wand
        * video game = game controller
        joystick
        slot machine
        * game die = dice
        puzzle piece
        * teddy bear
        piñata = pinata
        mirror ball = disco ball
        nesting dolls
        chess pawn
        * balloon
        party popper
        confetti ball
        firecracker
        sparkler
        * wrapped gift = gift box | present
        red envelope
        carp streamer = fish windsock
        wind chime
        carousel horse
        playground slide = slide
        * jack-o-lantern = pumpkin | halloween pumpkin
        * ghost
        robot = robot head
        alien = alien head
        alien monster = purple monster
    """,
    "household": """
        baby bottle
        fork and knife
        fork and knife with plate = plate with fork and knife
        chopsticks
        * spoon
        * kitchen knife = knife
        jar
        amphora = vase
        compass
        * hourglass done = hourglass
        * watch
        * alarm clock
        stopwatch
        timer clock = timer
        mantelpiece clock
        thermometer
        closed umbrella = folded umbrella
        * umbrella
        umbrella on ground = beach umbrella
        fire extinguisher
        artist palette
        framed picture
        thread = spool of thread
        sewing needle
        yarn = ball of yarn
        performing arts = theater masks
        folding hand fan = hand fan
        prayer beads
        * mobile phone = phone
        * telephone
        telephone receiver
        pager
        fax machine
        battery
        electric plug
        * laptop
        desktop computer = computer monitor
        printer
        keyboard
        computer mouse
        trackball
        floppy disk
        optical disk = disc
        abacus
        movie camera
        film frames = film strip
        film projector
        clapper board
        * television = tv
        * camera
        video camera
        videocassette = video tape
        * magnifying glass tilted left = magnifying glass
        * candle
        * light bulb
        * flashlight
        * red paper lantern = paper lantern | lantern
        diya lamp = oil lamp
        closed book = red book
        * open book
        green book
        blue book
        orange book
        * books = stack of books
        notebook
        scroll
        newspaper
        bookmark
        label = tag
        * coin
        money bag
        treasure chest
        dollar banknote = stack of dollars
        credit card
        receipt
        envelope
        * package = cardboard box | box
        closed mailbox with raised flag = mailbox
        postbox
        ballot box with ballot = ballot box
        * pencil
        fountain pen
        pen
        * paintbrush
        crayon
        memo = note paper
        briefcase
        file folder
        calendar
        clipboard
        pushpin
        paperclip
        straight ruler = ruler
        triangular ruler
        * scissors
        file cabinet
        wastebasket
        locked = padlock
        * key
        old key
        * hammer
        * axe
        pick = pickaxe
        dagger
        crossed swords
        bomb
        shield
        carpentry saw = saw
        wrench
        screwdriver
        nut and bolt
        gear
        clamp
        balance scale = scale
        chains = chain
        hook
        toolbox
        * magnet
        * ladder
        shovel
        test tube
        alembic = lab flask
        petri dish
        microscope
        telescope
        satellite antenna = satellite dish
        syringe
        pill
        adhesive bandage = bandage
        crutch
        stethoscope
        * door
        elevator
        mirror
        * window
        * bed
        couch and lamp = couch
        * chair
        toilet
        plunger
        shower
        bathtub
        mouse trap
        razor
        lotion bottle
        safety pin
        broom
        * basket
        roll of paper = toilet paper
        * bucket
        soap
        * toothbrush
        sponge
        shopping cart
        bellhop bell
        * luggage = suitcase
        barber pole
        coffin
        funeral urn = urn
        placard = wooden sign
        ring buoy = life ring
        * anchor
        wheel
        oil drum
        fuel pump
        police car light = siren
        horizontal traffic light
        * vertical traffic light = traffic light
        * stop sign
        bus stop
        construction = road barrier
        seat = airplane seat
    """,
    "nature": """
        snow-capped mountain = snowy mountain
        * mountain
        * volcano
        mount fuji
        rock
        wood = log
        spiral shell = seashell
        coral
        feather
        spider web
        bone
        tooth
        * full moon = moon | full moon
        * crescent moon
        * sun
        sun with face = smiling sun
        ringed planet = planet
        globe showing Americas = earth globe
        * star
        glowing star
        * cloud
        sun behind cloud = sun and cloud
        cloud with lightning and rain = storm cloud
        cloud with rain = rain cloud
        cloud with snow = snow cloud
        cloud with lightning = thundercloud
        tornado
        * rainbow
        high voltage = lightning bolt
        * snowflake
        * snowman
        comet
        * fire = flame | fire
        * droplet = water drop
        water wave = wave
        * red heart = heart
        moai = stone head statue
        * Christmas tree = christmas tree
    """,
    "building": """
        stadium
        classical building = temple
        brick = stack of bricks
        hut
        houses
        derelict house = abandoned house
        * house
        house with garden
        office building
        post office
        hospital
        hotel
        convenience store
        school
        department store
        factory
        Japanese castle = japanese castle
        * castle
        Tokyo tower = red tower
        Statue of Liberty = statue of liberty
        * church
        mosque
        hindu temple
        synagogue
        shinto shrine = shrine gate
        fountain
        * tent
        * ferris wheel
        roller coaster
        circus tent
        headstone
    """,
    "person": """
        boy = boy's head
        girl = girl's head
        man = man's head
        woman = woman's head
        ballet dancer
        woman dancing = dancing woman
        man dancing = dancing man
        person surfing = surfer
        person walking = walking person
        person running = running person
        snowboarder
        Santa Claus = santa claus
        astronaut
    """,
}

CATEGORIES: tuple[str, ...] = tuple(_TABLES)


def _parse(line: str, category: str) -> Name:
    target = line.startswith("*")
    label, equals, names = line.removeprefix("*").partition("=")
    if not equals:  # "label | alias": the label is the name
        label, _, rest = label.partition("|")
        names = f"{label}|{rest}" if rest else label
    name, *aliases = (part.strip() for part in names.split("|"))
    return Name(label.strip(), name, tuple(aliases), category, target)


def curated_names() -> dict[str, Name]:
    """The drawings to keep, by official label.

    Raises:
        ValueError: a label or a target's name occurs twice in the tables.
    """
    kept: dict[str, Name] = {}
    targets: set[str] = set()
    for category, table in _TABLES.items():
        for line in table.split("\n"):
            if not line.strip():
                continue
            entry = _parse(line.strip(), category)
            if entry.label in kept:
                raise ValueError(f"label {entry.label!r} is named twice")
            if entry.target and entry.name in targets:
                raise ValueError(f"two targets are called {entry.name!r}")
            kept[entry.label] = entry
            if entry.target:
                targets.add(entry.name)
    return kept
