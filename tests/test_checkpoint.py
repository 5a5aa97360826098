"""Protects against files that are damaged, or made to do harm: checkpoints and weights."""

import codecs
import copy
import dataclasses
import io
import multiprocessing
import pickle
import random
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

import checkpoint
import evaluate
from checkpoint import Progress
from config import EvaluateConfig, ModelConfig, TrainConfig, UserError, settings_of
from files import previous
from latents import PosteriorEncoder
from model import TextToImageModel
from muon import make_optimizers
from tokenizer import Tokenizer

ROOT = Path(__file__).parent.parent
CONFIG = ModelConfig(image_size=32, text_dim=16, channels=(8, 8, 8), noise_dim=4)
TOKENIZER = Tokenizer.learn(["red circle star"], min_count=1)
SETTINGS = TrainConfig(**dataclasses.asdict(CONFIG))


def weights(**changes) -> dict:
    """The state_dict of a small model; changes of its configuration are not checked."""
    torch.manual_seed(0)
    state = TextToImageModel(CONFIG, TOKENIZER).state_dict()
    config = dataclasses.asdict(CONFIG) | changes
    state["_extra_state"] = {"config": config, "tokenizer": TOKENIZER.state_dict()}
    return state


def other_weights() -> dict:
    config = dataclasses.replace(CONFIG, channels=(16, 16, 16))
    return TextToImageModel(config, TOKENIZER).state_dict()


def run_state(settings: TrainConfig = SETTINGS) -> dict:
    """A training checkpoint, as train.py writes it."""
    torch.manual_seed(0)
    model, posterior = TextToImageModel(settings.model_config(), TOKENIZER), PosteriorEncoder(4)
    ema = copy.deepcopy(model.state_dict())
    optimizers = make_optimizers(model, posterior, settings)
    for parameter in (*model.parameters(), *posterior.parameters()):
        parameter.grad = torch.ones_like(parameter)
    for optimizer in optimizers:
        optimizer.step()
    best, words = {"images": 64, "energy_score": 0.1, "weights": copy.deepcopy(ema)}, {}
    if model.completer:
        kept = copy.deepcopy(model.completer.state_dict())
        words = {"images": 64, "completion_loss": 3.0, "weights": kept}
    line = {"images": 64, "split": "train", "lr": 1e-3}
    return {
        "config": dataclasses.asdict(settings), "data": {"train": "a"},
        **vars(Progress(64, 0, 0, 1.5, {"regression_loss": [0.5]}, [line], best, words)),
        "model": model.state_dict(), "ema": ema, "posterior": posterior.state_dict(),
        "optimizers": [o.state_dict() for o in optimizers],
    }  # fmt: skip


def use(path: Path) -> None:
    """All that the scripts read of a file."""
    state = checkpoint.load(path)
    checkpoint.progress_line(state)
    if "images_seen" in state:
        folder = path.with_name("run")
        folder.mkdir(exist_ok=True)
        shutil.copy(path, folder / "checkpoint.pth")
        state = checkpoint.resume(SETTINGS, folder, {"train": "a"})
        checkpoint.networks_of(state, path, SETTINGS, torch.device("cpu"))
    checkpoint.model_of(state, path).draw(["red"], [0])
    evaluate.trained_with(state, path, EvaluateConfig())


def test_a_flipped_byte_is_noticed_and_the_checkpoint_before_is_used(tmp_path, capsys):
    path = tmp_path / "checkpoint.pth"
    checkpoint.save({"number": torch.zeros(1000)}, path)
    checkpoint.save({"number": torch.ones(1000)}, path)
    content = bytearray(path.read_bytes())
    place = content.index(torch.ones(8).numpy().tobytes())
    content[place] ^= 1
    path.write_bytes(content)
    assert torch.load(path)["number"].shape == (1000,)  # torch would not see it
    assert not checkpoint.load(path)["number"].any()
    told = capsys.readouterr().out
    assert told.count("\n") == 1 and "is damaged" in told and "checkpoint.previous.pth" in told


