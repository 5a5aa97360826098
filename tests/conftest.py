"""Small captioned images, made afresh for each test."""

import os

import pytest
import torch
from small import make_flags


def pytest_configure() -> None:
    pytest.register_assert_rewrite("written")  # so that its asserts tell what differs
    if "PYTEST_XDIST_WORKER" in os.environ:  # one worker a core: threads would be in the way
        torch.set_num_threads(1)
        os.environ["OMP_NUM_THREADS"] = "1"  # of the processes that tests start


@pytest.fixture
def image_folder(tmp_path, monkeypatch):
    """60 images, left half one colour and right half another, in the imagefolder layout; the
    working directory is the temporary one, so that results/ lands there."""
    make_flags(tmp_path / "flags")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "flags"
