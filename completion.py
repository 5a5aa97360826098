"""What does a short prompt leave open, in words? A second LSTM reads it and writes a full caption.

"a red circle" becomes "a small red circle at the top right on a white background", another one with
each seed, and that is drawn: the decoder knows captions that tell everything. Large systems have a
language model write out their prompts (Betker et al. 2023); here it is learnt from the captions of
the collection, as pairs of a prompt and the fullest caption of the same image.
"""

import math
import random
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from config import COMPLETER_HEADS
from tokenizer import PAD, START, UNKNOWN, split_words

END = START  # what begins a caption ends it, too
MIN_SHARE = 0.02  # words not likelier than this share of the likeliest are never written
MAX_SHORT = 3  # words of a short caption
ENOUGH_SHORT = 0.05  # share of short captions that shows how people type
SHARED = 0.75  # of the words of the others are in the fullest caption, where it tells what they do
SAME = 0.1  # share of pairs whose prompt is the fullest caption itself
EMPTY = 0.02  # and of those whose prompt is empty


class Reading(NamedTuple):
    """What the completer makes of a batch of prompts."""

    tokens: Tensor  # (B, L)
    mask: Tensor  # (B, L), True on words
    words: Tensor  # (B, L, D)
    keys_values: Tensor  # of them, (2, B, N, L, D/N)
    state: tuple[Tensor, Tensor]  # (B, D) each, that the writer begins with


