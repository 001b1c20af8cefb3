"""FLOPs and memory of one training step of a model, counted without running the model.

The model is built with fake tensors, which have shapes but no content. One forward and backward
pass is traced operation by operation, with the kernels of the CPU. For a model of 175 billion
parameters this takes seconds.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from etude.errors import EtudeError
from etude.models.encoder_decoder import EncoderDecoder
from etude.models.regressor import Regressor


class Uncountable(EtudeError):
    """Raised if the FLOPs and memory of a model cannot be counted, because its operations depend on
    the values of its tensors, or fail on fake tensors.
    """


@dataclass(frozen=True)
class Cost:
    """FLOPs and memory of a forward and backward pass over `batch` sequences of `length` tokens.

    An operation is an addition or a multiplication: a product of (m, k) and (k, n) matrices has 2 m
    k n operations. Only matrix products are counted, with attention in full although causal kernels
    skip half of it, and without recomputation (Chowdhery et al. 2022, PaLM, arXiv:2204.02311,
    appendix B). A decoder of L layers and width D has 6 N + 12 L D T operations per token for
    sequences of T tokens. N is the number of parameters in matrix products: with the output
    projection, but without the embedding look-up and the positions.

    Attributes:
        parameters: number of parameters; a shared parameter counts once.
        forward_flops: operations of the forward pass.
        training_flops: operations of the forward and the backward pass.
        weight_bytes: bytes of parameters and buffers.
        gradient_bytes: bytes of the gradients of all trainable parameters.
        activation_bytes: peak of all other memory: activations stored for the backward pass, and
            temporary tensors. The count assumes that gradients exist from a previous micro-batch. A
            step of a single micro-batch needs somewhat less, because its gradients are allocated
            while activations are freed.
        optimizer_bytes: bytes of the optimizer's state after a step; 0 without an optimizer.
        positions: number of tokens in all sequences; for an encoder-decoder, in sources and
            targets.
        central_bytes: peak of the activation memory between the middle of the forward pass and the
            middle of the backward pass; it grows by the same amount with each further layer.
        outer_bytes: peak of the activation memory before the middle of the forward pass and after
            the middle of the backward pass, where, for example, the gradient of the embedding is
            allocated. The difference to `central_bytes` does not grow with further layers.
    """

    parameters: int
    forward_flops: int
    training_flops: int
    weight_bytes: int
    gradient_bytes: int
    activation_bytes: int
    optimizer_bytes: int
    positions: int
    central_bytes: int = field(default=0, compare=False)
    outer_bytes: int = field(default=0, compare=False)

    @property
    def step_bytes(self) -> int:
        """Total memory of a step, in bytes."""
        return (
            self.weight_bytes + self.gradient_bytes + self.activation_bytes + self.optimizer_bytes
        )


def cost(
    build: Callable[[], nn.Module],
    *,
    length: int,
    batch: int = 1,
    dtype: torch.dtype = torch.float32,
    autocast: torch.dtype | None = None,
    optimizer: Callable[[nn.Module], torch.optim.Optimizer] | None = None,
) -> Cost:
    """Returns the FLOPs and the memory of one training step of a model.

    The loss is the cross-entropy of the logits, or the sum of squares of a `Regressor`'s
    predictions.

    Args:
        build: factory of a module that maps tokens (B, T) to logits, on the CPU; an
            `EncoderDecoder` also receives a target of shape (B, T), and a `Regressor` receives
            numbers instead of tokens.
        length: T, the number of tokens per sequence.
        batch: B, sequences per micro-batch.
        dtype: dtype of the weights.
        autocast: dtype of torch's autocast; None disables it.
        optimizer: factory of the module's optimizer.

    Raises:
        Uncountable: the module cannot be traced without the values of its tensors.
    """
    with _silence_fake_tensors(), FakeTensorMode():
        with torch.device("cpu"):
            model = _cast(build(), dtype).train()
        try:
            return _count(model, length, batch, autocast, optimizer)
        except Exception as error:
            message = str(error).strip().splitlines()
            reason = f"{type(error).__name__}: {message[0] if message else ''}"
            raise Uncountable(f"cannot count the model's FLOPs and memory: {reason}") from error


@contextmanager
def _silence_fake_tensors() -> Iterator[None]:
    """Context manager in which torch logs no tracebacks of invalid shapes; the errors that it
    raises contain the same text.
    """
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


def _count(
    model: nn.Module,
    length: int,
    batch: int,
    autocast: torch.dtype | None,
    optimizer: Callable[[nn.Module], torch.optim.Optimizer] | None,
) -> Cost:
    inputs = torch.zeros(batch, length, dtype=torch.long, device="cpu")
    if isinstance(model, Regressor):
        inputs = torch.zeros(batch, length, model.inputs, device="cpu")
    casting: AbstractContextManager[Any] = (
        nullcontext() if autocast is None else torch.autocast("cpu", dtype=autocast)
    )
    sides = 2 if isinstance(model, EncoderDecoder) else 1
    parameters = list(model.parameters())
    for parameter in parameters:
        if parameter.requires_grad:  # gradients exist from the second micro-batch of a step
            parameter.grad = torch.zeros_like(parameter)
    gradients = [p.grad for p in parameters if p.grad is not None]
    with Counter([*parameters, *gradients, *model.buffers(), inputs]) as counter:
        with casting:
            loss = _loss(model, model(*[inputs] * sides))
        forward, middle = counter.flops, len(counter.levels)
        loss.backward()
    first, last = middle // 2, (middle + len(counter.levels)) // 2
    state = 0
    if optimizer is not None:
        new_optimizer = optimizer(model)
        new_optimizer.step()
        state = _bytes(
            t for t in tree_leaves(dict(new_optimizer.state)) if isinstance(t, torch.Tensor)
        )
    return Cost(
        parameters=sum(p.numel() for p in parameters),
        forward_flops=forward,
        training_flops=counter.flops,
        weight_bytes=_bytes([*parameters, *model.buffers()]),
        gradient_bytes=_bytes(gradients),
        activation_bytes=max(counter.levels),
        optimizer_bytes=state,
        positions=batch * length * sides,
        central_bytes=max(counter.levels[first:last]),
        outer_bytes=max(counter.levels[:first] + counter.levels[last:]),
    )


def _loss(model: nn.Module, output: torch.Tensor) -> torch.Tensor:
    if isinstance(model, Regressor):
        return output.square().sum()
    targets = torch.zeros(output.shape[:-1], dtype=torch.long, device="cpu")
    return F.cross_entropy(output.flatten(0, -2), targets.flatten(), reduction="sum")


def _cast(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Converts a module to a dtype in place, and returns the module. (Fake tensors don't support
    `model.to(dtype)`.)
    """
    converted: dict[int, Any] = {}

    def cast(tensor: torch.Tensor | None) -> Any:
        if tensor is None or not tensor.is_floating_point() or tensor.dtype == dtype:
            return tensor
        if id(tensor) not in converted:
            new = tensor.detach().to(dtype)
            shared = isinstance(tensor, nn.Parameter)
            converted[id(tensor)] = nn.Parameter(new, tensor.requires_grad) if shared else new
        return converted[id(tensor)]

    for module in model.modules():
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                tensors[name] = cast(tensor)
    return model


