"""Protects the judge without a network: right on real scenes, strict with everything else."""

import random

import numpy as np
import pytest
import torch

import scenes
from evaluation import judges, scene_sets, template_reader

RED_STAR = {"shape": "star", "colour": "red", "size": "small", "place": "at the left"}
BLUE_RING = {"shape": "ring", "colour": "blue", "size": "big", "place": "at the top right"}
PLACES = list(scenes.PLACES)


def scene(*objects, background="white"):
    return {"background": background, "objects": list(objects)}


def draw(asked, rng=0, size=64):
    """One image (3, H, W) uint8; rng: a generator or its seed."""
    rng = random.Random(rng) if isinstance(rng, int) else rng
    return torch.from_numpy(scenes.draw(asked, rng, size)).permute(2, 0, 1)


def right(images, asked, named=scenes.NAMEABLE):
    """Of each image, whether all that its caption names is read in it."""
    seen = template_reader.read(torch.stack(list(images)))
    pairs = zip(asked, seen, strict=True)
    return [scene_sets.compare(a | {"named": ["shape", *named]}, s)["all"] == 1 for a, s in pairs]


def stands_apart(places):
    """Whether two big objects at any two of these places have 2 pixels between them."""
    points = [np.array(scenes.PLACES[place]) for place in places]
    return all(abs(a - b).max() >= 0.5 for i, a in enumerate(points) for b in points[:i])


def scenes_apart(num):
    """Scenes of one to three objects that stand apart, with all shapes and sizes in turn."""
    rng, kinds, found = random.Random(1), template_reader.KINDS * num, []
    while len(found) < num:
        places = rng.sample(PLACES, rng.choice((1, 2, 3)))
        background = rng.choice(list(scenes.BACKGROUNDS))
        objects = [{"shape": shape, "size": size, "place": place,
                    "colour": rng.choice(list(scenes.COLOURS))}
                   for (shape, size), place in zip(kinds, places, strict=False)]  # fmt: skip
        asked = scene(*objects, background=background)
        if stands_apart(places) and scenes.is_clear(asked):
            found.append(asked)
            kinds = kinds[len(places) :]
    return found


def test_real_scenes_whose_objects_stand_apart_are_all_read_right():
    asked = scenes_apart(360)
    kinds = [(o["shape"], o["size"]) for a in asked for o in a["objects"]]
    assert min(kinds.count(kind) for kind in template_reader.KINDS) >= 20
    images = [draw(a, i) for i, a in enumerate(asked)]
    assert all(right(images, asked))
    seen = template_reader.read(torch.stack(images))
    misfits = [o["misfit"] for s in seen for o in s["objects"]]
    assert max(misfits) < template_reader.MAX_MISFIT / 3


def test_scenes_as_training_draws_them_are_read_right_also_where_objects_touch():
    rng = random.Random(2)
    asked = [scenes.draw_attributes(rng, "train") for _ in range(200)]
    images = [draw(a, rng) for a in asked]
    assert np.mean(right(images, asked)) >= 0.99
    assert np.mean(right(images[1:], asked[:-1])) < 0.02


@pytest.mark.parametrize("colours", [("red", "red"), ("white", "black")])
def test_big_squares_that_touch_at_their_corners_are_two(colours):
    places = ("at the top left", "in the center")
    objects = [{"shape": "square", "size": "big", "colour": colour, "place": place}
               for colour, place in zip(colours, places, strict=True)]  # fmt: skip
    asked = scene(*objects, background="light blue")
    assert all(right([draw(asked, seed) for seed in range(8)], [asked] * 8))


@pytest.mark.parametrize("end", [0, 1 - 1e-9])
@pytest.mark.parametrize("background", scenes.BACKGROUNDS)
def test_the_strongest_tints_tilts_and_shifts_are_read_right(background, end):
    class AllAtOneEnd(random.Random):
        def random(self):
            return end

    stars = [RED_STAR | {"colour": colour} for colour in scenes.COLOURS]
    asked = [scene(star, background=background) for star in stars]
    asked = [a for a in asked if scenes.is_clear(a)]
    assert len(asked) >= 8 and all(right([draw(a, AllAtOneEnd()) for a in asked], asked))


@pytest.mark.parametrize("size", [32, 96])
def test_images_of_other_sizes_are_read_right(size):
    asked = scenes_apart(24)
    assert all(right([draw(a, i, size) for i, a in enumerate(asked)], asked))


def paint(cover):
    """Cover (64, 64) in 0..1 -> blue on white, (3, 64, 64) uint8."""
    ground, colour = np.array(scenes.BACKGROUNDS["white"]), np.array(scenes.COLOURS["blue"])
    image = ground + cover[:, :, None] * (colour - ground)
    return torch.from_numpy(image.round().astype(np.uint8)).permute(2, 0, 1)


