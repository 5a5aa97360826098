"""Protects what is learnt when a person or a system stops a run: it is saved, and the status says
why it stopped. Each test is a process of its own."""

import os
import select
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest
from small import TINY, make_flags

import checkpoint

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs signals")
SCRIPT = Path(__file__).parent.parent / "train.py"


started: list[subprocess.Popen] = []


@pytest.fixture(autouse=True)
def none_is_left():
    """A test that fails leaves no run behind."""
    yield
    while started:
        process = started.pop()
        process.kill()
        process.wait()


def start(folder: Path, before=None, **streams) -> subprocess.Popen:
    """A run far too long to end by itself."""
    make_flags(folder / "flags")
    command = [sys.executable, str(SCRIPT), "--data", "flags"]
    for name, value in (TINY | {"images": 10**9, "sample_every": 10**8}).items():
        text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
        command += ["--set", f"{name}={text}"]
    started.append(subprocess.Popen(command, cwd=folder, preexec_fn=before, **streams))
    return started[-1]


def wait_for(condition, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def read_until_training(descriptor: int) -> bytes:
    """What a process prints until its progress bar shows a step."""
    told = b""
    while b"error=" not in told:
        assert select.select([descriptor], [], [], 60)[0]
        told += os.read(descriptor, 1 << 16)
    return told


def images_saved(folder: Path) -> int:
    return checkpoint.load(folder / "results" / "flags" / "checkpoint.pth")["images_seen"]


def test_a_run_under_nohup_outlives_its_terminal(tmp_path):
    def ignore() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    process = start(tmp_path, ignore, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    read_until_training(process.stderr.fileno())
    process.send_signal(signal.SIGHUP)
    with pytest.raises(subprocess.TimeoutExpired):
        process.communicate(timeout=2)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 143 and images_saved(tmp_path) > 0


@pytest.mark.parametrize("interrupted", [False, True], ids=["head", "tee and Ctrl-C"])
def test_a_pipe_that_is_closed_costs_no_checkpoint(tmp_path, interrupted):
    process = start(tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    read_until_training(process.stdout.fileno())
    process.stdout.close()  # what reads it is gone first
    if interrupted:
        process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130 and images_saved(tmp_path) > 0


def test_a_closed_terminal_saves_and_ends_with_its_status(tmp_path):
    import fcntl
    import pty
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(ours, termios.TIOCSWINSZ, struct.pack("4H", 24, 120, 0, 0))

    def take_terminal() -> None:
        os.setsid()
        fcntl.ioctl(theirs, termios.TIOCSCTTY, 0)

    process = start(tmp_path, take_terminal, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    read_until_training(ours)
    os.close(ours)
    assert process.wait(60) == 129 and images_saved(tmp_path) > 0
