"""How do I keep a trained model? As one small file with all that drawing needs, and no more.

python save_model.py                       the newest run -> results_short/text_to_image_model.pth
python save_model.py --run birds --output birds.pth
python save_model.py --run birds --output birds --format safetensors
python save_model.py --run birds --output birds --format onnx    for examples/onnx_draw.py
python save_model.py --run results_short/text_to_image_model.pth --output scenes --format onnx
"""

import json
import logging
import os
import shutil
import warnings
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import checkpoint
from completion import END, MIN_SHARE, Completer, Reading, heads
from config import COMPLETER_HEADS, RESULTS, SHIPPED_WEIGHTS, SaveConfig, UserError, run
from files import previous, write_text, write_whole
from model import TextToImageModel, to_uint8
from reports.model_card import model_card
from tokenizer import PAD, SPECIAL_TOKENS, START, UNKNOWN

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


class Drawer(nn.Module):
    """One image (H, W, 3) uint8 of tokens (1, max_tokens) and uniforms (1, Z), one of them unused
    where there is no latent."""

    def __init__(self, model: TextToImageModel):
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor, uniforms: Tensor) -> Tensor:
        images = self.model(tokens, uniforms[:, : self.model.config.noise_dim])
        return to_uint8(images)[0].permute(1, 2, 0)


class Reader(nn.Module):
    """What the completer makes of one prompt (1, L): words, keys and values, hidden, cell."""

    def __init__(self, completer: Completer):
        super().__init__()
        self.completer = completer

    def forward(self, tokens: Tensor) -> tuple[Tensor, ...]:
        reading = self.completer.read(tokens)
        return reading.words, reading.keys_values, *reading.state


class Writer(nn.Module):
    """One step of the completer, after a word (1,): probabilities of the next one (1, V), and what
    the step after it needs. past (2, 1, N, T, D/N) has room for a whole caption; number (), how
    many words are in it."""

    def __init__(self, completer: Completer):
        super().__init__()
        self.completer = completer

    def forward(
        self,
        tokens: Tensor,
        words: Tensor,
        keys_values: Tensor,
        word: Tensor,
        hidden: Tensor,
        cell: Tensor,
        past: Tensor,
        number: Tensor,
    ) -> tuple[Tensor, ...]:
        completer, places = self.completer, torch.arange(past.shape[3])
        weights = list(completer.writer.parameters())
        hidden, cell = torch.lstm_cell(completer.embed(word), (hidden, cell), *weights)
        now = heads(completer.query_key_value(hidden[:, None]), 3, COMPLETER_HEADS)
        past = torch.where((places == number)[:, None], now[1:], past)
        seen = (places <= number)[None, None, None]  # (1, 1, 1, T)
        related = F.scaled_dot_product_attention(now[0], *past, seen)
        reading = Reading(tokens, tokens != PAD, words, keys_values, (hidden, cell))
        return completer.odds(hidden, related, reading), hidden, cell, past


def write_onnx(model: TextToImageModel, folder: Path) -> None:
    """draw.onnx, where there is a completer its read.onnx and write.onnx, and model.json with the
    vocabulary and sizes. Raises UserError where the folder exists or a package is missing."""
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError("for ONNX, two packages: pip install onnx onnxscript") from error
    if folder.exists():
        raise UserError(f"{folder} exists already; remove it, or choose another --output")
    config, completer = model.config, model.completer
    tokens = torch.tensor([[START] + [PAD] * (config.max_tokens - 1)])
    uniforms = torch.full((1, max(1, config.noise_dim)), 0.5)
    graphs = {"draw": (Drawer(model), {"tokens": tokens, "uniforms": uniforms}, ["image"])}
    about = {"image_size": config.image_size, "max_tokens": config.max_tokens,
             "noise_dim": config.noise_dim, "vocabulary": model.tokenizer.vocabulary,
             "min_share": MIN_SHARE, "never_written": [PAD, UNKNOWN], "end": END}  # fmt: skip
    if completer:
        reader, writer = Reader(completer), Writer(completer)
        words, keys_values, hidden, cell = reader(tokens)
        shape = (2, 1, COMPLETER_HEADS, config.max_tokens, keys_values.shape[4])
        named = {"tokens": tokens, "words": words, "keys_values": keys_values,
                 "word": tokens[:, 0], "hidden": hidden, "cell": cell,
                 "past": torch.zeros(shape), "number": torch.tensor(0)}  # fmt: skip
        graphs["read"] = (reader, {"tokens": tokens}, ["words", "keys_values", "hidden", "cell"])
        graphs["write"] = (writer, named, ["odds", "next_hidden", "next_cell", "next_past"])
        about["past_shape"] = list(shape)
    print("this takes a minute or two")
    unfinished = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    logging.disable(logging.WARNING)  # of packages that are not there, and not needed
    try:
        for name, (module, named, outputs) in graphs.items():
            with warnings.catch_warnings(), torch.no_grad():
                warnings.simplefilter("ignore")
                torch.onnx.export(
                    module.eval(), tuple(named.values()), unfinished / f"{name}.onnx",
                    input_names=list(named), output_names=outputs, dynamo=True,
                    external_data=False, verbose=False
                )  # fmt: skip
        write_text(unfinished / "model.json", json.dumps(about, indent=1) + "\n")
        os.replace(unfinished, folder)
    finally:
        logging.disable(logging.NOTSET)
        shutil.rmtree(unfinished, ignore_errors=True)


