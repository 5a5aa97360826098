"""Protects the model: what decides an image, what does not, and the file contract."""

import io
import itertools
import math
import re
import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from config import AUGMENTATIONS, ModelConfig
from model import (
    BidirectionalLSTM,
    MultiHeadSelfAttention,
    TextToImageModel,
    WordAttention,
    attend,
    composite,
    from_uint8,
    to_uint8,
)
from reports.hints import suggest, unknown_hints
from tokenizer import PAD, Tokenizer

CAPTIONS = ["a red circle", "a blue star at the left of a big green ring", "red", ""]
TOKENIZER = Tokenizer.learn(CAPTIONS, min_count=1)
NUM_LAYERS = ModelConfig().num_layers


def small_model(seed: int = 0, **settings) -> TextToImageModel:
    torch.manual_seed(seed)
    small = {"image_size": 32, "text_dim": 32, "noise_dim": 16, "channels": (16, 16, 8),
             "completer_dim": 16}  # fmt: skip
    model = TextToImageModel(ModelConfig(**(small | settings)), TOKENIZER)
    for parameter in model.parameters():  # so that none of them starts at nothing
        parameter.data += 0.05 * torch.randn_like(parameter)
    with torch.no_grad():
        model.text_encoder.embedding.weight[PAD] = 0
    return model.eval()


@pytest.mark.parametrize("image_size", [32, 64, 128, 256])
def test_images_have_the_configured_size(image_size):
    model = small_model(image_size=image_size, channels=(8,) * 6)
    images = model(model.tokenize(CAPTIONS), torch.rand(4, 16))
    assert images.shape == (4, 3, image_size, image_size) and images.dtype == torch.float32
    assert model.draw(CAPTIONS, [0, 1, 2, 3]).abs().max() <= 1


@pytest.mark.parametrize("text_encoder", ["lstm", "attention", "both"])
def test_padding_does_not_change_the_image(text_encoder):
    model = small_model(text_encoder=text_encoder)
    tokens, uniforms = model.tokenize(["a red circle"]), torch.rand(1, 16)
    padded = torch.cat([tokens, torch.full((1, 9), PAD)], dim=1)
    drawn = model(tokens, uniforms), model(padded, uniforms)
    torch.testing.assert_close(*drawn, atol=1e-5, rtol=0)


def test_batch_of_four_equals_four_batches_of_one_whatever_the_order():
    model = small_model()
    together = model.draw(CAPTIONS, [5, 6, 7, 8])
    alone = torch.cat([model.draw([c], [s]) for c, s in zip(CAPTIONS, [5, 6, 7, 8], strict=True)])
    reversed_ = model.draw(CAPTIONS[::-1], [8, 7, 6, 5]).flip(0)
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)
    torch.testing.assert_close(together, reversed_, atol=1e-5, rtol=0)


def test_prompt_word_order_and_seed_each_change_the_image():
    model = small_model()
    images = model.draw(["red circle", "circle red", "red circle", "red star"], [0, 0, 1, 0])
    for other in images[1:]:
        assert (images[0] - other).abs().max() > 1e-3


def test_without_noise_every_seed_gives_the_same_image():
    images = small_model(noise_dim=0).draw(["a red circle"] * 2, [0, 1])
    torch.testing.assert_close(images[0], images[1], atol=1e-6, rtol=0)


@pytest.mark.parametrize("text_encoder", ["lstm", "attention", "both"])
def test_gradient_reaches_every_parameter(text_encoder):
    model = small_model(text_encoder=text_encoder)
    tokens, latent = model.tokenize(CAPTIONS), torch.randn(4, 16)
    layers, _ = model.decode(model.encode(tokens), latent, torch.randn(4, len(AUGMENTATIONS)))
    composite(layers, mask_scale=1).square().sum().backward()
    model.prior(tokens, latent).square().sum().backward()
    model.completer.loss(tokens, tokens).backward()
    without = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


