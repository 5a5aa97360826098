"""What does a run show while it trains? results/<run>/index.html, a page to open in a browser.

It is renewed with each sample sheet and needs no network; the sheets lie beside it, in samples/.
"""

import base64
import io
import json
import time
from collections.abc import Sequence
from dataclasses import fields
from html import escape
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from config import TrainConfig, default_of, name_of
from files import write_text
from reports.curves import Phases, as_svg, save_loss_curves, terms_of
from reports.event_files import EventFiles
from reports.forecast import Phase, duration

SHOWN = 128  # pixels, of larger images of a batch
MEANINGS = {
    "coarse_error": "how far drawings are from their images, both made small: falls in a good run, "
    "whatever losses begin to count",
    "regression_loss": "how far drawings are from their images",
    "energy_score": "how badly several drawings stand for an image held out: lower is better, and "
    "the weights with the lowest are kept",
    "swd_loss": "how far the textures of drawings are from real ones",
    "colour_loss": "how far the colours of drawings are from real ones",
    "kl_loss": "nats that latents tell of their images, paid for by a smaller regression loss",
    "prior_loss": "how surprised the prior is by latents, which it draws when there is no image",
    "completion_loss": "nats that the completer pays for a full caption",
    "text_dependence": "how much worse another caption's drawing is: at 1, captions are ignored",
    "own_nearest": "how often a drawing is nearest to its own image, of up to 100: chance is 0.01",
    "edge_energy": "edges of drawings / of images: below 1 is blurred, above is too sharp",
    "noise_dependence": "variation: the part of the drawings' variance that changes with the seed",
}


class Examples(NamedTuple):
    """Images of a batch as the model sees them, with their captions."""

    images: np.ndarray  # (B, 3, S, S) uint8
    captions: list[str]  # without the words that are hidden or unknown


class Report:
    """What a run leaves for people, renewed with each sample: loss.png, index.html, and, if asked,
    files for TensorBoard."""

    def __init__(self, folder: Path, config: TrainConfig, phases: Sequence[Phase], start: int):
        """start: images seen when this schedule began, 0 unless a finished run is trained on."""
        self.folder, self.config = folder, config
        self.phases = [(start, "trained on")] if start else marks_of(phases)
        self.event_files = EventFiles(folder / "tensorboard") if config.tensorboard else None

    def update(
        self,
        metrics: Sequence[dict],
        examples: Examples | None = None,
        seconds_left: float | None = None,
    ) -> None:
        """metrics: the lines of metrics.jsonl so far; seconds_left: None where nobody knows."""
        seen = max((m["images"] for m in metrics), default=0)
        # Those beyond are of a process that was killed before it saved.
        sheets = [path for path in sorted(self.folder.glob("samples/*.png"))
                  if path.stem.isdigit() and int(path.stem) <= seen]  # fmt: skip
        save_loss_curves(self.folder / "loss.png", metrics, self.phases, gap_of(self.config))
        page = page_of(self.folder.name, self.config, metrics, self.phases, sheets, examples,
                       seconds_left)  # fmt: skip
        write_text(self.folder / "index.html", page)
        if self.event_files:
            self.event_files.update(metrics, sheets)


def marks_of(phases: Sequence[Phase]) -> Phases:
    """(images seen, what begins there)."""
    return [(phase.first, label) for phase in phases[1:] for label in phase.begins]


def gap_of(config: TrainConfig) -> str:
    """Why training and validation differ in a good run."""
    if config.completer_only:
        return "The completer learns captions by heart where its loss rises in validation."
    if not config.has_latents:
        return ("Training and validation see the caption alone: where the loss of validation rises "
                "again, images are learnt by heart.")  # fmt: skip
    return ("A good run looks overfitted: once latents begin, training sees the latent of the very "
            "image, validation does not. Judge by the energy score.")  # fmt: skip


