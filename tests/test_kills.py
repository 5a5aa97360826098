"""Protects runs against kill -9, at moments that nobody chose: benchmarks/kills.py, in short."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

KILLS = Path(__file__).parent.parent / "benchmarks" / "kills.py"
pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs kill -9")


@pytest.mark.parametrize("num", [3, pytest.param(30, marks=pytest.mark.slow)])
def test_runs_that_are_killed_end_as_one_left_alone(tmp_path, num):
    record = tmp_path / "kills.json"
    command = [sys.executable, KILLS, "--kills", str(num), "--seed", str(num), "--output", record]
    told = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert told.returncode == 0, told.stdout + told.stderr
    result = json.loads(record.read_text())
    assert result["kills"] == num and result["runs"] >= 1
    assert (result["runs_failed"], result["differences"]) == (0, [])