def test_a_fresh_model_passes_gradients_everywhere_but_behind_its_zeros():
    model = TextToImageModel(ModelConfig(image_size=32), TOKENIZER)
    model(model.tokenize(CAPTIONS), torch.rand(4, 32)).square().sum().backward()
    for name in ("text_encoder.embedding", "text_encoder.lstm", "fully_connected", "decoder.0"):
        assert any(p.grad.any() for n, p in model.named_parameters() if n.startswith(name)), name


@pytest.mark.parametrize("halvings", [0, 1, 2])
def test_a_model_that_halves_its_images_enlarges_what_it_draws(halvings):
    settings = {"image_size": 64, "channels": (16, 16, 8, 8)}
    model = small_model(**settings)
    model.halvings = halvings
    layers, _ = model.decode(model.encode(model.tokenize(CAPTIONS)), torch.zeros(4, 16))
    small = composite(layers, mask_scale=1)
    assert small.shape == (4, 3, 64 >> halvings, 64 >> halvings)
    mean = model.predict_mean(model.tokenize(CAPTIONS))
    assert mean.shape == model.draw(CAPTIONS, [0] * 4).shape == (4, 3, 64, 64)
    torch.testing.assert_close(mean.mean(dim=(2, 3)), small.mean(dim=(2, 3)))
    full = small_model(**settings)  # of the same weights
    assert torch.equal(mean, full.predict_mean(full.tokenize(CAPTIONS))) == (halvings == 0)


def test_self_attention_equals_torch_multihead_attention():
    ours, reference = MultiHeadSelfAttention(24, 4), nn.MultiheadAttention(24, 4, batch_first=True)
    with torch.no_grad():
        reference.in_proj_weight.copy_(ours.query_key_value.weight)
        reference.in_proj_bias.copy_(ours.query_key_value.bias)
        reference.out_proj.load_state_dict(ours.out.state_dict())
    x, mask = torch.randn(3, 7, 24), torch.arange(7) < torch.tensor([[7], [3], [1]])
    result, weights = ours(x, mask)
    expected, expected_weights = reference(x, x, x, ~mask, average_attn_weights=False)
    torch.testing.assert_close(result, ours.norm(x + expected))
    torch.testing.assert_close(weights, expected_weights)


def test_the_lstm_equals_a_bidirectional_one_of_torch_on_packed_captions():
    ours, reference = BidirectionalLSTM(24), nn.LSTM(24, 12, batch_first=True, bidirectional=True)
    weights = ours.ahead.state_dict()
    weights |= {f"{name}_reverse": weight for name, weight in ours.back.state_dict().items()}
    reference.load_state_dict(weights)
    x, lengths = torch.randn(3, 7, 24), torch.tensor([2, 7, 1])
    mask = torch.arange(7) < lengths[:, None]
    packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
    expected, _ = pad_packed_sequence(reference(packed)[0], batch_first=True)
    torch.testing.assert_close(ours(x, mask)[mask], expected[mask])


def test_attention_weights_sum_to_one_over_words_and_ignore_padding():
    mask = torch.tensor([[True, True, False]])
    _, weights = attend(torch.randn(1, 5, 8), torch.randn(1, 3, 8), torch.randn(1, 3, 8), mask, 2)
    torch.testing.assert_close(weights.sum(dim=3), torch.ones(1, 2, 5))
    assert not weights[..., 2].any()


def test_attention_weights_come_only_when_asked_for_and_change_nothing():
    model = small_model()
    tokens, uniforms = model.tokenize(CAPTIONS), torch.rand(4, 16)
    images, weights = model(tokens, uniforms, return_attention=True)
    torch.testing.assert_close(images, model(tokens, uniforms))
    length = tokens.shape[1]
    assert {name: tuple(w.shape) for name, w in weights.items()} == {
        "self": (4, 4, length, length),
        "words_4x4": (4, 4, 16, length),
        "words_8x8": (4, 4, 64, length),
        "words_16x16": (4, 4, 256, length),
    }


