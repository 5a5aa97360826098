"""Protects training by several processes, or in several parts: the same run but for rounding."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from small import TINY, make_flags
from test_train import tiny, weights_of

import checkpoint
import learning
import train
from config import UserError
from dataset import Batch, Given, given_at
from processes import Replayed, joined

SCRIPT = Path(__file__).parent.parent / "train.py"
# Rounding differs where sums are taken in another order; each step of Muon makes it larger. A
# weight is of size .1; a part with a wrong share, or other random numbers, changes it by .01.
NEAR = {"atol": 2e-3, "rtol": 0}


def torchrun(folder: Path, num: int, run: str, **settings) -> subprocess.Popen:
    flags = ["--data", "flags"]
    for name, value in (TINY | {"precision": "float32", "run": run} | settings).items():
        text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
        flags += ["--set", f"{name}={text}"]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone",
               f"--nproc_per_node={num}", str(SCRIPT), *flags]  # fmt: skip
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})  # fmt: skip


def assert_near(one: Path, other: Path) -> None:
    for part in ("model", "ema", "posterior"):
        a, b = weights_of(one, part), weights_of(other, part)
        assert a.keys() == b.keys()
        for name in a:
            torch.testing.assert_close(a[name], b[name], **NEAR, msg=f"{part} {name}")


def test_parts_of_a_step_are_all_of_it_each_once(image_folder):
    config = tiny(image_folder, noise_dim=8, pairs="parts")
    data, _ = train.open_data(config)
    state = checkpoint.new_state(config, {}, data.captions())
    networks, _ = checkpoint.networks_of(state, Path("x"), config, torch.device("cpu"))
    given = given_at(data, networks.model, config, 0)
    parts = [given.part(i, 3) for i in range(3)]
    assert sum(share for _, share in parts) == pytest.approx(1)
    assert all(part.batch.filters is given.batch.filters for part, _ in parts)
    for k, whole in enumerate(given.batch):
        if Batch._fields[k] == "filters":
            continue
        there = torch.cat([part.batch[k] for part, _ in parts])
        order = torch.cat([torch.arange(len(whole))[i::3] for i in range(3)])
        assert torch.equal(there, whole[order])
    several = len(given.pairs[0]) // given.size
    assert [len(part.pairs[0]) for part, _ in parts] == [several * p.size for p, _ in parts]
    few = Given(1, None, tuple(t[:several] for t in given.pairs))
    assert few.part(0, 2)[1] == 1 and few.part(1, 2)[1] == 0 and few.part(1, 2)[0].size == 1


def test_a_batch_in_parts_gives_the_same_run(image_folder):
    settings = {"latents": "on", "precision": "float32"}
    whole = train.main(tiny(image_folder, run="whole", **settings))
    parts = train.main(tiny(image_folder, run="parts", accumulate=4, **settings))
    assert_near(whole, parts)
    train.main(tiny(image_folder, run="mixed", stop_after=48, **settings))
    assert_near(whole, train.main(tiny(image_folder, run="mixed", accumulate=3, **settings)))


def test_too_little_memory_is_told_with_what_needs_less(image_folder, monkeypatch):
    def too_much(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(learning, "step_losses", too_much)
    with pytest.raises(UserError, match="cpu has too little memory: --set accumulate=4 needs half"):
        train.main(tiny(image_folder, accumulate=2))


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no gloo")
def test_two_processes_give_the_run_of_one_and_either_goes_on_with_the_others(tmp_path):
    make_flags(tmp_path / "flags")
    for run, steps in {"one": [(1, 0)], "two": [(2, 0)], "mixed": [(2, 48), (1, 0)]}.items():
        for num, stop_after in steps:
            process = torchrun(tmp_path, num, run, latents="on", stop_after=stop_after)
            out, err = process.communicate(timeout=200)
            assert process.returncode == 0, err
            assert out.count("run: results/") == 1  # one of them prints
    results = tmp_path / "results"
    assert_near(results / "one", results / "two")
    assert_near(results / "one", results / "mixed")


@pytest.mark.skipif(os.name != "posix", reason="needs signals")
def test_a_process_that_dies_ends_all_and_the_run_goes_on(tmp_path):
    make_flags(tmp_path / "flags")
    endless = {"images": 10**9, "sample_every": 320}
    process = torchrun(tmp_path, 2, "run", **endless)
    saved = tmp_path / "results" / "run" / "checkpoint.pth"
    end = time.monotonic() + 100
    while not saved.exists():
        assert time.monotonic() < end and process.poll() is None
        time.sleep(0.1)
    told = subprocess.run(["pgrep", "-f", f"^{sys.executable} -u {SCRIPT} .*run=run"],
                          capture_output=True, text=True).stdout.split()  # fmt: skip
    mine = [int(pid) for pid in told if os.readlink(f"/proc/{pid}/cwd") == str(tmp_path)]
    os.kill(mine[-1], signal.SIGKILL)
    _, err = process.communicate(timeout=60)
    assert process.returncode != 0
    assert checkpoint.load(saved)["images_seen"] >= 320


def test_processes_that_do_not_find_each_other_are_told_to_use_torchrun(monkeypatch):
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="start them by torchrun"), joined(torch.device("cpu")):
        pass


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no gloo")
def test_two_processes_mend_a_damaged_checkpoint_once(tmp_path):
    make_flags(tmp_path / "flags")
    for stop_after in (16, 48):
        process = torchrun(tmp_path, 1, "run", stop_after=stop_after)
        assert process.communicate(timeout=200) and process.returncode == 0
    saved = tmp_path / "results" / "run" / "checkpoint.pth"
    saved.write_bytes(saved.read_bytes()[:-999])
    process = torchrun(tmp_path, 2, "run", stop_after=64)
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    assert "going on with the one before" in out and checkpoint.load(saved)["images_seen"] == 64


def test_what_is_replayed_is_recorded_once_for_each_shape_and_kind():
    recorded = []

    def record(function, inputs):
        """As a CUDA graph: results stay where they are, and are computed from inputs that do."""
        results = {name: torch.empty_like(value) for name, value in function(inputs).items()}
        recorded.append(inputs[0].shape)

        def replay():
            for name, value in function(inputs).items():
                results[name].copy_(value)

        return results, replay

    replayed, shapes = Replayed(record), [(2,), (2,), (2,), (3,), (2,), (2,), (3,)]
    for kind in ("early", "late"):
        for i, shape in enumerate(shapes):
            x = torch.full(shape, float(i))
            result = replayed(lambda inputs: {"twice": 2 * inputs[0]}, [x], kind)
            assert torch.equal(result["twice"], 2 * x)
    assert recorded == [(2,), (2,)]  # of each kind, after three calls; (3,) came but twice
