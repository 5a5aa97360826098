"""Protects what a run says of itself: how long it takes, and how it went."""

import pytest

from reports.forecast import Forecast, Phase, duration
from reports.verdict import verdict

GOOD = {"text_dependence": 4.0, "own_nearest": 0.9}
HELD_OUT = GOOD | {"edge_energy": 1.0, "noise_dependence": 0.2}


def told(train=(), held_out=(), images=4_000, num_images=100, num_held_out=50, **more) -> str:
    lines = [{"split": "train", "images": images} | GOOD | dict(train),
             {"split": "validation", "images": images} | HELD_OUT | dict(held_out)]  # fmt: skip
    return "\n".join(verdict(lines, num_images, num_held_out, **{"best": images} | more))


def test_of_a_good_run_only_good_is_told():
    assert told() == (
        "each image was seen 40 times\n"
        "captions trained on are well learnt (another caption's drawing is wrong 4.0 times as "
        "much; 90% are nearest to their own image, of 100)"
    )


@pytest.mark.parametrize(
    "what, found",
    [
        (dict(train={"text_dependence": 1.1}), "captions trained on hardly decide what is drawn"),
        (dict(train={"text_dependence": 1.1}), "to go on: --images 8000"),
        (dict(train={"text_dependence": 1.6}), "captions trained on are half learnt"),
        (
            dict(train={"text_dependence": 1.6}, images=500),
            "--images 4000 sees each image 40",
        ),
        (dict(held_out={"text_dependence": 1.5}), "more images help more than more training"),
        (dict(held_out={"edge_energy": 0.5}), "edges are soft (50% of"),
        (dict(held_out={"edge_energy": 1.5}), "drawings are grainy (150% of"),
        (dict(held_out={"noise_dependence": 0.001}), "seeds change little"),
        (dict(num_held_out=3), "3 images held out are too few to tell"),
        (dict(best=2_000), "drawn best after 2,000 images; those weights count"),
        (dict(smoke=True), "leave out --preset smoke"),
    ],
)
def test_each_fault_is_told_with_what_helps(what, found):
    assert found in told(**what) and found not in told()


def test_a_run_without_measurements_is_not_judged():
    assert verdict([], 100, 50, 0) == []
    assert verdict([{"split": "train", "images": 5, "completion_loss": 1.0}], 100, 50, 0) == []


def test_time_left_counts_late_images_for_more_and_follows_what_was_seen():
    phases = [Phase(0, 100, ("small",), 1.0), Phase(100, 200, ("large",), 3.0)]
    assert Forecast(phases, measured=False).left(0, 100, 200, elapsed=50.0) == 150.0
    slower = Forecast(phases, measured=True).left(0, 100, 200, elapsed=220.0)
    assert slower == pytest.approx(300 * (220 + 20) / (100 + 20))
    assert Forecast(phases, measured=True).images_in(800) == 400
    assert [duration(s) for s in (40, 700, 3 * 3600)] == ["40 s", "12 min", "3.0 h"]