def test_where_both_are_damaged_one_sentence_says_so(tmp_path):
    path = tmp_path / "checkpoint.pth"
    path.write_bytes(b"x")
    previous(path).write_bytes(b"y")
    with pytest.raises(UserError, match="is damaged.*; so is .*--set keep_every=N") as error:
        checkpoint.load(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("odd", [Path("x"), {1, 2}, torch.ones(2).int(), torch.ones(1).expand(9)])
def test_what_could_not_be_read_back_is_not_written(tmp_path, odd):
    path = tmp_path / "checkpoint.pth"
    checkpoint.save({"number": 1}, path)
    with pytest.raises(ValueError, match="checkpoint.pth could not be read back"):
        checkpoint.save({"number": 2, "odd": odd}, path)
    assert checkpoint.load(path) == {"number": 1} and list(tmp_path.iterdir()) == [path]


def test_a_model_is_loaded_from_a_path_that_is_a_text(tmp_path):
    torch.save(weights(), tmp_path / "weights.pth")
    model = checkpoint.load_model(str(tmp_path / "weights.pth"))
    expected = checkpoint.load_model(tmp_path / "weights.pth")
    assert torch.equal(model.draw(["red"], [0]), expected.draw(["red"], [0]))
    wrapped = {f"_orig_mod.{name}": value for name, value in weights().items()}
    torch.save(wrapped, tmp_path / "wrapped.pth")
    model = checkpoint.load_model(tmp_path / "wrapped.pth")
    assert torch.equal(model.draw(["red"], [0]), expected.draw(["red"], [0]))


def test_safetensors_hold_the_same_model_and_are_checked_like_other_files(tmp_path, monkeypatch):
    safetensors = pytest.importorskip("safetensors")
    model = TextToImageModel(CONFIG, TOKENIZER).eval()
    path = tmp_path / "weights.safetensors"
    checkpoint.save(model.state_dict(), path)
    again = checkpoint.load_model(path)
    assert again.config == model.config and again.tokenizer.vocabulary == model.tokenizer.vocabulary
    assert torch.equal(again.draw(["a red bird"], [0]), model.draw(["a red bird"], [0]))
    with safetensors.safe_open(path, "pt") as file:  # as others read it
        assert set(file.metadata()) == {"_extra_state"} and "_extra_state" not in list(file.keys())
    content = path.read_bytes()
    for damaged in (content[:-9], content[:100], content.replace(b"_extra_state", b"_other_state"),
                    content.replace(b"F32", b"F64")):  # fmt: skip
        path.write_bytes(damaged)
        with pytest.raises(UserError, match="is damaged|does not fit"):
            checkpoint.load_model(path)
    path.write_bytes(content)
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)  # import raises ImportError
    for use in (lambda: checkpoint.load_model(path), lambda: checkpoint.save({}, path)):
        with pytest.raises(UserError, match="needs the package: pip install safetensors"):
            use()


def test_a_run_of_another_version_is_refused_with_a_way_on(tmp_path):
    """It was trained by a setting that is gone."""
    state = run_state()
    torch.save(state, tmp_path / "checkpoint.pth")
    assert checkpoint.resume(SETTINGS, tmp_path, {"train": "a"})["images_seen"] == 64
    with pytest.raises(UserError, match="--set kl_weight was 0.0007, is 0.1"):
        checkpoint.resume(dataclasses.replace(SETTINGS, kl_weight=0.1), tmp_path, {"train": "a"})
    state["config"]["swd_mask_scale"] = state["config"].pop("late_mask_scale")
    torch.save(state, tmp_path / "checkpoint.pth")
    with pytest.raises(UserError, match=f"with swd_mask_scale; --run NAME --init-from {tmp_path}"):
        checkpoint.resume(SETTINGS, tmp_path, {"train": "a"})
    assert checkpoint.load_model(tmp_path / "checkpoint.pth").config == CONFIG
    state["config"]["prior_couplings"] = 6
    torch.save(state, tmp_path / "checkpoint.pth")
    with pytest.raises(UserError, match="a flow, which commit .*; --run NAME starts another run"):
        checkpoint.resume(SETTINGS, tmp_path, {"train": "a"})
    assert checkpoint.load_model(tmp_path / "checkpoint.pth").config == CONFIG


