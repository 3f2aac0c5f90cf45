"""One training run on several GPUs: which images of a batch are whose, and means over all of them.

Each process of a run (a rank) holds all networks, shows its share of every batch and takes the mean of gradients with
the others before each step, so that all stay equal. The phases are compiled whole and leave nothing for the hooks of
DistributedDataParallel to hang on; its reduction is what `mean_` does.

    python -m training store/runs/RUN --processes 2
    torchrun --nproc-per-node 2 -m training store/runs/RUN
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.multiprocessing.spawn import ProcessException, start_processes

from storage.errors import ConfigError, TrainingError
from storage.wording import numbered
from training.config import TrainConfig
from training.device import resolve_device

PATIENCE = timedelta(days=7)
"""How long ranks wait for the first, which may be measuring."""
GRACE_S = 10.0
"""How long ranks may take to end when one has failed."""
GROUP = 4
"""Images the discriminator compares: a group's images stay together (`append_batch_deviation`)."""


class Ranks:
    """This process among those of a run; alone unless `run_ranks` or torchrun started it.

    `rank` counts all of `world` processes, `local_rank` those of this machine. `flags` is a process group that can be
    asked without waiting for a GPU; needed to ask or to take means.
    """

    def __init__(self, rank: int = 0, world: int = 1, flags: Any = None, *, local_rank: int = 0) -> None:
        self.rank, self.world = rank, world
        self._flags = flags
        self._local_rank = local_rank

    @property
    def is_first(self) -> bool:
        """Whether this process writes the run's files."""
        return self.rank == 0

    @property
    def is_first_here(self) -> bool:
        """Whether this process is the first on its machine."""
        return self._local_rank == 0

    def check(self, config: TrainConfig) -> None:
        """Raise ConfigError unless every batch splits into equal shares of whole groups."""
        if self.world == 1:
            return
        for resolution, images in config.batch_size.items():
            if images % (GROUP * self.world):
                raise ConfigError(
                    f"batch_size at {resolution} is {images}: on {self.world} GPUs it must be a multiple of "
                    f"{GROUP * self.world}"
                )

    def rows(self, num: int) -> list[int]:
        """Which images of a batch of `num` are this rank's, ascending.

        Group i holds the images i, i + num / 4 and so on; a rank has whole groups, so the discriminator compares the
        same images whatever the number of ranks.
        """
        if self.world == 1:
            return list(range(num))
        groups = num // GROUP
        share = groups // self.world
        own = range(self.rank * share, (self.rank + 1) * share)
        return [part * groups + group for part in range(GROUP) for group in own]

    def own(self, batch: Tensor, dim: int = 0) -> Tensor:
        """This rank's images of a batch, those at `rows`, the images lying along `dim`.

        Slices, since to index a GPU's tensor by a list of numbers waits for the GPU; and copied, so that they lie in
        memory alike on every rank, as what is compiled for all of them expects.
        """
        if self.world == 1:
            return batch
        share = batch.shape[dim] // (GROUP * self.world)
        parts = torch.unflatten(batch, dim, (GROUP, -1)).narrow(dim + 1, self.rank * share, share)
        return parts.flatten(dim, dim + 1).clone(memory_format=torch.contiguous_format)

    def part(self, batch: Tensor, dim: int = 0) -> Tensor:
        """This rank's of what is not compared, lying along `dim`, copied likewise."""
        share = batch.shape[dim] // self.world
        part = batch.narrow(dim, self.rank * share, share)
        return part.clone(memory_format=torch.contiguous_format)

    def mean_(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors of one type by their means over all ranks."""
        if self.world == 1:
            return
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        dist.all_reduce(flat)
        flat /= self.world
        parts = torch.split(flat, [tensor.numel() for tensor in tensors])
        torch._foreach_copy_(
            list(tensors), [part.view(t.shape) for part, t in zip(parts, tensors, strict=True)]
        )

    def any(self, flag: bool) -> bool:
        """Whether any rank says so; every rank must ask."""
        if self.world == 1:
            return flag
        votes = torch.tensor(int(flag))
        dist.all_reduce(votes, op=dist.ReduceOp.MAX, group=self._flags)
        return bool(votes)


@contextmanager
def joined(device_name: str) -> Iterator[tuple[Ranks, torch.device]]:
    """The ranks that were started together, and this one's device of the kind that is named: auto, cpu, cuda or mps.

    To be entered before anything in this process has used, or counted, GPUs: each rank's own is number 0 to it.
    DeviceError where there is no such device; ConfigError where there are fewer GPUs than processes.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield Ranks(), resolve_device(device_name)
        return
    local_rank = int(os.environ["LOCAL_RANK"])
    num_here = int(os.environ.get("LOCAL_WORLD_SIZE", local_rank + 1))
    if device_name != "cpu":
        _see_first(local_rank, num_here)
    device = resolve_device(device_name)
    if device.type == "cuda" and (num_gpus := torch.cuda.device_count()) < num_here:
        raise ConfigError(
            f"{num_here} processes were started here, and this machine has {numbered(num_gpus, 'GPU')}"
        )
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    flags = dist.new_group(backend="gloo", timeout=PATIENCE)
    yield Ranks(dist.get_rank(), world, flags, local_rank=local_rank), device
    dist.destroy_process_group()  # not by a rank that fails: others would fail for that, perhaps before it has said why


def check_processes(config: TrainConfig, num: int) -> None:
    """Raise ConfigError, or DeviceError, unless `num` processes of this machine can train by `config` together."""
    device = resolve_device(config.device)
    Ranks(world=num).check(config)
    if num > 1 and device.type == "cuda" and (gpus := torch.cuda.device_count()) < num:
        raise ConfigError(f"processes is {num}, and there are {gpus} GPUs here: each process needs its own")


def run_ranks(
    num: int, function: Callable[..., Any], arguments: tuple[Any, ...], should_stop: Callable[[], bool]
) -> None:
    """Call `function` in `num` new processes of this machine, ranks to each other, and return when all have ended.

    When `should_stop` says so, each is sent SIGTERM, once. They are interrupted (SIGINT) when this process is gone.
    TrainingError with what the first that failed said; the others are then ended.
    """
    if "WORLD_SIZE" in os.environ:
        raise ConfigError("torchrun starts the processes itself: leave --processes out")
    with socket.socket() as asked:
        asked.bind(("127.0.0.1", 0))
        port = asked.getsockname()[1]
    ranks = start_processes(  # type: ignore[no-untyped-call]
        _as_rank, (num, port, function, arguments), nprocs=num, join=False, start_method="spawn"
    )
    is_told = False
    try:
        while not ranks.join(timeout=0.2, grace_period=GRACE_S):
            if should_stop() and not is_told:
                is_told = True
                for process in ranks.processes:
                    process.terminate()
    except ProcessException as error:
        raise TrainingError(str(error).strip()) from None


def _as_rank(
    rank: int, world: int, port: int, function: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    """What a process of `run_ranks` does."""
    of_all = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world}
    of_this = {"RANK": rank, "LOCAL_RANK": rank}
    os.environ.update({name: str(value) for name, value in (of_all | of_this).items()})
    function(*arguments)


def _see_first(index: int, num_processes: int) -> None:
    """Have this process count its own GPU first: number 0 on every rank, since a GPU's number is in what is compiled,
    and so what one rank compiled serves them all. The others stay in sight, for direct copies between them.
    """
    shown = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = [str(number) for number in range(num_processes)] if shown is None else shown.split(",")
    if index < len(gpus):  # else there are too few, which is told later
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join([gpus[index], *gpus[:index], *gpus[index + 1 :]])
