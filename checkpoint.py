"""What lies on the disk? Weights, and the state of a run: whole or not at all, never as code.

How a run begins, how it is saved, and how it goes on.
"""

import dataclasses
import hashlib
import io
import json
import math
import os
import pickletools
import zipfile
from collections import OrderedDict
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor, nn

from config import (
    RESULTS,
    SETTING_OF_THE_FLOW,
    SHIPPED_WEIGHTS,
    WITH_A_FLOW,
    ModelConfig,
    Recipe,
    TrainConfig,
    UserError,
    as_text,
    name_of,
    settings_of,
)
from files import previous, write_text, write_whole
from latents import PosteriorEncoder
from model import TextToImageModel, check_fit, plain_names
from muon import load_optimizer, make_optimizers
from tokenizer import SPECIAL_TOKENS, UNKNOWN, Tokenizer

EXTRA = "_extra_state"  # configuration and vocabulary
# All that a file may ask Python for: torch allows more, of which some would fill the memory.
ALLOWED = {
    "collections OrderedDict",
    "torch._utils _rebuild_tensor_v2",
    *(f"torch {kind}Storage" for kind in ("Float", "Half", "BFloat16", "Double", "Long")),
}
MAX_DEPTH = 16  # of lists and dicts in each other

# Files


class Damaged(UserError):
    """A file that is missing or not as it was written."""


def save(state: dict, path: Path, keep_previous: bool = True) -> None:
    """Write tensors and plain values, whole or not at all; what was there is kept as `previous`.

    Raises ValueError, and writes nothing, where `load` would not accept it.
    """
    if path.suffix == ".safetensors":
        content = _to_safetensors(state)
    else:
        torch.save(state, buffer := io.BytesIO())
        content = buffer.getbuffer()
    try:
        parse(bytes(content))
    except MemoryError:
        pass  # no room to look: better a file that nobody has looked at than none
    except Exception as error:
        raise ValueError(f"{path} could not be read back: {error}") from error
    write_whole(path, lambda file: file.write(content), keep_previous)


def _safetensors() -> ModuleType:
    try:
        import safetensors.torch
    except ImportError as error:
        raise UserError("a .safetensors needs the package: pip install safetensors") from error
    return safetensors.torch


def _to_safetensors(weights: dict) -> bytes:
    """The tensors of exported weights; configuration and vocabulary are metadata, as JSON."""
    tensors = {n: w.contiguous() for n, w in weights.items() if isinstance(w, Tensor)}
    return _safetensors().save(tensors, {EXTRA: json.dumps(weights[EXTRA])})


def _from_safetensors(content: bytes) -> dict:
    library = _safetensors()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return library.load(content) | {EXTRA: json.loads(header["__metadata__"][EXTRA])}


def load(path: Path, repair: bool = False) -> dict:
    """Read what `save` wrote, onto the CPU; where it is damaged, what was there before it, and say
    so. Raises Damaged where there is neither, UserError where it cannot be read.

    repair: put the one before in the place of the damaged one, so that the next save keeps it; for
    the process that writes them.
    """
    state, found = load_whole(path)
    if repair and found != path and found.exists():
        if path.exists():
            kept = path.with_suffix(f".damaged{path.suffix}")
            os.replace(path, kept)
            print(f"the damaged one is now {kept}")
        os.replace(found, path)
    return state


def load_whole(path: Path) -> tuple[dict, Path]:
    """The same, and the file that it comes from."""
    try:
        return _read(path), path
    except Damaged as error:
        if not previous(path).exists():
            raise
        try:
            state = _read(previous(path))
        except Damaged as error:
            raise Damaged(
                f"{error}; so is {previous(path)}; put another one there (--set "
                "keep_every=N leaves some behind), or remove both"
            ) from error
        print(f"{error}; going on with the one before, {previous(path)}")
        return state, previous(path)


