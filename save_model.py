"""How do I keep a trained model? As one small file with all that drawing needs, and no more.

python save_model.py                       the newest run -> results_short/text_to_image_model.pth
python save_model.py --run birds --output birds.pth
"""

from dataclasses import dataclass
from pathlib import Path

import torch

import checkpoint
from command_line import UserError, run, setting
from files import previous
from model import TextToImageModel
from tokenizer import SPECIAL_TOKENS


@dataclass(frozen=True)
class SaveConfig:
    run: str = setting("", "name of a folder in results/; none: the newest run")
    output: str = setting(str(checkpoint.SHIPPED_WEIGHTS), "file to write")


def halve_if_equal(model: TextToImageModel) -> dict:
    """The state_dict in half precision if pictures stay the same to 1/255, else as it is."""
    state = model.state_dict()
    halved = {n: v.half() if isinstance(v, torch.Tensor) else v for n, v in state.items()}
    other = TextToImageModel()
    other.load_state_dict(halved)
    words = model.tokenizer.vocabulary[len(SPECIAL_TOKENS) :]
    step = len(words) // 31 + 1
    prompts = [""] + [" ".join(words[i : i + 5]) for i in range(0, len(words), step)]
    seeds = range(len(prompts))
    difference = (model.draw(prompts, seeds) - other.draw(prompts, seeds)).abs().max() / 2
    return halved if difference <= 1 / 255 else state


def main(config: SaveConfig) -> Path:
    """Export the averaged weights, configuration and vocabulary; returns the file."""
    source = checkpoint.newest_checkpoint()
    if config.run:
        source = checkpoint.RESULTS / config.run / "checkpoint.pth"
    if source is None:
        raise UserError("there is no run in results/; train one with: python train.py")
    output = Path(config.output)
    if output.is_dir():
        raise UserError(f"{output} is a folder; --output takes the name of a file")
    trained = checkpoint.load(source)
    state = halve_if_equal(checkpoint.model_of(trained, source))
    output.parent.mkdir(parents=True, exist_ok=True)
    replaces = output.exists()
    checkpoint.save(state, output)
    precision = str(state["to_layers.weight"].dtype).removeprefix("torch.")
    about = f"{output.stat().st_size / 1e6:.1f} MB, {precision}"
    print(f"{source}{checkpoint.progress(trained)} -> {output} ({about})")
    if replaces:
        print(f"the weights that were there before: {previous(output)}")
    return output


if __name__ == "__main__":
    run(main, SaveConfig, __doc__)
