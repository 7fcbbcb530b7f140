"""Training in several processes: `torchrun --nproc-per-node N -m sdc train …`.

Each process runs its share of the rows of a batch through the head, up to the batch norm. These outputs are gathered,
so that the batch norm's statistics, the pairs and the loss are of the joint batch, on every process alike. DDP then
averages the gradients. Of the loss each process keeps the gradient by its own rows times the number of processes,
which makes that average the gradient of one process with the joint batch; the batch norm's own parameters already
have it everywhere.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from sdc.devices import torch_device
from sdc.errors import SdcError

ASK_EVERY = 10  # steps between two exchanges of what the processes want


@dataclass(frozen=True)
class World:
    """The processes that train together, as one of them sees them; by default it is alone.

    Attributes:
        rank: which one this is; 0 writes all files and messages.
        size: how many there are.
        restarts: how often torchrun has started them again after one failed.
        device: of PyTorch, where this one computes; None leaves the choice open.
    """

    rank: int = 0
    size: int = 1
    restarts: int = 0
    device: str | None = None

    def joint(self, head: nn.Module) -> nn.Module:
        """A module from this process' share of the features (B / size, d) to a HashHead's outputs (B, K) for all."""
        if self.size == 1:
            return head
        # DDP (of PyTorch 2.14) keeps its group's threads alive to the end of the process. One that still held a tensor
        # of Python's then would abort it: so `_gather` and `any` use another group, which ends in `joined`.
        return nn.parallel.DistributedDataParallel(_Joint(head), process_group=dist.new_group())

    def gather(self, share: Tensor) -> Tensor:
        """The rows (B, …) of all processes, in the order of their ranks, from the (B / size, …) of each."""
        return share if self.size == 1 else _gather(share)

    def any(self, asked: bool, step: int) -> bool:
        """Whether any process asks for it; several exchange this at every `ASK_EVERY`-th step only."""
        if self.size == 1 or step % ASK_EVERY:
            return asked and self.size == 1
        votes = torch.tensor([asked], dtype=torch.int32, device=self.device)
        dist.all_reduce(votes, dist.ReduceOp.MAX)
        return bool(votes.item())

    def same(self, value: float) -> float:
        """The value of rank 0, on all: for a choice that rounding must not make differently on two hosts."""
        if self.size == 1:
            return value
        shared = torch.tensor([value], dtype=torch.float64, device=self.device)
        dist.broadcast(shared, 0)
        return float(shared.item())

    def check_equal(self, epoch: int, step: int) -> None:
        """Raises SdcError where the processes would not start at the same step."""
        if self.size > 1:
            reached = _gather(torch.tensor([[epoch, step]], device=self.device)).tolist()
            if any(start != reached[0] for start in reached):
                raise SdcError("the processes found different checkpoints: --out must lie where all hosts see it")


@contextlib.contextmanager
def joined(device: str | None) -> Iterator[World]:
    """The processes that torchrun started, connected by NCCL where they compute with CUDA, else by Gloo.

    Args:
        device: as `--device`; of several CUDA devices each process of a host takes its own.

    Raises:
        SdcError: another process is gone.
    """
    if not dist.is_torchelastic_launched() or os.environ["WORLD_SIZE"] == "1":
        yield World(device=device)
        return
    rank, size, local, restarts = (
        int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "TORCHELASTIC_RESTART_COUNT")
    )
    device = device or torch_device(None).type
    if device == "cuda":
        device = f"cuda:{local}"
        torch.cuda.set_device(local)
    serves = rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    with _explaining():
        tcp = dist.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), None, serves)  # type: ignore[attr-defined]
        # What processes left behind that are gone must not be taken for news: each restart has its own names.
        store = dist.PrefixStore(f"r{restarts}", tcp)  # type: ignore[attr-defined]
        backend = "nccl" if device.startswith("cuda") else "gloo"
        dist.init_process_group(backend, store=store, rank=rank, world_size=size)
        try:
            yield World(rank, size, restarts, device)
        finally:
            dist.destroy_process_group()


@contextlib.contextmanager
def _explaining() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, dist.DistError) or "gloo" in str(error):
            raise SdcError("another process is gone: see what it wrote") from error
        raise


class _Joint(nn.Module):
    """The head on a batch of which each process has a share.

    DDP sees its parameters but not its buffers: these are equal everywhere, so there is nothing to broadcast.
    """

    def __init__(self, head: Any) -> None:
        super().__init__()
        self.learned = nn.ParameterList(head.parameters())
        self._head = (head,)  # in a tuple it is no submodule

    def forward(self, share: Tensor) -> Tensor:
        (head,) = self._head
        gathered: Tensor = _Gather.apply(head.project(share))
        normalized: Tensor = head.normalize(gathered)
        return normalized


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, share: Tensor) -> Tensor:
        return _gather(share)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        size = dist.get_world_size()
        return gradient.chunk(size)[dist.get_rank()] * size


def _gather(share: Tensor) -> Tensor:
    size = dist.get_world_size()
    joint = share.new_empty((len(share) * size, *share.shape[1:]))
    dist.all_gather(list(joint.chunk(size)), share.contiguous())
    return joint
