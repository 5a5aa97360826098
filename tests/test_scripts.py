"""Protects the command lines: generate.py, save_model.py, and how a user's mistakes are told."""

import json
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small import TINY, make_flags

import checkpoint
import generate
import save_model
import train
from config import VERSION, GenerateConfig, ModelConfig, SaveConfig, TrainConfig, UserError
from generate import file_name
from model import TextToImageModel
from reports.hints import MAX_TOLD
from tokenizer import Tokenizer

ROOT = Path(__file__).parent.parent


def small_run(folder: Path, **settings) -> Path:
    """A trained run of two steps."""
    return train.main(TrainConfig(**TINY | {"data": str(folder), "images": 32} | settings))


@pytest.fixture
def weights(tmp_path, monkeypatch):
    """A file of weights, never trained, that knows three words; in an empty working directory."""
    monkeypatch.chdir(tmp_path)
    config = ModelConfig(image_size=32, text_dim=16, channels=(8, 8, 8))
    torch.manual_seed(0)
    model = TextToImageModel(config, Tokenizer.learn(["red circle star"], min_count=1))
    checkpoint.save(model.state_dict(), Path("weights.pth"))
    return "weights.pth"


def script(*arguments: str, cwd: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / arguments[0]), *arguments[1:]]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True)


def test_generate_writes_one_picture_for_each_prompt_and_seed(weights, capsys):
    paths = generate.main(GenerateConfig(["red circle", "star"], weights, seed=5, n=2))
    assert [p.as_posix() for p in paths] == [
        "generated/red-circle-seed5.png", "generated/red-circle-seed6.png",
        "generated/star-seed5.png", "generated/star-seed6.png",
    ]  # fmt: skip
    assert all(Image.open(p).size == (32, 32) for p in paths)
    printed = capsys.readouterr().out
    assert "weights: weights.pth" in printed and "generated/star-seed6.png" in printed


def test_what_is_drawn_is_told_and_kept_in_the_png_and_can_be_typed(weights, capsys):
    model = checkpoint.load_model(weights)
    paths = generate.main(GenerateConfig(["red"], weights, seed=2, n=2))
    printed = capsys.readouterr().out
    for seed, path in zip((2, 3), paths, strict=True):
        caption = model.complete("red", seed)
        assert f'"red" -> "{caption}"' in printed
        image = Image.open(path)
        expected = {"prompt": "red", "caption": caption, "seed": str(seed), "temperature": "1",
                    "model": checkpoint.fingerprint(model), "version": VERSION}  # fmt: skip
        assert image.text == expected
        again = GenerateConfig([caption], weights, seed=seed, as_typed=True, output="typed.png")
        [typed] = generate.main(again)
        assert np.array_equal(np.asarray(Image.open(typed)), np.asarray(image))
    capsys.readouterr()
    [path] = generate.main(GenerateConfig(["red"], weights, as_typed=True))
    assert "->" not in capsys.readouterr().out
    assert Image.open(path).text["caption"] == "red"


def test_a_grid_tells_what_each_image_is(weights, capsys):
    model = checkpoint.load_model(weights)
    [path] = generate.main(GenerateConfig(["red", "star"], weights, n=2, grid=True))
    printed = capsys.readouterr().out
    captions = model.complete(["red", "red", "star", "star"], [0, 1, 0, 1])
    assert f'seed 1: "star" -> "{captions[3]}"' in printed
    assert Image.open(path).text["caption"].split("\n") == captions


def test_temperature_decides_how_freely_captions_are_completed(weights):
    config = GenerateConfig(["red"], weights, n=8, temperature=0.0)
    likeliest = {Image.open(path).text["caption"] for path in generate.main(config)}
    config = GenerateConfig(["red"], weights, n=8, temperature=1.0)
    assert len({Image.open(path).text["caption"] for path in generate.main(config)}) > 4
    assert likeliest == {checkpoint.load_model(weights).complete("red", 5, temperature=0)}
    with pytest.raises(UserError, match="--temperature must be 0 or more"):
        GenerateConfig(["red"], temperature=-0.1)


def test_a_prompt_without_a_known_word_is_told(weights, capsys):
    generate.main(GenerateConfig(["xyzzy", "", "red"], weights))
    assert 'no known word in "xyzzy": any image is drawn' in capsys.readouterr().out


