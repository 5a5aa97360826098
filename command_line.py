"""How do the scripts read their flags, and report a user's mistake? All in the same way."""

import argparse
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import MISSING, Field, field, fields
from pathlib import Path

import torch


class UserError(ValueError):
    """A mistake its user can mend: one sentence that says what is wrong, where, and what to do."""


def setting(default, help: str, choices: tuple | None = None, positional: bool = False):
    """A field of a configuration dataclass, and thereby a flag, or an argument without one."""
    metadata = {"help": help, "choices": choices, "positional": positional}
    if isinstance(default, list):
        return field(default_factory=default.copy, metadata=metadata)
    return field(default=default, metadata=metadata)


def parse_flags(config_class: type, description: str, presets: dict[str, dict], argv: list[str]):
    """One flag for each field, --name and --no-name for booleans, repeated flags for lists.

    The field `preset`, if there is one, names an entry of presets that changes defaults; flags win.
    """
    parser = argparse.ArgumentParser(
        description=description,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for f in fields(config_class):
        if f.metadata["positional"]:
            parser.add_argument(f.name, nargs="?", default=f.default, help=f.metadata["help"])
        else:
            parser.add_argument("--" + f.name.replace("_", "-"), dest=f.name, **_argument(f))
    given = parser.parse_intermixed_args(argv)
    if presets:
        parser.set_defaults(**presets[given.preset])
        given = parser.parse_intermixed_args(argv)
    return config_class(**vars(given))


def _argument(f: Field) -> dict:
    if f.default is MISSING:
        options = {"default": f.default_factory(), "action": "extend", "nargs": 1}
    elif isinstance(f.default, bool):
        options = {"default": f.default, "action": argparse.BooleanOptionalAction}
    else:
        choices = f.metadata["choices"]
        options = {"default": f.default, "type": type(f.default), "choices": choices}
    return options | {"help": f.metadata["help"] + " (default: %(default)s)"}


def run(main: Callable, config_class: type, description: str, presets: dict | None = None) -> None:
    """Call main with the flags' configuration; a mistake of the user's, or trouble with a file,
    becomes one sentence and exit status 2."""
    for stream in (sys.stdout, sys.stderr):  # captions of any script, terminals of any kind
        stream.reconfigure(errors="backslashreplace")
    try:
        main(parse_flags(config_class, description, presets or {}, sys.argv[1:]))
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("stopped; repeat the command to go on", file=sys.stderr)
        sys.exit(130)


def choose_device(device: str) -> str:
    """auto -> cuda where there is one, else cpu."""
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda, but torch finds no CUDA device; use --device cpu")
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return device


def choose_precision(precision: str, device: str) -> torch.dtype:
    """auto -> bfloat16 where the hardware multiplies it faster; elsewhere float32, since a CPU that
    has to emulate bfloat16 is ten times slower with it."""
    if precision != "auto":
        return getattr(torch, precision)
    if device == "cuda":
        has_bfloat16 = torch.cuda.get_device_capability() >= (8, 0)
    else:  # private in torch, so missing is a no
        has_bfloat16 = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()
    return torch.bfloat16 if has_bfloat16 else torch.float32


def provenance(device: str) -> dict:
    """What made a result: command, commit, versions and hardware, as plain values."""
    git = ["git", "describe", "--always", "--dirty", "--abbrev=10"]
    try:
        root = Path(__file__).parent
        commit = subprocess.run(git, cwd=root, capture_output=True, text=True).stdout.strip()
    except OSError:  # git is not installed
        commit = ""
    # What multiplies matrices decides the speed: AVX2, AVX512 or AMX.
    has_amx = getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)()
    kind = "AMX" if has_amx else torch.backends.cpu.get_cpu_capability()
    hardware = f"{os.cpu_count()} CPU cores ({platform.machine()}, {kind})"
    if device == "cuda":
        hardware = torch.cuda.get_device_name()
    return {
        "command": shlex.join(["python", Path(sys.argv[0]).name, *sys.argv[1:]]),
        "commit": commit or "unknown",
        "hardware": hardware,
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
    }
