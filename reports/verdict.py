"""How did a run go? In words, from the numbers of its last validation."""

HARDLY, WELL = 1.2, 2.0  # text_dependence: below, above
NEAREST = 0.5  # own_nearest, from which on captions are well learnt
SOFT, GRAINY = 0.75, 1.3  # edge energy: below, above
ALIKE = 0.01  # noise_dependence, below which seeds give much the same
FEW_HELD_OUT = 20  # images; what fewer tell is chance
SEEN_ENOUGH = 40  # times each image


def verdict(
    lines: list[dict], num_images: int, num_held_out: int, best: int, smoke: bool = False
) -> list[str]:
    """Sentences for a person.

    lines: of metrics.jsonl; num_images, num_held_out: of training and of validation; best: images
    seen when held-out captions were drawn best, 0 where that is not known; smoke: it is a run of
    the preset smoke.
    """
    last = {}
    for split in ("train", "validation"):
        last[split] = next((line for line in reversed(lines) if line["split"] == split
                            and "text_dependence" in line), {})  # fmt: skip
    train, held_out = last["train"], last["validation"]
    if not train:
        return []
    seen, found = train["images"], []
    often = seen / num_images
    found.append(f"each image was seen {often:.0f} times" if often >= 1.5 else
                 "most images were seen once at most")  # fmt: skip
    if smoke:
        return [*found, "a smoke run only shows that everything works; it is far too short to "
                "draw: leave out --preset smoke"]  # fmt: skip
    depends, near = train["text_dependence"], train["own_nearest"]
    told = (f"another caption's drawing is wrong {depends:.1f} times as much; {near:.0%} are "
            f"nearest to their own image, of {min(100, num_images)}")  # fmt: skip
    good = depends >= WELL and near >= NEAREST
    if depends < HARDLY:
        found.append(f"captions trained on hardly decide what is drawn ({told})")
    else:
        found.append(f"captions trained on are {'well' if good else 'half'} learnt ({told})")
    if held_out and num_held_out < FEW_HELD_OUT:
        found.append(f"{num_held_out} images held out are too few to tell how others will be drawn")
    elif held_out and good and held_out["text_dependence"] < 0.6 * depends:
        found.append(
            f"captions held out are drawn less well ({held_out['text_dependence']:.1f} times, "
            f"{held_out['own_nearest']:.0%}): for those, more images help more than more training"
        )
    edges = held_out.get("edge_energy", 1.0)
    if edges < SOFT:
        found.append(f"edges are soft ({edges:.0%} of the real ones' energy)")
    elif edges > GRAINY:
        found.append(f"drawings are grainy ({edges:.0%} of the energy of real edges)")
    if 0 < held_out.get("noise_dependence", 0.0) < ALIKE:
        found.append("seeds change little but what is written out in words")
    if best and best < seen and num_held_out >= FEW_HELD_OUT:
        found.append(
            f"held-out captions were drawn best after {best:,} images; those weights count"
        )
    if (not good or edges < SOFT) and not (best and best < 0.8 * seen):
        found.append(f"to go on: --images {2 * seen}" if often >= SEEN_ENOUGH else
                     f"it may only have been too short: --images {SEEN_ENOUGH * num_images} sees "
                     f"each image {SEEN_ENOUGH} times")  # fmt: skip
    return found