def test_weights_without_a_completer_draw_as_typed_and_say_so(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    config = ModelConfig(image_size=32, text_dim=16, channels=(8, 8, 8), completer_dim=0)
    model = TextToImageModel(config, Tokenizer.learn(["red circle"], min_count=1))
    checkpoint.save(model.state_dict(), Path("old.pth"))
    [path] = generate.main(GenerateConfig(["red"], "old.pth"))
    assert "complete no captions: they are drawn as typed" in capsys.readouterr().out
    assert Image.open(path).text["caption"] == "red"


def test_output_with_the_suffix_of_an_image_is_a_file_and_one_only(weights):
    assert generate.main(GenerateConfig(["red"], weights, output="a.png")) == [Path("a.png")]
    several = {"model": weights, "n": 2, "output": "b.png"}
    with pytest.raises(UserError, match="b.png is one file, but 2 images are drawn.*--grid"):
        generate.main(GenerateConfig(["red"], **several))
    assert generate.main(GenerateConfig(["red"], grid=True, **several)) == [Path("b.png")]
    with pytest.raises(UserError, match="one.gif: images are written as .png, .jpg"):
        generate.main(GenerateConfig(["red"], weights, output="one.gif"))
    assert not Path("one.gif").exists()
    for folder in ("v1.2", "b.gif"):
        Path(folder).mkdir()
        [path] = generate.main(GenerateConfig(["red"], weights, output=folder))
        assert path.parent == Path(folder)


def test_a_grid_is_one_sheet(weights):
    asked = {"input": ["red", "star"], "model": weights, "n": 3, "as_typed": True}
    [path] = generate.main(GenerateConfig(grid=True, **asked))
    assert path.name == "grid-red-seed0-as-typed.png"
    sheet = np.asarray(Image.open(path))
    singles = generate.main(GenerateConfig(upscale=4, **asked))
    places = []
    for single in map(np.asarray, map(Image.open, singles)):
        found = np.argwhere((sheet == single[0, 0]).all(axis=2))
        places += [(y, x) for y, x in found
                   if np.array_equal(sheet[y : y + 128, x : x + 128], single)]  # fmt: skip
    (first, left), (second, _) = places[0], places[3]
    step = places[1][1] - left
    assert places == [(y, left + i * step) for y in (first, second) for i in range(3)]
    assert step > 128 and second > first + 128


def test_unknown_words_are_told_with_the_nearest_known_one(weights, capsys):
    generate.main(GenerateConfig(["red cirkle", "zzz"], weights))
    printed = capsys.readouterr().out
    assert 'unknown word "cirkle"' in printed and 'nearest known one is "circle"' in printed
    assert 'unknown word "zzz"' in printed and printed.count("nearest") == 1


@pytest.mark.parametrize(
    "prompt", ["../../x", "/etc/passwd", "a\0b", "x" * 5000, "🦊 лиса", "", "...", "C:\\x", "a/b"]
)
def test_prompts_never_become_paths(weights, prompt):
    [path] = generate.main(GenerateConfig([prompt], weights))
    assert path.parent == Path("generated") and path.exists()
    assert len(path.name.encode()) < 255


def test_prompts_that_look_alike_get_files_of_their_own():
    assert file_name("a red circle", 0) == "a-red-circle-seed0.png"
    assert len({file_name(p, 0) for p in ("a b", "a, b", "a  b", "a/b", "A B!", "")}) == 6


def test_the_same_prompt_drawn_in_another_way_gets_a_file_of_its_own(weights):
    """Else --skip-existing would take one for the other."""
    ways = ({}, {"as_typed": True}, {"temperature": 0.5}, {"temperature": 0.0, "as_typed": True},
            {"upscale": 2})  # fmt: skip
    paths = [generate.main(GenerateConfig(["red"], weights, skip_existing=True, **way))[0].name
             for way in ways]  # fmt: skip
    assert paths == [f"red-seed0{how}.png"
                     for how in ("", "-as-typed", "-temperature0.5",
                                 "-as-typed-temperature0", "-x2")]  # fmt: skip


ODD_PROMPTS = [b"../../x", b"/etc/passwd", b"a\0b", b"x" * 5000, b"\xff\xfe red", b"a/b", b"C:\\x",
               "\u202eright to left \u05d0\u05d1".encode(), "\U0001f98a".encode()]  # fmt: skip


def test_a_file_of_prompts_of_any_bytes_is_drawn_into_the_folder_and_nowhere_else(weights):
    Path("prompts.txt").write_bytes(b"\xef\xbb\xbfred\r\n\n" + b"\n".join(ODD_PROMPTS) + b"\nred\n")
    before = {p for p in Path().rglob("*")}
    paths = generate.main(GenerateConfig(model=weights, input_file="prompts.txt"))
    assert paths[0].name == "red-seed0.png" and len(paths) == len(set(paths)) == 10
    made = {p for p in Path().rglob("*")} - before
    assert made == {*paths, Path("generated")}
    assert all(len(p.name.encode()) < 255 for p in paths)


def test_prompts_are_read_from_standard_input_too(weights, tmp_path):
    command = [sys.executable, str(ROOT / "generate.py"), "--input-file", "-", "--model", weights]
    result = subprocess.run(command, cwd=tmp_path, input=b"red\nstar\n", capture_output=True)
    assert result.returncode == 0, result.stderr
    assert {p.name for p in Path("generated").iterdir()} == {"red-seed0.png", "star-seed0.png"}


def test_captions_that_repeat_others_or_are_no_text_are_told(weights, capsys):
    Path("prompts.txt").write_bytes(b"red\nstar\nred\n\xff circle\n")
    paths = generate.main(GenerateConfig(model=weights, input_file="prompts.txt"))
    told = capsys.readouterr().out
    assert len(paths) == 3 and "1 captions repeat others, which are drawn once" in told
    assert "1 lines are no UTF-8 text" in told


def test_the_file_that_is_drawn_from_is_the_one_that_is_named(weights, capsys):
    state = checkpoint.load(Path(weights))
    checkpoint.save(state, Path("checkpoint.pth"))
    checkpoint.save(state, Path("checkpoint.pth"))
    Path("checkpoint.pth").write_bytes(b"damaged")
    generate.main(GenerateConfig(["red"], "checkpoint.pth"))
    assert "weights: checkpoint.previous.pth" in capsys.readouterr().out


def test_a_file_without_prompts_is_a_mistake(weights):
    with pytest.raises(UserError, match="--input-file nowhere.txt cannot be read: No such file"):
        generate.main(GenerateConfig([], weights, input_file="nowhere.txt"))
    Path("prompts.txt").write_text("\n \n")
    with pytest.raises(UserError, match="prompts.txt holds no caption"):
        generate.main(GenerateConfig(model=weights, input_file="prompts.txt"))


def test_unknown_words_of_many_prompts_are_summarised(weights, capsys):
    generate.main(GenerateConfig([f"red word{chr(97 + i // 26)}{chr(97 + i % 26)} zzz"
                                  for i in range(50)], weights))  # fmt: skip
    printed = capsys.readouterr().out
    assert printed.count("unknown word") == MAX_TOLD + 1
    assert 'unknown word "zzz" in "red wordaa zzz" and 49 more' in printed
    assert "and 41 more unknown words" in printed


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux")
def test_a_disk_that_fills_up_leaves_whole_pictures_lists_the_rest_and_can_be_gone_on_with(
    weights, capsys
):
    prompts = [f"star {i}" for i in range(40)]
    config = GenerateConfig(prompts, weights, skip_existing=True)
    full = Path(f"generated/star-37-seed0.png.{os.getpid()}.tmp")
    full.parent.mkdir()
    full.symlink_to("/dev/full")
    with pytest.raises(UserError, match="No space left.*; 37 of 40 images were written"):
        generate.main(config)
    listed = [x for x in capsys.readouterr().out.splitlines() if x.startswith("not drawn: ")]
    assert listed == [f"not drawn: generated/star-{i}-seed0.png" for i in (37, 38, 39)]
    times = {p: p.stat().st_mtime_ns for p in Path("generated").iterdir()}
    assert len(times) == 37
    for path in times:
        Image.open(path).load()
    generate.main(config)
    assert "3 images drawn in generated, 37 were there already" in capsys.readouterr().out
    assert len(list(Path("generated").iterdir())) == 40
    assert all(p.stat().st_mtime_ns == time for p, time in times.items())


def test_the_newest_run_is_drawn_from_then_the_shipped_weights(image_folder):
    assert checkpoint.choose_weights("") == (
        checkpoint.SHIPPED_WEIGHTS,
        "as there is no run in results",
    )
    first, second = (small_run(image_folder, run=name) for name in ("first", "second"))
    assert checkpoint.choose_weights("") == (second / "checkpoint.pth", "the newest run")
    assert checkpoint.choose_weights(str(first))[0] == first / "checkpoint.pth"


def test_a_smoke_run_is_drawn_from_when_named_or_when_there_is_nothing_else(
    image_folder, monkeypatch, capsys
):
    smoke = small_run(image_folder, preset="smoke")
    path, why = checkpoint.choose_weights("")
    assert path == checkpoint.SHIPPED_WEIGHTS
    assert why == (
        "as there is no run but a smoke run in results; for the smoke run, "
        "--model results/flags-smoke"
    )
    assert checkpoint.choose_weights(str(smoke)) == (smoke / "checkpoint.pth", "")
    generate.main(GenerateConfig(["red"]))
    assert f"weights: {path}, {why}" in capsys.readouterr().out
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "SHIPPED_WEIGHTS", Path("nowhere.pth"))
        told = "a smoke run, as there is nothing else"
        assert checkpoint.choose_weights("") == (smoke / "checkpoint.pth", told)
    run = small_run(image_folder, run="whole")
    os.utime(run / "checkpoint.pth", (0, 0))  # older than the smoke run
    (run / "checkpoint.previous.pth").unlink(missing_ok=True)
    assert checkpoint.choose_weights("")[0] == run / "checkpoint.pth"
    small_run(image_folder, run="whole", preset="smoke", images=64)  # goes on as one
    assert checkpoint.choose_weights("")[0] == checkpoint.SHIPPED_WEIGHTS