class Completer(nn.Module):
    """Prompt in, probabilities of full captions out, word by word.

    A bidirectional LSTM reads. Another LSTM writes; multi-head attention relates what it wrote so
    far, and looks at the words read (Vaswani et al. 2017). One more attention finds the word read
    that comes next (Luong et al. 2015), which is copied, or one is chosen from the vocabulary (See
    et al. 2017, eq. 8 and 9). Words are embedded by the matrix that they are chosen with (Press and
    Wolf 2017).

    reader: words of width dim (B, L, D), and their mask (B, L) -> (B, L, D).
    """

    def __init__(self, num_words: int, dim: int, reader: nn.Module):
        super().__init__()
        self.embedding = nn.Embedding(num_words, dim, padding_idx=PAD)
        self.reader = reader
        self.begin = nn.Linear(dim, 2 * dim)
        self.writer = nn.LSTM(dim, dim, batch_first=True)
        # Attention to what is written, to the words read, and to the one that may be copied.
        self.query_key_value = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)
        self.key_value_read = nn.Linear(dim, 2 * dim)
        self.query_read = nn.Linear(dim, dim)
        self.out_read = nn.Linear(dim, dim)
        self.query = nn.Linear(dim, dim)
        self.merge = nn.Linear(2 * dim, dim)
        self.mlp = feed_forward(dim)
        self.vocabulary_bias = nn.Parameter(torch.zeros(num_words))
        self.copy = nn.Linear(dim, 1)
        # Else torch's defaults: with the larger weights of the decoder it learns half as fast.
        nn.init.normal_(self.embedding.weight, std=dim**-0.5)
        with torch.no_grad():
            self.embedding.weight[PAD].zero_()
            for layer in (self.mlp[3], self.out, self.out_read):
                layer.weight.zero_()

    def embed(self, tokens: Tensor) -> Tensor:
        """tokens (...) -> (..., D), of unit variance at first (Vaswani et al. 2017, 3.4)."""
        return self.embedding(tokens) * math.sqrt(self.embedding.embedding_dim)

    def read(self, tokens: Tensor) -> Reading:
        """tokens (B, L), padding at the end."""
        mask = tokens != PAD
        words = self.reader(self.embed(tokens), mask)
        mean = (words * mask[:, :, None]).sum(dim=1) / mask.sum(dim=1, keepdim=True)  # (B, D)
        state = self.begin(mean).tanh().chunk(2, dim=1)
        keys_values = heads(self.key_value_read(words), 2, COMPLETER_HEADS)
        return Reading(tokens, mask, words, keys_values, state)

    def choose(
        self, hidden: Tensor, related: Tensor, reading: Reading
    ) -> tuple[Tensor, Tensor, Tensor]:
        """hidden (B, T, D), what the writer remembers; related (B, N, T, D/N), from self-attention
        -> scores of the vocabulary (B, T, V), attention to the words read (B, T, L), and the share
        of copying (B, T, 1)."""
        mask = reading.mask[:, None]  # (B, 1, L)
        x = hidden + self.out(related.transpose(1, 2).flatten(2))
        query = heads(self.query_read(x), 1, COMPLETER_HEADS)[0]  # (B, N, T, D/N)
        found = F.scaled_dot_product_attention(query, *reading.keys_values, mask[:, None])
        x = x + self.out_read(found.transpose(1, 2).flatten(2))
        scores = self.query(x) @ reading.words.transpose(1, 2)  # (B, T, L)
        scores = scores / math.sqrt(x.shape[2])
        attention = scores.masked_fill(~mask, float("-inf")).softmax(dim=2)
        x = self.merge(torch.cat([x, attention @ reading.words], dim=2)).tanh()  # (B, T, D)
        x = x + self.mlp(x)
        scores = F.linear(x, self.embedding.weight, self.vocabulary_bias)  # (B, T, V)
        return scores, attention, self.copy(x).sigmoid()

    def odds(self, hidden: Tensor, related: Tensor, reading: Reading) -> Tensor:
        """hidden (B, D) and related (B, N, 1, D/N), of one word -> probabilities of the next one,
        chosen or copied: (B, V)."""
        scores, attention, share = self.choose(hidden[:, None], related, reading)
        scores, attention, share = (x[:, 0].float() for x in (scores, attention, share))
        chosen = (1 - share) * scores.softmax(dim=1)
        return chosen.scatter_add(1, reading.tokens, share * attention)

    def loss(self, prompts: Tensor, captions: Tensor) -> Tensor:
        """Nats that the captions (B, T) cost, given the prompts (B, L); mean over B. Both begin
        with START and are padded at the end."""
        reading = self.read(prompts)
        ends = (captions != PAD).sum(dim=1, keepdim=True) - 1
        after = F.pad(captions[:, 1:], (0, 1), value=PAD).scatter(1, ends, END)  # (B, T)
        state = tuple(x[None].contiguous() for x in reading.state)
        hidden, _ = self.writer(self.embed(captions), state)  # (B, T, D)
        related = F.scaled_dot_product_attention(
            *heads(self.query_key_value(hidden), 3, COMPLETER_HEADS), is_causal=True
        )
        scores, attention, share = self.choose(hidden, related, reading)
        chosen = scores.log_softmax(dim=2).gather(2, after[:, :, None]).exp()  # (B, T, 1)
        same = reading.tokens[:, None] == after[:, :, None]  # (B, T, L)
        copied = (attention * same).sum(dim=2, keepdim=True)
        likelihood = (1 - share) * chosen + share * copied  # (B, T, 1)
        # Unknown words are never written.
        nats = -(likelihood[:, :, 0] + 1e-9).log() * ((captions != PAD) & (after != UNKNOWN))
        return nats.sum(dim=1).mean()

    @torch.inference_mode()
    def write(self, prompts: Tensor, uniforms: Tensor, temperature: float) -> list[list[int]]:
        """A caption for each prompt, without START and END.

        prompts (B, L); uniforms (B, T) within 0..1: each chooses a word, where the probabilities
        of the words before it, in the order of the vocabulary, sum to it; so a caption depends on
        its own prompt and uniforms alone. temperature: of the choice; 0: the likeliest word.
        """
        reading = self.read(prompts)
        hidden, cell = reading.state
        weights = list(self.writer.parameters())
        word = prompts.new_full((len(prompts),), START)
        going, written = word == START, []
        past = reading.keys_values[:, :, :, :0]  # nothing is written yet: (2, B, N, 0, D/N)
        allowed = torch.ones_like(self.vocabulary_bias)  # (V,)
        allowed[[PAD, UNKNOWN]] = 0
        for t in range(uniforms.shape[1]):
            hidden, cell = torch.lstm_cell(self.embed(word), (hidden, cell), *weights)
            now = heads(self.query_key_value(hidden[:, None]), 3, COMPLETER_HEADS)
            past = torch.cat([past, now[1:]], dim=3)  # (2, B, N, t, D/N)
            related = F.scaled_dot_product_attention(now[0], *past)
            odds = self.odds(hidden, related, reading)  # (B, V)
            if not written:
                odds[:, END] = 0
            word = sample(odds * allowed, uniforms[:, t : t + 1], temperature)
            going = going & (word != END)
            written.append(torch.where(going, word, PAD))
            if not going.any():
                break
        return [[i for i in row if i != PAD] for row in torch.stack(written, dim=1).tolist()]


def feed_forward(dim: int) -> nn.Sequential:
    """The branch that follows an attention, with the norm before it."""
    return nn.Sequential(
        nn.LayerNorm(dim), nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim)
    )


def heads(x: Tensor, parts: int, num_heads: int) -> Tensor:
    """Queries, keys or values, so many of them side by side (B, T, parts * D), taken apart for the
    heads: (parts, B, N, T, D/N)."""
    return x.unflatten(2, (parts, num_heads, -1)).permute(2, 0, 3, 1, 4)