def test_new_augmentations_start_at_nothing_in_weights_that_do_not_know_them(tmp_path):
    config = dataclasses.replace(CONFIG, augmentation_dim=CONFIG.augmentation_dim - 1)
    old = TextToImageModel(config, TOKENIZER)
    torch.save(old.state_dict(), tmp_path / "old.pth")
    settings = dataclasses.replace(SETTINGS, init_from=str(tmp_path / "old.pth"))
    new = checkpoint.build_model(checkpoint.first_weights(settings, ["red"]), tmp_path / "new")
    assert new.config.augmentation_dim == CONFIG.augmentation_dim
    assert torch.equal(new.condition.weight[:, :-1], old.condition.weight)
    assert not new.condition.weight[:, -1].any()
    torch.testing.assert_close(new.draw(["red"], [0]), old.draw(["red"], [0]))


def test_the_record_of_a_run_keeps_its_first_start_and_adds_later_ones(tmp_path):
    starts = [({"commit": "one"}, 0, {}), ({"commit": "two"}, 64, {"sample_every": 7}),
              ({"commit": "three"}, 96, {"sample_every": 7})]  # fmt: skip
    for about, seen, changes in starts:
        config = dataclasses.replace(SETTINGS, **changes)
        checkpoint.write_record(tmp_path, about, config, CONFIG, seen)
    record = checkpoint.read_record(tmp_path)
    assert record["commit"] == "one" and record["train"]["sample_every"] == 10_000
    assert record["resumed"] == [
        {"commit": "two", "images_seen": 64, "changed": {"sample_every": 7}},
        {"commit": "three", "images_seen": 96, "changed": {}},
    ]
    assert settings_of(record)["sample_every"] == 7
    (tmp_path / "config.json").write_text("[]")
    checkpoint.write_record(tmp_path, {"commit": "four"}, SETTINGS, CONFIG, 96)
    assert checkpoint.read_record(tmp_path)["commit"] == "four"


def test_going_on_after_damage_keeps_the_good_checkpoint(tmp_path, capsys):
    path = tmp_path / "checkpoint.pth"
    checkpoint.save({"number": 1}, path)
    checkpoint.save({"number": 2}, path)
    path.write_bytes(path.read_bytes()[:-10])
    assert checkpoint.load(path, repair=True) == {"number": 1}
    told = capsys.readouterr().out
    assert "is damaged" in told and "is now " in told and not previous(path).exists()
    assert path.with_name("checkpoint.damaged.pth").exists()
    checkpoint.save({"number": 3}, path)
    assert checkpoint.load(previous(path)) == {"number": 1}


def test_a_file_that_cannot_be_read_for_now_is_not_called_damaged(tmp_path, monkeypatch):
    path = tmp_path / "checkpoint.pth"
    for number in (1, 2):
        checkpoint.save({"number": number}, path)
    with monkeypatch.context() as patch, pytest.raises(UserError, match="cannot be read: busy"):
        patch.setattr(Path, "read_bytes", lambda _: (_ for _ in ()).throw(OSError("busy")))
        checkpoint.load(path)
    assert checkpoint.load(path) == {"number": 2}


def test_a_run_goes_on_where_only_the_checkpoint_before_is_left(tmp_path, monkeypatch):
    """As after a kill between the two renames."""
    monkeypatch.chdir(tmp_path)
    Path("results/run").mkdir(parents=True)
    torch.save(run_state(), "results/run/checkpoint.previous.pth")
    path = checkpoint.newest_run()
    assert path == Path("results/run/checkpoint.pth")
    assert checkpoint.load(path)["images_seen"] == 64  # for drawing
    assert checkpoint.resume(SETTINGS, path.parent, {"train": "a"})["images_seen"] == 64
    assert path.exists()


