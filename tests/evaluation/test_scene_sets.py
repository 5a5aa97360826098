"""Protects what scenes are asked for, and how much of it counts as right in a drawing."""

import pytest
import torch

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


def test_swapped_scenes_come_in_pairs_that_differ_in_places_alone():
    captions, images, asked = scene_sets.order_swaps("test", 4)
    assert len(captions) == len(images) == len(asked) == 8
    for a, b in zip(asked[::2], asked[1::2], strict=True):
        places = [[o["place"] for o in x["objects"]] for x in (a, b)]
        assert places[0] == places[1][::-1]
    opposite = {"left": "right", "right": "left", "above": "below", "below": "above"}
    for a, b in zip(captions[::2], captions[1::2], strict=True):
        assert b.split() == [opposite.get(word, word) for word in a.split()]


def test_other_patterns_are_sentences_that_training_never_shows():
    _, _, asked = scene_sets.draw_scenes("test", 60, 0, (1, 2))
    captions = scene_sets.other_patterns(asked)
    known = {scenes.compose(0, i, "train")[1] for i in range(2_000)}
    assert not known & set(captions)
    for caption, attributes in zip(captions, asked, strict=True):
        told = [word for o in attributes["objects"] for word in o.values()]
        assert all(word in caption for word in (attributes["background"], *told))


def test_every_set_holds_scenes_of_its_split_alone_so_that_what_is_tuned_on_is_not_reported():
    found = {split: scene_sets.attribute_sets(split, 64, 32) for split in SEEDS}
    for split, sets in found.items():
        for name, (captions, images, asked) in sets.items():
            assert len(captions) == len(images) == len(asked)
            assert images.shape[1:] == (3, 32, 32)
            own = "unseen" if name.endswith("unseen") else split
            assert {(scenes.split_of(a), scenes.half_of(a)) for a in asked} == {(own, split)}
        groups = scene_sets.scene_groups(split, 4, 3, 32)
        assert all(images.shape == (3, 3, 32, 32) for _, images in groups)
    for tuned, reported in zip(*(sets.values() for sets in found.values()), strict=True):
        assert not set(tuned.captions) & set(reported.captions)
    drawn = [scene_sets.fresh_random(split, 0).random() for split in SEEDS]
    assert drawn[0] != drawn[1]


def test_rates_are_of_all_captions_that_name_an_attribute():
    class Sees:
        def recognise(self, images):
            return [ALONE] * len(images)

    asked = [scene(CIRCLE, named=("size",)), scene(CIRCLE, named=("colour",))]
    rates = scene_sets.attribute_rates(Sees(), torch.zeros(2, 3, 64, 64), asked)
    assert len(rates["size"]) == len(rates["colour"]) == 1 and len(rates["all"]) == 2
