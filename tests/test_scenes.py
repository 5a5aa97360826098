"""Protects the built-in scenes: the same bytes for ever, splits that do not mix, true captions."""

import hashlib
import math
import random
import re
from collections import Counter
from itertools import combinations, product

import numpy as np
import pytest

import scenes
from scenes import BACKGROUNDS, COLOURS, NAMEABLE, PLACES, SHAPES, SIZES, SPLITS, SYNONYMS

# blake2b of five images of 64 px and their captions. Change it only when the drawing is meant to
# change; every number measured on the old scenes is void then.
PINNED = {
    "train": "e271b038b988f9b0b8c25bf698724af5", "unseen": "a68de47734b268b58c290c8bdac423d8",
    "validation": "91f9181dbd7cc931a681b3291b900da8", "test": "8d82de01e185da390a2032849749f055",
}  # fmt: skip
NUM = 3_000  # scenes composed for each split, unless a test says otherwise


@pytest.fixture(scope="module")
def composed() -> dict[str, list[tuple[dict, str]]]:
    """split -> (attributes, caption) of NUM scenes."""
    return {s: [scenes.compose(0, i, s)[:2] for i in range(NUM)] for s in SPLITS}


def key(attributes: dict) -> tuple:
    """What makes two scenes the same combination, in whatever order the objects come."""
    return attributes["background"], frozenset(tuple(o.values()) for o in attributes["objects"])


def pairs(scenes_of_a_split: list) -> set[tuple[str, str]]:
    """Of shape and colour, in all these scenes."""
    return {(o["shape"], o["colour"]) for a, _ in scenes_of_a_split for o in a["objects"]}


def one(shape="circle", colour="red", size="big", place="in the center", background="white"):
    """The attributes of a scene of one object."""
    o = {"shape": shape, "colour": colour, "size": size, "place": place}
    return {"background": background, "objects": [o]}


