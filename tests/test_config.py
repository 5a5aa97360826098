"""Protects settings and flags: each can be given, wrong ones are refused in one sentence."""

import dataclasses
import errno
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import config
from config import PRESETS, ModelConfig, Recipe, TrainConfig, UserError, choose_device, parse_flags

ROOT = Path(__file__).parent.parent


def parse(*argv: str) -> TrainConfig:
    return parse_flags(TrainConfig, "", PRESETS, argv)


@pytest.mark.parametrize("field", dataclasses.fields(TrainConfig), ids=lambda f: f.name)
def test_every_setting_can_be_given(field):
    default = field.default
    needs = ("--init-from", "x") if field.name == "completer_only" else ()
    if field.name in ("image_size", "channels", "augmentation_dim", "text_dim", "num_heads",
                      "completer_dim", "prior_dim"):  # fmt: skip
        value = {"image_size": 32, "channels": (8,) * 6, "augmentation_dim": 8, "text_dim": 64,
                 "num_heads": 2, "completer_dim": 64, "prior_dim": 64}[field.name]  # fmt: skip
    elif isinstance(default, bool):
        value = not default
    elif isinstance(default, tuple):
        value = tuple(x / 2 for x in default)
    elif field.metadata["choices"]:
        value = field.metadata["choices"][-1]
    else:
        value = default + "x" if isinstance(default, str) else type(default)(default / 2 + 1)
        value = {"cache": "off", "muon_momentum": 0.5, "text_dim": 64}.get(field.name, value)
        if field.metadata["fraction"]:
            value = default / 2
    text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
    if field.metadata["flag"]:
        flag = config.name_of(field)
        more = [] if isinstance(value, bool) else [text]
        assert getattr(parse(flag, *more, *needs), field.name) == value
        if isinstance(value, bool):
            assert getattr(parse(flag.replace("--", "--no-", 1)), field.name) is False
    assert getattr(parse("--set", f"{field.name}={text}", *needs), field.name) == value
    assert config.as_text(value) == text


def test_about_25_flags_are_left_to_learn():
    assert 20 <= sum(f.metadata["flag"] for f in dataclasses.fields(TrainConfig)) <= 26


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_set_defaults_and_flags_win(preset):
    given = parse("--preset", preset)
    assert all(getattr(given, name) == value for name, value in PRESETS[preset].items())
    assert parse("--preset", preset, "--images", "7").images == 7


def test_a_file_of_settings_changes_defaults_and_flags_win(tmp_path):
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps({"grow_at": [0.1], "lr": 1e-3, "kl_weight": 0.0}))
    given = parse("--config", str(path), "--lr", "0.1", "--set", "kl_weight=1")
    assert (given.grow_at, given.lr, given.kl_weight) == ((0.1,), 0.1, 1.0)


def test_a_run_can_be_repeated_from_its_record(tmp_path):
    told = TrainConfig(images=7, channels=(8,) * 6, grow_at=(), flip=True)
    record = {"train": dataclasses.asdict(told), "model": {}, "commit": "x"}
    path = tmp_path / "config.json"
    path.write_text(json.dumps(record))
    assert parse("--config", str(path)) == told
    path.write_text(json.dumps(record | {"resumed": [{"changed": {"images": 9}}]}))
    assert parse("--config", str(path)) == dataclasses.replace(told, images=9)


def test_a_preset_counts_however_it_is_given(tmp_path):
    (tmp_path / "a.json").write_text('{"preset": "smoke"}')
    expected = parse("--preset", "smoke")
    assert parse("--set", "preset=smoke") == expected and expected.images == 2_048
    assert parse("--config", str(tmp_path / "a.json")) == expected


@pytest.mark.parametrize(
    "argv, message",
    [
        (["--set", "leraning_rate=1"], "there is no setting 'leraning_rate'"),
        (["--set", "lr"], "--set lr takes a number, not ''"),
        (["--set", "images=many"], "--set images takes a whole number, not 'many'"),
        (["--set", "flip=perhaps"], "--set flip takes true or false"),
        (["--set", "channels=1,x"], "--set channels takes a list of numbers"),
        (["--set", "precision=float64"], "--set precision is one of"),
        (["--config", "nowhere.json"], "--config nowhere.json cannot be read"),
        (["--set", "channels=8,8"], "channels needs an entry for each of"),
    ],
)
def test_settings_that_mean_nothing_are_refused_in_one_sentence(argv, message):
    with pytest.raises(UserError, match=message) as error:
        parse(*argv)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "content, message",
    [
        ("[1]", "holds no settings"), ("{", "cannot be read"), ('{"x": 1}', "holds .'x'."),
        ('{"lr": "fast"}', "--lr takes a number, not 'fast'"),
        ('{"images": true}', "--images takes a whole number, not True"),
        ('{"channels": ["a"]}', "--set channels takes a list of numbers"),
    ],
)  # fmt: skip
def test_a_file_of_settings_that_is_wrong_is_refused_in_one_sentence(tmp_path, content, message):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(UserError, match=message):
        parse("--config", str(tmp_path / "a.json"))


