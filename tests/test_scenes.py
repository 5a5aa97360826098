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
    "train": "407de68b7f1af9344ed0ab02623e6efb", "unseen": "10635c8a52b74a342aad0468455dbb3a",
    "validation": "f90b332446c393faef65b93f608f7688", "test": "f76df55110f82b50b225e51705d0b3dd",
}  # fmt: skip
NUM = 3_000  # scenes composed for each split, unless a test says otherwise


@pytest.fixture(scope="module")
def composed() -> dict[str, list[tuple[dict, tuple[str, ...]]]]:
    """split -> (attributes, captions) of NUM scenes."""
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
        image, captions, _ = scenes.render(0, index, split)
        digest.update(image.tobytes() + "".join(captions).encode())
    assert digest.hexdigest() == PINNED[split]


def test_what_people_type_does_not_change_the_drawing(monkeypatch):
    image, captions, _ = scenes.render(3, 7)
    monkeypatch.setattr(scenes, "STYLES", {"bare": 1})
    again, other, _ = scenes.render(3, 7)
    assert np.array_equal(image, again) and captions != other


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
    captions = " ".join(caption for _, several in composed[split] for caption in several)
    assert all(synonym in captions for synonym in SYNONYMS.values())


def any_of(words) -> str:
    return "|".join(sorted(words, key=len, reverse=True))


BY_SYNONYM = {synonym: name for name, synonym in SYNONYMS.items()}
SHORT = {place.split(" the ")[1]: place for place in PLACES}
RELATIONS = {"left of": [-1, 0], "right of": [1, 0], "above": [0, -1], "over": [0, -1],
             "below": [0, 1], "under": [0, 1]}  # fmt: skip


def plainly(caption: str) -> str:
    """Without synonyms, of places shortened as in tags too."""
    caption = re.sub(rf"\b({any_of(BY_SYNONYM)})(?=e?s?\b)", lambda m: BY_SYNONYM[m[0]], caption)
    short = {
        BY_SYNONYM[s].split(" the ")[1]: s.split(" the ")[1] for s in BY_SYNONYM if " the " in s
    }
    for name, synonym in sorted(short.items(), key=lambda pair: -len(pair[1])):
        caption = re.sub(rf"\b{synonym}\b", name, caption)
    return caption


def read_caption(caption: str) -> tuple[str | None, list[dict], str | None]:
    """Background, objects and relation that a caption tells: the words that follow a shape, or
    stand before it, as far as they are not another object's."""
    text = plainly(caption)
    ground = None
    grounds = any_of(BACKGROUNDS)
    for pattern in (rf"(?:(?:on|with) an? )?\b({grounds}) background(?: with)?",
                    rf"the background is ({grounds})",
                    rf"\b(?:on|against) ({grounds})\b"):  # fmt: skip
        if match := re.search(pattern, text):
            ground, text = match[1], text.replace(match[0], " ; ")
            break
    relation = re.search(rf"\b({any_of(RELATIONS)})\b", text)
    return ground, words_of(text), relation and relation[1]


def words_of(text: str) -> list[dict]:
    """How often each attribute is told, by kind; a plural counts as often as its number says."""
    number = re.search(r"\b(two|three)\b", text)
    times = {"two": 2, "three": 3}[number[1]] if number else 1
    found = {}
    for kind, names in (("shape", SHAPES), ("colour", COLOURS), ("size", SIZES)):
        pattern = rf"\b({any_of(names)})(?:e?s)?\b"
        found[kind] = sorted(re.findall(pattern, text) * times)
    text = re.sub(rf"\b(?:to the )?({any_of(RELATIONS)})\b", " ", text)
    found["place"] = sorted(SHORT[p] for p in re.findall(rf"\b({any_of(SHORT)})\b", text))
    return found


