"""How do several processes train one model, and a GPU without waiting for Python?

    torchrun --nproc_per_node=2 train.py --data FOLDER    (--set run=NAME: --run is torchrun's)

Each process has all weights, draws the random numbers of the whole batch and learns from its part
of it; the gradients are added up. So a run is the same for any number of them but for rounding, and
may go on with another number. The first one alone measures and writes, and tells all but errors.

A GPU computes a step faster than Python asks for it. With `--set graphs=true` steps are recorded as
a CUDA graph, and replayed. This has not run on a GPU yet.
"""

import os
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from config import UserError


class Processes(NamedTuple):
    rank: int = 0  # which one this is
    count: int = 1

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def add_up(self, tensors: list[Tensor]) -> None:
        """Each float32 tensor becomes the sum of those of all processes, in one transfer. Raises
        UserError where another process has ended."""
        if self.count == 1:
            return
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        try:
            dist.all_reduce(flat)
        except RuntimeError as error:
            raise UserError(f"another process of this run has ended ({error}); the same command "
                            "goes on from the last checkpoint") from error  # fmt: skip
        for tensor, total in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
            tensor.copy_(total.view_as(tensor))

    def any(self, yes: bool) -> bool:
        """Whether one of them says yes; all of them wait for this."""
        return self.sum(yes) > 0

    def sum(self, number: float) -> float:
        """Of their numbers, in float32; all of them wait for this."""
        if self.count == 1:
            return number
        device = "cuda" if dist.get_backend() == "nccl" else "cpu"
        said = torch.tensor([float(number)], device=device)
        self.add_up([said])
        return float(said)


def name_device(name: str) -> str:
    """The device for this process: of several GPUs, each process has one."""
    local = int(os.environ.get("LOCAL_RANK", 0))
    several = int(os.environ.get("WORLD_SIZE", 1)) > 1
    if several and name in ("auto", "cuda") and torch.cuda.is_available():
        return f"cuda:{local % torch.cuda.device_count()}"
    return name


@contextmanager
def joined(device: torch.device) -> Iterator[Processes]:
    """The processes that torchrun has started, or this one alone. All but the first are silent."""
    if device.index is not None and device.type == "cuda":
        torch.cuda.set_device(device)
    rank, count = (int(os.environ.get(name, n)) for name, n in (("RANK", 0), ("WORLD_SIZE", 1)))
    if count == 1:
        yield Processes()
        return
    here = int(os.environ.get("LOCAL_WORLD_SIZE", count))
    if device.type != "cpu" and here > torch.cuda.device_count():
        told = f"{here} processes cannot share {device}; each needs a GPU, or --device cpu"
        raise UserError(told)
    try:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    except (RuntimeError, ValueError) as error:
        raise UserError(f"the {count} processes do not find each other; start them by torchrun "
                        f"({str(error).splitlines()[0]})") from error  # fmt: skip
    try:
        if rank == 0:
            yield Processes(rank, count)
        else:
            with open(os.devnull, "w") as nobody, redirect_stdout(nobody), redirect_stderr(nobody):
                yield Processes(rank, count)
    finally:
        dist.destroy_process_group()


def record(
    function: Callable[[list[Tensor]], dict[str, Tensor]], inputs: list[Tensor]
) -> tuple[dict[str, Tensor], Callable[[], None]]:
    """A call as a CUDA graph: its results, not computed yet, and what computes them anew."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = function(inputs)
    return results, graph.replay


class Replayed:
    """Calls a function of tensors. One that was called WARM times with tensors of the same shapes
    is recorded, and replayed from then on.

    The function must read nothing else that changes, and never ask the device for a number. What it
    returns is overwritten by the next call.
    """

    WARM = 3  # libraries make ready in the first calls, which cannot be recorded

    def __init__(self, record: Callable = record):
        self.record, self.kind = record, None
        self.calls: dict[Hashable, int] = {}
        self.recorded: dict[Hashable, tuple] = {}

    def __call__(
        self,
        function: Callable[[list[Tensor]], dict[str, Tensor]],
        inputs: list[Tensor],
        kind: Hashable,
    ) -> dict[str, Tensor]:
        """function(inputs); kind: what it computes, of which only one is kept."""
        if kind != self.kind:
            self.kind, self.calls, self.recorded = kind, {}, {}
        shapes = tuple(tensor.shape for tensor in inputs)
        self.calls[shapes] = self.calls.get(shapes, 0) + 1
        if self.calls[shapes] <= self.WARM:
            return function(inputs)
        if shapes not in self.recorded:
            static = [tensor.clone() for tensor in inputs]
            self.recorded[shapes] = static, *self.record(function, static)
        static, results, replay = self.recorded[shapes]
        for own, new in zip(static, inputs, strict=True):
            own.copy_(new)
        replay()
        return results