def test_what_train_writes_is_what_is_checked(tmp_path):
    torch.save(run_state(), tmp_path / "checkpoint.pth")
    use(tmp_path / "checkpoint.pth")


@pytest.mark.parametrize(
    "name, value",
    [
        ("config", {}), ("config", {"images": "x"}), ("images_seen", "64"), ("images_seen", -1),
        ("start", 65), ("halvings", 2), ("halvings", -1), ("halvings", "1"), ("seconds", None),
        ("unlogged", {"regression_loss": "x"}), ("unlogged", {"x": 1}),
        ("unlogged", {"x": []}), ("unlogged", {"x": (1.0,)}), ("metrics", [1]), ("metrics", [{}]),
        ("metrics", [{"images": 64, "split": 3}]),
        ("metrics", [{"images": torch.ones(3), "split": "train"}]), ("best", {"images": 3}),
        ("best", {"images": 3, "energy_score": 1.0, "weights": 0}), ("model", {}), ("model", 7),
        ("posterior", {}), ("posterior", {"out.bias": 1}), ("optimizers", []),
        ("optimizers", [{}, {}]),
        ("optimizers", 7), ("surprise", 1), ("seconds", 1e300), ("unlogged", {1: [1.0]}),
        ("best", torch.ones(3)), ("metrics", [{"images": 64, "split": "train", (1, 2): 3}]),
        ("best", {"images": 3, "weights": {}, "other": 1.0}), ("optimizers", [{}, {}, {}, {}, {}]),
        ("best", {"images": 3, "energy_score": float("nan"), "weights": {}}),
        ("best_completer", {"weights": 7}), ("best_completer", {"images": 3}),
        ("best_completer", {"images": 3, "weights": {"copy.bias": torch.ones(2)}}),
        ("ema", other_weights()), ("one\ntwo\033[31m", 1), ("data", "x"),
        ("config", dataclasses.asdict(SETTINGS) | {"lr": torch.ones(3)}),
    ],
)  # fmt: skip
def test_a_training_checkpoint_with_wrong_content_is_refused(tmp_path, name, value):
    torch.save(run_state() | {name: value}, tmp_path / "checkpoint.pth")
    with pytest.raises(UserError) as error:
        use(tmp_path / "checkpoint.pth")
    assert str(error.value).isprintable()


@pytest.mark.parametrize("name", sorted(checkpoint.STATE.keys() - {"images_seen"}))  # else: weights
def test_a_training_checkpoint_with_something_missing_is_refused(tmp_path, name):
    state = run_state()
    del state[name]
    torch.save(state, tmp_path / "checkpoint.pth")
    with pytest.raises(UserError):
        use(tmp_path / "checkpoint.pth")


@pytest.mark.parametrize("moments", [torch.ones(3), torch.ones(1).expand(16), torch.nan])
def test_state_of_the_optimiser_that_belongs_to_other_parameters_is_refused(tmp_path, moments):
    state = run_state()
    saved = next(s for s in state["optimizers"][0]["state"].values() if len(s["exp_avg"]) == 16)
    saved["exp_avg"] = moments if isinstance(moments, torch.Tensor) else torch.full((16,), moments)
    torch.save(state, tmp_path / "checkpoint.pth")
    with pytest.raises(UserError):
        use(tmp_path / "checkpoint.pth")


def huge() -> dict:
    """10^12 entries that share one number: nothing in the file, four terabytes when copied."""
    return weights() | {"to_layers.bias": torch.zeros(1).expand(10**6, 10**6)}


def all_huge() -> dict:
    """Every weight has the shape that a huge configuration asks for, and one number in the file."""
    config = dataclasses.replace(CONFIG, text_dim=2**14)
    with torch.device("meta"):
        state = TextToImageModel(config, TOKENIZER).state_dict()
    for name, value in state.items():
        if isinstance(value, torch.Tensor):
            state[name] = torch.zeros(1).expand(value.shape)
    return state


def billions() -> dict:
    """Ten lists that each hold the one before ten times."""
    nested = ["ha"] * 10
    for _ in range(10):
        nested = [nested] * 10
    return weights(image_size=nested)


