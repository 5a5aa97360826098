"""What does training look at when you bring no images? Scenes of coloured shapes, with captions.

render(seed, index, split) draws one scene: the same bytes on every machine, because only whole
numbers, + - * / and square roots decide a pixel, and only random() of Python's seeded generator
(promised to stay the same between versions) decides a scene.
"""

import math
import random
import re
import zlib
from collections.abc import Sequence
from functools import partial

import numpy as np

# Colours are RGB, 0..255. The first word of a synonym list is the name used in the attributes.
COLOURS = {
    "red": (220, 35, 40), "green": (35, 155, 65), "blue": (40, 80, 215), "yellow": (250, 215, 40),
    "orange": (250, 130, 25), "purple": (130, 50, 180), "pink": (245, 120, 180),
    "brown": (125, 72, 35), "black": (22, 22, 25), "white": (250, 250, 250),
    "gray": (130, 130, 134), "cyan": (45, 205, 215),
}  # fmt: skip
BACKGROUNDS = {
    "white": (243, 243, 243), "black": (28, 28, 32), "gray": (134, 134, 138),
    "light blue": (168, 203, 245), "light green": (172, 222, 172), "beige": (248, 232, 168),
}  # fmt: skip
SIZES = {"big": 0.18, "small": 0.11}  # radius as a fraction of the image
PLACES = {
    "at the top left": (0.25, 0.25), "at the top": (0.5, 0.25), "at the top right": (0.75, 0.25),
    "at the left": (0.25, 0.5), "in the center": (0.5, 0.5), "at the right": (0.75, 0.5),
    "at the bottom left": (0.25, 0.75), "at the bottom": (0.5, 0.75),
    "at the bottom right": (0.75, 0.75),
}  # fmt: skip
SYNONYMS = {
    "big": "large", "small": "little", "circle": "disc", "cross": "plus", "moon": "crescent",
    "half circle": "semicircle", "drop": "teardrop", "purple": "violet", "gray": "grey",
    "cyan": "turquoise", "at the left": "on the left side", "at the right": "on the right side",
    "in the center": "in the middle", "at the top left": "in the top left corner",
    "at the top right": "in the top right corner",
    "at the bottom left": "in the bottom left corner",
    "at the bottom right": "in the bottom right corner",
}  # fmt: skip
SPLITS = ("train", "validation", "unseen", "test")  # their order is in the seeds: two bits
KINDS = ("shape", "colour", "size", "place")  # of attribute that an object has
NAMEABLE = ("size", "colour", "place", "background")  # the shape is always named
TOLD = {"size": 0.5, "colour": 0.7, "place": 0.5, "background": 0.5}  # how often people do
STYLES = {  # of captions as typed, and how often each; few scenes allow the last two
    "sentence": 2, "tags": 1, "bare": 1, "free": 4, "relation": 12, "count": 6,
}  # fmt: skip
NUM_TYPED = 5  # captions as typed that a scene has, beside the plain one
RELATIONS = {  # how a first object can be said to stand to a second one
    "left": ("to the left of", "left of"), "right": ("to the right of", "right of"),
    "above": ("above", "over"), "below": ("below", "under"),
}  # fmt: skip
NUMBERS = {2: "two", 3: "three"}
ALIKE, SAME_SHAPE = 0.2, 0.12  # how often an object repeats shape and colour, or the shape, of one
PLACE_JITTER = 2 / 64  # 2 pixels of 64
TINT = 12  # each of red, green and blue moves by up to this much
TILT = 0.09  # tangent of half the largest tilt: about 10 degrees


def circle(u: np.ndarray, v: np.ndarray, x: float, y: float, radius: float) -> np.ndarray:
    """Signed distance to a circle, negative inside. u, v: (H, W), v grows downwards."""
    return np.sqrt((u - x) * (u - x) + (v - y) * (v - y)) - radius