def _read(path: Path) -> dict:
    if not path.is_file():
        raise Damaged(f"there is no file {path} (python train.py makes one)")
    try:
        content = path.read_bytes()
        state = parse(content)
    except UserError:
        raise
    except (OSError, MemoryError) as error:
        raise UserError(f"{path} cannot be read: {error or 'out of memory'}") from error
    except Exception as error:  # foreign bytes raise any kind
        raise Damaged(f"{path} is damaged, or no file of weights") from error
    if not isinstance(state, dict):
        raise UserError(f"{path} holds no weights of this project")
    return state


def parse(content: bytes) -> object:
    """The tensors and plain values in a file. Raises anything where there is anything else."""
    is_safetensors = content[8:9] == b"{"  # after the length of its header
    found = _from_safetensors(content) if is_safetensors else _unpickle(content)
    return _plain(found, [len(content)])


def _unpickle(content: bytes) -> object:
    """What torch.save wrote. Raises anything for anything else: other checksums (torch looks at
    none), compressed entries (they unfold to any size), names that are not ALLOWED."""
    out = io.BytesIO()
    # Only what was checked is given to torch, which would find entries in another way.
    with zipfile.ZipFile(io.BytesIO(content)) as archive, zipfile.ZipFile(out, "w") as checked:
        if sum(entry.file_size for entry in archive.infolist()) > len(content):
            raise ValueError("compressed")
        for entry in archive.infolist():
            data = archive.read(entry)  # raises BadZipFile for a wrong checksum
            checked.writestr(zipfile.ZipInfo(entry.filename), data)
            if entry.filename.lower().endswith("data.pkl"):
                for opcode, argument, _ in pickletools.genops(data):
                    named = opcode.name in ("GLOBAL", "INST", "STACK_GLOBAL")
                    if named and argument not in ALLOWED:
                        raise ValueError("a pickle of something else")
    out.seek(0)
    return torch.load(out, map_location="cpu", weights_only=True)


def _plain(value: object, left: list[int], depth: int = 0) -> object:
    """A copy of nested dicts, lists, numbers, strings and tensors. Raises ValueError for anything
    else, and where it is larger than the file: `left` is how many bytes are left of that."""
    left[0] -= 1
    if isinstance(value, Tensor):
        size = value.numel() * value.element_size()
        left[0] -= size
        if value.layout != torch.strided or value.device.type != "cpu":
            raise ValueError("a tensor of another kind")
        if size > value.untyped_storage().nbytes():
            raise ValueError("a tensor whose values share their place")
        copy = value.detach()
    elif isinstance(value, dict):
        items = (OrderedDict if isinstance(value, OrderedDict) else dict).items(value)
        copy = {_plain(k, left, depth + 1): _plain(v, left, depth + 1) for k, v in items}
    elif type(value) in (list, tuple):
        copy = type(value)([_plain(v, left, depth + 1) for v in value])
    elif value is None or type(value) in (bool, float, str) or (
        type(value) is int and abs(value) < 2**63
    ):  # fmt: skip
        copy = value
    else:
        raise ValueError(f"a {type(value).__name__} is neither tensor nor plain value")
    if left[0] < 0 or depth > MAX_DEPTH:
        raise ValueError("more than the file holds")
    return copy


def load_weights(module: nn.Module, weights: dict, path: Path) -> None:
    """module.load_state_dict of weights from a file `path`, which may hold anything. Raises
    UserError where they do not fit or are no numbers."""
    try:
        if not isinstance(module, TextToImageModel):  # that looks itself
            check_fit(weights, module.state_dict())
        module.load_state_dict(weights)
    except Exception as error:  # a foreign file can be wrong in any way
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise UserError(f"{path} does not fit this version of the project: {reason}") from error
    for name, value in module.state_dict().items():
        if isinstance(value, Tensor) and not value.isfinite().all():
            raise UserError(f"{path}: {name} holds values that are no numbers (nan or infinite)")


def build_model(weights: object, path: Path) -> TextToImageModel:
    """A model with these weights, on the CPU; `path` is where they came from, for the message."""
    if not isinstance(weights, dict) or "_extra_state" not in plain_names(weights):
        raise UserError(f"{path} holds no weights of this project (no configuration in it)")
    model = TextToImageModel()
    load_weights(model, weights, path)
    return model


