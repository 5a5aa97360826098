"""Protects runs against kill -9, at moments that nobody chose: benchmarks/kills.py, in short."""

import os
from pathlib import Path

import kills
import pytest

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs kill -9")


def survives(folder: Path, num: int) -> None:
    result = kills.kill_often(folder, num, seed=num)
    assert result["kills"] == num and result["runs"] >= 1
    assert (result["runs_failed"], result["differences"]) == (0, [])


def test_a_run_that_is_killed_ends_as_one_left_alone(tmp_path):
    survives(tmp_path, 3)


@pytest.mark.slow
def test_runs_that_are_killed_thirty_times_end_as_one_left_alone(tmp_path):
    survives(tmp_path, 30)
