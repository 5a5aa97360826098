"""Does a model that was exported to ONNX draw the same without torch?"""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from small import SMALL

import save_model
from config import ModelConfig, UserError
from model import TextToImageModel
from tokenizer import Tokenizer

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))

PROMPTS = ("a red bird", "Blue, and: gold", "", "nobody knows this")


@pytest.fixture(scope="module")
def model() -> TextToImageModel:
    """A small one, in which everything matters."""
    config = ModelConfig(image_size=32, max_tokens=12, noise_dim=4, completer_dim=32, **SMALL)
    text = "a red bird , and a blue boat : the ( gold ) one - eyed"
    tokenizer = Tokenizer.learn([text], min_count=1)
    torch.manual_seed(0)
    model = TextToImageModel(config, tokenizer).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
        for module in model.modules():
            if isinstance(module, torch.nn.Embedding):
                module.weight[0] = 0
    return model


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory):
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    folder = tmp_path_factory.mktemp("onnx") / "small_onnx"
    save_model.write_onnx(model, folder)
    with pytest.raises(UserError, match="exists already"):
        save_model.write_onnx(model, folder)
    import onnx_draw

    return onnx_draw.Model(folder)


@pytest.mark.slow
def test_a_seed_means_the_same_numbers_as_in_torch(model, exported):
    for seed in (0, 7, 2**32 - 1):
        for ours, theirs in zip(exported.chance(seed), model.chance(seed), strict=True):
            assert np.array_equal(ours, theirs.numpy())


@pytest.mark.slow
@pytest.mark.parametrize("prompt", PROMPTS)
def test_an_exported_model_writes_and_draws_what_torch_does(model, exported, prompt):
    captions = set()
    for seed in range(4):
        caption = model.complete(prompt, seed)
        of_latent, of_words = exported.chance(seed)
        assert exported.complete(prompt, of_words) == caption
        drawn = exported.draw(caption, of_latent).astype(int)
        real = np.asarray(model.generate(caption, seed, complete=False)).astype(int)
        assert drawn.shape == real.shape and np.abs(drawn - real).max() <= 1
        captions.add(caption)
    assert len(captions) > 1


@pytest.mark.slow
def test_a_model_without_latents_and_completer_draws_too(tmp_path):
    for package in ("onnx", "onnxscript"):
        pytest.importorskip(package)
    onnx_draw = pytest.importorskip("onnx_draw")
    config = ModelConfig(image_size=32, max_tokens=6, noise_dim=0, completer_dim=0, **SMALL)
    model = TextToImageModel(config, Tokenizer.learn(["red"], min_count=1)).eval()
    save_model.write_onnx(model, tmp_path / "plain_onnx")
    exported = onnx_draw.Model(tmp_path / "plain_onnx")
    of_latent, of_words = exported.chance(0)
    drawn = exported.draw(exported.complete("red", of_words), of_latent).astype(int)
    assert np.abs(drawn - np.asarray(model.generate("red")).astype(int)).max() <= 1


def test_a_missing_package_is_named(model, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)  # import raises ImportError
    with pytest.raises(UserError, match="pip install onnx onnxscript"):
        save_model.write_onnx(model, tmp_path / "model_onnx")
    assert not (tmp_path / "model_onnx").exists()
