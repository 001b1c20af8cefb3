"""GGUF files (llama.cpp): weights read block by block into float32, config and names as in a
released folder.

The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. The package `gguf` reads it
and knows the quantisations.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFReader, ReaderTensor
from gguf.quants import dequantize
from torch import Tensor

from etude.errors import Problem, RequestError, nearest
from etude.interop.gguf_keys import FIELDS, REQUIRED, unknown_keys
from etude.interop.hf_config import HFConfig, is_number
from etude.interop.rope import LLAMA3

SUFFIX = ".gguf"
ROPE_FACTORS = "rope_freqs.weight"
OUTPUT = "output.weight"

NAMES: dict[str, str] = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "blk.{i}.attn_norm": "model.layers.{i}.input_layernorm",
    "blk.{i}.attn_q": "model.layers.{i}.self_attn.q_proj",
    "blk.{i}.attn_k": "model.layers.{i}.self_attn.k_proj",
    "blk.{i}.attn_v": "model.layers.{i}.self_attn.v_proj",
    "blk.{i}.attn_output": "model.layers.{i}.self_attn.o_proj",
    "blk.{i}.attn_q_norm": "model.layers.{i}.self_attn.q_norm",
    "blk.{i}.attn_k_norm": "model.layers.{i}.self_attn.k_norm",
    "blk.{i}.ffn_norm": "model.layers.{i}.post_attention_layernorm",
    "blk.{i}.ffn_gate": "model.layers.{i}.mlp.gate_proj",
    "blk.{i}.ffn_up": "model.layers.{i}.mlp.up_proj",
    "blk.{i}.ffn_down": "model.layers.{i}.mlp.down_proj",
}
"""The released module of each of llama.cpp's."""

ARCHITECTURES: dict[str, tuple[str, ...]] = {
    "llama": ("attn_q", "attn_k"),
    "qwen3": (),
}
"""What is read, and the matrices whose rows llama.cpp stores in another order."""

TOLERANCE = 1e-3  # relative, of rotary factors that were stored in float32


class _Reader(GGUFReader):
    """The package's reader, four times as fast: slices of a plain array take less to make than
    those of a memory map, and a vocabulary is hundreds of thousands of them.
    """

    def _get(self, *place: Any, **more: Any) -> Any:
        if isinstance(self.data, np.memmap):
            self.data: Any = self.data.view(np.ndarray)
        return super()._get(*place, **more)


