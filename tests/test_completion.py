"""Protects completion: a caption depends on weights, prompt and seed alone, what was said is kept,
and prompts come from captions of any collection."""

import math
import random
from collections import Counter

import pytest
import torch
from torch import nn

import completion
from completion import Completer, draw_pair, draw_part, fullest, sample
from config import ModelConfig
from model import BidirectionalLSTM, TextToImageModel
from tokenizer import PAD, START, UNKNOWN, Tokenizer, split_words, text_of

CAPTIONS = ["a red circle", "a blue star at the left of a big green ring", "red", ""]
TOKENIZER = Tokenizer.learn(CAPTIONS, min_count=1)
SEEDS = list(range(20))


def small_model(seed: int = 0, scale: float = 0.3, **settings) -> TextToImageModel:
    """Weights that have learnt nothing, and large enough to make words differ in probability."""
    torch.manual_seed(seed)
    small = {"image_size": 32, "text_dim": 16, "noise_dim": 4, "channels": (8, 8, 8),
             "completer_dim": 16, "max_tokens": 12}  # fmt: skip
    model = TextToImageModel(ModelConfig(**(small | settings)), TOKENIZER).eval()
    for parameter in model.completer.parameters() if model.completer else ():
        parameter.data += scale * torch.randn_like(parameter)
    return model


def trained_model(pairs: list[tuple[str, str]], steps: int = 150) -> TextToImageModel:
    """A small model whose completer has learnt these pairs of prompt and caption."""
    torch.manual_seed(0)
    tokenizer = Tokenizer.learn([text for pair in pairs for text in pair], min_count=1)
    config = ModelConfig(image_size=32, text_dim=16, channels=(8, 8, 8), completer_dim=32)
    model = TextToImageModel(config, tokenizer).eval()
    optimizer = torch.optim.AdamW(model.completer.parameters(), 0.005)
    prompts, captions = (model.tokenize(texts) for texts in zip(*pairs, strict=True))
    for _ in range(steps):
        optimizer.zero_grad()
        model.completer.loss(prompts, captions).backward()
        optimizer.step()
    return model


# What decides a caption


def test_a_caption_does_not_depend_on_what_is_completed_with_it_nor_on_padding():
    model = small_model()
    prompts = [CAPTIONS[i % 4] for i in SEEDS]
    together = model.complete(prompts, SEEDS)
    assert together == [model.complete(p, s) for p, s in zip(prompts, SEEDS, strict=True)]
    assert together == model.complete(prompts[::-1], SEEDS[::-1])[::-1]
    assert len(set(together)) > 10


def test_the_same_seed_completes_the_same_and_others_differently():
    model = small_model()
    first, again, other = model.complete(["red"] * 3, [1, 1, 2])
    assert first == again != other
    assert model.complete("red", 1) == first
    assert model.complete(["red", "red"], 1) == [first, first]


def test_words_are_drawn_as_often_as_they_are_likely():
    odds = torch.tensor([[0.5, 0.0, 0.3, 0.2]])
    uniforms = (torch.arange(1000) + 0.5)[:, None] / 1000
    found = sample(odds.expand(1000, -1), uniforms, 1.0).bincount(minlength=4)
    assert found.tolist() == [500, 0, 300, 200]
    squared = sample(odds.expand(1000, -1), uniforms, 0.5).bincount(minlength=4) / 1000
    torch.testing.assert_close(squared, odds[0].square() / odds.square().sum(), atol=2e-3, rtol=0)
    assert sample(odds, torch.tensor([[0.9]]), 0.0).tolist() == [0]


def test_hardly_likely_words_are_never_drawn():
    odds = torch.tensor([[1.0, 0.019, 0.021]])
    found = sample(odds.expand(99, -1), torch.linspace(0, 0.999, 99)[:, None], 1.0)
    assert set(found.tolist()) == {0, 2}