@pytest.mark.parametrize(
    "state, message",
    [
        (huge, "is damaged"),
        (all_huge, "is damaged"),
        (billions, "is damaged"),
        (lambda: weights(image_size=[[["a"]]]), "--image-size takes a whole number"),
        (lambda: weights(text_dim=10**4), "has the shape"),
        (lambda: weights(text_dim=10**9), "does not fit"),
        (lambda: weights(channels=[10**9] * 3), "does not fit"),
        (lambda: weights(num_heads=4.0), "num_heads takes a whole number"),
        (lambda: weights(num_heads=-4), "does not fit"),
        (lambda: weights(max_tokens=2.5), "max_tokens takes a whole number"),
        (lambda: {"ema": 7}, "no weights of this project"),
        (lambda: {"best": 7, "ema": weights()["_extra_state"]}, "no weights of this project"),
        (lambda: weights() | {1: 2}, "does not fit"),
        (lambda: weights(num_heads=0), "does not fit"),
        (lambda: weights(channels="../../etc/passwd"), "does not fit"),
        (lambda: weights(text_encoder="../../etc/passwd"), "text_encoder is one of"),
        (lambda: weights(image_size="64"), "--image-size takes a whole number"),
        (lambda: weights(mask_scale=float("nan")), "mask_scale must be"),
        (lambda: weights(surprise=1), "unexpected keyword"),
        (lambda: weights(prior_couplings=6), "from a flow, which commit"),
        (lambda: weights() | {"to_layers.bias": torch.full((42,), torch.nan)}, "no numbers"),
        (lambda: weights() | {"to_layers.bias": torch.ones(42).long()}, "no tensor of floats"),
        (lambda: weights() | {"to_layers.bias": "x"}, "no tensor of floats"),
        (lambda: weights() | {"surprise": torch.ones(1)}, "surprise is unknown"),
        (lambda: {k: v for k, v in weights().items() if "bias" not in k}, "is missing"),
        (lambda: weights() | {"_extra_state": {"config": {}, "tokenizer": {"vocabulary": [1]}}},
         "does not fit"),
    ],
)  # fmt: skip
def test_weights_made_to_do_harm_are_refused_in_one_sentence(tmp_path, state, message):
    path = tmp_path / "weights.pth"
    torch.save(state(), path)
    with pytest.raises(UserError, match=message) as error:
        use(path)
    assert "\n" not in str(error.value)


def test_weights_that_do_not_fit_leave_a_model_as_it_is():
    model = TextToImageModel(CONFIG, TOKENIZER)
    before = model.draw(["red"], [0])
    with pytest.raises(ValueError, match="fewer values than its shape tells"):
        model.load_state_dict(huge() | {"_extra_state": weights(max_tokens=9)["_extra_state"]})
    with pytest.raises(ValueError, match="fewer values than its shape tells"):
        model.load_state_dict(all_huge())  # as in a notebook, without checkpoint.load
    assert torch.equal(model.draw(["red"], [0]), before)


