"""Which scenes is a model asked to draw, and how much of what was asked is in a drawing?

Sets of scenes with captions of one kind each, never trained on; evaluate.py tells their protocol.
Each belongs to a split: "validation", to tune on, or "test", to report.
"""

import random
import re
from itertools import permutations
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

import scenes
from evaluation import judges

SEEDS = {"validation": 3_000, "test": 4_000}  # no scene of training or of the judges has these
PROMPTS = (  # as people type them, for a sheet
    "a red circle", "blue star", "heart", "two red circles", "green triangle, black background",
    "a yellow moon at the top", "a red circle to the left of a blue star", "three stars",
    "a small purple ring", "an orange arrow and a pink drop", "white cross above a brown square",
    "big cyan diamond on beige",
)  # fmt: skip
MIXED = (1, 1, 1, 2, 2, 2, 2, 3, 3, 3)  # objects of a scene, as often as in training


class TestSet(NamedTuple):
    """What to draw."""

    captions: list[str]  # N
    images: Tensor  # the real ones, (N, 3, S, S) uint8
    attributes: list[dict]  # of scenes


def as_test_set(found: list[tuple[str, np.ndarray, dict]]) -> TestSet:
    """From (caption, image (S, S, 3) uint8, attributes) of each scene."""
    captions, images, attributes = zip(*found, strict=True)
    return TestSet(list(captions), judges.stack(images), list(attributes))


def fresh_random(split: str, stream: int, number: int = 0) -> random.Random:
    """Random numbers that no scene of training, of the judges or of another split is made of."""
    return random.Random((SEEDS[split] << 42) + (stream << 32) + number)


def draw_scenes(
    split: str,
    num: int,
    stream: int,
    num_objects: tuple[int, ...],
    style: str = "plain",
    named: tuple[str, ...] | None = scenes.NAMEABLE,
    size: int = judges.IMAGE_SIZE,
    unseen: bool = False,
) -> TestSet:
    """Scenes of "validation" or "test", with captions that tell what `named` says.

    stream: which random numbers; num_objects: of a scene, in turn; style: of scenes.STYLES, or
    "plain"; scenes that allow no such caption are passed over; named: of scenes.NAMEABLE, None: any
    of them, as people choose; unseen: take pairs of shape and colour that training never shows, of
    the split's half.
    """
    rng, found = fresh_random(split, stream), []
    while len(found) < num:
        count = num_objects[len(found) % len(num_objects)]
        attributes = scenes.draw_attributes(rng, "unseen" if unseen else split, count)
        words = scenes.Words(rng)
        if style == "plain":
            typed = scenes.plain_caption(attributes, words), ("shape", *scenes.NAMEABLE)
        else:
            told = scenes.choose_told(rng) if named is None else named
            typed = scenes.typed_caption(attributes, rng, words, style, told)
        if typed and scenes.half_of(attributes) == split:
            caption, told = typed
            image = scenes.draw(attributes, rng, size)
            found.append((caption, image, attributes | {"named": list(told)}))
    return as_test_set(found)


OPEN = {  # kinds of caption that leave something open: what they tell
    "place_open": ("size", "colour", "background"),
    "colour_open": ("size", "place", "background"),
    "colour_and_place_open": ("size", "background"),
    "colour_and_shape_alone": ("colour",),
    "shape_alone": (),
}


