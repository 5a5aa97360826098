"""Protects what scenes are asked for, and how much of it counts as right in a drawing."""

import pytest
import torch

import held_out_scenes
import scenes


def an_object(shape="circle", colour="red", size="big", place="at the left"):
    return {"shape": shape, "colour": colour, "size": size, "place": place}


def scene(*objects, background="white", named=scenes.NAMEABLE):
    return {"background": background, "objects": list(objects), "named": ["shape", *named]}


STAR = an_object("star", "blue", "small", "at the right")


def test_a_scene_agrees_with_itself_in_any_order_of_its_objects():
    asked = scene(an_object(), STAR)
    assert set(held_out_scenes.compare(asked, scene(STAR, an_object())).values()) == {1.0}


@pytest.mark.parametrize(
    "kind, value",
    [("shape", "star"), ("colour", "blue"), ("size", "small"), ("place", "at the top")],
)
def test_one_wrong_attribute_is_found_and_spoils_all(kind, value):
    right = held_out_scenes.compare(scene(an_object()), scene(an_object(**{kind: value})))
    assert right.pop(kind) == 0 and right.pop("all") == 0
    assert set(right.values()) == {1.0}


def test_a_wrong_background_spoils_all_unless_the_caption_leaves_it_open():
    seen = scene(an_object(), background="black")
    assert held_out_scenes.compare(scene(an_object()), seen)["all"] == 0
    free = scene(an_object(), named=("size", "colour", "place"))
    assert held_out_scenes.compare(free, seen)["all"] == 1


def test_exchanged_colours_are_half_right_at_most():
    asked = scene(an_object(), STAR)
    seen = scene(an_object(colour="blue"), STAR | {"colour": "red"})
    right = held_out_scenes.compare(asked, seen)
    assert right["colour"] == 0 and right["shape"] == 1 and right["all"] == 0


@pytest.mark.parametrize("seen", [[], [an_object(), STAR, STAR | {"place": "at the top"}]])
def test_objects_missing_or_too_many_spoil_all(seen):
    right = held_out_scenes.compare(scene(an_object(), STAR), scene(*seen))
    assert right["number"] == 0 and right["all"] == 0


def test_the_reverse_order_is_wrong():
    named = ("size", "colour", "background", "relation")
    asked = scene(an_object(), STAR, named=named)
    exchanged = scene(an_object(place="at the right"), STAR | {"place": "at the left"})
    elsewhere = scene(an_object(place="at the top left"), STAR | {"place": "at the top right"})
    assert held_out_scenes.compare(asked, exchanged)["relation"] == 0
    assert held_out_scenes.compare(asked, elsewhere)["all"] == 1


def test_swapped_scenes_come_in_pairs_that_differ_in_places_alone():
    tests = held_out_scenes.draw_scenes("validation", 4, 0, (2,), held_out_scenes.related)
    captions, pictures, asked = held_out_scenes.swapped(tests)
    assert len(captions) == len(pictures) == len(asked) == 8
    for a, b in zip(asked[::2], asked[1::2], strict=True):
        places = [[o["place"] for o in x["objects"]] for x in (a, b)]
        assert places[0] == places[1][::-1]
    assert captions[0].split(" on a ")[0] != captions[1].split(" on a ")[0]
    words = [sorted(c.split()) for c in captions[:2]]
    assert words[0] == words[1] or {"left", "right", "above", "below"} & set(captions[0].split())


def test_other_patterns_are_sentences_that_training_never_shows():
    _, _, asked = held_out_scenes.draw_scenes("validation", 60, 0, (1, 2))
    captions = held_out_scenes.other_patterns(asked)
    known = {scenes.compose(0, i, "train")[1] for i in range(2_000)}
    assert not known & set(captions)
    for caption, attributes in zip(captions, asked, strict=True):
        assert attributes["background"] in caption
        for o in attributes["objects"]:
            assert all(word in caption for word in o.values())


def test_scenes_to_judge_are_never_trained_on():
    for split in ("validation", "unseen"):
        for attributes in held_out_scenes.draw_scenes(split, 100, 1, (1, 2))[2]:
            assert scenes.split_of(attributes) == split


def test_rates_are_of_all_captions_that_name_an_attribute():
    class Sees:
        def recognise(self, pictures):
            return [scene(an_object())] * len(pictures)

    asked = [scene(an_object(), named=("size",)), scene(an_object(), named=("colour",))]
    rates = held_out_scenes.attribute_rates(Sees(), torch.zeros(2, 3, 64, 64), asked)
    assert len(rates["size"]) == len(rates["colour"]) == 1 and len(rates["all"]) == 2