def test_a_smoke_run_or_an_unfinished_one_is_exported_by_force_only(image_folder):
    small_run(image_folder, preset="smoke")
    with pytest.raises(UserError, match="is a smoke run, .*--force"):
        save_model.main(SaveConfig(output="model.pth"))
    save_model.main(SaveConfig(output="model.pth", force=True))
    small_run(image_folder, images=96, run="half", stop_after=64)
    with pytest.raises(UserError, match=r"64 of 96 images seen\) is not finished; --force"):
        save_model.main(SaveConfig(output="model.pth"))
    save_model.main(SaveConfig(output="model.pth", force=True))
    small_run(image_folder, images=96, run="small", stop_after=16)
    with pytest.raises(UserError, match="has learnt from small images only"):
        save_model.main(SaveConfig(run="small", output="model.pth", force=True))


def test_who_replaces_the_shipped_weights_is_told_how_to_get_them_back(
    image_folder, monkeypatch, capsys
):
    small_run(image_folder)
    shipped = Path("results_short/weights.pth").absolute()
    monkeypatch.setattr(save_model, "SHIPPED_WEIGHTS", shipped)
    save_model.main(SaveConfig(output=str(shipped)))
    told = capsys.readouterr().out
    assert "git checkout -- results_short/weights.pth" in told and "replaced" not in told
    save_model.main(SaveConfig(output=str(shipped)))
    assert "replaced what was there, which is now" in capsys.readouterr().out
    output = save_model.main(SaveConfig(output="elsewhere.pth", format="safetensors"))
    assert output == Path("elsewhere.safetensors") and output.exists()
    save_model.main(SaveConfig(output="elsewhere.pth"))
    assert "git checkout" not in capsys.readouterr().out


