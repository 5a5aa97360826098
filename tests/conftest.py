"""Small captioned pictures, made afresh for each test."""

import os

import pytest
import torch
from kills import make_flags, small_config

import figures
import flow
import runs


def pytest_configure() -> None:
    if "PYTEST_XDIST_WORKER" in os.environ:  # one worker a core: threads would be in the way
        torch.set_num_threads(1)
        os.environ["OMP_NUM_THREADS"] = "1"  # of the processes that tests start


@pytest.fixture
def picture_folder(tmp_path, monkeypatch):
    """60 pictures, left half one colour and right half another, in the imagefolder layout; the
    working directory is the temporary one, so that results/ lands there. New runs are of a small
    model, and leave out the curves, which would take half of their time."""
    monkeypatch.setattr(runs, "ModelConfig", small_config)
    monkeypatch.setattr(flow, "HIDDEN", 32)
    monkeypatch.setattr(figures, "save_loss_curves", lambda path, metrics: path.touch())
    make_flags(tmp_path / "flags")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "flags"
