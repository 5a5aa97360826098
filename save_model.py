"""How do I keep a trained model? As one small file with all that drawing needs, and no more.

python save_model.py                       the newest run -> results_short/text_to_image_model.pth
python save_model.py --run birds --output birds.pth
python save_model.py --run birds --output birds --format safetensors
"""

from pathlib import Path

import torch

import checkpoint
from config import RESULTS, SHIPPED_WEIGHTS, SaveConfig, UserError, run
from files import previous
from model import TextToImageModel
from tokenizer import SPECIAL_TOKENS

CHOOSE = ("completer.", "prior.")


def halve_if_equal(model: TextToImageModel) -> dict:
    """The state_dict in half precision if images stay the same to 1/255, by the root of the mean
    square (a few pixels of edges may change more), else as it is. Weights of the completer and the
    prior stay: rounded, they would now and then choose other words and latents."""
    state = model.state_dict()
    halved = {n: v.half() if isinstance(v, torch.Tensor) and not n.startswith(CHOOSE) else v
              for n, v in state.items()}  # fmt: skip
    other = TextToImageModel()
    other.load_state_dict(halved)
    words = model.tokenizer.vocabulary[len(SPECIAL_TOKENS) :]
    step = len(words) // 31 + 1
    prompts = [""] + [" ".join(words[i : i + 5]) for i in range(0, len(words), step)]
    seeds = range(len(prompts))
    difference = (model.draw(prompts, seeds) - other.draw(prompts, seeds)) / 2  # of 0..1
    return halved if difference.square().mean().sqrt() <= 1 / 255 else state


def main(config: SaveConfig) -> Path:
    """Export the averaged weights, configuration and vocabulary; returns the file.

    Raises UserError where there is no run, or where --force is needed.
    """
    source = checkpoint.newest_run() or checkpoint.newest_run(smoke=True)
    if config.run:
        source = RESULTS / config.run / "checkpoint.pth"
    if source is None:
        raise UserError("there is no run in results/; train one with: python train.py")
    output = Path(config.output)
    if config.format == "safetensors":
        output = output.with_name(output.name.removesuffix(".pth") + ".safetensors")
    if output.is_dir():
        raise UserError(f"{output} is a folder; --output takes the name of a file")
    trained = checkpoint.load(source)
    model = checkpoint.model_of(trained, source)
    if model.halvings:
        raise UserError(f"{source} has learnt from small images only; train on, then export it")
    progress = checkpoint.progress_line(trained)
    unfinished = "images_seen" in trained and trained["images_seen"] < trained["config"]["images"]
    if not config.force and (unfinished or checkpoint.is_smoke(source.parent)):
        kind = "not finished" if unfinished else "a smoke run, which draws blurs"
        told = f"{source}{progress} is {kind}; --force exports it all the same, --run NAME another"
        raise UserError(told)
    state = halve_if_equal(model)
    output.parent.mkdir(parents=True, exist_ok=True)
    replaces = output.exists()
    checkpoint.save(state, output)
    precision = str(state["to_layers.weight"].dtype).removeprefix("torch.")
    about = f"{output.stat().st_size / 1e6:.1f} MB, {precision}"
    print(f"{source}{progress} -> {output} ({about})")
    if replaces:
        print(f"replaced what was there, which is now {previous(output)}")
    if output.resolve() == SHIPPED_WEIGHTS:
        file = SHIPPED_WEIGHTS.relative_to(SHIPPED_WEIGHTS.parent.parent)
        print(f"to get the shipped weights back: git checkout -- {file}")
    return output


if __name__ == "__main__":
    run(main, SaveConfig, __doc__)