def drawn_alone(attributes: dict, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """The image, and where it differs from its background: (64, 64, 3) uint8, (64, 64) bool."""
    image = scenes.draw(attributes, random.Random(seed), 64)
    return image, np.abs(image.astype(int) - image[0, 0]).max(axis=2) > 20


@pytest.mark.parametrize("split", SPLITS)
def test_the_drawing_has_not_changed(split):
    digest = hashlib.blake2b(digest_size=16)
    for index in range(5):
        image, caption, _ = scenes.render(0, index, split)
        digest.update(image.tobytes() + caption.encode())
    assert digest.hexdigest() == PINNED[split]


def test_a_scene_depends_on_seed_index_and_split_alone():
    image, *told = scenes.render(3, 7, "train")
    random.seed(1)
    np.random.seed(1)
    scenes.render(4, 8, "validation")
    again, *told_again = scenes.render(3, 7, "train")
    assert np.array_equal(image, again) and told == told_again
    for other in ((4, 7), (3, 8), (3, 7, "validation")):
        assert not np.array_equal(image, scenes.render(*other)[0])


def test_scenes_of_different_splits_never_hold_the_same(composed):
    for split in SPLITS:
        for attributes, _ in composed[split]:
            turned = {**attributes, "objects": attributes["objects"][::-1]}
            assert scenes.split_of(attributes) == scenes.split_of(turned) == split
    seen = {split: {key(attributes) for attributes, _ in composed[split]} for split in SPLITS}
    assert not any(seen[a] & seen[b] for a, b in combinations(SPLITS, 2))


def test_unseen_pairs_of_shape_and_colour_occur_in_no_other_split(composed):
    unseen = pairs(composed["unseen"])
    assert not any(unseen & pairs(composed[split]) for split in SPLITS if split != "unseen")
    assert {shape for shape, _ in unseen} == set(SHAPES)  # one of each is tested
    assert {colour for _, colour in unseen} == set(COLOURS)


def test_a_sixteenth_is_held_out_half_for_tuning_and_half_for_reports_of_unseen_pairs_too(composed):
    kinds, total = product(scenes.SEEN_PAIRS, SIZES, PLACES, BACKGROUNDS), 12 * 11 * 2 * 9 * 6
    found = Counter(scenes.split_of(one(*pair, *others)) for pair, *others in kinds)
    assert found.total() == total
    for split in ("validation", "test"):
        assert found[split] == pytest.approx(total / 32, rel=0.1)
        assert {scenes.half_of(attributes) for attributes, _ in composed[split]} == {split}
        half = [scene for scene in composed["unseen"] if scenes.half_of(scene[0]) == split]
        assert len(half) == pytest.approx(NUM / 2, rel=0.1)
        assert pairs(half) == set(scenes.UNSEEN_PAIRS)


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_everything_that_can_be_asked_for_occurs(composed, split):
    scenes_of_it = [attributes for attributes, _ in composed[split]]
    for kind, values in zip(scenes.KINDS, (SHAPES, COLOURS, SIZES, PLACES), strict=True):
        assert {o[kind] for attributes in scenes_of_it for o in attributes["objects"]} == {*values}
    assert {attributes["background"] for attributes in scenes_of_it} == {*BACKGROUNDS}
    assert {len(attributes["objects"]) for attributes in scenes_of_it} == {1, 2, 3}
    named = {kind for attributes in scenes_of_it for kind in attributes["named"]}
    assert named == {"shape", *NAMEABLE, "relation"}
    captions = " ".join(caption for _, caption in composed[split])
    assert all(synonym in captions for synonym in SYNONYMS.values())


def any_of(words) -> str:
    return "|".join(sorted(words, key=len, reverse=True))


BY_SYNONYM = {synonym: name for name, synonym in SYNONYMS.items()}
NOUN = f"an? (?:({any_of(SIZES)}) )?(?:({any_of(COLOURS)}) )?({any_of(SHAPES)})"
GROUND = "^on a ({0}) background, | on a ({0}) background$|, the background is ({0})$".format(
    any_of(BACKGROUNDS)
)
RELATIONS = {"to the left of": [-1, 0], "to the right of": [1, 0], "above": [0, -1],
             "below": [0, 1]}  # fmt: skip


def read_caption(caption: str) -> tuple[str | None, list[dict], str | None]:
    """Background, objects and relation that a caption tells, by a small grammar of its own."""
    text = re.sub(rf"\b({any_of(BY_SYNONYM)})\b", lambda m: BY_SYNONYM[m[0]], caption)
    ground = re.search(GROUND, text)
    text = re.sub("^(there is|a picture of) ", "", re.sub(GROUND, "", text))
    relation = re.search(any_of(RELATIONS), text)
    objects, place = [], rf"(?:{any_of(PLACES)})"
    for phrase in re.split(rf", | and | (?:{any_of(RELATIONS)}) ", text):
        match = re.fullmatch(rf"(?:({place}) )?{NOUN}(?: ({place}))?", phrase)
        assert match, f"cannot read {phrase!r} in {caption!r}"
        first, size, colour, shape, last = match.groups()
        told = {"shape": shape, "colour": colour, "size": size, "place": first or last}
        objects.append({kind: value for kind, value in told.items() if value})
    return ground and ground[ground.lastindex], objects, relation and relation[0]


@pytest.mark.parametrize("split", SPLITS)
def test_every_caption_tells_truly_what_named_says_and_no_more(composed, split):
    num_relations = 0
    for attributes, caption in composed[split]:
        named, objects = attributes["named"], attributes["objects"]
        ground, told, relation = read_caption(caption)
        assert ground == (attributes["background"] if "background" in named else None), caption
        there = [{k: v for k, v in o.items() if k in named} for o in objects]
        assert sorted(map(str, told)) == sorted(map(str, there)), caption
        assert bool(relation) == ("relation" in named), caption
        if relation:
            num_relations += 1
            a, b = (PLACES[objects[there.index(o)]["place"]] for o in told)
            assert np.sign(np.subtract(a, b)).tolist() == RELATIONS[relation], caption
    assert num_relations > NUM / 100


@pytest.mark.parametrize("synonyms, words", [
    (0, "big purple circle in the center gray"), (1, "large violet disc in the middle grey"),
])  # fmt: skip
def test_synonyms_are_used_as_often_as_asked_for(synonyms, words):
    for seed in range(20):
        attributes = one(colour="purple", background="gray")
        caption = scenes.describe(attributes, random.Random(seed), synonyms=synonyms)
        assert set(words.split()) <= set(caption.replace(",", "").split()), caption


def test_articles_are_right_and_no_two_objects_have_one_name(composed):
    for attributes, caption in (scene for split in SPLITS for scene in composed[split]):
        assert not re.search(r"\ba [aeiou]|\ban [^aeiou]", caption), caption
        assert len(pairs([(attributes, caption)])) == len(attributes["objects"])


@pytest.mark.parametrize("shape", SHAPES)
def test_an_object_is_drawn_where_and_as_large_as_the_caption_says(shape):
    for seed, (place, centre) in enumerate(PLACES.items()):
        masks = [drawn_alone(one(shape, "red", size, place), seed)[1] for size in ("big", "small")]
        assert masks[0].sum() > 1.8 * masks[1].sum() > 0
        for mask in masks:
            y, x = np.argwhere(mask).mean(axis=0) / 64
            assert min(PLACES, key=lambda p: math.dist(PLACES[p], (x, y))) == place
            if shape in ("circle", "square", "diamond", "star", "cross", "ring"):
                assert max(abs(x - centre[0]), abs(y - centre[1])) < 3 / 64
            assert not mask[[0, -1]].any() and not mask[:, [0, -1]].any()  # it is drawn whole


@pytest.mark.parametrize("colour", COLOURS)
def test_an_object_and_its_background_have_the_colours_that_the_caption_says(colour):
    for seed, (name, ground) in enumerate(BACKGROUNDS.items()):
        attributes = one("circle", colour, background=name)
        if scenes.is_clear(attributes):
            image, mask = drawn_alone(attributes, seed)
            inside = np.median(image[mask], axis=0)
            assert np.abs(inside - COLOURS[colour]).max() <= scenes.TINT + 1
            assert np.abs(image[0, 0] - np.array(ground)).max() <= scenes.TINT + 1
            assert min(COLOURS, key=lambda c: math.dist(COLOURS[c], inside)) == colour


def test_objects_hardly_overlap_and_stand_out(composed):
    for attributes, _ in composed["train"][:300]:
        masks = []
        for seed, o in enumerate(attributes["objects"]):
            _, mask = drawn_alone({**attributes, "objects": [o]}, seed)
            assert mask.sum() > 60
            assert all((mask & other).sum() < 0.1 * mask.sum() for other in masks), attributes
            masks.append(mask)


@pytest.mark.parametrize("size", [16, 32, 100, 128])
def test_a_composed_scene_can_be_drawn_at_any_size_and_stays_the_same(size):
    for index in range(5):
        attributes, caption, rng = scenes.compose(0, index)
        image, *told = scenes.render(0, index, size=size)
        assert image.shape == (size, size, 3) and image.dtype == np.uint8
        assert told == [caption, attributes]
        large = scenes.draw(attributes, rng, 2 * size)
        half = large.reshape(size, 2, size, 2, 3).mean(axis=(1, 3))
        assert np.abs(half - image).mean() < 2


def test_polygons_are_measured_as_by_points_along_their_edges():
    u, v = np.meshgrid(np.linspace(-1.3, 1.3, 12), np.linspace(-1.25, 1.35, 11))
    points = (u + 1j * v)[:, :, None]
    for name in ("triangle", "star", "cross", "arrow"):
        corners = np.array(scenes.POLYGONS[name]) @ [1, 1j]
        following = np.roll(corners, -1)
        edges = corners + (following - corners) * np.linspace(0, 1, 201)[:, None]
        nearest = np.abs(points - edges.ravel()).min(axis=2)
        turn = np.angle((following - points) / (corners - points)).sum(axis=2)
        expected = np.where(np.abs(turn) > 3, -nearest, nearest)  # inside, it is a whole turn: 6.28
        assert np.abs(scenes.polygon(u, v, scenes.POLYGONS[name]) - expected).max() < 0.01


@pytest.mark.parametrize("split", ["tests", "Train", ""])
def test_a_split_that_does_not_exist_is_refused(split):
    with pytest.raises(ValueError, match="train, validation, unseen, test"):
        scenes.render(0, 0, split)
