"""Protects what generate.py draws besides single images: animations, figures, sheets, and images
again from what their files keep."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import checkpoint
import generate
import save_model
from config import VERSION, GenerateConfig, ModelConfig, UserError, parse_flags
from model import TextToImageModel, to_uint8
from reports import figures
from tokenizer import Tokenizer

ROOT = Path(__file__).parent.parent


def make_weights(path: str, seed: int = 0) -> str:
    """A file of weights, never trained, that knows a few words."""
    torch.manual_seed(seed)
    config = ModelConfig(image_size=32, text_dim=16, channels=(8, 8, 8))
    model = TextToImageModel(config, Tokenizer.learn(["red blue circle star"], min_count=1))
    for parameter in model.parameters():  # so that words matter
        parameter.data += 0.2 * torch.randn_like(parameter)
    checkpoint.save(model.state_dict(), Path(path))
    return path


@pytest.fixture
def weights(tmp_path, monkeypatch):
    """One such file, in an empty working directory."""
    monkeypatch.chdir(tmp_path)
    return make_weights("weights.pth")


def pixels_in(path: Path | str) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


def frames_of(path: Path) -> list[np.ndarray]:
    with Image.open(path) as image:
        found = []
        for i in range(image.n_frames):
            image.seek(i)
            found.append(np.asarray(image.convert("RGB")))
    return found


def draw(*argv: str) -> list[Path]:
    return generate.main(parse_flags(GenerateConfig, "", {}, argv))


# Animations


def test_an_animation_goes_from_caption_to_caption_and_leaves_its_frames(weights):
    prompts = ["red circle", "blue star", "red star"]
    animation, *frames = draw("--interpolate", *prompts, "--model", weights, "--seed", "4",
                              "--frames", "5", "--upscale", "2")  # fmt: skip
    assert animation.suffix == ".gif" and len(frames) == 9  # the middle is in both legs
    folder = animation.with_name(f"{animation.stem}-frames")
    assert {path.parent for path in frames} == {folder}
    shown = [pixels_in(path) for path in frames]
    model = checkpoint.load_model(weights)
    for frame, prompt in zip(shown[::4], prompts, strict=True):
        image = to_uint8(model.draw([model.complete(prompt, 4)], [4]))[0].permute(1, 2, 0).numpy()
        assert np.abs(frame.astype(int) - image.repeat(2, 0).repeat(2, 1)).max() <= 1
    for moved, frame in zip(frames_of(animation), shown, strict=True):
        assert np.abs(moved.astype(int) - frame).mean() < 8  # of 256 colours


def test_one_caption_goes_through_its_seeds_as_webp_without_a_loss(weights):
    for n, num in ((1, 3), (3, 5)):
        animation, *frames = draw("--interpolate", "red", "--model", weights, "--n", f"{n}",
                                  "--frames", "3", "--output", "way.webp")  # fmt: skip
        assert animation == Path("way.webp") and len(frames) == num
        assert len(list(Path("way-frames").iterdir())) == num
        for moved, frame in zip(frames_of(animation), frames, strict=True):
            assert np.array_equal(moved, pixels_in(frame))
    draw("--interpolate", "red", "--model", weights, "--frames", "3", "--output", "way.webp")
    assert len(list(Path("way-frames").iterdir())) == 3  # none is left of the longer one
    Path("way-frames/0001.txt").touch()  # somebody's
    with pytest.raises(UserError, match="way-frames holds other things"):
        draw("--interpolate", "red", "--model", weights, "--frames", "3", "--output", "way.webp")
    assert len(list(Path("way-frames").iterdir())) == 4


def test_an_animation_is_no_png(weights):
    with pytest.raises(UserError, match="way.png: animations are written as .gif, .webp"):
        draw("--interpolate", "red", "star", "--model", weights, "--output", "way.png")


# Figures and sheets


def test_beside_each_image_a_figure_shows_where_its_words_acted(weights, capsys):
    command = "--input", "red", "--model", weights, "--attention"
    [path] = draw(*command)
    beside = path.with_name(f"{path.stem}-attention.png")
    printed = capsys.readouterr().out.splitlines()
    assert [line for line in printed if line.endswith(".png")] == [str(path), str(beside)]
    sheet, image = pixels_in(beside), pixels_in(path).repeat(8, 0).repeat(8, 1)
    found = np.argwhere((sheet == image[0, 0]).all(axis=2))
    assert any(np.array_equal(sheet[y : y + 256, x : x + 256], image) for y, x in found)
    beside.unlink()
    draw(*command, "--skip-existing")
    assert beside.exists() and "1 images drawn" in capsys.readouterr().out


def test_a_figure_holds_captions_of_any_length_and_script(weights):
    for i, caption in enumerate(["red " * 100, "", "\u7ea2\u8272 \u0932\u093e\u0932 red"]):
        draw("--input", caption, "--model", weights, "--attention", "--as-typed", "--output",
             f"{i}.png")  # fmt: skip
        width, height = Image.open(f"{i}-attention.png").size
        assert max(width, height) < 3000


@pytest.mark.parametrize("figure", ["--grid", "--attention"])
def test_prompts_of_any_letters_stand_on_figures(weights, figure):
    odd = [
        "a\0b",
        "\x1b[31mred",
        "\udcff red",
        "\u202e\u05d0\u05d1",
        "x" * 500,
        "",
        "a\nb",
        "$x^2$ {",
    ]
    prompts = [argument for prompt in odd for argument in ("--input", prompt)]
    paths = draw(*prompts, figure, "--model", weights, "--as-typed")
    assert len(paths) == (1 if figure == "--grid" else len(odd))
    assert all(path.exists() for path in paths)


def test_each_map_is_as_bright_as_its_own_maximum():
    maps = np.zeros((2, 4, 4), np.float32)
    maps[0, 1, 2], maps[1, 3, 0] = 1.0, 0.01
    image = np.zeros((3, 64, 64), np.uint8)
    sheet = figures.draw_look("", "", image, ["a", "b"], maps).astype(int).sum(axis=2)
    top = np.argwhere(sheet[:, 20] < 765)[0, 0]  # of the picture, which is black
    cell = figures.MAP // 4
    for k, (y, x) in enumerate([(1, 2), (3, 0)]):
        left = figures.LOOK + 24 + k * (figures.MAP + figures.GAP)
        here = sheet[top : top + figures.MAP, left : left + figures.MAP]
        means = here.reshape(4, cell, 4, cell).mean(axis=(1, 3))
        assert np.unravel_index(means.argmax(), (4, 4)) == (y, x) and means.max() > 150


def test_prompts_that_do_not_fit_on_one_sheet_go_on_to_the_next(weights, monkeypatch):
    monkeypatch.setattr(figures, "MAX_SIDE", 800)
    prompts = [a for word in ("red", "blue", "star", "circle", "zzz") for a in ("--input", word)]
    paths = draw(*prompts, "--grid", "--model", weights, "--output", "sheet.png")
    assert [path.name for path in paths] == ["sheet.png", "sheet-2.png", "sheet-3.png"]
    assert [Image.open(p).text["prompt"].split("\n") for p in paths] == [
        ["red", "blue"], ["star", "circle"], ["zzz"]
    ]  # fmt: skip
    assert all(max(Image.open(path).size) <= 800 for path in paths)
    with pytest.raises(UserError, match="8 images of 128 pixels side by side are wider"):
        draw("--input", "red", "--n", "8", "--grid", "--model", weights)


# Files


def test_images_are_enlarged_pixel_by_pixel_in_any_kind_of_file(weights):
    [small] = draw("--input", "red", "--model", weights)
    expected = pixels_in(small).repeat(3, 0).repeat(3, 1)
    for kind in ("png", "webp", "jpg"):
        [path] = draw("--input", "red", "--model", weights, "--upscale", "3", "--format", kind)
        assert path.suffix == f".{kind}"
        difference = np.abs(pixels_in(path).astype(int) - expected)
        assert difference.mean() < 4 if kind == "jpg" else not difference.any()
    with pytest.raises(UserError, match="--upscale 600 makes images of 19,200 pixels"):
        draw("--input", "red", "--model", weights, "--upscale", "600")
    with pytest.raises(UserError, match="x.png says the kind of file already"):
        draw("--input", "red", "--model", weights, "--output", "x.png", "--format", "webp")


@pytest.mark.parametrize("grid", [(), ("--grid",)])
def test_what_a_png_keeps_draws_it_again(weights, grid, capsys):
    first = draw("--input", "red", "--input", "a \u9e1f star", "--n", "2", "--seed", "7",
                 "--temperature", "0.123456789", "--model", weights, *grid)  # fmt: skip
    singles = draw("--input", "red", "--input", "a \u9e1f star", "--n", "2", "--seed", "7",
                   "--temperature", "0.123456789", "--model", weights)  # fmt: skip
    again = draw(*(a for path in first for a in ("--from-png", str(path))), "--model", weights)
    assert len(again) == 4 and not set(again) & {*first, *singles}
    for old, new in zip(singles, again, strict=True):
        assert np.array_equal(pixels_in(old), pixels_in(new))
        assert Image.open(old).text == Image.open(new).text
    assert "other weights" not in capsys.readouterr().out


def test_other_weights_than_those_that_drew_it_are_told(weights, capsys):
    [path] = draw("--input", "red", "--model", weights, "--output", "a.png")
    draw("--from-png", "a.png", "--model", make_weights("other.pth", seed=1))
    marks = [checkpoint.fingerprint(checkpoint.load_model(p)) for p in (weights, "other.pth")]
    told = f'"red" was drawn by other weights, {marks[0]}, not {marks[1]}: the image may differ'
    assert told in capsys.readouterr().out
    generate.save_image(pixels_in(path), Path("old.png"),
                        {"prompt": "red", "caption": "red", "seed": "0",
                         "temperature": "1"})  # fmt: skip
    draw("--from-png", "old.png", "--model", weights)
    assert "drawn by other weights, unknown" in capsys.readouterr().out


def test_files_that_keep_nothing_are_told_in_one_sentence(weights):
    Image.new("RGB", (8, 8)).save("plain.png")
    Image.new("RGB", (8, 8)).save("photo.jpg")
    Path("cut.png").write_bytes(Path("plain.png").read_bytes()[:20])
    texts = {"prompt": "red", "caption": "red", "seed": "0", "temperature": "1"}
    wrong = {"minus": {"seed": "-1"}, "words": {"seed": "x"}, "warm": {"temperature": "nan"},
             "lines": {"seed": "0\n1"}}  # fmt: skip
    for name, change in wrong.items():
        generate.save_image(np.zeros((8, 8, 3), np.uint8), Path(f"{name}.png"), texts | change)
    no_png, nothing = "this is no PNG", "it keeps no caption, seed and temperature"
    messages = {"photo.jpg": no_png, "cut.png": no_png, "weights.pth": no_png, ".": no_png,
                "nowhere.png": "there is no such file", "plain.png": nothing}  # fmt: skip
    for name, message in (messages | {f"{name}.png": nothing for name in wrong}).items():
        with pytest.raises(UserError, match=f"--from-png {re.escape(name)}: {message}") as error:
            draw("--from-png", name, "--model", weights)
        assert "\n" not in str(error.value)


def test_a_checkpoint_and_what_is_exported_from_it_have_one_fingerprint(weights):
    model = checkpoint.load_model(weights)
    exported = TextToImageModel()
    exported.load_state_dict(save_model.halve_if_equal(model))
    assert exported.to_layers.weight.dtype == torch.float32
    mark = checkpoint.fingerprint(model)
    assert mark == checkpoint.fingerprint(exported) and re.fullmatch("[0-9a-f]{10}", mark)
    others = [checkpoint.load_model(weights) for _ in range(3)]
    with torch.no_grad():
        others[0].to_layers.bias[3] += 0.1
    others[1].tokenizer.vocabulary[-1] = "moon"
    others[2].halvings = 1
    assert len({mark, *map(checkpoint.fingerprint, others)}) == 4


def test_the_version_is_that_of_the_project():
    assert f'\nversion = "{VERSION}"\n' in (ROOT / "pyproject.toml").read_text()


# The terminal


def test_the_vocabulary_is_printed_by_frequency_in_columns_of_the_terminal(
    weights, monkeypatch, capsys
):
    words = [f"word{i}" for i in range(40)] + ["\u7ea2", "\u0932\u093e\u0932"]
    config = ModelConfig(image_size=32, text_dim=16, channels=(8, 8, 8))
    model = TextToImageModel(config, Tokenizer([*Tokenizer().vocabulary, *words]))
    checkpoint.save(model.state_dict(), Path("words.pth"))
    monkeypatch.setenv("COLUMNS", "50")
    assert draw("--vocabulary", "--model", "words.pth") == []
    before, table = capsys.readouterr().out.split("42 known words, the most frequent first:\n")
    assert table.split() == words and max(map(len, table.splitlines())) <= 50
    assert len(table.splitlines()) == 7 and "word6" in table.splitlines()[1]
    assert "captions that these weights write" in before
    for caption in model.complete([""] * generate.EXAMPLES, range(generate.EXAMPLES)):
        assert caption in before


def test_who_reads_the_beginning_of_the_vocabulary_alone_gets_no_error(weights):
    command = f"{sys.executable} {ROOT / 'generate.py'} --vocabulary --model {weights} | head -n 1"
    result = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True)
    assert (result.returncode, result.stderr) == (0, b"")


def test_a_fresh_seed_is_told_and_repeats_the_image(weights, capsys):
    seeds, command = set(), ("--input", "red", "--model", weights, "--output", "a.png")
    for _ in range(2):
        draw(*command, "--seed", "-1")
        seeds.add(re.search(r"to draw the same again: --seed (\d+)", capsys.readouterr().out)[1])
    assert len(seeds) == 2
    fresh, kept = pixels_in("a.png"), Image.open("a.png").text["seed"]
    draw(*command, "--seed", kept)
    assert kept in seeds and np.array_equal(pixels_in("a.png"), fresh)
    with pytest.raises(UserError, match="--seed must be -1 or more"):
        GenerateConfig(["red"], seed=-2)


def test_an_image_is_shown_in_a_terminal_and_nowhere_else(weights, monkeypatch, capsys):
    [path] = draw("--input", "red", "--model", weights, "--show", "--upscale", "2")
    printed = capsys.readouterr().out
    assert "--show: standard output is no terminal" in printed and "\x1b" not in printed
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    draw("--input", "red", "--model", weights, "--show", "--upscale", "2")
    lines = [line for line in capsys.readouterr().out.splitlines() if "\u2580" in line]
    colours = [re.findall(r"\x1b\[38;2;(\d+);(\d+);(\d+);48;2;(\d+);(\d+);(\d+)m", line)
               for line in lines]  # fmt: skip
    shown = np.array(colours, int).reshape(16, 32, 2, 3).transpose(0, 2, 1, 3).reshape(32, 32, 3)
    assert np.array_equal(shown, pixels_in(path)[::2, ::2])
    monkeypatch.setenv("COLUMNS", "20")
    assert {line.count("\u2580") for line in figures.as_blocks(pixels_in(path)).split("\n")} == {20}


# Mistakes


@pytest.mark.parametrize(
    "flags, message",
    [
        ("", "say what to draw"),
        ("--input a --from-png x.png", "--input and --from-png ask for different things"),
        ("--input-file a --vocabulary", "--input-file and --vocabulary ask for different things"),
        ("--interpolate a b --from-png x.png", "--interpolate and --from-png ask for different"),
        ("--interpolate a b --grid", "--grid means nothing with --interpolate"),
        ("--interpolate a b --attention", "--attention means nothing with --interpolate"),
        ("--interpolate a b --n 2", "with one seed; leave out --n"),
        ("--interpolate a b --frames 1", "--frames must be 2 or more"),
        ("--from-png x.png --seed 3", "--seed means nothing with --from-png"),
        ("--from-png x.png --as-typed", "--as-typed means nothing with --from-png"),
        ("--vocabulary --output x", "--output means nothing with --vocabulary"),
        ("--input a --grid --attention", "--attention is of single images"),
        ("--input a --grid --show", "--show is of single images"),
        ("--input a --upscale 0", "--upscale must be more than 0"),
    ],
)
def test_flags_that_contradict_each_other_are_told_in_one_sentence(flags, message):
    with pytest.raises(UserError, match=re.escape(message)) as error:
        parse_flags(GenerateConfig, "", {}, flags.split())
    assert "\n" not in str(error.value)


def test_all_flags_that_say_something_go_together():
    for flags in ("--input a --input-file b", "--input a --input b --grid --upscale 2",
                  "--from-png a.png --from-png b.png --attention --show --skip-existing",
                  "--interpolate a b c --frames 9 --upscale 2 --as-typed",
                  "--vocabulary --seed -1 --temperature 0"):  # fmt: skip
        parse_flags(GenerateConfig, "", {}, flags.split())
    given = parse_flags(GenerateConfig, "", {}, ["--interpolate", "a", "b", "--interpolate", "c"])
    assert given.interpolate == ["a", "b", "c"]
