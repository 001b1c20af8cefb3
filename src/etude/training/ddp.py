"""Several processes that share each optimizer step: torch's DistributedDataParallel.

Every process (a rank) holds the whole model and takes its share of a step's examples; gradients
are summed over the ranks, so all of them hold the same weights after each step. The ranks are
started by `followers.py`, not by Lightning, whose own launcher would repeat the whole command.
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
_TO_MEET = timedelta(seconds=120)
_TO_ANSWER = timedelta(minutes=60)


class _OneMachine(ClusterEnvironment):
    """What Lightning wants to know of the ranks, which are there already."""

    def __init__(self, rank: int, world: int) -> None:
        self._rank, self._world = rank, world

    creates_processes_externally = True
    main_address = LOCALHOST
    main_port = 0  # the ranks meet in `join`

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
    """DDP among ranks that have joined already, and of which rank 0 may save by itself.

    Args:
        rank: this process.
        world: how many there are.
    """

    def __init__(self, rank: int, world: int) -> None:
        super().__init__(
            cluster_environment=_OneMachine(rank, world),
            find_unused_parameters=False,
            gradient_as_bucket_view=True,
        )

    def _configure_launcher(self) -> None:
        """There is nothing to launch."""

    def setup_distributed(self) -> None:
        """The ranks have joined."""
        self.set_world_ranks()

    def barrier(self, *args: Any, **kwargs: Any) -> None:
        """Waits for all ranks, except after a save: a signal makes rank 0 alone save."""
        name = args[0] if args else kwargs.get("name")
        if name != "Trainer.save_checkpoint":
            super().barrier(*args, **kwargs)

    def validation_step(self, *args: Any, **kwargs: Any) -> Any:
        """Without DDP's `forward`, which may exchange buffers: ranks validate unequal numbers."""
        module: Any = self.lightning_module
        with self.precision_plugin.val_step_context():
            return module.validation_step(*args, **kwargs)


class SettledBuckets(pl.Callback):
    """Makes DDP arrange its buckets before the first step instead of after it.

    DDP sums gradients in buckets, which it arranges anew once it has seen a backward pass. Where
    a gradient lies in a bucket decides in which order three or more ranks are summed: a run that
    goes on from a checkpoint would round its first step in another way than one that was never
    stopped. So each process begins with a backward pass whose gradients are thrown away.
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


def mute(trainer: pl.Trainer) -> None:
    """Takes Lightning's hands off SIGTERM.

    It would send a tensor around at every step, and read it, to ask whether the signal came. Rank
    0 has handlers of its own, and the others end when it does.
    """
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]
    trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]


def open_store(world: int) -> Any:
    """Where the ranks of a run find each other: on this machine only, at a port that is free."""
    import socket

    listening = socket.create_server((LOCALHOST, 0))
    port = listening.getsockname()[1]
    return dist.TCPStore(  # type: ignore[attr-defined]
        LOCALHOST,
        port,
        world,
        is_master=True,
        wait_for_workers=False,
        timeout=_TO_MEET,
        master_listen_fd=listening.detach(),
    )


def find_store(port: int, world: int) -> Any:
    """Rank 0's store, seen from another rank."""
    return dist.TCPStore(  # type: ignore[attr-defined]
        LOCALHOST, port, world, is_master=False, timeout=_TO_MEET
    )


def join(store: Any, *, rank: int, world: int, device: torch.device) -> None:
    """Waits until every rank has called it; then they can exchange tensors.

    Args:
        store: where they meet.
        device: this rank's, which decides how: nccl between GPUs, gloo otherwise.
    """
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.set_device(device)
    dist.init_process_group(
        "nccl" if on_gpu else "gloo",
        store=store,
        rank=rank,
        world_size=world,
        timeout=_TO_ANSWER,
        device_id=device if on_gpu else None,
    )


def leave(*, broken: bool = False) -> None:
    """Undoes `join`.

    Args:
        broken: other ranks may be gone, or in the middle of something: waits for none.
    """
    if not dist.is_initialized():
        return
    if broken and dist.get_backend() == "nccl":
        abort()
    else:
        dist.destroy_process_group()


def abort() -> None:
    """Ends what waits for other ranks on a GPU; gloo notices by itself that one is gone."""
    if dist.is_initialized() and dist.get_backend() == "nccl":
        dist.distributed_c10d._abort_process_group()