def test_zero_augmentation_is_the_default():
    model = small_model()
    text, latent = model.encode(model.tokenize(CAPTIONS)), torch.randn(4, 16)
    layers, _ = model.decode(text, latent)
    unchanged, _ = model.decode(text, latent, torch.zeros(4, len(AUGMENTATIONS)))
    changed, _ = model.decode(text, latent, torch.ones(4, len(AUGMENTATIONS)))
    torch.testing.assert_close(layers, unchanged)
    assert (layers - changed).abs().max() > 1e-3


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_seed_chooses_a_latent_of_the_prior_at_a_temperature(temperature):
    model = small_model()
    tokens, uniforms = model.tokenize(CAPTIONS[:1]), model.chance(3)[0][None]
    told = temperature * model.config.latent_temperature
    latent = model.prior.sample(tokens, uniforms, told)
    layers, _ = model.decode(model.encode(tokens), latent)
    expected = composite(layers, model.config.mask_scale).clamp(-1, 1)
    drawn = [model.draw(CAPTIONS[:1], [seed], temperature) for seed in (3, 4)]
    torch.testing.assert_close(drawn[0], expected)
    assert torch.equal(*drawn) == (temperature == 0)  # the likeliest one has no chance in it
    image = model.generate(CAPTIONS[0], seed=3, complete=False, temperature=temperature)
    assert np.array_equal(image, to_uint8(drawn[0])[0].permute(1, 2, 0))
    with pytest.raises(ValueError, match="temperature must be 0 or more"):
        model.generate(CAPTIONS[0], temperature=-1.0)


def test_layers_are_composed_as_a_loop_over_pixels_does_it():
    layers = torch.randn(2, 7, NUM_LAYERS, 2, 3, generator=torch.Generator().manual_seed(0))
    images = composite(layers, mask_scale=1.5)
    for y, x in itertools.product(range(4), range(6)):
        here = layers[:, :, :, y // 2, x // 2]  # (B, 7, K)
        mask = (1.5 * here[:, 3 + 2 * (y % 2) + x % 2]).softmax(dim=1)
        expected = sum(here[:, :3, k] * mask[:, k, None] for k in range(NUM_LAYERS))
        torch.testing.assert_close(images[:, :, y, x], expected)


def test_sharp_masks_choose_the_layer_that_soft_ones_lean_to():
    layers = torch.zeros(1, 7, NUM_LAYERS, 4, 4)
    layers[:, :3, 0], layers[:, :3, 1] = 1, -1  # a white and a black layer, the others gray
    layers[:, 3:, :2] = 10  # both of them, and nothing else
    layers[:, 3:, 0, 1] += 1  # the second row leans to white
    soft, sharp = composite(layers, mask_scale=1), composite(layers, mask_scale=4)
    torch.testing.assert_close(soft[:, :, :2], torch.zeros(1, 3, 2, 8), atol=1e-3, rtol=0)
    torch.testing.assert_close(sharp[:, :, :2], torch.zeros(1, 3, 2, 8), atol=1e-3, rtol=0)
    expected = torch.full((1, 3, 2, 8), math.tanh(0.5))  # softmax of two is a tanh
    torch.testing.assert_close(soft[:, :, 2:4], expected, atol=1e-3, rtol=0)
    assert (sharp[:, :, 2:4] > 0.96).all()


def test_every_pixel_is_a_mixture_of_the_colours_of_layers():
    model = small_model()
    with torch.no_grad():
        bias = model.to_layers.bias.detach().view(7, NUM_LAYERS)
        colours, masks = bias[:3], bias[3:]
        colours.copy_(torch.arange(3.0 * NUM_LAYERS).view(3, NUM_LAYERS))
        model.to_layers.weight.zero_()
        masks.zero_()
        masks[1, 2] = 100.0  # at every second pixel of every second row the third layer covers all
        image = model(model.tokenize(CAPTIONS[:1]), torch.zeros(1, 16))[0]  # (3, H, W)
    mean, third = colours.mean(dim=1), colours[:, 2]
    torch.testing.assert_close(image[:, 0::2, 0::2], mean[:, None, None].expand(3, 16, 16))
    torch.testing.assert_close(image[:, 0::2, 1::2], third[:, None, None].expand(3, 16, 16))
    torch.testing.assert_close(image[:, 1::2, 1::2], mean[:, None, None].expand(3, 16, 16))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"image_size": 64, "channels": (16, 8, 8, 8), "noise_dim": 1},
        {"text_encoder": "attention", "num_heads": 2, "text_dim": 16},
        {"text_encoder": "lstm", "noise_dim": 0},
        {"completer_dim": 0},
    ],
)
def test_a_bare_model_loads_any_configuration_and_draws_the_same(settings):
    model = small_model(**settings)
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    loaded = TextToImageModel()
    loaded.load_state_dict(torch.load(file))  # weights_only=True is torch's default
    loaded.eval()
    assert loaded.config == model.config
    assert loaded.tokenizer.vocabulary == TOKENIZER.vocabulary
    torch.testing.assert_close(
        loaded.draw(CAPTIONS, [1, 2, 3, 4]), model.draw(CAPTIONS, [1, 2, 3, 4])
    )


