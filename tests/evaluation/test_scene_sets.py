"""Protects what scenes are asked for, and how much of it counts as right in a drawing."""

import random
import re

import pytest

import scenes
from evaluation import scene_sets
from evaluation.scene_sets import SEEDS


def scene(*objects, background="white", named=scenes.NAMEABLE):
    return {"background": background, "objects": list(objects), "named": ["shape", *named]}


CIRCLE = {"shape": "circle", "colour": "red", "size": "big", "place": "at the left"}
STAR = {"shape": "star", "colour": "blue", "size": "small", "place": "at the right"}
LEFT, RIGHT, TOP = ({"place": f"at the {place}"} for place in ("left", "right", "top"))
BOTH, ALONE, BESIDE = (CIRCLE, STAR), scene(CIRCLE), ("size", "colour", "background", "relation")


@pytest.mark.parametrize("asked, seen, wrong", [
    (scene(*BOTH), scene(STAR, CIRCLE), {}),
    *((ALONE, scene(CIRCLE | {kind: value}), {kind}) for kind, value in (STAR | TOP).items()),
    (ALONE, scene(CIRCLE, background="black"), {"background"}),
    (scene(CIRCLE, named=("size", "colour", "place")), scene(CIRCLE, background="black"), {}),
    (scene(*BOTH), scene(CIRCLE | {"colour": "blue"}, STAR | {"colour": "red"}), {"colour"}),
    (scene(*BOTH), scene(), {*scenes.KINDS, "number"}),
    (scene(*BOTH), scene(*BOTH, STAR | TOP), {"number"}),
    (scene(*BOTH, named=BESIDE), scene(CIRCLE | RIGHT, STAR | LEFT), {"relation"}),
    (scene(*BOTH, named=BESIDE),
     scene(CIRCLE | {"place": "at the top left"}, STAR | {"place": "at the top right"}), {}),
])  # fmt: skip
def test_what_is_wrong_is_found_and_spoils_all_unless_the_caption_leaves_it_open(
    asked, seen, wrong
):
    right = scene_sets.compare(asked, seen)
    kinds = {"number", "all", *asked["named"]}
    assert right == {kind: float(kind not in wrong and not (wrong and kind == "all"))
                     for kind in kinds}  # fmt: skip


def test_scenes_of_relations_come_in_pairs_that_differ_in_places_and_in_the_relation_alone():
    captions, images, asked = scene_sets.relations("test", 16)
    assert len(captions) == len(images) == len(asked) == 32
    for a, b in zip(asked[::2], asked[1::2], strict=True):
        places = [[o["place"] for o in x["objects"]] for x in (a, b)]
        assert places[0] == places[1][::-1] and a["named"] == b["named"]
        assert "relation" in a["named"] and "place" not in a["named"]
        opposite = {"left": "right", "right": "left", "above": "below", "below": "above"}
        there, back = (scenes.relation(*x["objects"]) for x in (a, b))
        assert back == opposite[there]
        assert scene_sets.compare(a, b)["all"] == 0  # no caption is true of both


@pytest.mark.parametrize("split", ["validation", "test"])
def test_other_patterns_are_sentences_that_training_never_shows(split):
    _, _, asked = scene_sets.draw_scenes(split, 60, 0, (1, 2))
    captions = scene_sets.other_patterns(split, asked)

    names = {name: kind for kind in scenes.KINDS for name in getattr(scenes, f"{kind.upper()}S")}
    names |= {word: names[name] for name, word in scenes.SYNONYMS.items() if name in names}
    any_name = re.compile(rf"\b({'|'.join(sorted(names, key=len, reverse=True))})\b")

    def form(caption: str) -> str:
        """The sentence, without what it tells."""
        return any_name.sub(lambda match: names[match[0]], caption).replace("an ", "a ")

    known = [form(c) for i in range(2_000) for c in scenes.compose(0, i, "train")[1]]
    for pattern in scene_sets.PATTERNS[split]:
        kinds = {kind: kind for kind in scenes.KINDS}
        assert not any(form(pattern.format(**kinds)) in caption for caption in known), pattern
    assert not {form(caption) for caption in captions} & set(known)
    for caption, attributes in zip(captions, asked, strict=True):
        told = [word for o in attributes["objects"] for word in o.values()]
        assert all(word in caption for word in (attributes["background"], *told))