def test_a_pickle_in_front_of_an_archive_is_not_read(tmp_path):
    """zipfile finds the archive at the end, torch alone would read the pickle at the start."""
    torch.save({"a": 1}, tmp_path / "new.pth")
    torch.save({"a": 2}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    path = tmp_path / "both.pth"
    path.write_bytes((tmp_path / "old.pth").read_bytes() + (tmp_path / "new.pth").read_bytes())
    assert torch.load(path)["a"] == 2 and checkpoint.load(path)["a"] == 1
    with pytest.raises(UserError, match="damaged"):
        checkpoint.load(tmp_path / "old.pth")


def test_a_file_that_unfolds_to_more_than_its_size_is_refused(tmp_path):
    torch.save({"zeros": torch.zeros(10**6)}, tmp_path / "plain.pth")
    path = tmp_path / "folded.pth"
    with (
        zipfile.ZipFile(tmp_path / "plain.pth") as plain,
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as folded,
    ):
        for name in plain.namelist():
            folded.writestr(name, plain.read(name))
    assert path.stat().st_size < 10**5
    with pytest.raises(UserError, match="damaged"):
        checkpoint.load(path)


def mutate(content: bytes, rng: random.Random) -> bytes:
    """Some bytes changed, cut out, doubled or cut off."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 3, 20))):
        at, length = rng.randrange(len(data) + 1), rng.choice((1, 4, 64, 1000))
        kind = rng.randrange(5)
        if kind == 0:
            data[at : at + 1] = bytes(x ^ 1 << rng.randrange(8) for x in data[at : at + 1])
        elif kind == 1:
            data[at : at + length] = rng.randbytes(length)
        elif kind == 2:
            del data[at : at + length]
        elif kind == 3:
            data[at:at] = data[max(0, at - length) : at]
        else:
            del data[at:]
    return bytes(data)


def rezip(content: bytes, rng: random.Random) -> bytes:
    """The checkpoint with a mutated pickle in it, and with right checksums."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            new.writestr(name, mutate(data, rng) if name.endswith("data.pkl") else data)
    return out.getvalue()


def use_mutated(folder: Path, num: int) -> int:
    """How many of `num` mutated files were refused; all others could be used."""
    refused, rng = 0, random.Random(0)
    for i in range(num):
        torch.save(run_state() if i % 2 else weights(), folder / "file.pth")
        content = (folder / "file.pth").read_bytes()
        (folder / "file.pth").write_bytes((rezip if i % 3 else mutate)(content, rng))
        try:
            use(folder / "file.pth")
        except UserError as error:
            refused += 1
            assert "\n" not in str(error)
    return refused


def test_mutated_checkpoints_are_refused_or_harmless(tmp_path):
    assert use_mutated(tmp_path, 30) > 20


def within_bounds(folder: Path) -> None:
    """In a process of its own: a limit of 2 GB more than it has at the start."""
    import resource

    status = dict(x.split(":") for x in Path("/proc/self/status").read_text().splitlines())
    limit = 2 * 2**30 + 1024 * int(status["VmSize"].split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    assert use_mutated(folder, 1_000) > 500


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")
def test_a_thousand_mutated_checkpoints_take_neither_memory_nor_time(tmp_path):
    process = multiprocessing.get_context("spawn").Process(target=within_bounds, args=(tmp_path,))
    process.start()
    process.join(600)
    assert process.exitcode == 0


class Calls:
    """Pickled, it calls a function when it is read."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    "harm",
    [
        Calls(Path.touch, Path("exploded")), Calls(eval, "open('exploded', 'w')"),
        Calls(pickle.loads, pickle.dumps(Calls(Path.touch, Path("exploded")))),
        Calls(bytearray, 10**9), Calls(torch.zeros, 10**9), Calls(codecs.encode, "x" * 99, "utf8"),
    ],
)  # fmt: skip
def test_no_file_runs_code_or_takes_all_memory(tmp_path, monkeypatch, harm):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch, "load", None)  # it is not even asked
    for state in ({"_extra_state": harm}, run_state() | {"config": harm}):
        torch.save(state, "weights.pth")
        with zipfile.ZipFile("weights.pth") as old, zipfile.ZipFile("odd.pth", "w") as odd:
            for name in old.namelist():  # torch finds names of any case
                odd.writestr(name.replace("data.pkl", "DATA.PKL"), old.read(name))
        for path in (Path("weights.pth"), Path("odd.pth")):
            with pytest.raises(ValueError, match="a pickle of something else"):
                checkpoint._unpickle(path.read_bytes())
            with pytest.raises(UserError):
                use(path)
    assert not Path("exploded").exists()


def test_loading_weights_does_not_import_torch_s_compiler():
    code = (
        "import sys, checkpoint; before = set(sys.modules);"
        "checkpoint.load_model(checkpoint.SHIPPED_WEIGHTS);"
        "print(len({'sympy', 'torch._refs', 'torch._inductor'} & set(sys.modules) - before))"
    )
    told = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert told.stdout.split() == ["0"], told.stderr
