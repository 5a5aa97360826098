"""How do weights reach the disk and come back? Whole or not at all, and never as code."""

import io
import os
import pickletools
import zipfile
from collections import OrderedDict
from pathlib import Path

import torch
from torch import Tensor, nn

from command_line import UserError
from files import previous, write_whole
from model import TextToImageModel, check_fit

RESULTS = Path("results")  # results/<run>/checkpoint.pth
SHIPPED_WEIGHTS = Path(__file__).parent / "results_short" / "text_to_image_model.pth"
# All that a file may ask Python for: torch allows more, of which some would fill the memory.
ALLOWED = {
    "collections OrderedDict",
    "torch._utils _rebuild_tensor_v2",
    *(f"torch {kind}Storage" for kind in ("Float", "Half", "BFloat16", "Double", "Long")),
}
MAX_DEPTH = 16  # of lists and dicts in each other


class Damaged(UserError):
    """A file that is missing or not as it was written."""


def save(state: dict, path: Path, keep_previous: bool = True) -> None:
    """Write tensors and plain values, whole or not at all; what was there is kept as `previous`."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_whole(path, lambda file: file.write(buffer.getbuffer()), keep_previous)


def load(path: Path, repair: bool = False) -> dict:
    """Read what `save` wrote, onto the CPU; where it is damaged, what was there before it, and say
    so. Raises Damaged where there is neither, UserError where it cannot be read.

    repair: put the one before in the place of the damaged one, so that the next save keeps it; for
    the process that writes them.
    """
    state, found = load_whole(path)
    if repair and found != path:
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
        except Damaged:
            raise Damaged(
                f"{error}; so is {previous(path)}; put another one there (--keep-every leaves "
                "some behind), or remove both"
            ) from None
        print(f"{error}; going on with the one before, {previous(path)}")
        return state, previous(path)


def _read(path: Path) -> dict:
    if not path.is_file():
        raise Damaged(f"there is no file {path} (python train.py makes one)")
    try:
        content = path.read_bytes()
        state = _plain(_unpickle(content), [len(content)])
    except (OSError, MemoryError) as error:
        raise UserError(f"{path} cannot be read: {error or 'out of memory'}") from None
    except Exception:  # foreign bytes raise any kind
        raise Damaged(f"{path} is damaged, or not a file that torch.save wrote") from None
    if not isinstance(state, dict):
        raise UserError(f"{path} holds no weights of this project")
    return state


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
        raise ValueError("neither tensor nor plain value")
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
        raise UserError(f"{path} does not fit this version of the project: {reason}") from None
    for name, value in module.state_dict().items():
        if isinstance(value, Tensor) and not value.isfinite().all():
            raise UserError(f"{path}: {name} holds values that are no numbers (nan or infinite)")


def build_model(weights: object, path: Path) -> TextToImageModel:
    """A model with these weights, on the CPU; `path` is where they came from, for the message."""
    if not isinstance(weights, dict) or "_extra_state" not in weights:
        raise UserError(f"{path} holds no weights of this project (no configuration in it)")
    model = TextToImageModel()
    load_weights(model, weights, path)
    return model


def model_of(state: dict, path: Path) -> TextToImageModel:
    """The model, for drawing, of an exported file or of a training checkpoint: the best of its EMA
    weights, else the last. `path` is where the state came from, for messages."""
    best = state.get("best")
    weights = best.get("weights") if isinstance(best, dict) and best else state.get("ema", state)
    return build_model(weights, path).eval()


def load_model(path: Path) -> TextToImageModel:
    """The model of a file, for drawing."""
    return model_of(load(path), path)


def progress(state: dict) -> str:
    """How far the run of a training checkpoint is, for people; "" for an exported file."""
    try:
        seen, total = state["images_seen"], state["config"]["images"]
        best = state["best"].get("images", seen)
        at = f", the best after {best:,}" if best < seen else ""
        return f" ({seen:,} of {total:,} images seen{at})"
    except Exception:  # a foreign file can be wrong in any way
        return ""


def newest_checkpoint() -> Path | None:
    """The checkpoint of the run that was saved last, if there is any."""
    found = [
        p for name in ("checkpoint", "checkpoint.previous") for p in RESULTS.glob(f"*/{name}.pth")
    ]
    newest = max(found, key=lambda p: p.stat().st_mtime, default=None)
    return newest and newest.with_name("checkpoint.pth")


def find_weights(model: str) -> Path:
    """The file that --model names; without it the newest run, else the shipped weights."""
    path = Path(model) if model else newest_checkpoint() or SHIPPED_WEIGHTS
    return path / "checkpoint.pth" if path.is_dir() else path
