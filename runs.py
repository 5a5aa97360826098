"""How does a run begin, and how does it go on? The state that a checkpoint holds."""

import dataclasses
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

import checkpoint
from command_line import UserError
from files import previous
from latent import LatentEncoder
from model import ModelConfig, TextToImageModel
from muon import load_optimizer, make_optimizers
from tokenizer import Tokenizer

if TYPE_CHECKING:
    from train import TrainConfig

STATE = {
    "config": dict,  # of training
    "data": dict,  # split -> fingerprint of its pictures and captions
    "images_seen": int,  # the clock
    "start": int,  # clock at which this schedule began; more than 0 when training goes on later
    "seconds": float,  # of training so far
    "sums": dict,  # loss term -> its values since the last line of metrics
    "metrics": list,  # the lines of metrics.jsonl
    "model": dict,
    "ema": dict,
    "encoder": dict,
    "optimizers": list,
    "best": dict,  # EMA weights with the lowest energy score once all terms count fully, or empty
}
# May differ between a run and its continuation: what is learnt stays the same, or says so itself.
# Where data lie and how they are found is free: what was found is compared.
FREE_TO_CHANGE = {"preset", "images", "device", "sample_every", "stop_after", "keep_every", "run",
                  "data", "format", "image_dir", "caption_from", "follow_links", "max_megapixels",
                  "cache"}  # fmt: skip


def first_weights(config: "TrainConfig", captions: list[str]) -> dict:
    """Weights that have learnt nothing, or those of --init-from; they know the captions' words.

    Raises UserError where --init-from is a model of other sizes.
    """
    tokenizer = Tokenizer.learn(captions, config.min_count)
    names = ("image_size", "text_encoder", "noise_dim")
    settings = {name: getattr(config, name) for name in names}
    settings["sharpness"] = ModelConfig.sharpness if config.sharpen else 1.0
    if not config.init_from:
        small = ModelConfig(**settings)
        small = dataclasses.replace(small, halvings=small.most_halvings)  # train.GROW_AT ends it
        return TextToImageModel(small, tokenizer).state_dict()
    old = checkpoint.load_model(checkpoint.find_weights(config.init_from))
    other = [f"--{n.replace('_', '-')} {getattr(old.config, n)}" for n in names
             if getattr(old.config, n) != settings[n]]  # fmt: skip
    if other:
        raise UserError(f"{config.init_from} was trained with other sizes; add {' '.join(other)}")
    known = old.tokenizer.vocabulary
    merged = Tokenizer(dict.fromkeys([*known, *tokenizer.vocabulary]))
    weights = TextToImageModel(dataclasses.replace(old.config, **settings), merged).state_dict()
    taken = {n: w for n, w in old.state_dict().items() if isinstance(w, Tensor)}
    words = weights["text_encoder.embedding.weight"].clone()
    words[: len(known)] = taken["text_encoder.embedding.weight"]
    return weights | taken | {"text_encoder.embedding.weight": words}


def new_state(config: "TrainConfig", fingerprints: dict[str, str], captions: list[str]) -> dict:
    """The state of a run that has seen nothing yet."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        weights = first_weights(config, captions)
        encoder = LatentEncoder(max(1, config.noise_dim)).state_dict()  # unused at 0
    return {
        "config": asdict(config), "data": fingerprints, "images_seen": 0, "start": 0,
        "seconds": 0.0, "sums": {}, "metrics": [], "model": weights, "ema": weights,
        "encoder": encoder, "optimizers": [], "best": {},
    }  # fmt: skip


def check(state: dict, path: Path) -> None:
    """Raises UserError where a file holds other things than a run's state should."""
    wrong = [str(name) for name in (state.keys() | STATE.keys())
             if not isinstance(state.get(name), STATE.get(name, ()))]  # fmt: skip
    if not wrong:
        best, sums = state["best"], state["sums"].values()
        numbers = [value for values in sums for value in values]
        for line in state["metrics"]:
            numbers += [line["images"], *(v for k, v in line.items() if k != "split")]
        numbers += [best["images"], best["energy_score"]] if best else []
        fits = (
            all(type(number) in (int, float) for number in numbers)
            and all(
                type(name) is str for line in (*state["metrics"], state["sums"]) for name in line
            )
            and 0 <= state["seconds"] < 1e12
            and all(type(values) is list and values for values in sums)
            and all(type(line["split"]) is str for line in state["metrics"])
            and type(state["config"]["images"]) is int
            and 0 <= state["start"] <= state["images_seen"]
            and len(state["optimizers"]) == 2
        )
        wrong = [] if fits else ["config, start, images_seen, sums, metrics, optimizers or best"]
    if wrong:
        names = ", ".join(name[:40].encode("unicode_escape").decode() for name in sorted(wrong))
        raise UserError(f"{path} is no checkpoint of this version of train.py: {names} missing, "
                        "unknown or not as it should be")  # fmt: skip


