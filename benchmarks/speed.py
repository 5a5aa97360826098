"""How fast is it, what share of the machine's best does it reach, and what do others take?

    python benchmarks/speed.py              some 10 minutes on 2 CPU cores, when nothing else runs
    python benchmarks/speed.py --quick      a minute, to see that it works

Medians of interleaved repeats. Writes results_short/speed.json and speed.png, and prints the table.
Floating-point operations are counted as two for each multiplication and its addition. "Peak" is the
best that a large product of matrices or a convolution of the decoder by itself reaches here, in
the precision of training.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor, nn
from torch.utils.flop_counter import (
    FlopCounterMode,
    sdpa_backward_flop_count,
    sdpa_flop_count,
)
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).parent.parent))

import checkpoint
import learning
import scenes
from benchmarks.rivals import RIVALS
from checkpoint import Progress
from config import RESULTS, TrainConfig, choose_device, choose_precision, provenance
from dataset import Batch, CaptionedImages, Given, generator_for, given_at
from latents import bin_odds, cross_entropy
from losses import colour_loss, draw_filters, regression_loss, sliced_wasserstein_loss
from model import composite, from_uint8
from processes import Processes

ROOT = Path(__file__).parent.parent
RECORD = ROOT / "results_short" / "speed.json"
SIZES = (32, 64, 128)  # pixels, at which training is timed
PICTURES = 64  # drawn by one call
SCENES = 512  # that are trained on; what they show does not matter
PROMPT = "a red circle"
PHASES = {  # name -> where in a run it is
    "a quarter of the size": 0.1,
    "half of the size": 0.3,
    "full size": 0.42,
    "and latents": 0.5,
    "and sharpness": 0.8,
}
START = """
import time; began = time.perf_counter()
import torch; torch_there = time.perf_counter()
import generate; imported = time.perf_counter()
model = generate.checkpoint.load_model(generate.checkpoint.SHIPPED_WEIGHTS)
loaded = time.perf_counter()
model.generate("a red circle")
print(torch_there - began, imported - torch_there, loaded - imported, time.perf_counter() - loaded)
"""


def wait(device: torch.device) -> None:
    """Until the device has done what it was asked to."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def medians(
    what: dict[str, Callable[[], object]], repeats: int, device: torch.device
) -> dict[str, float]:
    """Milliseconds of each, all called in turn `repeats` times after a first time."""
    times: dict[str, list[float]] = {name: [] for name in what}
    for i in range(repeats + 1):
        for name, function in what.items():
            wait(device)
            began = time.perf_counter()
            function()
            wait(device)
            if i:
                times[name].append(1000 * (time.perf_counter() - began))
    return {name: statistics.median(found) for name, found in times.items()}


def lstm_operations(x: tuple, w: tuple, hidden: tuple, *_: object, **__: object) -> int:
    """Of one layer of an LSTM: x (L, B, D), weights w (4H, D) and hidden (4H, H)."""
    return 2 * x[0] * x[1] * w[0] * (w[1] + hidden[1])


def operations(function: Callable[[], object]) -> float:
    """Billions of floating-point operations of one call. Torch's counter leaves out LSTMs and
    attention on CPUs, which are counted here, and LSTMs on GPUs."""
    ops = torch.ops.aten
    attention = ops._scaled_dot_product_flash_attention_for_cpu
    known = {
        ops.mkldnn_rnn_layer: lstm_operations,
        ops.mkldnn_rnn_layer_backward: lambda *shapes, **_: 2 * lstm_operations(*shapes),
        attention: lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v),
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward:
            lambda g, q, k, v, *_, **__: sdpa_backward_flop_count(g, q, k, v),
    }  # fmt: skip
    with FlopCounterMode(display=False, custom_mapping=known) as counter:
        function()
    return counter.get_total_flops() / 1e9


def backward(function: Callable[[], object]) -> Callable[[], None]:
    """A call of it, and the gradients of all that it returns."""

    def call() -> None:
        found = function()
        found = found if isinstance(found, (tuple, list)) else [found]
        found = [x for x in found if isinstance(x, Tensor) and x.requires_grad]
        torch.autograd.backward(found, [torch.ones_like(x) for x in found])

    return call