def advice(config: TrainConfig, phases: Phases, seen: int) -> list[str]:
    """What to look for, in the order in which it happens."""
    told = []
    for images, label in phases:
        at = f"At {images:,.0f} images ({images / config.images:.0%})"
        tense = "have begun" if seen >= images else "begin"
        if label.endswith("px"):
            grow = "became" if seen >= images else "become"
            told.append(f"{at} training images {grow} larger, {label}: before, drawings are small "
                        "and blurred, but learn content sooner.")  # fmt: skip
        elif label == "latents":
            told.append(f"{at} latents {tense}: what a caption leaves open comes from the seed. "
                        "From there on the regression loss of training falls and that of "
                        "validation may rise: look at the energy score.")  # fmt: skip
        elif label == "sharpness":
            told.append(f"{at} the losses of texture and colour {tense}: look at swd loss, edge "
                        "energy and the sheets.")  # fmt: skip
    if not config.completer_only:
        told += [
            "Sheets: drawings of captions trained on should get the subject right first. If only "
            "those held out stay blobs, more images help; if both do, a longer run.",
            "Text dependence near 1 for captions trained on, by the middle of the run: captions do "
            "not tell images apart.",
            "Own nearest high in training and low in validation: images are learnt by heart.",
        ]
    return told + [gap_of(config)]


def page_of(
    name: str,
    config: TrainConfig,
    metrics: Sequence[dict],
    phases: Phases,
    sheets: Sequence[Path],
    examples: Examples | None,
    seconds_left: float | None,
) -> str:
    """The page, HTML."""
    seen = max((m["images"] for m in metrics), default=0)
    sections = [
        head(name, config, metrics, seen, seconds_left),
        section("Drawings over time", slider(sheets)),
        section("Curves", curves(metrics, phases)),
        section("What to look for", listed(advice(config, phases, seen))),
        section("What the model sees", batch(examples)),
        section("Settings", settings(config)),
    ]
    title = escape(f"{name}: {seen / config.images:.0%}")
    before, after = TEMPLATE.split("BODY")
    return before.replace("TITLE", title) + "\n".join(filter(None, sections)) + after


def head(
    name: str, config: TrainConfig, metrics: Sequence[dict], seen: int, seconds_left: float | None
) -> str:
    seconds = max((m.get("seconds", 0) for m in metrics), default=0)
    told = [f"{seen:,} of {config.images:,} images"]
    if seconds:
        told.append(f"{duration(seconds)} of training")
    if seen >= config.images:
        told.append("finished")
    elif seconds_left is not None:
        told.append(f"about {duration(seconds_left)} left")
    last = {m["split"]: m for m in metrics if m["images"] == seen}
    speed = last.get("train", {}).get("images_per_second")
    if speed:
        told.append(f"{speed:.0f} images a second")
    told.append(f"written {time.strftime('%Y-%m-%d %H:%M')}; reload for a newer one"
                * (seen < config.images))  # fmt: skip
    told = escape(" · ".join(filter(None, told)))
    return (f"<h1>{escape(name)}</h1><progress max='{config.images}' value='{seen}' "
            f"aria-label='how far the run is'></progress><p>{told}</p>")  # fmt: skip


def section(title: str, content: str) -> str:
    return f"<section><h2>{title}</h2>{content}</section>" if content else ""


def listed(sentences: Sequence[str]) -> str:
    return "<ul>" + "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences) + "</ul>"


def slider(sheets: Sequence[Path]) -> str:
    """The sheets, one at a time."""
    if not sheets:
        return ""
    several = [[f"samples/{sheet.name}", f"{int(sheet.stem):,} images seen"] for sheet in sheets]
    last, told = several[-1]
    links = " ".join(f'<a href="{path}">{text.split()[0]}</a>' for path, text in several)
    return (
        f'<label>After <output id="when">{told}</output> <input type="range" id="sheet" min="0" '
        f'max="{len(several) - 1}" value="{len(several) - 1}"></label>'
        f'<a id="whole" href="{last}"><img id="shown" src="{last}" '
        f'alt="Real images, and below them drawings of their captions, after {told}"></a>'
        f"<details><summary>All sheets</summary>{links}</details>"
        f"<script>const SHEETS = {json.dumps(several)};{SCRIPT}</script>"
    )


def curves(metrics: Sequence[dict], phases: Phases) -> str:
    """A panel for each term, and what it means."""
    panels = [f"<figure>{as_svg(metrics, term, phases)}<figcaption>"
              f"{escape(MEANINGS.get(term, ''))}</figcaption></figure>"
              for term in terms_of(metrics)]  # fmt: skip
    key = ('<p><b class="train">training</b> <b class="validation">validation</b>, over the images '
           "seen</p>")  # fmt: skip
    return f'{key}<div class="panels">{"".join(panels)}</div>' if panels else ""