def resume(config: "TrainConfig", folder: Path, fingerprints: dict[str, str]) -> dict | None:
    """The state that the run was left in, ready to go on with this config; None if it is new.

    Raises UserError where the run was trained with other settings or on other data.
    """
    path = folder / "checkpoint.pth"
    if not path.exists() and not previous(path).exists():
        return None
    state = checkpoint.load(path, repair=True)
    try:
        check(state, path)
    except (KeyError, TypeError, RuntimeError):  # numbers that are something else
        raise UserError(f"{path} is no checkpoint of train.py") from None
    # A setting that came later has a default that changes nothing, so that older runs go on.
    defaults = {f.name: f.default for f in dataclasses.fields(config)}
    old, new = defaults | state["config"], asdict(config)
    told = {n: f"--{n.replace('_', '-')} was {old[n]!r}, is {new[n]!r}"
            for n in sorted(new) if repr(old[n]) != repr(new[n])}  # fmt: skip
    begun = {"init_from"} if not config.init_from else set()  # only its beginning depends on it
    refused = [told[n] for n in told if n not in FREE_TO_CHANGE | begun]
    was, now = (c["data"] or "the scenes" for c in (old, new))
    differ = "have changed" if was == now else f"are not those of {was}"
    refused += [
        f"the {split} pictures or captions of {now} {differ}"
        for split in fingerprints
        if state["data"].get(split) != fingerprints[split]
    ]
    if refused:
        raise UserError(f"{folder} was trained in another way ({'; '.join(refused)}); give this "
                        "run another name with --run NAME, or go back to what it was; --init-from "
                        f"{folder} starts the new run from its weights")  # fmt: skip
    if told:
        print(f"changed since the last checkpoint: {'; '.join(told.values())}")
    if state["images_seen"] >= old["images"]:
        state["start"] = state["images_seen"]  # finished: more images are a schedule of their own
    elif old["images"] != config.images:
        raise UserError(f"{folder} is not finished ({state['images_seen']:,} of {old['images']:,} "
                        "images); finish it before --images changes")  # fmt: skip
    return state | {"config": new}


def networks_of(state: dict, path: Path, device: str) -> tuple[dict, list]:
    """Generator, its average and the latent encoder by name, and their optimisers, as the state
    tells; `path` is where it came from. Raises UserError where it does not fit."""
    model = checkpoint.build_model(state["model"], path)
    ema = checkpoint.build_model(state["ema"], path).requires_grad_(False)
    if ema.config != model.config:
        raise UserError(f"{path} holds an average of another model")
    encoder = LatentEncoder(max(1, model.config.noise_dim))
    checkpoint.load_weights(encoder, state["encoder"], path)
    networks = {"model": model, "ema": ema, "encoder": encoder}
    for network in networks.values():
        network.to(device, memory_format=torch.channels_last)
    optimizers = make_optimizers([model, encoder])
    try:
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=False):
            load_optimizer(optimizer, saved)
    except Exception as error:  # a foreign file can be wrong in any way
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise UserError(f"{path} does not fit this version of train.py: {reason}") from None
    return networks, optimizers