def _bytes(tensors: Any) -> int:
    storages = {t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in tensors}
    return sum(storages.values())


class Counter(TorchDispatchMode):
    """Dispatch mode that counts the operations of matrix products, and tracks memory.

    Args:
        allocated: tensors whose memory exists already and is not counted.

    Attributes:
        flops: additions and multiplications in matrix products so far.
        levels: bytes in use after each operation, of the tensors that operations returned since the
            start and that still exist.
    """

    def __init__(self, allocated: Sequence[torch.Tensor] = ()) -> None:
        super().__init__()
        self.flops = 0
        self._allocated = {tensor.untyped_storage()._cdata for tensor in allocated}
        self.levels: list[int] = []
        self._now = 0
        self._alive: dict[int, Any] = {}  # weak references, by storage

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        packet = func.overloadpacket
        formula = _ATTENTION.get(packet) or flop_registry.get(packet)
        if formula is not None:
            self.flops += formula(*args, **kwargs, out_val=out)
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                self._note(tensor.untyped_storage())
        self.levels.append(self._now)
        return out

    def _note(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._alive or key in self._allocated:
            return

        def freed(_: Any) -> None:
            self._now -= size
            del self._alive[key]

        self._alive[key] = weakref.ref(storage, freed)
        self._now += size


def _attention(query: Any, key: Any, value: Any, *args: Any, **kwargs: Any) -> int:
    """Returns the number of operations of the CPU's fused attention kernel, for which torch's FLOP
    counter has no formula.

    The arguments are those of the kernel: query, key and value have the shape (B, H, T, K).
    """
    B, H, T, K = query.shape
    return int(2 * B * H * T * key.shape[-2] * (K + value.shape[-1]))


def _attention_backward(grad: Any, query: Any, key: Any, value: Any, *args: Any, **_: Any) -> int:
    return 2 * _attention(query, key, value)


_FUSED = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_FUSED_BACKWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
_ATTENTION: dict[Any, Callable[..., int]] = {
    _FUSED: _attention,
    _FUSED_BACKWARD: _attention_backward,
}