def sample(odds: Tensor, uniform: Tensor, temperature: float) -> Tensor:
    """odds (B, V), uniform (B, 1) -> the words that they choose, (B,)."""
    if temperature == 0:
        return odds.argmax(dim=1)
    odds = odds / odds.amax(dim=1, keepdim=True)
    odds = F.threshold(odds, MIN_SHARE, 0)
    if temperature != 1:
        odds = odds.pow(1 / temperature)
    up_to = odds.cumsum(dim=1)
    return (up_to <= uniform * up_to[:, -1:]).sum(dim=1).clamp(max=odds.shape[1] - 1)


# Pairs of prompt and caption to learn from


@lru_cache(maxsize=65_536)
def fullest(captions: tuple[str, ...]) -> str:
    """The caption with the most different words, the first of equals: it tells most."""
    return max(captions, key=lambda caption: len(set(filter(is_word, split_words(caption)))))


def is_word(token: str) -> bool:
    """Whether it is no sign."""
    return token[0].isalnum()


def kind_of_pairs(captions: Sequence[Sequence[str]]) -> str:
    """What the captions of an image are to each other, which decides what is learnt from them.

    captions: of each image. Returns
    "each": the fullest holds few of the others' words, as with other names or other people's
        sentences; the decoder learns any of them, and its parts stand for what people type;
    "captions": some are short, as people type, and stand for prompts of the fullest;
    "parts": parts of captions stand for what people type; they lead to the fullest, too.
    """
    lengths, shares = [], []
    for several in captions:
        if len(several) > 1:
            words = set(split_words(target := fullest(tuple(several))))
            lengths += [len(split_words(caption)) for caption in several]
            own = [list(filter(is_word, split_words(c))) for c in several if c != target]
            shares += [sum(w in words for w in some) / len(some) for some in own if some]
    if sum(shares) < SHARED * len(shares):
        return "each"
    short = sum(length <= MAX_SHORT for length in lengths)
    return "captions" if short >= ENOUGH_SHORT * len(lengths) > 0 else "parts"


def draw_part(caption: str, rng: random.Random) -> str:
    """Some of the tags of a caption, which signs separate, or some of its words."""
    tags: list[list[str]] = [[]]
    for word in split_words(caption):
        if is_word(word):
            tags[-1].append(word)
        elif tags[-1]:
            tags.append([])
    tags = [tag for tag in tags if tag]
    if len(tags) > 1 and rng.random() < 0.6:
        kept = draw_some(tags, rng)
        return pick(rng, (", ", " ")).join(" ".join(tag) for tag in kept)
    words = [word for tag in tags for word in tag]
    if rng.random() < 0.5:
        return " ".join(draw_some(words, rng))
    num = draw_number(len(words), rng)
    first = int(rng.random() * (len(words) - num + 1))
    return " ".join(words[first : first + num])


def draw_number(most: int, rng: random.Random) -> int:
    """How many of so many things a person names: mostly MAX_SHORT or fewer."""
    most = min(MAX_SHORT, most) if rng.random() < 0.7 else most
    return min(most, 1 + int(rng.random() * most))


def draw_some(things: list, rng: random.Random) -> list:
    """A few of these, two thirds of the time in their order."""
    order = list(range(len(things)))
    for i in range(len(order) - 1, 0, -1):
        j = int(rng.random() * (i + 1))
        order[i], order[j] = order[j], order[i]
    kept = order[: draw_number(len(things), rng)]
    return [things[i] for i in (kept if rng.random() < 1 / 3 else sorted(kept))]


def pick(rng: random.Random, choices: Sequence[str]) -> str:
    return choices[int(rng.random() * len(choices))]


def draw_pair(captions: tuple[str, ...], rng: random.Random, kind: str) -> tuple[str, str]:
    """A prompt, and the caption to write for it.

    captions: of one image; kind: see `kind_of_pairs`. Whole captions are better prompts than parts,
    as nothing is added that was not meant: the circle in "a red circle and a blue star" is not all
    there is.
    """
    if kind not in ("captions", "parts", "each"):
        raise ValueError(f"there is no kind {kind!r} of pairs")
    if kind == "each":
        captions = (pick(rng, captions),)
    target, u = fullest(captions), rng.random()
    if u < SAME + EMPTY:
        return (target if u < SAME else ""), target
    if kind == "captions":
        return pick(rng, [c for c in captions if c != target] or captions), target
    return draw_part(pick(rng, captions), rng), target