def model_of(state: dict, path: Path) -> TextToImageModel:
    """The model, for drawing, of an exported file or of a training checkpoint: the best of its EMA
    weights, else the last, with the best completer. `path` is where it came from, for messages."""
    best, words = state.get("best"), state.get("best_completer")
    weights = best.get("weights") if isinstance(best, dict) and best else state.get("ema", state)
    words = words.get("weights") if isinstance(words, dict) else None
    if isinstance(weights, dict) and isinstance(words, dict):
        weights = weights | {f"completer.{n}": w for n, w in words.items()}
    model = build_model(weights, path).eval()
    set_halvings(model, state.get("halvings", model.halvings), path)
    return model


def set_halvings(model: TextToImageModel, halvings: object, path: Path) -> None:
    """Let a model draw as at that stage of training. Raises UserError where it cannot."""
    if type(halvings) is not int or not 0 <= halvings <= model.config.max_halvings:
        raise UserError(f"{path} does not fit this version of the project: halvings {halvings!r}")
    model.halvings = halvings


def load_model(path: str | Path) -> TextToImageModel:
    """The model of a file of weights or of a training checkpoint, for drawing.

    Raises UserError where there is no such file, or it holds something else.
    """
    return model_of(load(Path(path)), Path(path))


def fingerprint(model: TextToImageModel) -> str:
    """A few letters that stand for weights, configuration and vocabulary. Those of a checkpoint
    and of what is exported from it are the same: weights count in half precision."""
    digest = hashlib.blake2b(digest_size=5)
    digest.update(json.dumps([model.halvings, model.get_extra_state()], sort_keys=True).encode())
    for name, weight in sorted(model.named_parameters()):
        halved = weight.detach().to("cpu", torch.half).contiguous()
        digest.update(name.encode() + halved.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def progress_line(state: dict) -> str:
    """How far the run of a training checkpoint is, for people; "" for an exported file."""
    try:
        seen, total = state["images_seen"], state["config"]["images"]
        best = state["best"].get("images", seen)
        at = f", the best after {best:,}" if best < seen else ""
        return f" ({seen:,} of {total:,} images seen{at})"
    except Exception:  # a foreign file can be wrong in any way
        return ""


def newest_run(smoke: bool = False) -> Path | None:
    """The checkpoint of the run that was saved last, if there is any; smoke: of smoke runs."""
    found = [p for name in ("checkpoint", "checkpoint.previous")
             for p in RESULTS.glob(f"*/{name}.pth") if is_smoke(p.parent) == smoke]  # fmt: skip
    newest = max(found, key=lambda p: p.stat().st_mtime, default=None)
    return newest and newest.with_name("checkpoint.pth")


def choose_weights(name: str) -> tuple[Path, str]:
    """The file that --model names; without it the newest run, else the weights in results_short,
    else a smoke run; and why, for people."""
    smoke = newest_run(smoke=True)
    hint = f"; for the smoke run, --model {smoke.parent}" if smoke else ""
    if name:
        path, why = Path(name), ""
    elif newest := newest_run():
        path, why = newest, "the newest run"
    elif SHIPPED_WEIGHTS.exists() or not smoke:
        other = "run but a smoke run" if smoke else "run"
        path, why = SHIPPED_WEIGHTS, f"as there is no {other} in {RESULTS}{hint}"
    else:
        path, why = smoke, "a smoke run, as there is nothing else"
    return path / "checkpoint.pth" if path.is_dir() else path, why


# Runs


@dataclass
class Progress:
    """How far a run is: its state but for weights and optimizers."""

    images_seen: int = 0  # the clock
    start: int = 0  # images_seen when this schedule began; more than 0 when training goes on later
    halvings: int = 0  # of the sides of training images
    seconds: float = 0.0  # of training so far
    unlogged: dict = field(default_factory=dict)  # loss term -> values since the last log line
    metrics: list = field(default_factory=list)  # the lines of metrics.jsonl
    # "weights" of the EMA with the lowest "energy_score", and the "images" seen then; or empty.
    best: dict = field(default_factory=dict)
    # The same of the completer alone, with the lowest "completion_loss".
    best_completer: dict = field(default_factory=dict)


class Networks(NamedTuple):
    model: TextToImageModel
    ema: TextToImageModel
    posterior: PosteriorEncoder


STATE = {name: type(value) for name, value in vars(Progress()).items()} | {
    "config": dict,  # of training
    "data": dict,  # split -> fingerprint of its images and captions
    "optimizers": list,
    **dict.fromkeys(Networks._fields, dict),
}
# What decides what is learnt: a run goes on with these as they were. Where data lie and how they
# are found is free: what was found is compared.
FIXED_ON_RESUME = [
    f.name for cls in (Recipe, ModelConfig) for f in fields(cls) if f.name != "images"
]
FIXED_ON_RESUME += ["crop_boxes", "resize", "fit", "init_from"]


def inputs(config: ModelConfig, weight: Tensor) -> tuple[Tensor, ...]:
    """The columns of a weight (N, D + Z or D + Z + A) that read text, latent and augmentation."""
    latent, augmentation = config.text_dim, config.text_dim + config.noise_dim
    return weight[:, :latent], weight[:, latent:augmentation], weight[:, augmentation:]


def first_weights(config: TrainConfig, captions: list[str]) -> dict:
    """Weights that have learnt nothing, or those of --init-from; they know the captions' words.

    Raises UserError where --init-from is a model of other sizes.
    """
    tokenizer, new = Tokenizer.learn(captions, config.min_count), config.model_config()
    if len(tokenizer) == len(SPECIAL_TOKENS):
        raise UserError(f"no word is in the captions {config.min_count} times; --min-count 1 takes "
                        "all")  # fmt: skip
    if not config.init_from:
        return TextToImageModel(new, tokenizer).state_dict()
    old = load_model(choose_weights(config.init_from)[0])
    if config.completer_only and bool(new.noise_dim) != bool(old.config.noise_dim):
        raise UserError("completer_only leaves latents as they are; leave out --latents")
    # The new run says how it draws and what its seeds decide, the file how large it is, unless that
    # is asked for.
    free = ("mask_scale", "latent_temperature", "augmentation_dim")
    if not (new.noise_dim and old.config.noise_dim):
        free += ("noise_dim",)
    free = (() if config.completer_only else free) + ("completer_dim",) * (not old.completer)
    defaults = {f.name: f.default for f in fields(TrainConfig)}
    asked = {f.name: getattr(new, f.name) for f in fields(ModelConfig)
             if f.name not in free and (f.name in ("image_size", "text_encoder", "noise_dim")
             or getattr(config, f.name) != defaults[f.name])}  # fmt: skip
    other = [f"--set {name}={as_text(getattr(old.config, name))}"
             for name, value in asked.items() if getattr(old.config, name) != value]  # fmt: skip
    if other:
        raise UserError(f"{config.init_from} was trained with other sizes; add {' '.join(other)}")
    new = dataclasses.replace(old.config, **{name: getattr(new, name) for name in free})
    known = old.tokenizer.vocabulary
    merged = Tokenizer(dict.fromkeys([*known, *tokenizer.vocabulary]))
    print(f"begins with {config.init_from}: {len(known) - len(SPECIAL_TOKENS):,} words, and "
          f"{len(merged) - len(known):,} new ones")  # fmt: skip
    weights = TextToImageModel(new, merged).state_dict()
    taken = {n: w for n, w in old.state_dict().items() if isinstance(w, Tensor) and n in weights}
    # Words that are new mean what unknown ones did; latents and augmentation that are new, nothing.
    for name in {"text_encoder.embedding.weight", "prior.embedding.weight"} & taken.keys():
        weights[name] = weights[name].clone().copy_(taken[name][UNKNOWN])
    for name, weight in taken.items():
        if name in ("fully_connected.weight", "condition.weight"):
            weights[name] = torch.zeros_like(weights[name])
            columns = inputs(new, weights[name]), inputs(old.config, weight)
            for ours, theirs in zip(*columns, strict=True):
                width = min(ours.shape[1], theirs.shape[1])
                ours[:, :width] = theirs[:, :width]
        elif name.endswith(("embedding.weight", "vocabulary_bias")):
            weights[name][: len(known)] = weight
        else:
            weights[name] = weight
    return weights


def new_state(config: TrainConfig, fingerprints: dict[str, str], captions: list[str]) -> dict:
    """The state of a run that has seen nothing yet."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        weights = first_weights(config, captions)
        width = config.model_config().noise_dim
        posterior = PosteriorEncoder(max(1, width)).state_dict()  # unused at 0
    progress = Progress(halvings=0 if config.init_from else config.model_config().max_halvings)
    return {"config": asdict(config), "data": fingerprints, **vars(progress), "model": weights,
            "ema": weights, "posterior": posterior, "optimizers": []}  # fmt: skip


def save_run(
    folder: Path,
    config: TrainConfig,
    fingerprints: dict[str, str],
    progress: Progress,
    networks: Networks,
    optimizers: list[torch.optim.Optimizer],
    keep: bool,
) -> None:
    """Write checkpoint.pth, which a run goes on from; keep: beside it, another one that stays."""
    state = {"config": asdict(config), "data": fingerprints, **vars(progress)}
    state |= {name: network.state_dict() for name, network in networks._asdict().items()}
    state["optimizers"] = [optimizer.state_dict() for optimizer in optimizers]
    if keep:  # first, since a run that goes on from checkpoint.pth does not come here again
        save(state, folder / f"checkpoint-{progress.images_seen:09d}.pth", keep_previous=False)
    save(state, folder / "checkpoint.pth")


def is_run_state(state: dict) -> bool:
    """Whether a file holds what a run's state should, and nothing else."""

    def plain(values: object) -> bool:
        return all(type(value) in (int, float) for value in values)

    if state.keys() != STATE.keys():
        return False
    if not all(isinstance(state[name], kind) for name, kind in STATE.items()):
        return False
    lines = state["metrics"]
    bests = (state["best"], "energy_score"), (state["best_completer"], "completion_loss")
    return (
        all(type(line) is dict and all(type(name) is str for name in line) for line in lines)
        and all(type(line.get("split")) is str for line in lines)
        and all(plain([line.get("images"), *(v for k, v in line.items() if k != "split")])
                for line in lines)
        and all(type(name) is str for name in state["unlogged"])
        and all(type(v) is list and v and plain(v) for v in state["unlogged"].values())
        and all(not best or (best.keys() == {"images", score, "weights"}
                             and plain([best["images"], best[score]])
                             and math.isfinite(best[score]) and isinstance(best["weights"], dict))
                for best, score in bests)
        and 0 <= state["seconds"] < 1e12
        and type(state["config"].get("images")) is int
        and 0 <= state["start"] <= state["images_seen"]
        and len(state["optimizers"]) in (2, 4, 6)
    )  # fmt: skip


def resume(config: TrainConfig, folder: Path, fingerprints: dict[str, str]) -> dict | None:
    """The state that the run was left in, ready to go on with this config; None if it is new.

    Raises UserError where the run was trained with another recipe or on other data.
    """
    path = folder / "checkpoint.pth"
    if not path.exists() and not previous(path).exists():
        return None
    state = load(path, repair=True)
    if not is_run_state(state):
        raise UserError(f"{path} is no checkpoint of this version of train.py")
    if SETTING_OF_THE_FLOW in state["config"]:
        told = f"{path} cannot be gone on with: {WITH_A_FLOW}; --run NAME starts another run"
        raise UserError(told)
    if gone := sorted(state["config"].keys() - {f.name for f in fields(config)}):
        raise UserError(
            f"{folder} was trained by an earlier version, with {', '.join(gone)}; --run NAME "
            f"--init-from {folder} starts a new run from its weights"
        )
    # What was left to the collection then is so now.
    left = {"images": 0, "min_count": 0, "latents": "auto", "pairs": "auto",
            "mask_scale": 0.0, "latent_temperature": 0.0}  # fmt: skip
    kept = {n: state["config"].get(n, v) for n, v in left.items() if getattr(config, n) == v}
    if config.minutes:  # they chose the length when the run began
        kept["images"] = state["config"]["images"]
        print(f"--minutes became {kept['images']:,} images when the run began")
    config = dataclasses.replace(config, minutes=0.0, **kept)
    # A setting that came later has a default that changes nothing, so that older runs go on; where
    # it would change something, another one was renamed, and the run is refused above.
    settings = {f.name: f for f in fields(config)}
    old, new = {n: f.default for n, f in settings.items()} | state["config"], asdict(config)
    told = {n: f"{name_of(settings[n])} was {old[n]!r}, is {new[n]!r}"
            for n in sorted(new) if repr(old[n]) != repr(new[n])}  # fmt: skip
    begun = {"init_from"} if not config.init_from else set()  # only its beginning depends on it
    refused = [told[n] for n in told if n in FIXED_ON_RESUME and n not in begun]
    was, now = (c["data"] or "the scenes" for c in (old, new))
    differ = "have changed" if was == now else f"are not those of {was}"
    refused += [f"the {split} images or captions of {now} {differ}"
                for split, fingerprint in state["data"].items()
                if fingerprint != fingerprints.get(split)]  # fmt: skip
    if refused or "train" not in state["data"]:
        raise UserError(f"{folder} was trained in another way ({'; '.join(refused)}); give this "
                        "run another name with --run NAME, or go back to what it was; --init-from "
                        f"{folder} starts the new run from its weights")  # fmt: skip
    if told:
        print(f"changed since the last checkpoint: {'; '.join(told.values())}")
    if state["images_seen"] >= old["images"]:
        state["start"] = state["images_seen"]  # finished: more images are a schedule of their own
    elif old["images"] != config.images:
        command = read_record(folder).get("command", "the same command without --images")
        raise UserError(f"{folder} is not finished ({state['images_seen']:,} of {old['images']:,} "
                        f"images), and until then --images stays as it is; to go on: {command}; "
                        "to start another: --run NAME")  # fmt: skip
    return state | {"config": new}


def networks_of(
    state: dict, path: Path, config: TrainConfig, device: torch.device
) -> tuple[Networks, list[torch.optim.Optimizer]]:
    """The networks that a state holds, and their optimizers; `path` is where it came from. Raises
    UserError where it does not fit."""
    model = build_model(state["model"], path)
    ema = build_model(state["ema"], path).requires_grad_(False)
    if ema.config != model.config:
        raise UserError(f"{path} holds an average of another model")
    set_halvings(model, state["halvings"], path)
    posterior = PosteriorEncoder(max(1, model.config.noise_dim))
    load_weights(posterior, state["posterior"], path)
    networks = Networks(model, ema, posterior)
    for network in networks:
        network.to(device, memory_format=torch.channels_last)
    optimizers = make_optimizers(model, posterior, config)
    try:
        all_saved = bool(state["optimizers"])  # a new run has none yet
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=all_saved):
            load_optimizer(optimizer, saved)
    except Exception as error:  # a foreign file can be wrong in any way
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise UserError(f"{path} does not fit this version of train.py: {reason}") from error
    return networks, optimizers


# The record of a run, config.json


def read_record(folder: Path) -> dict:
    """config.json of a run; {} where there is none, or it is damaged."""
    try:
        record = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) and isinstance(record.get("train"), dict) else {}


def write_record(
    folder: Path, about: dict, config: TrainConfig, model: ModelConfig, images_seen: int
) -> None:
    """Keep how a run was started; a later start is added to "resumed", with what it changed."""
    record, settings = read_record(folder), json.loads(json.dumps(asdict(config)))
    if images_seen == 0 or not record:
        record = about | {"train": settings, "model": asdict(model)}
    else:
        before = settings_of(record)
        changed = {n: v for n, v in settings.items() if before.get(n, v) != v}
        resumed = {**about, "images_seen": images_seen, "changed": changed}
        record["resumed"] = [*record.get("resumed", []), resumed]
    write_text(folder / "config.json", json.dumps(record, indent=2) + "\n")


def is_smoke(folder: Path) -> bool:
    """Whether a run is one of the preset smoke, which is there to see that everything works."""
    return settings_of(read_record(folder)).get("preset") == "smoke"