def test_the_extra_state_is_plain_values():
    def plain(value) -> bool:
        if isinstance(value, dict):
            return all(isinstance(k, str) and plain(v) for k, v in value.items())
        if isinstance(value, list):
            return all(map(plain, value))
        return isinstance(value, (str, int, float, bool))

    assert plain(small_model().state_dict()["_extra_state"])


def test_loading_keeps_the_training_mode():
    state = small_model().state_dict()
    for training in (True, False):
        model = TextToImageModel().train(training)
        model.load_state_dict(state)
        assert all(module.training == training for module in model.modules())


def test_generate_gives_one_image_or_a_list():
    model = small_model()
    single = model.generate("a red circle", seed=3)
    assert isinstance(single, Image.Image) and single.size == (32, 32) and single.mode == "RGB"
    several = model.generate(["a red circle", "red"], seed=2, n=3, batch_size=4)
    assert len(several) == 6
    assert np.abs(np.asarray(several[1], int) - np.asarray(single, int)).max() <= 1  # seed 2 + 1
    assert len(model.generate("red", n=2)) == 2 and len(model.generate(["red"])) == 1


@pytest.mark.parametrize("seed, n", [(-1, 1), (2**32, 1), (0, 0)])
def test_generate_refuses_seeds_that_mean_nothing(seed, n):
    with pytest.raises(ValueError, match="seed"):
        small_model().generate("red", seed=seed, n=n)


@pytest.mark.parametrize(
    "settings",
    [
        {"image_size": 48},
        {"text_encoder": "gru"},
        {"num_heads": 5},
        {"noise_dim": -1},
        {"channels": (8,)},
        {"channels": (8.5,) * 4},
        {"mask_scale": 0.0},
        {"text_dim": 7},
        {"completer_dim": 12},
        {"prior_dim": 6},
    ],
)
def test_configurations_that_cannot_work_are_refused(settings):
    with pytest.raises(ValueError):
        ModelConfig(**settings)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_model_of_half_precision_draws_nearly_the_same(dtype):
    model = small_model()
    exact = model.draw(CAPTIONS, [0, 1, 2, 3])
    assert (model.to(dtype).draw(CAPTIONS, [0, 1, 2, 3]) - exact).abs().max() < 0.1
    assert isinstance(model.generate("a red circle"), Image.Image)


def test_seeds_of_numpy_are_seeds():
    model = small_model()
    seeds = np.arange(2, dtype=np.int64)
    assert torch.equal(model.draw(["red"] * 2, seeds), model.draw(["red"] * 2, [0, 1]))
    assert model.generate("red", seed=seeds[1]).tobytes() == model.generate("red", seed=1).tobytes()


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "_orig_mod.module."])
def test_prefixes_of_wrappers_are_taken_off(prefix):
    model = small_model()
    loaded = TextToImageModel()
    loaded.load_state_dict({prefix + name: value for name, value in model.state_dict().items()})
    assert torch.equal(loaded.eval().draw(CAPTIONS, [0] * 4), model.draw(CAPTIONS, [0] * 4))