def test_what_decides_a_run_is_frozen_plain_values():
    for cls in (Recipe, ModelConfig, TrainConfig):
        settings = cls()
        with pytest.raises(dataclasses.FrozenInstanceError):
            settings.seed = 1
        assert json.loads(json.dumps(dataclasses.asdict(settings)))


def test_devices_are_those_that_torch_has():
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device("auto").type in ("cpu", "cuda")
    missing = ["tpu", "cuda:99"] + ([] if torch.cuda.is_available() else ["cuda", "cuda:1"])
    missing += [] if torch.backends.mps.is_available() else ["mps"]
    for name in missing:
        with pytest.raises(UserError, match=f"--device {name}, but torch finds no such device"):
            choose_device(name)


def test_settings_are_read_without_torch():
    code = "import sys, config; config.TrainConfig(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


class Gone(io.TextIOWrapper):
    """A stream whose other end is gone."""

    def __init__(self, path: Path, number: int):
        super().__init__(open(path, "wb"), write_through=True)  # noqa: SIM115 (closed with it)
        self.number = number

    def write(self, text: str) -> int:
        if self.number:
            number, self.number = self.number, 0
            raise OSError(number, os.strerror(number))
        return super().write(text)


@pytest.mark.parametrize("number, reader", [(errno.EPIPE, True), (errno.EIO, False)])
def test_a_stream_whose_other_end_is_gone_falls_silent(tmp_path, monkeypatch, number, reader):
    stream = config.Stream(Gone(tmp_path / "a.txt", number))
    monkeypatch.setattr(sys, "stdout", stream)
    assert not config.reader_gone()
    print("lost")
    print("and what follows")
    assert config.reader_gone() == reader and (tmp_path / "a.txt").read_text() == ""


def test_a_full_disk_behind_a_stream_is_no_secret(tmp_path):
    with pytest.raises(OSError, match="No space"):
        config.Stream(Gone(tmp_path / "a.txt", errno.ENOSPC)).write("x")


def failing(_: object) -> None:
    try:
        raise OSError("the disk is on fire")
    except OSError as error:
        raise UserError("the disk is on fire") from error


@pytest.mark.parametrize("more, shown", [([], False), (["--traceback"], True)])
def test_the_traceback_of_an_error_is_shown_when_asked_for(monkeypatch, capsys, more, shown):
    monkeypatch.setattr(sys, "argv", ["train.py", *more])
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, getattr(sys, name))  # put back what run replaces
    with pytest.raises(SystemExit) as stopped:
        config.run(failing, TrainConfig, "")
    told = capsys.readouterr().err
    assert stopped.value.code == 2 and "error: the disk is on fire" in told
    assert ("OSError" in told) == ("in failing" in told) == shown


@pytest.mark.parametrize(
    "typed, told",
    [
        (["--imges", "3"], "there is no flag --imges; did you mean --images?"),
        (["--noise-dim", "0"], "did you mean --set noise_dim=...?"),
        (["--smoke"], "did you mean --preset smoke?"),
        (["--epochs", "3"], "did you mean --images?"),
        (["my folder"], "'my folder' belongs to no flag; did you mean --data \"my folder\"?"),
        (["--xyzzy"], "there is no flag --xyzzy; --help lists all flags"),
        (["--images", "many"], "argument --images: invalid int value"),
        (["--minutes", "3", "--images", "9"], "--minutes chooses --images; leave out one"),
    ],
)
def test_a_wrong_flag_is_answered_with_the_right_one(typed, told):
    with pytest.raises(UserError, match=re.escape(told)):
        parse(*typed)


def test_help_tells_first_what_is_needed_first_and_takes_two_screens(capsys):
    with pytest.raises(SystemExit):
        parse("--help")
    lines = capsys.readouterr().out.splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("What people need first"))
    block = lines[first + 1 : lines.index("", first)]
    assert len([line for line in block if line.startswith("  --")]) == 10
    assert len(lines) < 65 and max(map(len, lines)) <= 100
