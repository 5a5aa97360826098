"""How do weights reach the disk and come back? Whole or not at all, and never as code."""

import os
from pathlib import Path

import torch

from command_line import UserError
from model import TextToImageModel

RESULTS = Path("results")  # results/<run>/checkpoint.pth
SHIPPED_WEIGHTS = Path(__file__).parent / "results_short" / "text_to_image_model.pth"


def save(state: dict, path: Path) -> None:
    """Write tensors and plain values to `path`: a temporary file first, then renamed over it."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        with open(temporary, "wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError
        temporary.unlink(missing_ok=True)
        raise UserError(f"{path} cannot be written: {error}; what was there is unchanged") from None


def load(path: Path) -> dict:
    """Read what `save` wrote, onto the CPU. Raises UserError where it is not such a file."""
    if not path.is_file():
        raise UserError(f"there is no file {path}; train one with: python train.py")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # foreign bytes raise any kind
        raise UserError(f"{path} is damaged, or not a file that torch.save wrote") from None
    if not isinstance(state, dict):
        raise UserError(f"{path} holds no weights of this project")
    return state


def build_model(weights: dict, path: Path) -> TextToImageModel:
    """A model with these weights, on the CPU; `path` is where they came from, for the message."""
    if "_extra_state" not in weights:
        raise UserError(f"{path} holds no weights of this project (no configuration in it)")
    model = TextToImageModel()
    try:
        model.load_state_dict(weights)
    except (RuntimeError, ValueError, TypeError, KeyError, AttributeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"{path} does not fit this version of the model: {reason}") from None
    return model


def load_model(path: Path) -> TextToImageModel:
    """The model of an exported file, or of a training checkpoint (the best of its EMA weights, else
    the last), for drawing."""
    state = load(path)
    weights = state["best"]["weights"] if state.get("best") else state.get("ema", state)
    return build_model(weights, path).eval()


def progress(path: Path) -> str:
    """How far the run of a training checkpoint is, for people; "" for an exported file."""
    state = load(path)
    if "images_seen" not in state:
        return ""
    seen, best = state["images_seen"], state.get("best") or {}
    at = f", the best after {best['images']:,}" if best.get("images", seen) < seen else ""
    return f" ({seen:,} of {state['config']['images']:,} images seen{at})"


def newest_checkpoint() -> Path | None:
    """The checkpoint of the run that was saved last, if there is any."""
    return max(RESULTS.glob("*/checkpoint.pth"), key=lambda p: p.stat().st_mtime, default=None)