def test_weights_that_know_of_more_augmentations_can_be_loaded():
    """As of a later version: the number of columns belongs to the file."""
    model = small_model(augmentation_dim=len(AUGMENTATIONS) + 1)
    loaded = TextToImageModel()
    loaded.load_state_dict(model.state_dict())
    assert torch.equal(loaded.eval().draw(CAPTIONS, [0] * 4), model.draw(CAPTIONS, [0] * 4))


def test_smaller_images_know_their_places_by_the_mean_of_those_that_they_cover():
    """The first images of training: words are looked at on a grid of half the size."""
    torch.manual_seed(0)
    attention = WordAttention(8, 4, 16, 2)
    nn.init.normal_(attention.positions)
    half = WordAttention(8, 2, 16, 2)
    positions = attention.positions.detach().numpy().reshape(2, 2, 2, 2, 8).mean(axis=(1, 3))
    half.load_state_dict(attention.state_dict()
                         | {"positions": torch.from_numpy(positions.reshape(4, 8))})  # fmt: skip
    inputs = torch.randn(3, 8, 2, 2), torch.randn(3, 5, 16), torch.ones(3, 5, dtype=torch.bool)
    torch.testing.assert_close(attention(*inputs), half(*inputs))


def test_weights_of_a_flow_are_refused_naming_the_commit_that_reads_them():
    model = small_model()
    old = model.state_dict()
    config = old["_extra_state"]["config"] | {"prior_couplings": 6}
    old["_extra_state"] = old["_extra_state"] | {"config": config}
    with pytest.raises(ValueError, match="flow, which commit 40d3ebf[0-9a-f]{33} is the last"):
        model.load_state_dict(old)


def test_the_last_features_are_refined_before_they_become_layers():
    model, seen = small_model(), []
    model.to_layers.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    model.refine.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    model(model.tokenize(CAPTIONS), torch.rand(4, 16))
    before, after = seen  # of a leaky ReLU each, which can be undone
    before, after = (torch.where(x < 0, x / 0.2, x) for x in (before, after))
    refined = before + model.refine(nn.functional.leaky_relu(before, 0.2))
    torch.testing.assert_close(after, refined, atol=1e-5, rtol=1e-5)
    assert model.to_layers.kernel_size == (1, 1)


def test_a_checkpoint_of_training_is_told_from_weights_in_one_sentence():
    with pytest.raises(ValueError, match=r"checkpoint of training.*checkpoint\.load_model\(path\)"):
        TextToImageModel().load_state_dict({"model": {}, "ema": {}, "images_seen": 64})


def test_uint8_and_back_is_exact():
    values = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_uint8(from_uint8(values)), values)
    assert to_uint8(torch.tensor([-9.0, 9.0])).tolist() == [0, 255]


def test_bfloat16_draws_nearly_the_same():
    model = small_model()
    exact = model.draw(CAPTIONS, [0, 1, 2, 3])
    with torch.autocast("cpu", torch.bfloat16):
        fast = model.draw(CAPTIONS, [0, 1, 2, 3])
    assert fast.dtype == torch.float32
    assert (exact - fast).abs().max() < 0.1


def test_the_way_between_two_images_begins_and_ends_with_them():
    model = small_model()
    captions, seeds = ["a red circle", "a blue star at the left"], [1, 2]
    way, ends = model.interpolate(captions, seeds, 5), model.draw(captions, seeds)
    torch.testing.assert_close(way[[0, -1]], ends, atol=1e-5, rtol=0)
    steps = (way[1:] - way[:-1]).abs().mean(dim=(1, 2, 3))
    assert (steps > 0).all() and steps.max() < (ends[1] - ends[0]).abs().mean()


def test_a_look_tells_where_each_word_acted():
    model = small_model()
    look = model.look("a red circle", 3)
    torch.testing.assert_close(look.image, model.draw(["a red circle"], [3])[0])
    assert look.words == ["<start>", "a", "red", "circle"]
    assert look.maps.shape == (4, 16, 16) and look.between.shape == (4, 4)
    torch.testing.assert_close(look.maps.sum(dim=0), torch.ones(16, 16))
    torch.testing.assert_close(look.between.sum(dim=1), torch.ones(4))


