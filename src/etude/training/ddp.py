"""Training in several processes with torch's DistributedDataParallel (DDP).

Each process (rank) has the whole model and computes a part of a step's examples; gradients are
summed over the ranks, so that all ranks have the same weights after each step. The ranks are
started by `rank_processes.py`; Lightning's launcher would repeat the whole command.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from lightning_fabric.plugins.environments.cluster_environment import ClusterEnvironment
from pytorch_lightning.strategies import DDPStrategy

LOCALHOST = "127.0.0.1"
_JOIN_TIMEOUT = timedelta(seconds=120)
_COLLECTIVE_TIMEOUT = timedelta(minutes=60)


class _OneMachine(ClusterEnvironment):
    """Lightning cluster environment for ranks that run on one machine and are already started."""

    def __init__(self, rank: int, world: int) -> None:
        self._rank, self._world = rank, world

    creates_processes_externally = True
    main_address = LOCALHOST
    main_port = 0  # unused: the ranks connect in `join`

    @staticmethod
    def detect() -> bool:
        return False

    def world_size(self) -> int:
        return self._world

    def set_world_size(self, size: int) -> None:
        pass

    def global_rank(self) -> int:
        return self._rank

    def set_global_rank(self, rank: int) -> None:
        pass

    def local_rank(self) -> int:
        return self._rank

    def node_rank(self) -> int:
        return 0


class SharedSteps(DDPStrategy):
    """Lightning's DDP strategy for ranks that have already joined the process group.

    Rank 0 can save a checkpoint without waiting for the other ranks.

    Args:
        rank: Rank of this process.
        world: Number of processes.
    """

    def __init__(self, rank: int, world: int) -> None:
        super().__init__(
            cluster_environment=_OneMachine(rank, world),
            find_unused_parameters=False,
            gradient_as_bucket_view=True,
        )

    def _configure_launcher(self) -> None:
        """Does nothing: the ranks are already started."""

    def setup_distributed(self) -> None:
        """Sets this process's rank and the number of ranks in Lightning's cluster environment.

        Creates no process group, because the ranks have already joined one.
        """
        self.set_world_ranks()

    def barrier(self, *args: Any, **kwargs: Any) -> None:
        """Waits until all ranks have called this method.

        Does not wait when Lightning calls it after saving a checkpoint: after a stop signal, only
        rank 0 saves a checkpoint, and the other ranks would never arrive.
        """
        name = args[0] if args else kwargs.get("name")
        if name != "Trainer.save_checkpoint":
            super().barrier(*args, **kwargs)

    def validation_step(self, *args: Any, **kwargs: Any) -> Any:
        """Runs the module's validation step without DDP's `forward`.

        DDP's `forward` may synchronise buffers of all ranks, but the ranks validate different
        numbers of batches.
        """
        module: Any = self.lightning_module
        with self.precision_plugin.val_step_context():
            return module.validation_step(*args, **kwargs)


class SettledBuckets(pl.Callback):
    """Callback that makes DDP rebuild its gradient buckets before the first step, not after it.

    DDP sums gradients in buckets, which it rebuilds after the first backward pass. The position of
    a gradient in its bucket determines the order in which the gradients of three or more ranks are
    summed, so the first step of a continued run would be rounded differently from the same step of
    an uninterrupted run. Therefore each process starts with a backward pass whose gradients are
    discarded.
    """

    def __init__(self) -> None:
        self._settled = False

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self._settled:
            return
        task: Any = pl_module
        with trainer.precision_plugin.train_step_context():
            task.manual_backward(task.loss(batch[-1]))  # each step seeds its random numbers itself
        task.zero_grad()
        self._settled = True


def disable_sigterm_handling(trainer: pl.Trainer) -> None:
    """Disables Lightning's handling of SIGTERM.

    Lightning would broadcast and read a tensor at every step to detect the signal. Rank 0 has its
    own signal handlers, and the other ranks end when rank 0 ends.
    """
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]
    trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]


def open_store(world: int) -> Any:
    """Opens the TCP store through which the ranks connect, on a free local port, and returns it.

    Args:
        world: Number of processes.
    """
    import socket

    listening = socket.create_server((LOCALHOST, 0))
    port = listening.getsockname()[1]
    return dist.TCPStore(  # type: ignore[attr-defined]
        LOCALHOST,
        port,
        world,
        is_master=True,
        wait_for_workers=False,
        timeout=_JOIN_TIMEOUT,
        master_listen_fd=listening.detach(),
    )


def find_store(port: int, world: int) -> Any:
    """Connects to rank 0's TCP store from another rank, and returns the connection.

    Args:
        port: Port of the store.
        world: Number of processes.
    """
    return dist.TCPStore(  # type: ignore[attr-defined]
        LOCALHOST, port, world, is_master=False, timeout=_JOIN_TIMEOUT
    )


def join(store: Any, *, rank: int, world: int, device: torch.device) -> None:
    """Joins the group of processes (ranks) that train together; returns when every rank has joined.

    Args:
        store: Store from `open_store` or `find_store`.
        rank: Rank of this process.
        world: Number of processes.
        device: Device of this rank; GPUs use nccl, other devices gloo.
    """
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.set_device(device)
    dist.init_process_group(
        "nccl" if on_gpu else "gloo",
        store=store,
        rank=rank,
        world_size=world,
        timeout=_COLLECTIVE_TIMEOUT,
        device_id=device if on_gpu else None,
    )


def leave(*, broken: bool = False) -> None:
    """Makes this process leave the group of processes (ranks) that train together.

    Args:
        broken: Whether other ranks may have failed; if so, this process does not wait for them.
    """
    if not dist.is_initialized():
        return
    if broken and dist.get_backend() == "nccl":
        abort()
    else:
        dist.destroy_process_group()


def abort() -> None:
    """Aborts operations on a GPU (nccl) that wait for other ranks.

    Does nothing with gloo, which detects the loss of a rank itself.
    """
    if dist.is_initialized() and dist.get_backend() == "nccl":
        dist.distributed_c10d._abort_process_group()
