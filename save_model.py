"""How do I keep a trained model? As one small file with all that drawing needs, and no more.

python save_model.py                       the newest run -> results_short/text_to_image_model.pth
python save_model.py --run birds --output birds.pth
"""

from dataclasses import dataclass
from pathlib import Path

import torch

import checkpoint
from command_line import UserError, run, setting
from model import TextToImageModel


@dataclass(frozen=True)
class SaveConfig:
    run: str = setting("", "name of a folder in results/; none: the newest run")
    output: str = setting(str(checkpoint.SHIPPED_WEIGHTS), "file to write")


def halve_if_equal(model: TextToImageModel) -> tuple[dict, bool]:
    """The state_dict in half precision if pictures stay the same to 1/255, else as it is."""
    state = model.state_dict()
    halved = {n: v.half() if isinstance(v, torch.Tensor) else v for n, v in state.items()}
    other = TextToImageModel()
    other.load_state_dict(halved)
    words = model.tokenizer.vocabulary
    prompts = [""] + [
        " ".join(words[i : i + 5]) for i in range(3, len(words), max(1, len(words) // 31))
    ]
    seeds = list(range(len(prompts)))
    difference = (model.draw(prompts, seeds) - other.draw(prompts, seeds)).abs().max() / 2
    return (halved, True) if difference <= 1 / 255 else (state, False)


def main(config: SaveConfig) -> Path:
    """Export the averaged weights, configuration and vocabulary; returns the file."""
    source = checkpoint.newest_checkpoint()
    if config.run:
        source = checkpoint.RESULTS / config.run / "checkpoint.pth"
    if source is None:
        raise UserError("there is no run in results/; train one with: python train.py")
    model = checkpoint.load_model(source)
    state, halved = halve_if_equal(model)
    output = Path(config.output)
    output.parent.mkdir(parents=True, exist_ok=True)
    if output.exists():
        output.replace(output.with_suffix(".previous.pth"))
    checkpoint.save(state, output)
    size = output.stat().st_size / 1e6
    print(f"{source} -> {output} ({size:.1f} MB, {'half' if halved else 'full'} precision)")
    return output


if __name__ == "__main__":
    run(main, SaveConfig, __doc__)