def batch(examples: Examples | None) -> str:
    """Images of a batch with their captions."""
    if examples is None:
        return ""
    size = examples.images.shape[3]
    told = (f"Images of the newest batch as it was trained on, at {size} px and some varied a "
            "little, and captions after some of their words were hidden; "
            "&lt;unk&gt; is such a word, or one that is too rare to learn.")  # fmt: skip
    shown = [f'<figure><img src="{as_data(image)}" alt="{escape(caption) or "no caption"}">'
             f"<figcaption>{escape(caption) or '<i>no caption</i>'}</figcaption></figure>"
             for image, caption in zip(*examples, strict=True)]  # fmt: skip
    return f'<p>{told}</p><div class="batch">{"".join(shown)}</div>'


def as_data(image: np.ndarray) -> str:
    """(3, S, S) uint8 -> a data URI, of at most SHOWN pixels."""
    picture = Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0)))
    picture.thumbnail((SHOWN, SHOWN))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def settings(config: TrainConfig) -> str:
    """Those that are not the default, and then the others."""
    changed, others = [], []
    for f in fields(config):
        value, default = getattr(config, f.name), default_of(f)
        texts = (name_of(f), value, default, f.metadata["help"])
        row = "".join(f"<td>{escape('none' if t in ('', []) and i else str(t))}</td>"
                      for i, t in enumerate(texts[:3]))  # fmt: skip
        row += f"<td>{escape(texts[3])}</td>"
        (others if value == default else changed).append(f"<tr>{row}</tr>")
    first = "<tr><th>setting</th><th>value</th><th>default</th><th></th></tr>"
    return (f"<p>Not the default, or decided by the collection:</p><table>{first}{''.join(changed)}"
            f"</table><details><summary>The others</summary><table>{first}{''.join(others)}</table>"
            "</details>")  # fmt: skip


SCRIPT = """
const at = id => document.getElementById(id);
at("sheet").oninput = event => {
  const [path, told] = SHEETS[event.target.value];
  at("shown").src = at("whole").href = path;
  at("shown").alt = "Real images, and below them drawings of their captions, after " + told;
  at("when").textContent = told;
};
"""

TEMPLATE = """<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>TITLE</title>
<style>
:root { color-scheme: light dark; --text: #222; --dim: #666; --back: #fff; --line: #ddd;
  --train: #1f77b4; --validation: #d95f02; }
@media (prefers-color-scheme: dark) {
  :root { --text: #ddd; --dim: #999; --back: #181818; --line: #383838;
    --train: #6cb6f0; --validation: #ffa04d; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--text); background: var(--back);
  max-width: 1100px; margin: 0 auto; padding: 1rem; overflow-wrap: anywhere; }
h1, h2 { line-height: 1.2; } h2 { margin-top: 2.5rem; font-size: 1.2rem; }
a { color: var(--train); }
progress, input[type=range] { width: 100%; accent-color: var(--train); }
img { max-width: 100%; height: auto; } #whole { display: block; overflow-x: auto; }
#shown { width: 100%; min-width: 700px; background: #fff; }
figure { margin: 0; } figcaption { font-size: .8rem; line-height: 1.35; color: var(--dim); }
.panels { display: grid; grid-template-columns: repeat(auto-fill, minmax(250px, 1fr));
  gap: 1.5rem 1rem; }
.batch { display: grid; grid-template-columns: repeat(auto-fill, minmax(110px, 1fr)); gap: 1rem; }
.batch img { width: 100%; image-rendering: pixelated; }
.batch figcaption { max-height: 10em; overflow-y: auto; }
svg { width: 100%; display: block; font-size: 10px; }
polyline { fill: none; stroke: var(--line); }
polyline.train { stroke: var(--train); stroke-width: 1.5; }
polyline.validation { stroke: var(--validation); stroke-width: 1.5; }
polyline.frame, polyline.phase { stroke: var(--dim); stroke-width: .7; }
polyline.phase { stroke-dasharray: 2 2; }
text { fill: var(--dim); } text.title { fill: var(--text); font-size: 12px; }
b.train { color: var(--train); } b.validation { color: var(--validation); margin-left: .7rem; }
table { border-collapse: collapse; width: 100%; font-size: .85rem; }
th, td { text-align: left; vertical-align: top; padding: .25rem .6rem .25rem 0;
  border-bottom: 1px solid var(--line); }
</style>
<body>
BODY
</body>
</html>
"""