def attribute_sets(split: str, num: int, size: int) -> dict[str, TestSet]:
    """The sets whose drawings are read, by kind of caption. num: N of the protocol."""
    many, few = num // 4, num // 8
    told = draw_scenes(split, many, 2, (1, 2), size=size)
    sets = {
        "fully_told": told,
        "unseen_pairs": draw_scenes(split, many, 3, (1, 2), size=size, unseen=True),
        "three_objects": draw_scenes(split, few, 4, (3,), size=size),
        "any_words": draw_scenes(split, few, 10, (1, 2), "sentence", size=size),
        "other_patterns": told._replace(captions=other_patterns(split, told.attributes)),
    }
    for stream, (kind, named) in enumerate(OPEN.items(), 20):
        sets[kind] = draw_scenes(split, few, stream, (1, 2), "sentence", named, size)
    return sets | {
        "tags": draw_scenes(split, few, 11, (1, 2), "tags", None, size),
        "relations": relations(split, few // 2, size),
        "counts": draw_scenes(split, few, 12, (2, 2, 3), "count", None, size),
    }


def exchange(attributes: dict) -> dict:
    """The scene with its two objects in each other's places."""
    a, b = attributes["objects"]
    return attributes | {"objects": [a | {"place": b["place"]}, b | {"place": a["place"]}]}


# Of one object: sentences, some with words, that training never shows.
PATTERNS = {
    "validation": (
        "{place}, {colour} and {size}, a {shape}", "the {size} {shape} {place} is {colour}",
        "a {shape}, {size}, {place}, its colour is {colour}", "{shape}: {colour}, {size}, {place}",
        "{colour} is the {shape} {place} and it is {size}",
        "one {size} {shape} of {colour} {place}",
    ),
    "test": (  # others, so that nobody tunes on them
        "{place} we see a {shape} that is {size} and {colour}",
        "{colour} {shape}, {place}; {size}", "a {shape} coloured {colour}, {size}, sits {place}",
        "the {shape} {place}: {size}, {colour}", "{size} and {colour}, the {shape} stands {place}",
        "{place} is one {shape}, {colour}, {size}",
    ),
}  # fmt: skip
SENTENCES = {
    "validation": (
        "a {ground} background with {things}", "{things}, and the background is {ground}",
        "{things}; {ground} background",
    ),
    "test": (
        "{things} in front of {ground}", "{ground} is the background of {things}",
        "background: {ground}. {things}",
    ),
}  # fmt: skip


def other_patterns(split: str, attributes: list[dict]) -> list[str]:
    """Captions that tell everything in sentences of a kind that training never shows."""
    captions = []
    for i, scene in enumerate(attributes):
        things = " and ".join(PATTERNS[split][i % 6].format(**o) for o in scene["objects"])
        sentence = SENTENCES[split][i % 3]
        captions.append(sentence.format(ground=scene["background"], things=things))
    return captions


def relations(split: str, num: int, size: int = judges.IMAGE_SIZE) -> TestSet:
    """Pairs of scenes of two objects: each one, and the one with its objects in each other's
    places; both captions tell the objects in one order, and how the first stands to the second.
    Their shapes differ: of two alike, both captions would be true of both scenes."""
    rng, found = fresh_random(split, 8), []
    while len(found) < 2 * num:
        scene = scenes.draw_attributes(rng, split, 2)
        a, b = scene["objects"]
        alike = a["shape"] == b["shape"]
        if alike or not scenes.relation(a, b) or scenes.split_of(exchange(scene)) != split:
            continue
        words, told = scenes.Words(rng), scenes.choose_told(rng)
        for turned in (scene, exchange(scene)):
            caption, named = scenes.typed_caption(turned, rng, words, "relation", told)
            image = scenes.draw(turned, rng, size)
            found.append((caption, image, turned | {"named": list(named)}))
    return as_test_set(found)


def like(scene: dict, rng: random.Random) -> dict:
    """Another scene that the same caption tells of: what it does not name is drawn anew."""
    while True:
        other = scenes.draw_attributes(rng, "train", len(scene["objects"]))
        kept = [k for k in scenes.KINDS if k in scene["named"]]
        objects = [o | {k: told[k] for k in kept}
                   for o, told in zip(other["objects"], scene["objects"], strict=True)]  # fmt: skip
        ground = (scene if "background" in scene["named"] else other)["background"]
        other = {"background": ground, "objects": objects, "named": scene["named"]}
        if scenes.is_clear(other):
            return other


PLAIN_THING = re.compile(
    r"an? ({size}) ({colour}) ({shape}) ({place})".format(
        **{kind: "|".join(sorted(words, key=len, reverse=True)) for kind, words in {
            "size": scenes.SIZES, "colour": scenes.COLOURS, "shape": scenes.SHAPES,
            "place": scenes.PLACES}.items()}
    )
)  # fmt: skip


def read_plain(caption: str) -> dict | None:
    """The attributes that a plain caption tells; None where it is none."""
    for name, synonym in scenes.SYNONYMS.items():
        caption = re.sub(rf"\b{synonym}\b", name, caption)
    text, _, ground = caption.removesuffix(" background").rpartition(" on a ")
    objects = []
    for thing in re.split(r", | and ", text):
        if not (match := PLAIN_THING.fullmatch(thing)):
            return None
        size, colour, shape, place = match.groups()
        objects.append({"shape": shape, "colour": colour, "size": size, "place": place})
    return {"background": ground, "objects": objects} if ground in scenes.BACKGROUNDS else None


def compare(asked: dict, seen: dict) -> dict[str, float]:
    """How much of what a caption names is in an image, each 0..1, and "all" of it (0 or 1).

    asked: attributes with `named`; seen: attributes as the recogniser gives them. The objects are
    paired so that most is right; an object too many or too few makes "all" wrong.
    """
    objects, named = asked["objects"], asked["named"]
    kinds = [kind for kind in scenes.KINDS if kind in named]
    there = seen["objects"] + [{}] * max(0, len(objects) - len(seen["objects"]))
    best: dict[str, float] = {}
    for chosen in permutations(there, len(objects)):
        pairs = list(zip(objects, chosen, strict=True))
        right = {k: sum(a[k] == b.get(k) for a, b in pairs) / len(pairs) for k in kinds}
        if "relation" in named:
            found = all(chosen) and scenes.relation(*chosen) == scenes.relation(*objects)
            right["relation"] = float(found)
        if not best or sum(right.values()) > sum(best.values()):
            best = right
    best["number"] = float(len(objects) == len(seen["objects"]))
    if "background" in named:
        best["background"] = float(asked["background"] == seen["background"])
    return best | {"all": float(all(value == 1 for value in best.values()))}


def read(judge: judges.AttributeRecogniser, images: Tensor) -> list[dict]:
    """What the recogniser sees in images (N, 3, H, W) uint8."""
    return [seen for part in images.split(256) for seen in judge.recognise(part)]


def attribute_rates(seen: list[dict], asked: list[dict]) -> dict[str, Tensor]:
    """kind -> how much of it is right in each image, (N,); see `compare`. "nothing", "too_few" and
    "too_many": whether an image holds no object, or another number of them."""
    rows = [compare(a, s) for a, s in zip(asked, seen, strict=True)]
    kinds = dict.fromkeys(kind for row in rows for kind in row)
    more = [len(s["objects"]) - len(a["objects"]) for a, s in zip(asked, seen, strict=True)]
    return {kind: torch.tensor([row[kind] for row in rows if kind in row]) for kind in kinds} | {
        "nothing": torch.tensor([float(not s["objects"]) for s in seen]),
        "too_few": torch.tensor([float(m < 0) for m in more]),
        "too_many": torch.tensor([float(m > 0) for m in more]),
    }


def written_rates(captions: list[str], asked: list[dict]) -> dict[str, Tensor]:
    """Whether completed captions keep all that was named, with no object more, and whether their
    scenes are possible: (N,) each. One that is no plain caption is neither."""
    told = [read_plain(caption) for caption in captions]
    kept = [float(t is not None and compare(a, t)["all"] == 1)
            for a, t in zip(asked, told, strict=True)]  # fmt: skip
    possible = [float(t is not None and scenes.is_clear(t)) for t in told]
    return {"words_kept": torch.tensor(kept), "words_possible": torch.tensor(possible)}


def small_shapes(split: str, num_each: int, size: int = judges.IMAGE_SIZE) -> dict[str, TestSet]:
    """Single small objects with all told, so many of each shape."""
    found: dict[str, list] = {shape: [] for shape in scenes.SHAPES}
    rng = fresh_random(split, 13)
    while any(len(some) < num_each for some in found.values()):
        scene = scenes.draw_attributes(rng, split, 1)
        some = found[scene["objects"][0]["shape"]]
        if scene["objects"][0]["size"] == "small" and len(some) < num_each:
            caption = scenes.plain_caption(scene, scenes.Words(rng))
            asked = scene | {"named": ["shape", *scenes.NAMEABLE]}
            some.append((caption, scenes.draw(scene, rng, size), asked))
    return {shape: as_test_set(some) for shape, some in found.items()}


def scene_groups(
    split: str, num: int, num_each: int, size: int, kind: str = ""
) -> list[tuple[str, Tensor]]:
    """Captions, fully told or of a kind of OPEN, with several real images (num_each, 3, S, S) uint8
    of each."""
    groups = []
    style = ("sentence", OPEN[kind]) if kind else ("plain",)
    for caption, _, scene in zip(*draw_scenes(split, num, 7, (1, 2, 3), *style), strict=True):
        rng = fresh_random(split, 9, len(groups))
        images = [scenes.draw(like(scene, rng), rng, size) for _ in range(num_each)]
        groups.append((caption, judges.stack(images)))
    return groups