def test_captions_are_written_as_often_as_the_loss_says(monkeypatch):
    monkeypatch.setattr(completion, "MIN_SHARE", 0.0)
    model = small_model(scale=0.1)
    with torch.no_grad():
        model.completer.vocabulary_bias[[PAD, UNKNOWN]] = -30  # these are never written
        model.completer.vocabulary_bias[START] += 3  # so that captions end soon
    prompt, num = model.tokenize(["a red circle"]), 20_000
    uniforms = torch.rand(num, 8, generator=torch.Generator().manual_seed(0))
    written = Counter(map(tuple, model.completer.write(prompt.expand(num, -1), uniforms, 1.0)))
    common = written.most_common(5)
    costs = [model.completer.loss(prompt, torch.tensor([[START, *ids]])) for ids, _ in common]
    expected = (-torch.stack(costs)).softmax(dim=0)
    found = torch.tensor([float(n) for _, n in common])
    torch.testing.assert_close(found / found.sum(), expected.detach(), atol=0.02, rtol=0)


def test_the_loss_of_a_batch_is_the_mean_of_its_captions_whatever_the_padding():
    model = small_model()
    tokens = model.tokenize(CAPTIONS)
    alone = [model.completer.loss(model.tokenize([c]), model.tokenize([c])) for c in CAPTIONS]
    torch.testing.assert_close(model.completer.loss(tokens, tokens), torch.stack(alone).mean())


def test_a_fresh_completer_guesses_among_all_words():
    completer = Completer(50, 16, BidirectionalLSTM(16))
    prompt, caption = torch.tensor([[START, 9]]), torch.tensor([[START, 5, 6, 7]])
    nats = completer.loss(prompt, caption).item() / 4  # three words, and the end
    assert nats == pytest.approx(math.log(50), rel=0.3)


def test_eight_heads_look_at_the_words_read_and_at_no_padding():
    torch.manual_seed(0)
    completer, seen = Completer(50, 16, BidirectionalLSTM(16)), []
    reading = completer.read(torch.tensor([[START, 5, 6, 7], [START, 9, PAD, PAD]]))
    hidden, nothing = torch.randn(2, 3, 16), torch.zeros(2, 8, 3, 2)
    completer.out_read.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    completer.choose(hidden - completer.out(torch.zeros(16)), nothing, reading)
    reference = nn.MultiheadAttention(16, 8, batch_first=True)
    query, key_value = completer.query_read, completer.key_value_read
    reference.load_state_dict({
        "in_proj_weight": torch.cat([query.weight, key_value.weight]),
        "in_proj_bias": torch.cat([query.bias, key_value.bias]),
        "out_proj.weight": torch.eye(16), "out_proj.bias": torch.zeros(16),
    })  # fmt: skip
    words, padding = reading.words, ~reading.mask
    torch.testing.assert_close(seen[0], reference(hidden, words, words, padding)[0])


# What is written


def test_an_empty_prompt_and_one_without_a_known_word_are_completed_to_the_same():
    model = small_model()
    for seed in SEEDS:
        caption = model.complete("", seed)
        assert caption == model.complete("xyzzy plugh", seed)
        assert split_words(caption) and not model.tokenizer.unknown_words(caption)


def test_a_model_without_a_completer_draws_as_typed():
    model = small_model(completer_dim=0)
    assert model.completer is None
    assert model.complete(["red", ""], 3) == ["red", ""]


def test_a_caption_never_exceeds_what_the_text_encoder_reads():
    model = small_model(scale=0.05)
    for caption in model.complete(["red"] * 20, SEEDS):
        assert len(model.tokenizer.encode(caption)) <= model.config.max_tokens


def test_the_completed_caption_drawn_as_typed_gives_the_same_image():
    model = small_model()
    for seed in (0, 5):
        caption = model.complete("a red circle", seed)
        typed = model.generate(caption, seed, complete=False)
        assert model.generate("a red circle", seed).tobytes() == typed.tobytes()
        assert model.generate("a red circle", seed, complete=False).tobytes() != typed.tobytes()


def test_pairs_are_learnt_and_words_never_met_together_are_copied():
    colours, things = ["red", "blue", "green", "gray"], ["star", "moon", "ring", "drop"]
    met = [(c, t) for c in colours for t in things if (c, t) != ("red", "moon")]
    pairs = [(f"{t} {c}", f"a {c} {t} on white") for c, t in met]
    model = trained_model(pairs)
    assert model.complete("moon red", temperature=0) == "a red moon on white"


