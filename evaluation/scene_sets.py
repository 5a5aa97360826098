"""Which scenes is a model asked to draw, and how much of what was asked is in a drawing?

Sets of scenes with captions of one kind each, never trained on; evaluate.py tells their protocol.
Each belongs to a split: "validation", to tune on, or "test", to report.
"""

import random
from collections.abc import Callable
from itertools import permutations
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

import scenes
from evaluation import judges

SEEDS = {"validation": 3_000, "test": 4_000}  # no scene of training or of the judges has these
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
    named: tuple[str, ...] | Callable = scenes.NAMEABLE,
    size: int = judges.IMAGE_SIZE,
    unseen: bool = False,
) -> TestSet:
    """Scenes of "validation" or "test", with captions that tell what `named` says: entries of
    scenes.NAMEABLE, or a function of (attributes, rng) that chooses them, () to pass a scene over.

    stream: which random numbers; num_objects: of a scene, in turn; unseen: take pairs of shape and
    colour that training never shows, of the split's half.
    """
    rng, found = fresh_random(split, stream), []
    while len(found) < num:
        count = num_objects[len(found) % len(num_objects)]
        attributes = scenes.draw_attributes(rng, "unseen" if unseen else split, count)
        if scenes.half_of(attributes) != split:
            continue
        told = named(attributes, rng) if callable(named) else named
        if told:
            caption = scenes.describe(attributes, rng, told)
            attributes = attributes | {"named": ["shape", *told]}
            found.append((caption, scenes.draw(attributes, rng, size), attributes))
    return as_test_set(found)


def attribute_sets(split: str, num: int, size: int) -> dict[str, TestSet]:
    """The sets whose drawings the recogniser reads, by kind of caption. num: N of the protocol."""
    complete = draw_scenes(split, num // 2, 2, (1, 2), size=size)
    return {
        "all_attributes": complete,
        "all_attributes_unseen": draw_scenes(split, num // 2, 3, (1, 2), size=size, unseen=True),
        "three_objects": draw_scenes(split, num // 4, 4, (3,), size=size),
        "partial_captions": draw_scenes(split, num // 4, 5, (1, 2), scenes.choose_partly, size),
        "order_swaps": order_swaps(split, num // 8, size),
        "other_patterns": complete._replace(captions=other_patterns(complete.attributes)),
    }


def related(attributes: dict, rng: random.Random) -> tuple[str, ...]:
    """What a caption names that tells how two objects stand to each other, and no places; () where
    they stand askew, or where the scene with the two exchanged is of another split."""
    beside = scenes.relation(*attributes["objects"])
    together = beside and scenes.split_of(exchange(attributes)) == scenes.split_of(attributes)
    return ("size", "colour", "background", "relation") if together else ()


def exchange(attributes: dict) -> dict:
    """The scene with its two objects in each other's places."""
    a, b = attributes["objects"]
    return attributes | {"objects": [a | {"place": b["place"]}, b | {"place": a["place"]}]}


def other_patterns(attributes: list[dict]) -> list[str]:
    """Captions that tell everything in sentences of a kind that training never shows."""
    nouns = ("{place}, {colour} and {size}, a {shape}", "the {size} {shape} {place} is {colour}")
    sentences = ("a {ground} background with {things}", "{things}, and the background is {ground}",
                 "{things}; {ground} background")  # fmt: skip
    captions = []
    for i, scene in enumerate(attributes):
        things = " and ".join(nouns[i % 2].format(**o) for o in scene["objects"])
        captions.append(sentences[i % 3].format(ground=scene["background"], things=things))
    return captions


def order_swaps(split: str, num: int, size: int = judges.IMAGE_SIZE) -> TestSet:
    """Pairs of scenes: each one, and the one with its two objects in each other's places; both
    captions name the objects in one order."""
    rng, found = fresh_random(split, 8), []
    for scene in draw_scenes(split, num, 6, (2,), related).attributes:
        for turned in (scene, exchange(scene)):
            nouns = ["a {size} {colour} {shape}".format(**o) for o in turned["objects"]]
            beside = f" {scenes.relation(*turned['objects'])} ".join(nouns)
            caption = f"{beside} on a {scene['background']} background"
            found.append((caption, scenes.draw(turned, rng, size), turned))
    return as_test_set(found)


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


def attribute_rates(
    judge: judges.AttributeRecogniser, images: Tensor, asked: list[dict]
) -> dict[str, Tensor]:
    """kind -> how much of it is right in each image (N, 3, H, W) uint8, (N,); see `compare`."""
    seen = [a for part in images.split(256) for a in judge.recognise(part)]
    rows = [compare(a, s) for a, s in zip(asked, seen, strict=True)]
    kinds = dict.fromkeys(kind for row in rows for kind in row)
    return {kind: torch.tensor([row[kind] for row in rows if kind in row]) for kind in kinds}


def scene_groups(split: str, num: int, num_each: int, size: int) -> list[tuple[str, Tensor]]:
    """Fully told captions, with several real images (num_each, 3, S, S) uint8 of each."""
    groups = []
    for caption, _, scene in zip(*draw_scenes(split, num, 7, (1, 2, 3)), strict=True):
        rng = fresh_random(split, 9, len(groups))
        images = [scenes.draw(scene, rng, size) for _ in range(num_each)]
        groups.append((caption, judges.stack(images)))
    return groups