def test_an_exported_model_draws_what_its_run_draws_and_the_old_file_is_kept(image_folder):
    run = small_run(image_folder)
    Path("out").mkdir()
    output = Path("out/model.pth")
    output.write_bytes(b"older")
    assert save_model.main(SaveConfig(output=str(output))) == output
    assert Path("out/model.previous.pth").read_bytes() == b"older"
    state = torch.load(output)
    assert all(v.device.type == "cpu" for v in state.values() if isinstance(v, torch.Tensor))
    exported, trained = checkpoint.load_model(output), checkpoint.load_model(run / "checkpoint.pth")
    prompts, seeds = ["red and then blue", ""], [0, 1]
    difference = (exported.draw(prompts, seeds) - trained.draw(prompts, seeds)).abs().max()
    assert difference <= 2 / 255  # of -1..1, so 1/255 of the range of an image


def test_a_file_of_weights_is_exported_as_another_kind(weights):
    pytest.importorskip("safetensors")
    output = save_model.main(SaveConfig(run=str(weights), output="other.pth", format="safetensors"))
    ours, other = checkpoint.load_model(Path(weights)), checkpoint.load_model(output)
    difference = ours.draw(["red"], [0]) - other.draw(["red"], [0])
    assert output.name == "other.safetensors" and difference.abs().max() <= 2 / 255