def painted(folder: Path, num: int, size: int) -> CaptionedImages:
    """Scenes as a collection of their own, with its cache beside them."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for i in range(num):
        Image.fromarray(scenes.render(0, i, "train", size)[0]).save(folder / f"{i:06d}.png")
        captions = list(scenes.compose(0, i, "train")[1])
        lines.append(json.dumps({"file_name": f"{i:06d}.png", "text": captions}))
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    return CaptionedImages(folder, image_size=size, validation_fraction=0.0,
                           cache_dir=folder.with_name("cache"), show_progress=False)  # fmt: skip


class Run:
    """What a run with these settings has in memory."""

    def __init__(
        self,
        config: TrainConfig,
        captions: list[str],
        device: torch.device,
        images: Tensor | None = None,
    ):
        self.config = replace(config, images=config.images or 80_000, latents="on",
                              pairs="captions", min_count=1)  # fmt: skip
        state = checkpoint.new_state(self.config, {}, captions)
        made = checkpoint.networks_of(state, Path("new"), self.config, device)
        self.networks, self.optimizers = made
        self.captions, self.device, self.images = captions, device, images

    def clock(self, place: float) -> learning.Clock:
        """Of the step at this fraction of the run."""
        progress = Progress(images_seen=int(place * self.config.images), halvings=8)
        return learning.clock_at(self.config, progress)

    def given(self) -> Given:
        """What a step learns from; where there are no images, noise."""
        model, num = self.networks.model, self.config.batch_size
        rng = generator_for(0, 0, 0)
        images = torch.rand(num, 3, *2 * [self.config.image_size], generator=rng) * 2 - 1
        if self.images is not None:
            images = from_uint8(self.images[:num])
        captions = [self.captions[i % len(self.captions)] for i in range(3 * num)]
        changes = torch.zeros(num, model.config.augmentation_dim)
        noise = torch.randn(num, model.config.noise_dim, generator=rng)
        tokens = model.tokenize(captions)
        batch = Batch(*(x.to(self.device) for x in
                        (images, tokens[:num], noise, changes, draw_filters(rng))))  # fmt: skip
        pairs = None
        if model.completer:
            prompts = model.tokenize([" ".join(c.split()[:3]) for c in captions[num:]])
            pairs = prompts, model.tokenize(captions[num:])
        return Given(num, batch, pairs)

    def step(self, given: Given, place: float) -> dict[str, Tensor]:
        clock = self.clock(place)._replace(lr=0.0, steady_lr=0.0)  # what is timed stays as it is
        return learning.learn(
            given, self.networks, self.optimizers, self.config, clock, Processes()
        )


def parts_of(run: Run, given: Given, place: float) -> dict[str, Callable[[], object]]:
    """What a step consists of, each by itself: forward and, but for the mean drawing, backward."""
    (model, ema, posterior), batch, clock = run.networks, given.batch, run.clock(place)
    model.halvings = ema.halvings = clock.halvings
    real = F.avg_pool2d(batch.images, 2**clock.halvings)
    fast = choose_precision(run.config.precision, run.device) == torch.bfloat16
    lower = partial(torch.autocast, run.device.type, torch.bfloat16, enabled=fast)

    def under_autocast(function: Callable, *arguments: object) -> Callable[[], object]:
        def call() -> object:
            with lower():
                return function(*arguments)

        return call

    with torch.no_grad():
        text = model.encode(batch.tokens)
        layers = under_autocast(model.decode, text, batch.noise, batch.augmentation)()[0]
    layers.requires_grad_()
    drawn = composite(layers, 2.0).detach().requires_grad_()
    decode = under_autocast(model.decode, text, batch.noise, batch.augmentation)
    parts = {
        "text encoder": backward(under_autocast(lambda: model.encode(batch.tokens).pooled)),
        "decoder": backward(lambda: decode()[0]),
        "composite": backward(lambda: composite(layers, 2.0)),
        "regression": backward(lambda: regression_loss(drawn, real)),
    }
    if clock.latent:
        mean_drawing = ema.predict_mean(batch.tokens, batch.augmentation)
        with torch.no_grad():
            mean, log_std = under_autocast(posterior, real, mean_drawing)()
        odds = bin_odds(mean, log_std)
        tell = under_autocast(model.prior, batch.tokens, batch.noise)
        parts |= {
            "mean drawing": under_autocast(ema.predict_mean, batch.tokens, batch.augmentation),
            "posterior": backward(under_autocast(posterior, real, mean_drawing)),
            "prior": backward(lambda: cross_entropy(odds, tell().float())),
        }
    if clock.swd:

        def sharpness() -> Tensor:
            loss = sliced_wasserstein_loss(drawn, real, batch.filters)
            return loss + colour_loss(drawn, real)

        parts["sharpness"] = backward(sharpness)
    if given.pairs:
        parts["completer"] = backward(lambda: model.completer.loss(*given.pairs))
    run.step(given, place)  # gives every weight a gradient

    def update() -> None:
        for weights in learning.clipped_together(run.optimizers):
            nn.utils.clip_grad_norm_(weights, 1.0)
        for optimizer in run.optimizers:
            optimizer.step()
        learning.update_ema(ema, model, 0.0)

    return parts | {"Muon, AdamW, averages": update}


def peak(run: Run, given: Given, repeats: int) -> dict:
    """What the machine reaches at best in a large product of matrices and in the decoder's
    convolutions, one by one, forward, in the precision of training: billions of operations a
    second."""
    model = run.networks.model
    large = torch.randn(2_048, 2_048, device=run.device)
    convs: dict[str, Callable] = {"product of matrices": partial(torch.mm, large, large)}

    def keep(name: str, conv: nn.Conv2d, inputs: tuple, _: object) -> None:
        convs[name] = partial(conv, inputs[0])

    hooks = [m.register_forward_hook(partial(keep, name)) for name, m in model.named_modules()
             if isinstance(m, nn.Conv2d)]  # fmt: skip
    model.halvings = 0
    fast = choose_precision(run.config.precision, run.device) == torch.bfloat16
    with torch.no_grad(), torch.autocast(run.device.type, torch.bfloat16, enabled=fast):
        model.decode(model.encode(given.batch.tokens), given.batch.noise)
        for hook in hooks:
            hook.remove()
        times = medians(convs, 2 * repeats, run.device)
        rates = {name: 1000 * operations(conv) / times[name] for name, conv in convs.items()}
    best = max(rates, key=rates.get)
    return {"gflop_per_second": rates[best], "reached_by": best, "of_each": rates}


def of_phases(run: Run, repeats: int) -> tuple[dict, dict]:
    """The peak, and for each phase of training what a step takes, and where that goes."""
    given, rows = run.given(), {}
    best = peak(run, given, repeats)
    for name, place in tqdm(PHASES.items(), "phases"):
        step = partial(run.step, given, place)
        parts = parts_of(run, given, place)
        times = medians(parts | {"step": step}, repeats, run.device)
        count = operations(step)
        limit = best["gflop_per_second"] / 1000  # GFLOP a millisecond
        counted = {part: operations(function) for part, function in parts.items()}
        rows[name] = {
            "ms": times["step"],
            "images_per_second": 1000 * given.size / times["step"],
            "gflop": count,
            "share_of_peak": count / times["step"] / limit,
            "rest_ms": times["step"] - sum(times[part] for part in parts),
            "parts": {part: {"ms": times[part], "gflop": counted[part],
                             "share_of_peak": counted[part] / times[part] / limit}
                      for part in parts},
        }  # fmt: skip
    return best, rows


def of_sizes(captions: list[str], repeats: int, device: torch.device) -> dict:
    """Images a second with all losses, at each size of images."""
    runs = {size: Run(TrainConfig(run="speed", image_size=size), captions, device)
            for size in SIZES}  # fmt: skip
    steps = {str(size): partial(run.step, run.given(), 0.8) for size, run in runs.items()}
    times = medians(steps, repeats, device)
    return {size: 1000 * run.config.batch_size / times[str(size)] for size, run in runs.items()}


def waiting(run: Run, dataset: CaptionedImages, repeats: int) -> dict:
    """What making ready a step takes, beside the step itself with all losses."""
    model, config = run.networks.model, run.config
    for i in range(4 * len(dataset) // config.batch_size):  # till every caption was read once
        given = given_at(dataset, model, config, i * config.batch_size)
    times = medians({"data": lambda: given_at(dataset, model, config, 64),
                     "step": lambda: run.step(given, 0.8)}, repeats, run.device)  # fmt: skip
    return {"ms": times["data"], "share": times["data"] / (times["data"] + times["step"])}


def of_drawing(repeats: int, device: torch.device) -> dict:
    """Milliseconds of a picture, and pictures a second, of the shipped weights and of rivals."""
    model = checkpoint.load_model(checkpoint.SHIPPED_WEIGHTS).to(device).eval()
    captions = list(model.complete([PROMPT] * PICTURES, range(PICTURES)))
    seeds, tokens = list(range(PICTURES)), model.tokenize(captions)
    noise = torch.zeros(1, model.config.noise_dim, device=device)
    with torch.inference_mode():
        one = model.encode(tokens[:1])
        rows: dict[str, dict[str, Callable]] = {"shipped weights": {
            "text encoder": partial(model.encode, tokens[:1]),
            "decoder": partial(model.decode, one, noise),
            "latent and drawing": partial(model.draw, captions[:1], seeds[:1]),
            "completion": partial(model.complete, [PROMPT], [0]),
            "picture": partial(model.generate, PROMPT),
            "many drawn": partial(model.draw, captions, seeds),
            "many": partial(model.generate, PROMPT, n=PICTURES, batch_size=PICTURES),
        }}  # fmt: skip
        rivals = {name: make(len(model.tokenizer)).to(device).eval()
                  for name, make in RIVALS.items()}  # fmt: skip
        for name, rival in rivals.items():
            rival.to(memory_format=torch.channels_last)
            rows[name] = {"latent and drawing": partial(rival, tokens[:1]),
                          "many drawn": partial(rival, tokens)}  # fmt: skip
        flat = {f"{row}: {name}": function for row, functions in rows.items()
                for name, function in functions.items()}  # fmt: skip
        many = {name: function for name, function in flat.items() if ": many" in name}
        single = {name: function for name, function in flat.items() if name not in many}
        times = medians(single, 5 * repeats, device) | medians(many, repeats, device)
        result: dict = {row: {name: times[f"{row}: {name}"] for name in functions}
                        for row, functions in rows.items()}  # fmt: skip
    for name, system in {"shipped weights": model, **rivals}.items():
        size = sum(p.numel() for p in system.parameters()) / 1e6
        with torch.inference_mode():
            count = operations(rows[name]["latent and drawing"])
        result[name] |= {"million_parameters": size, "gflop": count}
    for row in result.values():
        for name in ("many drawn", "many"):
            if name in row:
                row[f"{name}, per second"] = 1000 * PICTURES / row.pop(name)
    return result


def of_learning(run: Run, repeats: int) -> dict:
    """Images a second, forward and backward, of one plain loss: ours beside rivals."""
    given = run.given()
    images, tokens = given.batch.images, given.batch.tokens
    model, device = run.networks.model, run.device
    fast = choose_precision(run.config.precision, device) == torch.bfloat16
    model.halvings = 0
    rivals = {name: make(len(model.tokenizer)).to(device, memory_format=torch.channels_last)
              for name, make in RIVALS.items()}  # fmt: skip
    images = images.contiguous(memory_format=torch.channels_last)

    def ours() -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=fast):
            layers, _ = model.decode(model.encode(tokens), given.batch.noise)
        return regression_loss(composite(layers, 1.0), images)

    def theirs(rival: nn.Module) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=fast):
            return rival.loss(tokens, images)

    losses = {"ours": backward(ours)}
    losses |= {name: backward(partial(theirs, rival)) for name, rival in rivals.items()}
    times = medians(losses, repeats, device)
    return {name: 1000 * given.size / took for name, took in times.items()}


def of_start(repeats: int) -> dict:
    """Seconds from `python` to the first picture, in processes of their own."""
    found = []
    for _ in range(repeats):
        out = subprocess.run([sys.executable, "-c", START], cwd=ROOT, check=True,
                             capture_output=True, text=True).stdout  # fmt: skip
        found.append([float(x) for x in out.split()])
    names = ("import torch", "import the rest", "load the weights", "first picture")
    parts = dict(zip(names, map(statistics.median, zip(*found, strict=True)), strict=True))
    return parts | {"beyond torch": sum(parts.values()) - parts["import torch"]}


def table(result: dict) -> str:
    """Markdown, of what most readers want to know."""
    drawing, learning = result["drawing"], result["learning"]
    lines = [["", "M parameters", "one picture, ms", f"{PICTURES} at once, pictures/s",
              "learning*, images/s"], ["---"] * 5]  # fmt: skip

    def add(label: str, name: str, one: str, many: str, learns: str) -> None:
        row = drawing[name]
        lines.append([label, f"{row['million_parameters']:.1f}", f"{row[one]:.0f}",
                      f"{row[many]:.0f}", learns])  # fmt: skip

    drawn = "latent and drawing", "many drawn, per second"
    add("ours, completed", "shipped weights", "picture", "many, per second", "")
    add("ours, as typed", "shipped weights", *drawn, f"{learning['ours']:.0f}")
    for name in RIVALS:
        add(name, name, *drawn, f"{learning[name]:.0f}")
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def save_figure(result: dict, path: Path) -> None:
    """A bar for each phase: where a step's time goes."""
    figure = Figure(figsize=(8, 4), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    names = list(dict.fromkeys(part for row in result["phases"].values() for part in row["parts"]))
    left = [0.0] * len(PHASES)
    for i, part in enumerate([*names, "rest"]):
        widths = [row["parts"].get(part, {"ms": 0})["ms"] if part in names else row["rest_ms"]
                  for row in result["phases"].values()]  # fmt: skip
        widths = [max(0.0, width) for width in widths]
        axes.barh(list(PHASES), widths, left=left, label=part, color=f"C{i}" if i < 10 else "0.7")
        left = [a + b for a, b in zip(left, widths, strict=True)]
    for i, row in enumerate(result["phases"].values()):
        told = f" {row['images_per_second']:.0f} images/s, {row['share_of_peak']:.0%} of peak"
        axes.text(left[i], i, told, va="center", fontsize=7)
    axes.set(xlabel=f"milliseconds of a step of {result['batch_size']} images",
             xlim=(0, 1.35 * max(left)))  # fmt: skip
    axes.invert_yaxis()
    axes.legend(fontsize=7, loc="upper right")
    figure.savefig(path)


def rounded(value: object) -> object:
    """The same with four digits of each number."""
    if isinstance(value, dict):
        return {str(name): rounded(inner) for name, inner in value.items()}
    return float(f"{value:.4g}") if isinstance(value, float) else value


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one repeat, small batches")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda")
    parser.add_argument("--output", type=Path, help=f"default: {RECORD.name}")
    args = parser.parse_args()
    output = args.output or (RESULTS / "speed-quick.json" if args.quick else RECORD)
    output.parent.mkdir(exist_ok=True)
    device, began = choose_device(args.device), time.monotonic()
    about = provenance(device) | {"threads": torch.get_num_threads()}
    repeats, batch = (1, 4) if args.quick else (5, 64)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        dataset = painted(Path(folder) / "scenes", 16 if args.quick else SCENES, 64)
        captions = dataset.captions()
        images, _ = dataset.batch([i % len(dataset) for i in range(batch)])
        run = Run(TrainConfig(run="speed", batch_size=batch), captions, device, images)
        about["precision"] = str(choose_precision(run.config.precision, device))
        best, phases = of_phases(run, repeats)
        result = {
            "peak": best,
            "phases": phases,
            "batch_size": batch,
            "data": waiting(run, dataset, repeats),
            "learning": of_learning(run, 1 if args.quick else 2),
        }
    if not args.quick:
        result["images_per_second_by_size"] = of_sizes(captions, 2, device)
    result["drawing"] = of_drawing(1 if args.quick else 3, device)
    result["start"] = of_start(1 if args.quick else 3)
    about["seconds"] = round(time.monotonic() - began)
    result = rounded(result | {"about": about})
    output.write_text(json.dumps(result, indent=1) + "\n")
    save_figure(result, output.with_suffix(".png"))
    print(table(result))


if __name__ == "__main__":
    main()