def test_generate_warns_of_unknown_words_as_the_command_line_tells_them():
    model = small_model()
    [hint] = unknown_hints(model, ["a red cirkle"])
    assert hint == 'unknown word "cirkle" in "a red cirkle"; the nearest known one is "circle"'
    with pytest.warns(UserWarning, match=re.escape(hint)) as found:
        model.generate("a red cirkle")
    assert found[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.generate("a red circle")


@pytest.mark.parametrize(
    "prompt, written, expected",
    [
        ("a red cat", "a small red {} at the top", ["star", "ring", "arrow"]),
        ("a cat at the left", "a big red {} at the left", ["star", "ring", "arrow"]),
        ("cat at the left", "a big red {} at the left", ["star", "ring", "arrow"]),
        ("a cat at the left", "a big red {} and a blue star at the left", []),  # no single thing
        ("a cat at the left", "a {0} at the left {0}", ["star", "ring", "arrow"]),
        ("a red cat", "a {} circle", []),  # what is beside it was not written
        ("a big cat", "a big {0} the {0} at", ["star", "ring", "arrow"]),
        ("a cat", "a {0} {1} at", []),  # all kinds of words follow
        ("a red cat", "a red {} at star ring arrow", []),  # they stand anywhere
        ("a cat on a horse", "a {} on a star", []),  # beside one of two
        ("a red cat dog", "a red {} at", []),  # both are unknown
        ("cat", "a red {} at the top", []),
        ("a red 7", "a red {} at the top", []),
    ],
)
def test_known_words_are_suggested_where_their_place_is_clear(prompt, written, expected):
    names = ["star", "ring", "arrow", "square", "heart", "moon"]
    often = [names[min(i % 9 // 3, 2)] if i < 18 else names[i % 3 + 3] for i in range(24)]
    tokenizer = Tokenizer.learn([f"a the small big red blue at left top on and circle "
                                 f"{' '.join(names)}"], min_count=1)  # fmt: skip
    model = TextToImageModel(ModelConfig(image_size=32, channels=(8,) * 3, text_dim=16), tokenizer)
    model.complete = lambda prompts, seeds: [
        written.format(often[seed], chr(97 + seed) * 2) for seed in seeds
    ]
    word = next(w for w in prompt.split() if w not in tokenizer.ids)
    assert suggest(model, prompt, word) == expected


def test_a_model_without_a_completer_suggests_nothing():
    assert suggest(small_model(completer_dim=0), "a red cat", "cat") == []


def test_a_model_is_shown_large_with_what_it_drew_and_where_its_words_acted():
    model = small_model()
    one, two = model.show("a red circle", seed=3), model.show("a red circle", seed=3, n=2)
    image = model.generate("a red circle", seed=3).resize((256, 256), Image.Resampling.NEAREST)
    sheet, large = np.asarray(one), np.asarray(image)
    places = np.argwhere((sheet == large[0, 0]).all(axis=2))
    assert any(np.array_equal(sheet[y : y + 256, x : x + 256], large) for y, x in places)
    assert np.array_equal(np.asarray(two)[: one.height], sheet)
    with pytest.raises(ValueError, match="seeds"):
        model.show("red", seed=-1)


def test_a_model_tells_of_itself_what_a_person_wants_to_know():
    model = small_model()
    total = sum(p.numel() for p in model.parameters())
    told = repr(model)
    assert (
        told.splitlines()[0] == f"TextToImageModel: 32 x 32 pixels, {total / 1e6:.2f} M parameters"
    )
    assert f"words known: {len(TOKENIZER) - 3}: a, " in told and "completed first" in told
    assert "16 values that a seed chooses" in told and len(told.splitlines()) < 10
    bare = repr(small_model(completer_dim=0, noise_dim=0))
    assert "drawn as typed" in bare and "latent: none" in bare and "completer" not in bare
    assert "words known: 0\n" in repr(TextToImageModel())