@pytest.mark.parametrize("style", ["plain", *dict.fromkeys(scenes.STYLES)])
def test_every_caption_tells_truly_what_it_names_and_no_more(composed, style):
    num, rng = 0, random.Random(0)
    for split, (attributes, _) in ((s, scene) for s in SPLITS for scene in composed[s][:500]):
        words, told = scenes.Words(rng), scenes.choose_told(rng)
        if style == "plain":
            caption, named = scenes.plain_caption(attributes, words), ("shape", *NAMEABLE)
        elif found := scenes.typed_caption(attributes, rng, words, style, told):
            caption, named = found
            assert set(named) - {"relation"} <= {"shape", *told}
        else:
            continue
        num += 1
        ground, told, relation = read_caption(caption)
        assert ground == (attributes["background"] if "background" in named else None), caption
        for kind in scenes.KINDS:
            there = sorted(o[kind] for o in attributes["objects"] if kind in named)
            assert told[kind] == there, (caption, kind)
        assert bool(relation) == ("relation" in named), caption
        if relation:
            a, b = (PLACES[o["place"]] for o in attributes["objects"])
            assert np.sign(np.subtract(a, b)).tolist() == RELATIONS[relation], caption
            first, second = (caption.find(o) for o in shapes_as_told(attributes, words))
            assert first <= second
        assert split in SPLITS
    assert num > 100


def shapes_as_told(attributes: dict, words: scenes.Words) -> list[str]:
    return [words[o["shape"]] for o in attributes["objects"]]


def test_the_first_caption_tells_all_in_one_grammar_and_no_other_has_more_words(composed):
    things = rf"an? ({any_of(SIZES)}) ({any_of(COLOURS)}) ({any_of(SHAPES)}) ({any_of(PLACES)})"
    for attributes, captions in composed["train"]:
        assert len(captions) == 1 + scenes.NUM_TYPED
        text, _, ground = plainly(captions[0]).rpartition(" on a ")
        assert ground == f"{attributes['background']} background"
        told = [re.fullmatch(things, thing).groups() for thing in re.split(", | and ", text)]
        assert told == [(o["size"], o["colour"], o["shape"], o["place"])
                        for o in attributes["objects"]]  # fmt: skip
        lengths = [len(set(re.findall(r"\w+", caption))) for caption in captions]
        assert max(lengths) == lengths[0]


def test_one_person_calls_a_thing_by_one_name(composed):
    for _, captions in composed["train"][:500]:
        text = " ".join(captions)
        for name in ("big", "purple", "gray", "cyan", "moon"):
            words = set(text.split())
            assert not {name, SYNONYMS[name]} <= words or name == "gray", text


def test_synonyms_are_used_as_often_as_asked_for():
    for seed in range(20):
        rng = random.Random(seed)
        never, always = scenes.Words(rng, 0), scenes.Words(rng, 1)
        assert [never[name] for name in SYNONYMS] == list(SYNONYMS)
        assert [always[name] for name in SYNONYMS] == list(SYNONYMS.values())
    often = [scenes.Words(random.Random(seed))["big"] for seed in range(1_000)]
    assert 0.25 < often.count("large") / 1_000 < 0.35


def test_people_type_all_kinds_of_captions_and_short_ones_are_frequent(composed):
    typed = [caption for _, captions in composed["train"] for caption in captions[1:]]
    assert 0.05 < sum(len(c.split()) <= 3 for c in typed) / len(typed) < 0.3
    for words in ("two", "three", "left of", "to the right of", "above", "over", "below", "under",
                  "there is", "a picture of", "the", "that is", ", white background",
                  "it is", "; "):  # fmt: skip
        assert sum(words in caption for caption in typed) > 20, words
    alike = [len({(o["shape"], o["colour"]) for o in a["objects"]}) < len(a["objects"])
             for a, _ in composed["train"]]  # fmt: skip
    assert 0.05 < np.mean(alike) < 0.3


def test_articles_are_right(composed):
    for _, captions in (scene for split in SPLITS for scene in composed[split]):
        for caption in captions:
            assert not re.search(r"\ba [aeiou]|\ban [^aeiou]", caption), caption


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
        attributes, captions, rng = scenes.compose(0, index)
        image, *told = scenes.render(0, index, size=size)
        assert image.shape == (size, size, 3) and image.dtype == np.uint8
        assert told == [captions, attributes]
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
