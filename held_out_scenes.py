"""Which held-out scenes is a model asked to draw, and how much of what was asked is in a drawing?

Sets of scenes with captions of one kind each, never trained on; evaluate.py tells their protocol.
"""

import random
from itertools import permutations

import torch
from torch import Tensor

import judges
import scenes

TEST_SEED = 3_000  # of the scenes that are judged
KINDS = ("shape", "colour", "size", "place")

# What to draw: captions, the real pictures (N, 3, S, S) uint8, and for scenes the attributes.
TestSet = tuple[list[str], Tensor, list[dict]]


def fresh_random(stream: int, number: int = 0) -> random.Random:
    """Random numbers that no scene of training or of the judges is made of."""
    return random.Random((TEST_SEED << 42) + (stream << 32) + number)


def draw_scenes(
    split: str,
    num: int,
    stream: int,
    num_objects: tuple[int, ...],
    named=scenes.NAMEABLE,
    size: int = judges.SIDE,
) -> TestSet:
    """Scenes with captions that tell what `named` says, never trained on; named(attributes, rng)
    may choose, and give () to pass a scene over."""
    rng, found = fresh_random(stream), []
    while len(found) < num:
        attributes = scenes.draw_attributes(rng, split, num_objects[len(found) % len(num_objects)])
        told = named(attributes, rng) if callable(named) else named
        if told:
            caption = scenes.describe(attributes, rng, told)
            attributes = attributes | {"named": ["shape", *told]}
            found.append((caption, scenes.draw(attributes, rng, size), attributes))
    captions, pictures, attributes = zip(*found, strict=True)
    return list(captions), judges.stack(pictures), list(attributes)


def related(attributes: dict, rng: random.Random) -> tuple[str, ...]:
    """What a caption names that tells how two objects stand to each other, and no places; () where
    they stand askew, or where training may show them the other way round."""
    beside = scenes.relation(*attributes["objects"])
    held_out = scenes.split_of(exchange(attributes)) == "validation"
    return ("size", "colour", "background", "relation") if beside and held_out else ()


def exchange(attributes: dict) -> dict:
    """The scene with its two objects in each other's places."""
    a, b = attributes["objects"]
    return attributes | {"objects": [a | {"place": b["place"]}, b | {"place": a["place"]}]}


def partial_names(attributes: dict, rng: random.Random) -> tuple[str, ...]:
    """All but one or two of the attributes that can be left out."""
    left_out = {scenes.pick(rng, scenes.NAMEABLE), scenes.pick(rng, scenes.NAMEABLE)}
    return tuple(kind for kind in scenes.NAMEABLE if kind not in left_out)


def other_patterns(attributes: list[dict]) -> list[str]:
    """Captions that tell everything in sentences of a kind that training never shows."""
    patterns = (
        "a {ground} background with {things}",
        "{things}, and the background is {ground}",
        "{things}; {ground} background",
    )
    captions = []
    for i, scene in enumerate(attributes):
        nouns = [
            f"the {o['size']} {o['shape']} {o['place']} is {o['colour']}"
            if i % 2
            else f"{o['place']}, {o['colour']} and {o['size']}, a {o['shape']}"
            for o in scene["objects"]
        ]
        pattern = patterns[i % len(patterns)]
        captions.append(pattern.format(ground=scene["background"], things=" and ".join(nouns)))
    return captions


def swapped(tests: TestSet, size: int = judges.SIDE) -> TestSet:
    """Pairs of scenes: each one, and the one with its two objects changed about."""
    captions, pictures, attributes = [], [], []
    rng = fresh_random(8)
    for scene in tests[2]:
        for turned in (scene, exchange(scene)):
            first, second = turned["objects"]  # named in this order in both captions
            noun = "a {size} {colour} {shape}"
            captions.append(
                f"{noun.format(**first)} {scenes.relation(first, second)} "
                f"{noun.format(**second)} on a {scene['background']} background"
            )
            pictures.append(scenes.draw(turned, rng, size))
            attributes.append(turned)
    return captions, judges.stack(pictures), attributes


def compare(asked: dict, seen: dict) -> dict[str, float]:
    """How much of what a caption names is in a picture, each 0..1, and "all" of it (0 or 1).

    asked: attributes with `named`; seen: attributes as the recogniser gives them. The objects are
    paired so that most is right; an object too many or too few makes "all" wrong.
    """
    objects, named = asked["objects"], asked["named"]
    kinds = [kind for kind in KINDS if kind in named]
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


def attribute_rates(judge, pictures: Tensor, asked: list[dict]) -> dict[str, Tensor]:
    """kind -> how much of it is right in each picture, (N,); see `compare`."""
    seen = [a for part in pictures.split(256) for a in judge.recognise(part)]
    rows = [compare(a, s) for a, s in zip(asked, seen, strict=True)]
    kinds = dict.fromkeys(kind for row in rows for kind in row)
    return {kind: torch.tensor([row[kind] for row in rows if kind in row]) for kind in kinds}


def scene_groups(num: int, size: int, num_each: int) -> list[tuple[str, Tensor]]:
    """Fully told captions of held-out scenes, with several real pictures of each."""
    groups = []
    for caption, _, scene in zip(*draw_scenes("validation", num, 7, (1, 2, 3)), strict=True):
        rng = fresh_random(9, len(groups))
        pictures = [scenes.draw(scene, rng, size) for _ in range(num_each)]
        groups.append((caption, judges.stack(pictures)))
    return groups