def test_what_is_open_is_written_as_often_as_in_the_captions():
    pairs = [("star", "a red star")] * 3 + [("star", "a blue star")]
    model = trained_model(pairs)
    found = Counter(model.complete(["star"] * 400, range(400)))
    assert set(found) == {"a red star", "a blue star"}
    assert found["a red star"] / 400 == pytest.approx(0.75, abs=0.08)
    assert set(model.complete(["star"] * 9, range(9), temperature=0)) == {"a red star"}


@pytest.mark.parametrize("caption", [
    "woman (adult, lady), medium-light skin tone, noto style", "don't! stop: 3rd . 4", "[a] b; c?",
    "a red circle", "", "été 猫の絵",
])  # fmt: skip
def test_words_become_a_text_that_has_the_same_words(caption):
    words = split_words(caption)
    assert split_words(text_of(words)) == words
    assert text_of(split_words("a (b, c), d-e")) == "a (b, c), d-e"


# Pairs to learn from


def test_the_fullest_caption_has_the_most_different_words_and_signs_do_not_count():
    assert fullest(("a cat", "a black cat", "a a a a a, , , ,")) == "a black cat"
    assert fullest(("one two", "two one")) == "one two"


def test_captions_of_an_image_are_prompts_or_parts_of_the_fullest_or_each_its_own():
    typed = [("a red circle on white", "circle")] * 5
    names = [("kjobviewer, devices", "gnome dev printer, devices"), ("cups",)] * 5
    persons = [("a dog that runs fast", "brown puppy playing outside on the grass")] * 5
    assert completion.kind_of_pairs(typed) == "captions"
    assert completion.kind_of_pairs(names) == completion.kind_of_pairs(persons) == "each"
    assert completion.kind_of_pairs([("a dog that runs", "a dog that runs fast")] * 5) == "parts"
    assert completion.kind_of_pairs([("a red circle on white",)] * 5) == "parts"  # one each
    assert completion.kind_of_pairs([]) == "parts"


def test_parts_of_a_caption_are_tags_or_words_of_it_mostly_few():
    caption, rng = "astronaut, woman (space, rocket ship), noto style", random.Random(0)
    words = set(split_words(caption))
    parts = [split_words(draw_part(caption, rng)) for _ in range(500)]
    assert all(part and set(part) - {","} <= words for part in parts)
    assert sum(len([w for w in part if w != ","]) <= 3 for part in parts) > 300
    assert ["rocket", "ship"] in parts and ["astronaut", ",", "woman"] in parts
    assert any(part.index("woman") < part.index("astronaut") for part in parts
               if {"woman", "astronaut"} <= set(part))  # fmt: skip
    assert draw_part("", rng) == draw_part("!!!", rng) == ""


def test_a_pair_leads_to_the_fullest_caption_from_a_whole_one_or_a_part():
    captions, rng = ("a red circle on white", "red circle", "circle"), random.Random(0)
    whole = {draw_pair(captions, rng, "captions") for _ in range(300)}
    assert {caption for _, caption in whole} == {captions[0]}
    assert {prompt for prompt, _ in whole} == {"", *captions}
    prompts = [draw_pair(captions, rng, "captions")[0] for _ in range(3000)]
    assert prompts.count(captions[0]) / 3000 == pytest.approx(completion.SAME, abs=0.03)
    parts = {draw_pair(captions, rng, "parts")[0] for _ in range(300)}
    assert {"white", "red", captions[0]} <= parts
    each = [draw_pair(captions, rng, "each") for _ in range(300)]
    assert {caption for _, caption in each} == set(captions)
    assert all(set(prompt.split()) <= set(caption.split()) for prompt, caption in each)


def test_gradient_reaches_every_weight_of_the_completer():
    model = small_model()
    tokens = model.tokenize(CAPTIONS)
    model.completer.loss(tokens, tokens).backward()
    assert all(p.grad is not None and p.grad.any() for p in model.completer.parameters())
    assert all(p.grad is None for name, p in model.named_parameters()
               if not name.startswith("completer."))  # fmt: skip
    assert isinstance(model.completer.writer, nn.LSTM)
