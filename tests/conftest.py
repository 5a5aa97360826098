"""Small captioned pictures, made afresh for each test."""

import pytest
from kills import make_flags, small_config

import flow
import runs


@pytest.fixture
def picture_folder(tmp_path, monkeypatch):
    """60 pictures, left half one colour and right half another, in the imagefolder layout; the
    working directory is the temporary one, so that results/ lands there. New runs are of a small
    model."""
    monkeypatch.setattr(runs, "ModelConfig", small_config)
    monkeypatch.setattr(flow, "HIDDEN", 32)
    make_flags(tmp_path / "flags")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "flags"
