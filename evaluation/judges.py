"""Who judges the drawings? Two networks, trained on real images only.

They share no weights, architecture or seeds with the generator or its losses, and they never see a
drawing. `evaluate.py --fit-judges` trains them and keeps them by the fingerprint of what they were
trained on.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

import checkpoint
import scenes
from config import RESULTS, SHIPPED_WEIGHTS, UserError, choose_precision
from dataset import CaptionedImages, augment
from model import from_uint8
from tokenizer import PAD, Tokenizer

SHAPES, COLOURS = list(scenes.SHAPES), list(scenes.COLOURS)
SIZES, PLACES, BACKGROUNDS = list(scenes.SIZES), list(scenes.PLACES), list(scenes.BACKGROUNDS)
PLACE_LOGITS = [1, len(SHAPES), len(COLOURS), len(SIZES)]  # the first: is there an object?
RECOGNISER_SEED = 1_000  # of its scenes; training's scenes have seed 0
NUM_RECOGNISER_SCENES = 49_152
JUDGES_VERSION = 1  # raise it when the judges below change
SHIPPED = SHIPPED_WEIGHTS.parent / "judges"
FITTED = RESULTS / "judges"
IMAGE_SIZE = 64  # of what is judged, in pixels
DUAL_ENCODER_SEED = 2_000
EMBEDDING = 64  # width of the dual encoder's embeddings


def stage(in_channels: int, out_channels: int) -> list[nn.Module]:
    """Half the size: convolution, batch normalisation, ReLU, maximum."""
    convolution = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
    return [convolution, nn.BatchNorm2d(out_channels), nn.ReLU(), nn.MaxPool2d(2)]


class AttributeRecogniser(nn.Module):
    """What stands where in a scene of 64 px: a plain convolutional network on a grid of 3x3."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            *stage(3, 32), *stage(32, 96), *stage(96, 192),
            nn.Conv2d(192, 192, 3, padding=1, bias=False), nn.BatchNorm2d(192), nn.ReLU(),
        )  # fmt: skip
        # The nine places are the corners between the 2x2 blocks of an 8x8 map without its border.
        self.places = nn.Sequential(nn.Conv2d(192, 256, 2, stride=2), nn.ReLU())
        self.kinds = nn.Conv2d(256, sum(PLACE_LOGITS), 1)
        hidden, out = nn.Linear(192, 64), nn.Linear(64, len(BACKGROUNDS))
        self.background = nn.Sequential(hidden, nn.ReLU(), out)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """images (B, 3, 64, 64) in -1..1 -> logits (B, sum of PLACE_LOGITS, 9) of the places, and
        logits (B, backgrounds)."""
        x = self.body(images)  # (B, 192, 8, 8)
        places = self.kinds(self.places(x[:, :, 1:7, 1:7])).flatten(2)  # (B, K, 3, 3) -> (B, K, 9)
        return places, self.background(x.mean(dim=(2, 3)))

    @torch.no_grad()
    def recognise(self, images: Tensor) -> list[dict]:
        """images (B, 3, H, W) uint8 -> the attributes of each, as scenes.render gives them."""
        places, backgrounds = self(at_judges_size(images))
        present, *kinds = places.split(PLACE_LOGITS, dim=1)
        here = (present[:, 0] > 0).tolist()  # (B, 9)
        shapes, colours, sizes = (logits.argmax(dim=1).tolist() for logits in kinds)
        found = []
        for b, background in enumerate(backgrounds.argmax(dim=1).tolist()):
            objects = [{"shape": SHAPES[shapes[b][p]], "colour": COLOURS[colours[b][p]],
                        "size": SIZES[sizes[b][p]], "place": place}
                       for p, place in enumerate(PLACES) if here[b][p]]  # fmt: skip
            found.append({"background": BACKGROUNDS[background], "objects": objects})
        return found


def encode_attributes(attributes: list[dict]) -> tuple[Tensor, Tensor]:
    """Attributes of scenes -> (B, 4, 9) int64, presence, shape, colour and size at each place (0
    where there is nothing), and (B,) int64, the background."""
    places = torch.zeros(len(attributes), 4, len(PLACES), dtype=torch.long)
    for b, scene in enumerate(attributes):
        for o in scene["objects"]:
            kinds = SHAPES.index(o["shape"]), COLOURS.index(o["colour"]), SIZES.index(o["size"])
            places[b, :, PLACES.index(o["place"])] = torch.tensor([1, *kinds])
    return places, torch.tensor([BACKGROUNDS.index(a["background"]) for a in attributes])