def blur(cover, sigma):
    """Cover (H, H), blurred by a Gaussian."""
    at = np.arange(len(cover))
    weights = np.exp(-((at[:, None] - at) ** 2) / (2 * sigma**2))
    weights /= weights.sum(axis=1, keepdims=True)
    return weights @ cover @ weights.T


@pytest.mark.parametrize("size", scenes.SIZES)
def test_a_star_with_rounded_tips_is_no_star(size):
    fine = 8  # the star is rounded at 8 times the size, so that it keeps a sharp edge
    rng, radius = np.random.default_rng(0), scenes.SIZES[size] * 64 * fine
    seen = {}
    for sigma in (0, 1.2):
        images = []
        for _ in range(6):
            x, y = 32 * fine + rng.uniform(-2, 2, 2) * fine
            pose = np.array([x, y, scenes.TILT * rng.uniform(-1, 1)])
            star = template_reader.draw_shape("star", radius, pose, 64 * fine)[0]
            if sigma:
                larger = scenes.SIZES[size] / scenes.SIZES["small"]
                star = (blur(star, larger * sigma * fine) > 0.5).astype(float)
            images.append(paint(star.reshape(64, fine, 64, fine).mean(axis=(1, 3))))
        seen[sigma] = [s["objects"] for s in template_reader.read(torch.stack(images))]
    assert all(len(objects) == 1 for found in seen.values() for objects in found)
    assert all(objects[0]["shape"] == "star" for objects in seen[0])
    assert all(objects[0]["shape"] is None for objects in seen[1.2])


def test_a_ghost_makes_a_picture_wrong():
    asked = scene(RED_STAR)
    for shape in scenes.SHAPES:
        clean, both = draw(asked), draw(scene(RED_STAR, BLUE_RING | {"shape": shape}))
        half = ((clean.float() + both.float()) / 2).round().byte()
        assert right([clean, half, both], [asked] * 3) == [True, False, False]


@pytest.mark.parametrize("width, level, counts", [(1, 160, False), (2, 220, False), (2, 60, True),
                                                  (4, 220, True), (4, 180, True)])  # fmt: skip
def test_a_speck_makes_a_picture_wrong_if_it_can_be_seen(width, level, counts):
    asked = scene(RED_STAR)
    image = draw(asked)
    image[:, 50 : 50 + width, 40 : 40 + width] = level
    assert right([image], [asked]) == [not counts]


@pytest.mark.parametrize("colour", ["red", "blue"])
def test_a_ghost_that_touches_an_object_makes_a_picture_wrong(colour):
    asked = scene(BLUE_RING)
    image = draw(asked)
    patch = torch.tensor(scenes.COLOURS[colour], dtype=torch.uint8)[:, None, None]
    image[:, 14:19, 48:56] = patch  # from the middle of the ring over its right half
    assert right([image], [asked]) == [False]


def test_a_missing_object_is_noticed():
    asked, images = scene(RED_STAR, BLUE_RING), [draw(scene(RED_STAR)), draw(scene())]
    assert right(images, [asked] * 2) == [False, False]
    seen = template_reader.read(torch.stack(images))
    assert [len(s["objects"]) for s in seen] == [1, 0]


def test_what_stands_between_the_places_is_wrong_whatever_the_caption_names():
    asked = scene(RED_STAR, BLUE_RING | {"place": "at the right"})
    beside = ("size", "colour", "background", "relation")
    image = draw(asked)
    moved = image.roll(6, dims=1)  # six pixels down; the border is one colour
    for named in (scenes.NAMEABLE, beside, ()):
        assert right([image, moved], [asked] * 2, named) == [True, False]


def test_any_picture_can_be_read_and_compared():
    rng = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, (2, 3, 64, 64), generator=rng, dtype=torch.uint8)
    dots = 255 * (torch.rand(2, 1, 64, 64, generator=rng) < 0.02).byte().expand(-1, 3, -1, -1)
    flat = torch.full((1, 3, 64, 64), 128, dtype=torch.uint8)
    images = torch.cat([noise, dots, flat])
    seen = template_reader.read(images)
    assert all(len(s["objects"]) <= template_reader.MAX_OBJECTS for s in seen)
    assert {o["shape"] for s in seen for o in s["objects"]} == {None}
    assert not any(right(images, [scene(RED_STAR, BLUE_RING)] * len(images)))


def test_it_tells_what_the_recogniser_tells():
    images = torch.stack([draw(scene(RED_STAR, BLUE_RING))])
    panel = judges.read(next(judges.SHIPPED.glob("scenes-*.pth")))
    by_network, by_rule = panel.recogniser.recognise(images)[0], template_reader.read(images)[0]
    for o in by_rule["objects"]:
        assert 0 <= o.pop("misfit") < template_reader.MAX_MISFIT
    order = {place: i for i, place in enumerate(PLACES)}
    by_rule["objects"].sort(key=lambda o: order[o["place"]])
    assert by_rule == by_network
