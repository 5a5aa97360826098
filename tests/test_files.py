"""Protects files and folders: whole or not at all, and one process at a time."""

import multiprocessing
import os
import time
from pathlib import Path

import pytest

from config import UserError
from files import locked, previous, write_text, write_whole

FULL = Path("/dev/full")  # a file on a disk without space left


def test_a_write_that_fails_leaves_the_old_content_and_no_litter(tmp_path):
    path = tmp_path / "file.txt"
    write_text(path, "old")

    def half(file):
        file.write(b"ne")
        raise OSError("No space left on device")

    with pytest.raises(UserError, match="file.txt cannot be written: No space left.*unchanged"):
        write_whole(path, half)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(not FULL.exists(), reason="needs Linux")
def test_a_full_disk_is_told_in_one_sentence(tmp_path):
    path = tmp_path / "file.txt"
    write_text(path, "old")
    (tmp_path / f"file.txt.{os.getpid()}.tmp").symlink_to(FULL)
    with pytest.raises(UserError, match="No space left on device"):
        write_text(path, "new")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_folder_that_is_gone_is_told_in_one_sentence(tmp_path):
    with pytest.raises(UserError, match="nowhere/file.txt cannot be written"):
        write_text(tmp_path / "nowhere" / "file.txt", "new")


def test_the_content_before_is_kept_where_asked_for(tmp_path):
    path = tmp_path / "a.pth"
    for content in ("one", "two", "three"):
        write_whole(path, lambda file, content=content: file.write(content.encode()), True)
    assert (path.read_text(), previous(path).read_text()) == ("three", "two")
    assert previous(path).name == "a.previous.pth"


def test_a_second_process_is_refused_and_told_who_holds_the_folder(tmp_path):
    with (
        locked(tmp_path / "run" / "lock", wait=False),
        pytest.raises(UserError, match=rf"run is in use by another process \(number {os.getpid()}"),
        locked(tmp_path / "run" / "lock", wait=False),
    ):
        pass
    with locked(tmp_path / "run" / "lock", wait=False):
        pass  # and let go of afterwards


def hold(path: Path, ready) -> None:
    with locked(path, wait=False):
        ready.set()
        time.sleep(60)


def test_a_lock_does_not_outlive_a_process_that_is_killed(tmp_path):
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    process = context.Process(target=hold, args=(tmp_path / "lock", ready))
    process.start()
    assert ready.wait(30)
    with pytest.raises(UserError, match="in use"), locked(tmp_path / "lock", wait=False):
        pass
    process.kill()
    process.join()
    with locked(tmp_path / "lock", wait=False):
        pass