def test_a_model_card_tells_data_words_and_what_was_measured(image_folder):
    run = small_run(image_folder)
    save_model.main(SaveConfig(output="out.pth"))
    card = Path("out.MODEL_CARD.md").read_text()
    record = json.loads((run / "config.json").read_text())
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    near = [f"{line['own_nearest']:.3g}" for line in lines if "own_nearest" in line][-2:]
    for what in ("60 pictures with 60 captions", "to be filled in", record["commit"],
                 "6, the most frequent first: and, then, ", " | ".join(near),
                 "python evaluate.py --model out.pth"):  # fmt: skip
        assert what in card, what


def test_weights_are_exported_in_half_precision_but_those_that_choose_stay(weights):
    model = checkpoint.load_model(weights)
    state = save_model.halve_if_equal(model)
    kinds = {True: set(), False: set()}
    for name, weight in state.items():
        if name != "_extra_state":
            kinds[name.startswith(("completer.", "prior."))].add(weight.dtype)
    assert kinds == {True: {torch.float32}, False: {torch.float16}}
    exported = TextToImageModel()
    exported.load_state_dict(state)
    assert exported.complete(["red"] * 9, range(9)) == model.complete(["red"] * 9, range(9))


def test_weights_that_half_precision_would_change_stay_in_full(weights):
    model = checkpoint.load_model(Path(weights))
    with torch.no_grad():
        model.to_layers.bias.fill_(1e6)  # overflows in half precision
    assert save_model.halve_if_equal(model)["to_layers.weight"].dtype == torch.float32


def test_a_folder_is_never_replaced_by_a_file(weights):
    Path("results/run").mkdir(parents=True)
    shutil.copy(weights, "results/run/checkpoint.pth")
    Path("folder").mkdir()
    with pytest.raises(UserError, match="folder is a folder"):
        save_model.main(SaveConfig(output="folder"))
    assert Path("folder").is_dir()


def test_how_far_a_run_is_stands_beside_its_weights(image_folder, capsys):
    run = small_run(image_folder, images=64, stop_after=48)
    generate.main(GenerateConfig(["red"]))
    save_model.main(SaveConfig(output="model.pth", force=True))
    generate.main(GenerateConfig(["red"], "model.pth"))
    printed = capsys.readouterr().out
    assert f"weights: {run / 'checkpoint.pth'} (48 of 64 images seen), the newest run" in printed
    assert "(48 of 64 images seen) -> model.pth" in printed and "weights: model.pth\n" in printed


def test_words_beyond_the_limit_are_told(weights, capsys):
    generate.main(GenerateConfig(["red " * 70], weights))
    assert "only the first 63 words count" in capsys.readouterr().out


def test_a_save_cut_short_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "model.pth"
    checkpoint.save({"a": torch.ones(1)}, path)
    monkeypatch.setattr(
        os, "fsync", lambda *_: (_ for _ in ()).throw(OSError("No space left on device"))
    )
    with pytest.raises(UserError, match="No space left"):
        checkpoint.save({"a": torch.zeros(1)}, path)
    assert checkpoint.load(path)["a"] == 1 and list(tmp_path.iterdir()) == [path]


def damaged(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda path: path.unlink(), "there is no file"),
        (damaged, "is damaged"),
        (lambda path: path.write_text("hello"), "is damaged"),
        (lambda path: torch.save({"weight": torch.ones(2)}, path), "no weights of this project"),
        (lambda path: torch.save([1, 2], path), "no weights of this project"),
        (lambda path: torch.save({"_extra_state": 1}, path), "does not fit"),
        (lambda path: torch.save({"_extra_state": {"config": {"x": 1}}}, path), "does not fit"),
    ],
)
def test_files_that_are_no_weights_are_told_in_one_sentence(weights, make, message):
    make(Path(weights))
    with pytest.raises(UserError, match=message) as error:
        generate.main(GenerateConfig(["red"], weights))
    assert "\n" not in str(error.value) and weights in str(error.value)