def polygon(u: np.ndarray, v: np.ndarray, corners: list[tuple[float, float]]) -> np.ndarray:
    """Signed distance to any simple polygon, negative inside. u, v: (H, W)."""
    start = np.array(corners)[:, :, None, None]  # (N, 2, 1, 1)
    edge = np.roll(start, -1, axis=0) - start
    (ax, ay), (ex, ey) = start.swapaxes(0, 1), edge.swapaxes(0, 1)
    px, py = u - ax, v - ay  # (N, H, W)
    along = np.clip((px * ex + py * ey) / (ex * ex + ey * ey), 0, 1)
    dx, dy = px - along * ex, py - along * ey
    distance = np.sqrt((dx * dx + dy * dy).min(axis=0))  # (H, W)
    # A ray to the right crosses this edge; an odd number of crossings means inside.
    crosses = ((py < 0) != (py < ey)) & ((px * ey < ex * py) == (ey > 0))
    return np.where(np.logical_xor.reduce(crosses, axis=0), -distance, distance)


def _around(*polar: tuple[float, float]) -> list[tuple[float, float]]:
    """Corners from (angle in degrees clockwise from the top, radius), rounded to be portable."""
    points = [(r * math.sin(math.radians(a)), -r * math.cos(math.radians(a))) for a, r in polar]
    return [(round(x, 6), round(y, 6)) for x, y in points]


POLYGONS = {
    "square": [(-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8)],
    "triangle": [(0.0, -0.95), (0.95, 0.75), (-0.95, 0.75)],
    "diamond": [(0.0, -1.05), (0.65, 0.0), (0.0, 1.05), (-0.65, 0.0)],
    "star": _around(*((36 * i, 1.1 if i % 2 == 0 else 0.45) for i in range(10))),
    "cross": [(-0.32, -1), (0.32, -1), (0.32, -0.32), (1, -0.32), (1, 0.32), (0.32, 0.32),
              (0.32, 1), (-0.32, 1), (-0.32, 0.32), (-1, 0.32), (-1, -0.32), (-0.32, -0.32)],
    "arrow": [(0, -1.05), (0.85, -0.1), (0.32, -0.1), (0.32, 1), (-0.32, 1), (-0.32, -0.1),
              (-0.85, -0.1)],
}  # fmt: skip
HEART = [(0.0, -0.45), (0.93, -0.08), (0.0, 1.0), (-0.93, -0.08)]
DROP = [(0.0, -1.1), (0.585, 0.11), (-0.585, 0.11)]

# Each shape: (u, v) in units of its radius -> signed distance, negative inside.
SHAPES = {
    "circle": lambda u, v: circle(u, v, 0, 0, 0.95),
    **{name: partial(polygon, corners=corners) for name, corners in POLYGONS.items()},
    "heart": lambda u, v: np.minimum(circle(abs(u), v, 0.48, -0.38, 0.54), polygon(u, v, HEART)),
    "ring": lambda u, v: np.abs(circle(u, v, 0, 0, 0.75)) - 0.25,
    "moon": lambda u, v: np.maximum(circle(u, v, 0, 0, 1), -circle(u, v, 0.5, -0.1, 0.8)),
    "half circle": lambda u, v: np.maximum(circle(u, v, 0, 0.45, 1), v - 0.45),
    "drop": lambda u, v: np.minimum(circle(u, v, 0, 0.4, 0.65), polygon(u, v, DROP)),
}

# One colour of each shape, and one shape of each colour, is kept out of training altogether.
UNSEEN_PAIRS = [(s, list(COLOURS)[(4 - 5 * i) % 12]) for i, s in enumerate(SHAPES)]
SEEN_PAIRS = [(s, c) for s in SHAPES for c in COLOURS if (s, c) not in UNSEEN_PAIRS]


def pick(rng: random.Random, choices: Sequence):
    """One of the choices; uses random() alone, the one method promised never to change."""
    return choices[int(rng.random() * len(choices))]


def checksum(attributes: dict) -> int:
    """A number 0 .. 2^32 - 1 that depends on what is in a scene, in whatever order."""
    objects = sorted(tuple(o[kind] for kind in KINDS) for o in attributes["objects"])
    return zlib.crc32(repr((attributes["background"], objects)).encode())