def render_scenes(seed: int, split: str, num: int) -> tuple[Tensor, list[dict]]:
    """Fresh scenes: images (N, 3, 64, 64) uint8, attributes."""
    images, _, attributes = zip(*(scenes.render(seed, i, split) for i in range(num)), strict=True)
    return stack(images), list(attributes)


def stack(images: Sequence[np.ndarray]) -> Tensor:
    """N images (H, W, 3) uint8 -> (N, 3, H, W) uint8."""
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()


def at_judges_size(images: Tensor) -> Tensor:
    """Images (N, 3, H, W), float in -1..1 or uint8 -> (N, 3, 64, 64) float in -1..1."""
    x = images if images.is_floating_point() else from_uint8(images)
    if x.shape[2] == IMAGE_SIZE:
        return x
    return F.interpolate(x, (IMAGE_SIZE, IMAGE_SIZE), mode="bilinear", antialias=True)


def mixed_precision() -> torch.autocast:
    """bfloat16 where the CPU multiplies it faster."""
    faster = choose_precision("auto", torch.device("cpu")) == torch.bfloat16
    return torch.autocast("cpu", enabled=faster)


def fit_recogniser(num_scenes: int = NUM_RECOGNISER_SCENES, epochs: int = 6) -> AttributeRecogniser:
    """Train on fresh scenes of all pairs of colour and shape, the unseen ones too."""
    seen, attributes = render_scenes(RECOGNISER_SEED, "train", num_scenes * 3 // 4)
    unseen, more_attributes = render_scenes(RECOGNISER_SEED, "unseen", num_scenes // 4)
    images = torch.cat([seen, unseen])
    places, backgrounds = encode_attributes(attributes + more_attributes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(RECOGNISER_SEED)
        judge = AttributeRecogniser().to(memory_format=torch.channels_last)
        batch, steps = 128, epochs * len(images) // 128
        optimizer = torch.optim.AdamW(judge.parameters(), weight_decay=0.05, fused=True)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, steps, pct_start=0.1)
        for step in tqdm(range(steps), "fitting the recogniser", unit="batch", disable=None):
            if step % (len(images) // batch) == 0:
                order = torch.randperm(len(images))
            i = order[torch.arange(batch) + step * batch % (len(order) - batch + 1)]
            x = from_uint8(images[i]).contiguous(memory_format=torch.channels_last)
            with mixed_precision():
                logits, background = judge(x)
            present, *kinds = logits.float().split(PLACE_LOGITS, dim=1)
            here, *targets = places[i].unbind(1)
            here = here.bool()
            loss = F.binary_cross_entropy_with_logits(present[:, 0], here.float())
            for logit, target in zip(kinds, targets, strict=True):
                loss = loss + F.cross_entropy(logit.transpose(1, 2)[here], target[here])
            loss = loss + F.cross_entropy(background.float(), backgrounds[i])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return judge.eval()


class DualEncoder(nn.Module):
    """Do an image and a caption belong together? Two small convolutional networks, one over
    pixels and one over words (Kim 2014), that meet in one space of EMBEDDING dimensions."""

    def __init__(self, tokenizer: Tokenizer):
        super().__init__()
        self.tokenizer = tokenizer
        self.pixels = nn.Sequential(
            *stage(3, 32), *stage(32, 64), *stage(64, 128), *stage(128, 192),
            nn.Flatten(), nn.Dropout(0.2), nn.Linear(192 * 4 * 4, EMBEDDING),
        )  # fmt: skip
        self.words = nn.Embedding(len(tokenizer), 128, padding_idx=PAD)
        self.neighbours = nn.Conv1d(128, 256, 3, padding=1)
        self.more_neighbours = nn.Conv1d(256, 256, 3, padding=1)
        self.caption = nn.Linear(2 * 256, EMBEDDING)
        self.log_scale = nn.Parameter(torch.tensor(2.5))  # of the similarities

    def embed_images(self, images: Tensor) -> Tensor:
        """(B, 3, 64, 64) in -1..1 -> (B, EMBEDDING), not normalised."""
        return self.pixels(images)

    def embed_captions(self, captions: Sequence[str]) -> Tensor:
        """B captions -> (B, EMBEDDING), not normalised."""
        encoded = [torch.tensor(self.tokenizer.encode(caption, 64)) for caption in captions]
        tokens = nn.utils.rnn.pad_sequence(encoded, batch_first=True, padding_value=PAD)  # (B, L)
        here = (tokens != PAD)[:, None]  # (B, 1, L)
        x = self.words(tokens).transpose(1, 2)  # (B, 128, L)
        x = F.relu(self.neighbours(x)) * here  # padding changes nothing
        x = F.relu(self.more_neighbours(x)) * here  # (B, 256, L)
        pooled = torch.cat([x.amax(dim=2), x.sum(dim=2) / here.sum(dim=2)], dim=1)
        return self.caption(pooled)

    def similarities(self, images: Tensor, captions: Tensor) -> Tensor:
        """Embeddings (..., M, EMBEDDING) and (..., N, EMBEDDING) -> cosines (..., M, N)."""
        return F.normalize(images, dim=-1) @ F.normalize(captions, dim=-1).mT


def fit_dual_encoder(dataset: CaptionedImages, num_images: int = 250_000) -> DualEncoder:
    """Train on the training images and captions: an image must find its caption among those of
    the batch, and the caption its image (InfoNCE, van den Oord et al. 2018)."""
    batch, rng = min(128, len(dataset)), torch.Generator().manual_seed(DUAL_ENCODER_SEED)
    steps = num_images // batch
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(DUAL_ENCODER_SEED)
        judge = DualEncoder(Tokenizer.learn(dataset.captions(), min_count=2))
        judge.to(memory_format=torch.channels_last)
        optimizer = torch.optim.AdamW(judge.parameters(), weight_decay=0.1, fused=True)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, steps, pct_start=0.1)
        for _ in tqdm(range(steps), "fitting the dual encoder", unit="batch", disable=None):
            numbers = torch.randperm(len(dataset), generator=rng)[:batch].tolist()
            images, captions = dataset.batch(numbers)
            images, _ = augment(images, 0.8, False, rng)
            x = at_judges_size(images).contiguous(memory_format=torch.channels_last)
            pick = torch.rand(batch, generator=rng).tolist()
            chosen = [c[int(u * len(c))] for c, u in zip(captions, pick, strict=True)]
            with mixed_precision():
                seen = judge.embed_images(x)
            told = judge.embed_captions(chosen)
            logits = judge.log_scale.exp() * judge.similarities(seen.float(), told)
            # Another image with the same caption is no mistake.
            same = torch.tensor([[a == b for a in chosen] for b in chosen])
            logits = logits.masked_fill(same & ~torch.eye(len(same), dtype=torch.bool), -1e4)
            target = torch.arange(len(logits))
            loss = F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return judge.eval()


class Judges(NamedTuple):
    encoder: DualEncoder
    recogniser: AttributeRecogniser | None  # of the scenes
    fingerprint: str  # of the weights of both: numbers of other judges cannot be compared


def load(dataset: CaptionedImages, fit: bool = False) -> Judges:
    """The judges of a collection, shipped or fitted before; where there are none, they are trained
    with `fit`, else that raises UserError."""
    collection = dataset.collection
    name = f"{collection.name}-{dataset.fingerprint(JUDGES_VERSION)}.pth"
    path = next((f / name for f in (SHIPPED, FITTED) if (f / name).exists()), FITTED / name)
    if not path.exists():
        if not fit:
            raise UserError(f"there are no judges for {collection.name} as it is now; train them, "
                            "once, with the same command and --fit-judges (10 to 20 "
                            "minutes)")  # fmt: skip
        encoder = fit_dual_encoder(dataset)
        save(encoder, fit_recogniser() if collection.layout == "built-in" else None, path)
    return read(path)


def save(encoder: DualEncoder, recogniser: AttributeRecogniser | None, path: Path) -> None:
    """Keep judges for `read`."""
    state = {"encoder": encoder.state_dict(), "tokenizer": encoder.tokenizer.state_dict()}
    if recogniser:
        state["recogniser"] = recogniser.state_dict()
    path.parent.mkdir(parents=True, exist_ok=True)
    checkpoint.save(state, path)


def read(path: Path) -> Judges:
    """Judges that `save` has kept, in float32, however they are stored. Raises UserError where
    there are none, or the file holds something else."""
    if not path.is_file():
        raise UserError(f"there is no file {path}; --fit-judges leaves its judges in {FITTED}")
    state, recogniser = checkpoint.load(path), None
    try:
        encoder = DualEncoder(Tokenizer.from_state_dict(state["tokenizer"])).eval()
        encoder.load_state_dict(state["encoder"])
        if "recogniser" in state:
            recogniser = AttributeRecogniser().eval()
            recogniser.load_state_dict(state["recogniser"])
    except Exception as error:  # a foreign file can be wrong in any way
        raise UserError(f"{path} holds no judges; remove it and fit them again") from error
    weights = hashlib.blake2b(digest_size=6)
    for judge in filter(None, (encoder, recogniser)):
        for value in judge.state_dict().values():
            weights.update(value.numpy().tobytes())
    return Judges(encoder, recogniser, f"{path.stem}-{weights.hexdigest()}")