@pytest.mark.parametrize(
    "arguments",
    [
        ("generate.py",),
        ("generate.py", "--input", "red", "--model", "nowhere.pth"),
        ("generate.py", "--input", "red", "--n", "0"),
        ("generate.py", "--input", "red", "--seed", "x"),
        ("save_model.py", "--run", "nothing"),
        ("dataset.py",),
        ("dataset.py", "nowhere", "--export", "jsonl", "out"),
        ("train.py", "--data", "nowhere"),
        ("train.py", "--images", "-5"),
        ("train.py", "--image-size", "65"),
        ("train.py", "--device", "tpu"),
    ],
)
def test_mistakes_end_with_status_2_and_without_a_traceback(
    tmp_path, arguments, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", list(arguments))
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(ROOT / arguments[0]), run_name="__main__")
    assert stop.value.code == 2
    told = capsys.readouterr().err
    assert "error:" in told and "Traceback" not in told
    assert not list(tmp_path.iterdir())


def test_a_collection_is_checked_and_exported_by_one_script(tmp_path):
    make_flags(tmp_path / "flags")
    checked = script("dataset.py", "flags", cwd=tmp_path)
    assert checked.returncode == 1 and not checked.stderr.count("Traceback"), checked.stderr
    assert "60 pictures with 60 captions" in checked.stdout and "problems:" in checked.stdout
    exported = script("dataset.py", "flags", "--export", "tar", "out", cwd=tmp_path)
    assert exported.returncode == 0, exported.stderr
    assert (tmp_path / "out" / "00000.tar").is_file()


def test_a_picture_is_the_same_in_another_process(weights, tmp_path):
    [here] = generate.main(GenerateConfig(["red circle"], weights, output="here.png"))
    result = script(
        "generate.py",
        "--input",
        "red circle",
        "--model",
        weights,
        "--output",
        "there.png",
        cwd=tmp_path,
    )
    assert result.returncode == 0, result.stderr
    assert Image.open("there.png").tobytes() == Image.open(here).tobytes()


def test_importing_any_module_has_no_side_effects(tmp_path):
    files = [*ROOT.glob("*.py"), *ROOT.glob("formats/*.py"), *ROOT.glob("evaluation/*.py")]
    modules = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in files]
    modules = [name.removesuffix(".__init__") for name in modules]
    program = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); import torch;"
        "before = torch.get_rng_state();"
        f"import {', '.join(modules)}; assert torch.equal(before, torch.get_rng_state());"
        "assert not torch.cuda.is_initialized(); assert 'tensorboard' not in sys.modules"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_commands_of_the_readme_run_one_after_the_other(tmp_path):
    small = ("--preset", "smoke", "--images", "512", "--sample-every", "256")
    for arguments in [
        ("train.py", *small),
        ("train.py", *small),
        ("generate.py", "--input", "a big red circle"),
        ("save_model.py", "--output", "model.pth", "--force"),
        ("generate.py", "--input", "a big red circle", "--model", "model.pth", "--output", "x.png"),
    ]:
        result = script(*arguments, cwd=tmp_path)
        assert result.returncode == 0, result.stderr
    assert Image.open(tmp_path / "x.png").size == (64, 64)


@pytest.mark.slow
def test_the_smoke_preset_gives_the_same_bits_twice_and_when_stopped_half_way(tmp_path):
    for arguments in [
        ("--run", "one"),
        ("--run", "two"),
        ("--run", "halves", "--set", "stop_after=1024"),
        ("--run", "halves"),
    ]:
        result = script("train.py", "--preset", "smoke", *arguments, cwd=tmp_path)
        assert result.returncode == 0, result.stderr
    runs = [
        checkpoint.load(tmp_path / "results" / r / "checkpoint.pth")
        for r in ("one", "two", "halves")
    ]
    for part in ("model", "ema"):
        weights = [{n: v for n, v in run[part].items() if n != "_extra_state"} for run in runs]
        for name, value in weights[0].items():
            assert torch.equal(value, weights[1][name]) and torch.equal(value, weights[2][name]), (
                name
            )