def test_a_plain_caption_is_read_as_it_was_written_and_nothing_else_is():
    captions, _, asked = scene_sets.draw_scenes("test", 60, 0, (1, 2, 3))
    for caption, attributes in zip(captions, asked, strict=True):
        assert scene_sets.read_plain(caption) == {
            k: attributes[k] for k in ("background", "objects")
        }
    for caption in ("a red circle", "", "a big red circle at the top", f"{captions[0]} please"):
        assert scene_sets.read_plain(caption) is None


@pytest.mark.parametrize("kind", scene_sets.OPEN)
def test_scenes_like_another_have_what_its_caption_names_and_differ_in_the_rest(kind):
    named = ["shape", *scene_sets.OPEN[kind]]
    rng, same = random.Random(0), 0
    for asked in scene_sets.draw_scenes("test", 30, 0, (1, 2), "sentence", tuple(named)).attributes:
        other = scene_sets.like(asked, rng)
        assert scene_sets.compare(asked, other)["all"] == 1 and scenes.is_clear(other)
        same += (
            scene_sets.compare(asked | {"named": ["shape", *scenes.NAMEABLE]}, other)["all"] == 1
        )
    assert same < 15


def test_small_shapes_are_single_small_objects_so_many_of_each():
    sets = scene_sets.small_shapes("test", 2)
    assert sets.keys() == scenes.SHAPES.keys()
    for shape, test in sets.items():
        assert len(test.captions) == 2
        assert all([(o["shape"], o["size"]) for o in a["objects"]] == [(shape, "small")]
                   for a in test.attributes)  # fmt: skip


def test_every_set_holds_scenes_of_its_split_alone_so_that_what_is_tuned_on_is_not_reported():
    found = {split: scene_sets.attribute_sets(split, 64, 32) for split in SEEDS}
    for split, sets in found.items():
        for name, (captions, images, asked) in sets.items():
            assert len(captions) == len(images) == len(asked)
            assert images.shape[1:] == (3, 32, 32)
            own = "unseen" if name == "unseen_pairs" else split
            assert {(scenes.split_of(a), scenes.half_of(a)) for a in asked} == {(own, split)}
        for kind in ("", *scene_sets.OPEN):
            groups = scene_sets.scene_groups(split, 4, 3, 32, kind)
            assert all(images.shape == (3, 3, 32, 32) for _, images in groups)
    for tuned, reported in zip(*(sets.values() for sets in found.values()), strict=True):
        assert tuned.attributes != reported.attributes
    drawn = [scene_sets.fresh_random(split, 0).random() for split in SEEDS]
    assert drawn[0] != drawn[1]


def test_rates_are_of_all_captions_that_name_an_attribute():
    asked = [scene(CIRCLE, named=("size",)), scene(CIRCLE, named=("colour",))]
    rates = scene_sets.attribute_rates([ALONE] * 2, asked)
    assert len(rates["size"]) == len(rates["colour"]) == 1 and len(rates["all"]) == 2


def test_images_with_nothing_too_little_or_too_much_are_counted():
    seen = [scene(), scene(CIRCLE), scene(*BOTH), scene(*BOTH, STAR | TOP)]
    rates = scene_sets.attribute_rates(seen, [scene(*BOTH)] * 4)
    assert rates["nothing"].tolist() == [1, 0, 0, 0]
    assert rates["too_few"].tolist() == [1, 1, 0, 0]
    assert rates["too_many"].tolist() == [0, 0, 0, 1]


def test_words_that_are_changed_or_added_and_scenes_that_cannot_be_are_counted():
    asked = [scene(CIRCLE, named=("colour",))] * 5
    circle = "a small red circle at the top"
    captions = [
        f"{circle} on a white background", f"{circle} and {circle} on a white background",
        "a small blue circle at the top on a white background", "a red circle",
        "a small red circle at the top on a red background",
    ]  # fmt: skip
    rates = scene_sets.written_rates(captions, asked)
    assert rates["words_kept"].tolist() == [1, 0, 0, 0, 0]
    assert rates["words_possible"].tolist() == [1, 0, 1, 0, 0]