def write_card(
    path: Path, output: Path, model: TextToImageModel, source: Path, state: dict
) -> None:
    """The model card of an export."""
    config, seen = model.config, state.get("images_seen", 0)
    best = state.get("best", {}).get("images", seen)
    facts = {
        "Draws": f"images of {config.image_size} px from captions",
        "Parameters": f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M",
        "Completes prompts": "yes" if model.completer else "no",
        "Seeds vary": "words and latents" if config.noise_dim else "words alone",
        "Learnt from": f"{seen:,} images seen"
        + f", the best weights after {best:,}" * (best < seen),
    }
    settings = state.get("config", {})
    scenes = bool(settings) and not settings["data"] and not settings["init_from"]
    words = model.tokenizer.vocabulary[len(SPECIAL_TOKENS) :]
    record = checkpoint.read_record(source.parent)
    metrics = state.get("metrics", [])
    card = model_card(output.stem, str(output), facts, words, metrics, best, record, scenes)
    write_whole(path, lambda file: file.write(card.encode()), keep_previous=True)
    licence = "" if scenes else "; the licence of the data is yours to fill in"
    print(f"for whoever gets it: {path}{licence}")


def main(config: SaveConfig) -> Path:
    """Export the averaged weights, configuration and vocabulary, and a model card beside them;
    returns the file.

    Raises UserError where there is no run, or where --force is needed.
    """
    source = checkpoint.newest_run() or checkpoint.newest_run(smoke=True)
    if config.run:
        file = Path(config.run)
        source = file if file.is_file() else RESULTS / config.run / "checkpoint.pth"
    if source is None:
        raise UserError("there is no run in results/; train one with: python train.py")
    output = Path(config.output)
    if config.format == "safetensors":
        output = output.with_name(output.name.removesuffix(".pth") + ".safetensors")
    if config.format == "onnx":
        output = output.with_name(output.stem + "_onnx")
    elif output.is_dir():
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
    if config.format == "onnx":
        write_onnx(model, output)
        write_card(output / "MODEL_CARD.md", output, model, source, trained)
        print(f"{source}{progress} -> {output}; to draw: python examples/onnx_draw.py {output} ...")
        return output
    state = halve_if_equal(model)
    output.parent.mkdir(parents=True, exist_ok=True)
    replaces = output.exists()
    checkpoint.save(state, output)
    precision = str(state["to_layers.weight"].dtype).removeprefix("torch.")
    about = f"{output.stat().st_size / 1e6:.1f} MB, {precision}"
    print(f"{source}{progress} -> {output} ({about})")
    card = output.with_name(f"{output.stem}.MODEL_CARD.md")
    write_card(card, output, model, source, trained)
    if replaces:
        print(f"replaced what was there, which is now {previous(output)}")
    if output.resolve() == SHIPPED_WEIGHTS:
        files = " ".join(f"{f.parent.name}/{f.name}" for f in (SHIPPED_WEIGHTS, card))
        print(f"to get the shipped weights back: git checkout -- {files}")
    return output


if __name__ == "__main__":
    run(main, SaveConfig, __doc__)