def half_of(attributes: dict) -> str:
    """Which half of all scenes this one lies in: "validation", to tune on, or "test", to report."""
    return ("validation", "test")[checksum(attributes) // 16 % 2]


def split_of(attributes: dict) -> str:
    """The split that a scene belongs to, from what is in it (not from its caption)."""
    if all((o["shape"], o["colour"]) in UNSEEN_PAIRS for o in attributes["objects"]):
        return "unseen"
    return "train" if checksum(attributes) % 16 else half_of(attributes)


def draw_attributes(rng: random.Random, split: str, num_objects: int | None = None) -> dict:
    """Draw what a scene of this split holds: background and 1 to 3 objects that hardly overlap."""
    pairs = UNSEEN_PAIRS if split == "unseen" else SEEN_PAIRS
    num_objects = num_objects or pick(rng, (1, 1, 1, 2, 2, 2, 2, 3, 3, 3))
    while True:
        background = pick(rng, list(BACKGROUNDS))
        objects = []
        for _ in range(num_objects):
            shape, colour = pick_pair(rng, pairs, objects)
            size, place = pick(rng, list(SIZES)), pick(rng, list(PLACES))
            objects.append({"shape": shape, "colour": colour, "size": size, "place": place})
        attributes = {"background": background, "objects": objects}
        if is_clear(attributes) and split_of(attributes) == split:
            return attributes


def pick_pair(rng: random.Random, pairs: Sequence, objects: list[dict]) -> tuple[str, str]:
    """Shape and colour of the next object of a scene; some repeat those of the one before it."""
    u = rng.random()
    if objects and u < ALIKE:
        return objects[-1]["shape"], objects[-1]["colour"]
    if objects and u < ALIKE + SAME_SHAPE:
        pairs = [pair for pair in pairs if pair[0] == objects[-1]["shape"]]
    return pick(rng, pairs)


def is_clear(attributes: dict) -> bool:
    """Whether every object stands out and stands apart."""
    objects = attributes["objects"]
    ground = BACKGROUNDS[attributes["background"]]
    for i, a in enumerate(objects):
        if max(abs(p - q) for p, q in zip(COLOURS[a["colour"]], ground, strict=True)) < 60:
            return False
        for b in objects[:i]:
            (ax, ay), (bx, by) = PLACES[a["place"]], PLACES[b["place"]]
            reach = SIZES[a["size"]] + SIZES[b["size"]] - 0.01  # big ones may stand diagonally
            if (ax - bx) ** 2 + (ay - by) ** 2 < reach * reach:
                return False
    return True


# Captions. One tells everything in one plain grammar; others leave out what people leave out, in
# the ways that people type.


class Words:
    """How one person calls things: words[name] is the name or its synonym, the same each time.

    synonyms: how often it is the synonym, 0..1.
    """

    def __init__(self, rng: random.Random, synonyms: float = 0.3):
        self.spoken = {name: word for name, word in SYNONYMS.items() if rng.random() < synonyms}

    def __getitem__(self, name: str) -> str:
        return self.spoken.get(name, name)


def with_article(noun: str, article: str = "a") -> str:
    """a red circle; an orange star; the red circle; red circle."""
    if article == "a" and noun[0] in "aeiou":
        article = "an"
    return f"{article} {noun}".strip()


def listed(parts: list[str]) -> str:
    """a, b and c."""
    return " and ".join(filter(None, [", ".join(parts[:-1]), parts[-1]]))


def plural(noun: str) -> str:
    return noun + ("es" if noun.endswith("s") else "s")


def noun_of(o: dict, words: Words, named: Sequence[str] = NAMEABLE) -> str:
    """small red circle, as far as it is named."""
    kinds = [kind for kind in ("size", "colour", "shape") if kind in named or kind == "shape"]
    return " ".join(words[o[kind]] for kind in kinds)


def plain_caption(attributes: dict, words: Words) -> str:
    """All that captions can tell: a small red circle at the top and ... on a white background."""
    things = [f"{with_article(noun_of(o, words))} {words[o['place']]}"
              for o in attributes["objects"]]  # fmt: skip
    return f"{listed(things)} on a {words[attributes['background']]} background"


def relation(a: dict, b: dict) -> str | None:
    """How a stands to b where they share a row or a column, a key of RELATIONS, else None."""
    (ax, ay), (bx, by) = PLACES[a["place"]], PLACES[b["place"]]
    if (ax == bx) == (ay == by):
        return None
    return ("left" if ax < bx else "right") if ay == by else ("above" if ay < by else "below")


def typed_caption(
    attributes: dict,
    rng: random.Random,
    words: Words,
    style: str,
    named: Sequence[str],
) -> tuple[str, tuple[str, ...]] | None:
    """What a person may type for a scene.

    style: one of STYLES; named: which of NAMEABLE to tell, as far as that style can.
    Returns the caption, and which attributes it tells: "shape", of NAMEABLE, and "relation"; or
    None where the scene allows no such caption.
    """
    objects, told = attributes["objects"], [kind for kind in NAMEABLE if kind in named]
    if style in ("relation", "count"):
        told = [kind for kind in told if kind != "place"]
    if style == "relation":
        if len(objects) != 2 or not relation(*objects):
            return None
        told.append("relation")
    if style == "count":
        differ = {k for k in ("size", "colour") if len({o[k] for o in objects}) > 1}
        if len(objects) < 2 or len({o["shape"] for o in objects}) > 1:
            return None
        told = [kind for kind in told if kind not in differ]
    caption = {
        "sentence": type_sentence, "tags": type_tags, "bare": type_bare, "free": type_free,
        "relation": type_relation, "count": type_count,
    }[style](attributes, rng, words, told)  # fmt: skip
    return caption, ("shape", *told)


def short_place(place: str) -> str:
    """at the top left -> top left."""
    return place.split(" the ", 1)[1]


def type_noun(o: dict, rng: random.Random, words: Words, told: list[str], article: str) -> str:
    """a red circle, a circle that is red, a circle in red; without its place."""
    adjectives = [words[o[kind]] for kind in ("size", "colour") if kind in told]
    if rng.random() < 0.3:
        adjectives.reverse()
    shape = words[o["shape"]]
    if not adjectives or rng.random() < 0.75:
        return with_article(" ".join([*adjectives, shape]), article)
    after = [f" that is {' and '.join(adjectives)}", f", {' and '.join(adjectives)}"]
    if "colour" in told:
        rest = [a for a in adjectives if a != words[o["colour"]]]
        in_colour = with_article(" ".join([*rest, shape]), article) + f" in {words[o['colour']]}"
        if rng.random() < 0.5:
            return in_colour
    return with_article(shape, article) + pick(rng, after)


def type_sentence(attributes: dict, rng: random.Random, words: Words, told: list[str]) -> str:
    """Sentences: what is there, where, and on which background, in any order."""
    article = pick(rng, ("a", "a", "a", "the", ""))
    where = pick(rng, ("after", "after", "after", "before", "is"))
    things = []
    for o in attributes["objects"]:
        noun, place = type_noun(o, rng, words, told, article), words[o["place"]]
        if "place" not in told:
            things.append(noun)
        elif where == "before":
            things.append(f"{place} {noun}")
        else:
            things.append(f"{noun} is {place}" if where == "is" else f"{noun} {place}")
    sentence = listed(things)
    opening = pick(rng, ("", "", "", "there is ", "a picture of ", "an image of ", "draw "))
    if article == "the" or ("place" in told and where != "after"):
        opening = ""
    return with_background(attributes, rng, words, told, opening, sentence)


def with_background(
    attributes: dict, rng: random.Random, words: Words, told: list[str], opening: str, text: str
) -> str:
    """The sentence, with the background before or after it if that is told."""
    if "background" not in told:
        return opening + text
    ground = words[attributes["background"]]
    return pick(rng, (
        f"{opening}{text} on a {ground} background", f"{opening}{text} on a {ground} background",
        f"on a {ground} background, {text}", f"{opening}{text}, the background is {ground}",
        f"{opening}{text} on {ground}", f"{opening}{text} with a {ground} background",
        f"{ground} background with {text}", f"{opening}{text} against {ground}",
    ))  # fmt: skip


def type_tags(attributes: dict, rng: random.Random, words: Words, told: list[str]) -> str:
    """red circle, white background; a single object may be taken apart: circle, red, top left."""
    objects, tags = attributes["objects"], []
    apart = len(objects) == 1 and rng.random() < 0.4
    for o in objects:
        place = [short_place(words[o["place"]])] if "place" in told else []
        if apart:
            tags += [words[o[kind]] for kind in ("shape", "size", "colour")
                     if kind in told or kind == "shape"] + place  # fmt: skip
        elif place and rng.random() < 0.3:
            tags.append(f"{place[0]} {noun_of(o, words, told)}")
        else:
            tags.append(" ".join([noun_of(o, words, told), *place]))
    if apart:
        shuffle(rng, tags)
    if "background" in told:
        ground = f"{words[attributes['background']]} background"
        tags = [ground, *tags] if rng.random() < 0.3 else [*tags, ground]
    return ", ".join(tags)


def type_bare(attributes: dict, rng: random.Random, words: Words, told: list[str]) -> str:
    """Nouns without articles: red circle top left white background."""
    things = []
    for o in attributes["objects"]:
        thing = [noun_of(o, words, told)]
        if "place" in told:
            place = words[o["place"]]
            thing.append(short_place(place) if rng.random() < 0.7 else place)
        if len(attributes["objects"]) == 1 and rng.random() < 0.2:
            thing.reverse()  # of several, it would be unclear whose place it is
        things.append(" ".join(thing))
    ground = f" {words[attributes['background']]} background" if "background" in told else ""
    return pick(rng, (" ", " and ", " ")).join(things) + ground


def type_free(attributes: dict, rng: random.Random, words: Words, told: list[str]) -> str:
    """An object's size, colour and place in any order: small, a star, red and at the top; at the
    top a star, it is red and small. Of one object, never all before the shape with the place first,
    nor the colour alone at the end: these are for scene_sets.PATTERNS."""
    article, place_first = pick(rng, ("a", "a", "the", "")), rng.random() < 0.5
    verb = pick(rng, ("", " is ", " it is ", ", it is ", " that is "))
    order = [kind for kind in NAMEABLE if kind in told and kind != "background"]
    shuffle(rng, order)
    cut = int(rng.random() * (len(order) + 1))
    before, after = order[:cut], order[cut:]
    if (not verb and not after and before[:1] == ["place"]) or (verb and after == ["colour"]):
        before, after = after, before
    things = []
    for o in attributes["objects"]:
        shape, called = words[o["shape"]], {kind: words[o[kind]] for kind in order}
        rest = series([called[kind] for kind in after], rng)
        if verb:
            noun = [called[kind] for kind in before if kind != "place"] + [shape]
            noun = [with_article(" ".join(noun), article)]
            place = [called["place"]] if "place" in before else []
            noun = " ".join(place + noun if place_first else noun + place)
            things.append(noun + (verb + rest if rest else ""))
        else:
            parts = [series([called[kind] for kind in before], rng), with_article(shape, article)]
            things.append(", ".join(filter(None, [*parts, rest])))
    text = pick(rng, (" and ", "; ", ". ")).join(things)
    return with_background(attributes, rng, words, told, "", text)


def series(parts: list[str], rng: random.Random) -> str:
    """a, b and c; a, b, c; of none, nothing."""
    return pick(rng, (listed, listed, ", ".join))(parts) if parts else ""


def type_relation(attributes: dict, rng: random.Random, words: Words, told: list[str]) -> str:
    """a red circle to the left of a blue star."""
    a, b = attributes["objects"]
    article = pick(rng, ("a", "a", "a", "the", ""))
    beside = pick(rng, RELATIONS[relation(a, b)])
    first, second = (type_noun(o, rng, words, told, article) for o in (a, b))
    opening = pick(rng, ("", "", "there is ", "a picture of "))
    if article == "the" or rng.random() < 0.1:
        opening, beside = "", f"is {beside}"
    return with_background(attributes, rng, words, told, opening, f"{first} {beside} {second}")


def type_count(attributes: dict, rng: random.Random, words: Words, told: list[str]) -> str:
    """two red circles."""
    objects = attributes["objects"]
    text = f"{NUMBERS[len(objects)]} {plural(noun_of(objects[0], words, told))}"
    opening = pick(rng, ("", "", "", "there are ", "a picture of "))
    return with_background(attributes, rng, words, told, opening, text)


def choose_told(rng: random.Random) -> tuple[str, ...]:
    """Which attributes a person tells."""
    return tuple(kind for kind in NAMEABLE if rng.random() < TOLD[kind])


def shuffle(rng: random.Random, items: list) -> None:
    """In place, by random() alone."""
    for i in range(len(items) - 1, 0, -1):
        j = int(rng.random() * (i + 1))
        items[i], items[j] = items[j], items[i]


def describe(attributes: dict, rng: random.Random) -> tuple[str, ...]:
    """The captions of a scene: the plain one, then NUM_TYPED as people type; none of these has more
    words than the plain one."""
    words, styles = Words(rng), [style for style, times in STYLES.items() for _ in range(times)]
    captions = [plain_caption(attributes, words)]
    most = num_words(captions[0])
    while len(captions) <= NUM_TYPED:
        style = pick(rng, styles)
        found = typed_caption(attributes, rng, words, style, choose_told(rng))
        if found and num_words(found[0]) <= most:
            captions.append(found[0])
    return tuple(captions)


def num_words(caption: str) -> int:
    """Different words of a caption."""
    return len(set(re.findall(r"\w+", caption)))


def draw(attributes: dict, rng: random.Random, size: int) -> np.ndarray:
    """Paint a scene, anti-aliased: (size, size, 3) uint8. What a caption never tells is drawn from
    rng: the exact place, the tilt and the tints."""

    def tinted(colour: tuple[int, int, int]) -> np.ndarray:
        return np.array([channel + TINT * (2 * rng.random() - 1) for channel in colour])

    image = np.tile(tinted(BACKGROUNDS[attributes["background"]]), (size, size, 1))
    for o in attributes["objects"]:
        radius = SIZES[o["size"]] * size  # in pixels
        x, y = (size * (c + PLACE_JITTER * (2 * rng.random() - 1)) for c in PLACES[o["place"]])
        t = TILT * (2 * rng.random() - 1)
        cos, sin = (1 - t * t) / (1 + t * t), 2 * t / (1 + t * t)
        reach = 1.2 * radius + 1  # no shape is larger than 1.2 radii
        rows = slice(max(0, int(y - reach)), min(size, int(y + reach) + 1))
        columns = slice(max(0, int(x - reach)), min(size, int(x + reach) + 1))
        dy = (np.arange(size)[rows, None] + 0.5 - y) / radius
        dx = (np.arange(size)[None, columns] + 0.5 - x) / radius
        distance = SHAPES[o["shape"]](dx * cos + dy * sin, dy * cos - dx * sin)
        cover = np.clip(0.5 - distance * radius, 0, 1)[:, :, None]  # anti-aliasing: 1 px ramp
        patch = image[rows, columns]
        image[rows, columns] = patch + cover * (tinted(COLOURS[o["colour"]]) - patch)
    return np.floor(np.clip(image, 0, 255) + 0.5).astype(np.uint8)


def compose(
    seed: int, index: int, split: str = "train"
) -> tuple[dict, tuple[str, ...], random.Random]:
    """What `render` draws, not yet drawn: attributes, captions, and the generator for `draw`."""
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, not {split!r}")
    rng = random.Random((seed << 42) + (index << 2) + SPLITS.index(split))
    attributes = draw_attributes(rng, split)
    # Captions have random numbers of their own: how people type does not change the drawing.
    captions = describe(attributes, random.Random(int(rng.random() * 2**53)))
    return attributes, captions, rng


def render(
    seed: int, index: int, split: str = "train", size: int = 64
) -> tuple[np.ndarray, tuple[str, ...], dict]:
    """Draw scene number `index` of a split.

    Args:
        seed, index: whole numbers, 0 <= seed, index < 2**40; which scene.
        split: "train"; "validation" and "test" (combinations of attributes that no other split
            shows, the first to tune on, the second to report); or "unseen" (every object a pair of
            shape and colour that no other split shows).
        size: width and height in pixels.

    Returns:
        image: (size, size, 3) uint8 RGB; captions, as `describe` gives them; attributes: a dict
        with background and objects (shape, colour, size, place each).
    """
    attributes, captions, rng = compose(seed, index, split)
    return draw(attributes, rng, size), captions, attributes
