"""Draw without torch: onnxruntime, numpy and pillow are enough.

    python save_model.py --run scenes --output scenes --format onnx
    python examples/onnx_draw.py scenes_onnx "a red circle" --seed 3 --output circle.png

To put it elsewhere, take that folder, this file and tokenizer.py, which needs Python alone. The
image is that of generate.py with the same prompt and seed, but for rounding.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent.parent))

from tokenizer import PAD, START, Tokenizer, text_of


class Model:
    """What save_model.py --format onnx wrote to a folder."""

    def __init__(self, folder: Path):
        self.about = json.loads((folder / "model.json").read_text())
        self.tokenizer = Tokenizer(self.about["vocabulary"])
        names = [path.stem for path in folder.glob("*.onnx")]
        cpu = ["CPUExecutionProvider"]
        self.graphs = {name: onnxruntime.InferenceSession(folder / f"{name}.onnx", providers=cpu)
                       for name in names}  # fmt: skip

    def run(self, name: str, **inputs: np.ndarray) -> list[np.ndarray]:
        return self.graphs[name].run(None, inputs)

    def tokenize(self, caption: str) -> np.ndarray:
        """Caption -> tokens (1, max_tokens), padded at the end."""
        ids = self.tokenizer.encode(caption, self.about["max_tokens"])
        ids += [PAD] * (self.about["max_tokens"] - len(ids))
        return np.array([ids], dtype=np.int64)

    def complete(self, prompt: str, uniforms: np.ndarray) -> str:
        """Write out what the prompt leaves open: each of the uniforms (T,) chooses a word."""
        if "write" not in self.graphs:
            return prompt
        tokens = self.tokenize(prompt)
        if not self.tokenizer.decode(tokens[0]).replace("<unk>", "").strip():
            tokens[:, 1:] = PAD  # no word is known: any caption
        words, keys_values, hidden, cell = self.run("read", tokens=tokens)
        past, word, written = np.zeros(self.about["past_shape"], np.float32), START, []
        for number, uniform in enumerate(uniforms):
            now = {"word": np.array([word], np.int64), "number": np.array(number, np.int64)}
            odds, hidden, cell, past = self.run(
                "write", tokens=tokens, words=words, keys_values=keys_values, hidden=hidden,
                cell=cell, past=past, **now
            )  # fmt: skip
            odds = odds[0]
            odds[self.about["never_written"]] = 0
            if not written:
                odds[self.about["end"]] = 0
            odds /= odds.max()
            up_to = np.where(odds > self.about["min_share"], odds, 0).cumsum(dtype=np.float32)
            word = min(int((up_to <= uniform * up_to[-1]).sum()), len(odds) - 1)
            if word == self.about["end"]:
                break
            written.append(word)
        return text_of([self.about["vocabulary"][i] for i in written])

    def draw(self, caption: str, uniforms: np.ndarray) -> np.ndarray:
        """The image (H, W, 3) uint8 of a caption as it stands; uniforms (Z,) choose the latent."""
        (image,) = self.run("draw", tokens=self.tokenize(caption), uniforms=uniforms[None])
        return image

    def chance(self, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """The uniforms of a seed: for the latent, and for the words; the same as torch draws."""
        num, more = self.about["noise_dim"], self.about["max_tokens"] - 1
        raw = np.random.RandomState(seed).randint(0, 2**32, num + more, dtype=np.uint32)
        uniforms = ((raw & 0xFFFFFF) / 2**24).astype(np.float32)  # 24 bits, as a float32 has
        return (uniforms[:num] if num else np.zeros(1, np.float32)), uniforms[num:]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="what save_model.py --format onnx wrote")
    parser.add_argument("prompt")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--as-typed", action="store_true", help="draw the prompt as it stands")
    parser.add_argument("--output", default="drawing.png")
    args = parser.parse_args()
    model = Model(args.folder)
    of_latent, of_words = model.chance(args.seed)
    caption = args.prompt if args.as_typed else model.complete(args.prompt, of_words)
    Image.fromarray(model.draw(caption, of_latent)).save(args.output)
    print(f"{args.prompt!r} -> {caption!r}: {args.output}")


if __name__ == "__main__":
    main()