class GGUF:
    """A GGUF file as `Tensors` under released names, with its metadata.

    The file is mapped, not read; a tensor is dequantised to float32 when it is asked for.

    Args:
        file: ending in `.gguf`.

    Attributes:
        metadata: of the file; arrays are read when first asked for.

    Raises:
        RequestError: no GGUF file, or not all of one; an architecture or a quantisation that
            cannot be read.
    """

    def __init__(self, file: Path) -> None:
        self.where = Path(file)
        if not self.where.is_file():
            raise RequestError(Problem(str(file), "a GGUF file", hint="no such file"))
        try:
            self._reader = _Reader(self.where)
        except (ValueError, IndexError, KeyError, OverflowError, OSError) as error:
            raise RequestError(_unreadable_problem(self.where, error)) from error
        self.architecture = str(self.get("general.architecture"))
        if self.architecture not in ARCHITECTURES:
            expected = f"an architecture that can be read: {', '.join(ARCHITECTURES)}"
            where = f"{file}, general.architecture"
            close = nearest(self.architecture, ARCHITECTURES)
            raise RequestError(Problem(where, expected, self.architecture, close))
        self._tensors = {_released_name(tensor.name): tensor for tensor in self._reader.tensors}
        if len(self._tensors) < len(self._reader.tensors):
            raise RequestError(Problem(str(file), "each tensor once"))
        self._factors = self._tensors.pop(_released_name(ROPE_FACTORS), None)
        self._check_quantisations()

    def get(self, key: str, default: Any = None) -> Any:
        """A value of the metadata."""
        field = self._reader.get_field(key)
        return default if field is None else field.contents()

    def keys(self) -> list[str]:
        """Of the metadata."""
        return list(self._reader.fields)

    def names(self) -> list[str]:
        """Of all tensors, as in a released folder."""
        return list(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        """Of one of them; GGUF counts dimensions from the innermost."""
        return tuple(int(size) for size in reversed(self._tensors[name].shape))

    def read(self, name: str) -> Tensor:
        """One of them in float32, with the rows of queries and keys as released."""
        tensor = self._tensors[name]
        values = _dequantised(tensor).view(self.shape(name))
        kind = tensor.name.rpartition(".")[0].rpartition(".")[2]
        if kind in ARCHITECTURES[self.architecture]:
            key = "head_count_kv" if kind == "attn_k" else "head_count"
            heads = self._value(f"attention.{key}", self._value("attention.head_count"))
            # llama.cpp pairs neighbouring rows for rotary positions; released models pair row i
            # with row i + K/2.
            values = values.unflatten(0, (heads, -1, 2)).transpose(1, 2).flatten(0, 2).contiguous()
        return values

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Nothing: the map goes with the last tensor that looks into it."""

    def config(self) -> HFConfig:
        """The metadata as a released `config.json` would say it.

        Raises:
            RequestError: the metadata lacks a size, or says what no released config can.
        """
        problems = unknown_keys(self.keys(), self.get, self.architecture, str(self.where))
        fields: dict[str, Any] = {"model_type": self.architecture, "hidden_act": "silu"}
        for key, name in FIELDS.items():
            value = self._value(key)
            if value is None and key in REQUIRED and key != "attention.head_count_kv":
                problems.append(Problem(self._key_path(key), "a number", value))
            if isinstance(value, list):
                expected = "one number: a model whose layers differ cannot be read"
                problems.append(Problem(self._key_path(key), expected, value))
            elif value is not None and (not is_number(value) or value <= 0):
                problems.append(Problem(self._key_path(key), "a positive number", value))
            elif value is not None:
                fields[name] = value
        if problems:
            raise RequestError(problems)
        embedding = "model.embed_tokens.weight"
        rows = self.shape(embedding)[0] if embedding in self._tensors else None
        fields["vocab_size"] = rows or self._value("vocab_size")
        width = fields.setdefault(
            "head_dim", fields["hidden_size"] // fields["num_attention_heads"]
        )
        expected_of = {
            "vocab_size": (fields["vocab_size"], "the rows of the token embedding"),
            "rope.dimension_count": (width, "the width of a head: all of it is turned"),
            "attention.value_length": (width, "the width of a head, of keys too"),
            "attention.scale": (
                _shortest_decimal(width**-0.5),
                "1 over the root of a head's width",
            ),
        }
        for key, (expected, means) in expected_of.items():
            value = self._value(key)
            unset = key == "attention.scale" and value == 0
            same = is_number(value) and math.isclose(value, expected, rel_tol=TOLERANCE)
            if value is not None and not same and not unset:
                problems.append(Problem(self._key_path(key), f"{expected}, {means}", value))
        if problems:
            raise RequestError(problems)
        fields["rms_norm_eps"] = _shortest_decimal(fields["rms_norm_eps"])
        fields["rope_theta"] = _shortest_decimal(fields.get("rope_theta", 10000.0))
        fields["rope_scaling"] = self._scaling(fields)
        fields["tie_word_embeddings"] = "lm_head.weight" not in self._tensors
        fields["attention_bias"] = "model.layers.0.self_attn.q_proj.bias" in self._tensors
        if "model.layers.0.mlp.up_proj.bias" in self._tensors:
            fields["mlp_bias"] = True
        for name, key in (("bos", "bos"), ("eos", "eos"), ("pad", "padding")):
            fields[f"{name}_token_id"] = self.get(f"tokenizer.ggml.{key}_token_id")
        return HFConfig({k: v for k, v in fields.items() if v is not None}, str(self.where))

    def _scaling(self, fields: Mapping[str, Any]) -> dict[str, Any] | None:
        """What the released config says under `rope_scaling`.

        As llama.cpp reads it: without a type a factor is linear, 0 is no factor, and
        `rope.scale_linear` is its older name.

        Raises:
            RequestError: another scaling, or two that contradict each other.
        """
        said = {key: self._value(key) for key in ("rope.scaling.factor", "rope.scale_linear")}
        for key, value in said.items():
            if value is not None and (not is_number(value) or value < 0):
                raise RequestError(Problem(self._key_path(key), "a number, 0 or more", value))
        factors = {value for value in said.values() if value not in (None, 0)}
        factor = _shortest_decimal(next(iter(factors), 1.0))
        kind = self._value("rope.scaling.type", "linear" if factors else "none")
        place = self._key_path("rope.scaling.type")
        if kind not in ("none", "linear"):
            expected = "none or linear: no other scaling of rotary positions is read from GGUF"
            raise RequestError(Problem(place, expected, kind))
        if len(factors) > 1:
            expected = f"what rope.scaling.factor says, {said['rope.scaling.factor']}"
            where = self._key_path("rope.scale_linear")
            raise RequestError(Problem(where, expected, said["rope.scale_linear"]))
        if factor != 1 and (kind == "none" or self._factors is not None):
            key = next(key for key, value in said.items() if value)
            what = "rope.scaling.type is none" if kind == "none" else f"there is {ROPE_FACTORS}"
            raise RequestError(Problem(self._key_path(key), f"1: {what}", factor))
        if self._factors is not None:
            return self._llama3(fields)
        return {"rope_type": "linear", "factor": factor} if factor != 1 else None

    def _llama3(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Llama 3's scaling, of which the file has only what each frequency is divided by."""
        assert self._factors is not None
        factors = _dequantised(self._factors).flatten()
        K = fields["head_dim"]
        said = {"factor": float(factors.max()), "low": 1.0, "high": 4.0, "original_length": 8192}
        waves = 2 * math.pi * fields["rope_theta"] ** (torch.arange(0, K, 2).double() / K)
        old, low, high = said["original_length"], said["low"], said["high"]
        smooth = ((old / waves - low) / (high - low)).clamp(0, 1)
        expected = 1 / ((1 - smooth) / said["factor"] + smooth)
        if factors.shape != expected.shape or not torch.allclose(
            factors.double(), expected, rtol=TOLERANCE
        ):
            where = f"{self.where}, {ROPE_FACTORS}"
            raise RequestError(Problem(where, "the factors of Llama 3's scaling of 8192 positions"))
        return {"rope_type": "llama3", **{LLAMA3[ours]: value for ours, value in said.items()}}

    def _value(self, key: str, default: Any = None) -> Any:
        return self.get(f"{self.architecture}.{key}", default)

    def _key_path(self, key: str) -> str:
        return f"{self.where}, {self.architecture}.{key}"

    def _check_quantisations(self) -> None:
        first: dict[GGMLQuantizationType, ReaderTensor] = {}
        for tensor in self._reader.tensors:
            first.setdefault(tensor.tensor_type, tensor)
        problems = []
        for kind, tensor in first.items():
            try:
                dequantize(tensor.data[:1], kind)
            except NotImplementedError:
                expected = "a quantisation that the gguf package can undo, such as Q8_0 or F16"
                problems.append(Problem(f"{self.where}, {tensor.name}", expected, kind.name))
        if problems:
            raise RequestError(problems)


def _dequantised(tensor: ReaderTensor) -> Tensor:
    """Dequantised; a copy where that is a view of the file, which is not to be written to."""
    found = dequantize(tensor.data, tensor.tensor_type)
    return torch.from_numpy(np.require(found, np.float32, ["C", "W"]))


def _released_name(name: str) -> str:
    """The released name of a tensor; its own if there is none."""
    path, _, kind = name.rpartition(".")
    block = re.match(r"blk\.(\d+)\.", path)
    pattern = re.sub(r"^blk\.\d+\.", "blk.{i}.", path)
    found = NAMES.get(pattern)
    if found is None:
        return name
    return f"{found.replace('{i}', block[1] if block else '')}.{kind}"


def _shortest_decimal(value: float) -> float:
    """The decimal number that a float32 was written for: 9.999999747e-06 is 1e-05."""
    return float(f"{value:.6g}")


def _unreadable_problem(file: Path, error: Exception) -> Problem:
    unknown = re.search(r"(\d+)\)? is not a valid GGMLQuantizationType", str(error))
    if unknown:
        known = ", ".join(kind.name for kind in GGMLQuantizationType)
        expected = f"a quantisation that the gguf package knows ({known})"
        return Problem(f"{file}, a tensor's type", expected, int(unknown[1]))
    said = str(error).partition("\n")[0]
    return Problem(str(file), f"a whole GGUF file ({said})", hint="is it all there?")
