"""Reader of GGUF files (llama.cpp), with the config and tensor names of `transformers`.

The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. The package `gguf` reads the
file and dequantises the tensors.
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
"""The module names of `transformers`, by the module names of llama.cpp."""

ARCHITECTURES: dict[str, tuple[str, ...]] = {
    "llama": ("attn_q", "attn_k"),
    "qwen3": (),
}
"""The supported architectures, each with the matrices whose rows llama.cpp permutes."""

TOLERANCE = 1e-3  # relative, since rotary factors are stored in float32


class _Reader(GGUFReader):
    """Reader of GGUF files, four times as fast as the class `GGUFReader` of the package `gguf`.

    Reading a vocabulary slices the file's data hundreds of thousands of times. This reader slices a
    NumPy array, which is faster than slicing a memory map.
    """

    def _get(self, *args: Any, **kwargs: Any) -> Any:
        if isinstance(self.data, np.memmap):
            self.data: Any = self.data.view(np.ndarray)
        return super()._get(*args, **kwargs)


class GGUF:
    """The tensors of a GGUF file, by their names in `transformers`, and its metadata.

    Implements `etude.interop.tensors.Tensors`. The file is memory-mapped; `read` dequantises a
    tensor to float32.

    Args:
        file: the path of the file, which ends in `.gguf`.

    Raises:
        RequestError: the file is missing, not a GGUF file, or incomplete, or has an unsupported
            architecture or quantisation.
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
            expected = f"one of {', '.join(ARCHITECTURES)}"
            where = f"{file}, general.architecture"
            close = nearest(self.architecture, ARCHITECTURES)
            raise RequestError(Problem(where, expected, self.architecture, close))
        self._tensors = {_released_name(tensor.name): tensor for tensor in self._reader.tensors}
        if len(self._tensors) < len(self._reader.tensors):
            raise RequestError(Problem(str(file), "a file with unique tensor names"))
        self._factors = self._tensors.pop(_released_name(ROPE_FACTORS), None)
        self._check_quantisations()

    def get(self, key: str, default: Any = None) -> Any:
        """Returns the value of a metadata key of the file; `default` if the key is missing.

        `key` is the full key, such as `llama.block_count`.
        """
        field = self._reader.get_field(key)
        return default if field is None else field.contents()

    def keys(self) -> list[str]:
        """Returns the keys of the metadata."""
        return list(self._reader.fields)

    def names(self) -> list[str]:
        """Returns the names that the file's tensors have in `transformers`."""
        return list(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        """Returns a tensor's shape; GGUF stores the dimensions in reverse order."""
        return tuple(int(size) for size in reversed(self._tensors[name].shape))

    def read(self, name: str) -> Tensor:
        """Reads a tensor in float32.

        The rows of query and key matrices, which llama.cpp permutes, are ordered as in
        `transformers`.
        """
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
        """Does nothing: the memory map is freed with the last tensor that uses it."""

    def config(self) -> HFConfig:
        """Converts the metadata to the fields of a `config.json`.

        Raises:
            RequestError: the metadata lacks a size of the model, or has unsupported keys or values.
        """
        problems = unknown_keys(self.keys(), self.get, self.architecture, str(self.where))
        fields: dict[str, Any] = {"model_type": self.architecture, "hidden_act": "silu"}
        for key, name in FIELDS.items():
            value = self._value(key)
            if value is None and key in REQUIRED and key != "attention.head_count_kv":
                problems.append(Problem(self._key_path(key), "a number", value))
            if isinstance(value, list):
                expected = "one number"
                hint = "Étude reads only GGUF models whose layers all have the same sizes"
                problems.append(Problem(self._key_path(key), expected, value, hint))
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
            "vocab_size": (fields["vocab_size"], "the number of rows of the token embedding"),
            "rope.dimension_count": (width, "the head dimension of the keys"),
            "attention.value_length": (width, "the head dimension of the keys"),
            "attention.scale": (
                _shortest_decimal(width**-0.5),
                "1 / sqrt(head dimension)",
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
        """Returns the value of the field `rope_scaling` of the `config.json`; None if positions are
        not scaled.

        The rules are those of llama.cpp: a factor without a type is linear, 0 means no factor, and
        `rope.scale_linear` is the older name of `rope.scaling.factor`.

        Args:
            fields: the fields of the `config.json` that `config` has already set.

        Raises:
            RequestError: the scaling is unsupported, or two values contradict each other.
        """
        stated = {key: self._value(key) for key in ("rope.scaling.factor", "rope.scale_linear")}
        for key, value in stated.items():
            if value is not None and (not is_number(value) or value < 0):
                raise RequestError(Problem(self._key_path(key), "a number of at least 0", value))
        factors = {value for value in stated.values() if value not in (None, 0)}
        factor = _shortest_decimal(next(iter(factors), 1.0))
        kind = self._value("rope.scaling.type", "linear" if factors else "none")
        if kind not in ("none", "linear"):
            expected = "none or linear, the supported scalings of rotary positions in GGUF"
            raise RequestError(Problem(self._key_path("rope.scaling.type"), expected, kind))
        if len(factors) > 1:
            expected = f"the same value as rope.scaling.factor ({stated['rope.scaling.factor']})"
            where = self._key_path("rope.scale_linear")
            raise RequestError(Problem(where, expected, stated["rope.scale_linear"]))
        if factor != 1 and (kind == "none" or self._factors is not None):
            key = next(key for key, value in stated.items() if value)
            no_type = "rope.scaling.type is none"
            factors_exist = f"the file has {ROPE_FACTORS}, which also scales the positions"
            reason = no_type if kind == "none" else factors_exist
            raise RequestError(Problem(self._key_path(key), f"1, since {reason}", factor))
        if self._factors is not None:
            return self._llama3(fields)
        return {"rope_type": "linear", "factor": factor} if factor != 1 else None

    def _llama3(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the `rope_scaling` of Llama 3, computed from the divisors of the rotary
        frequencies in the file.

        Args:
            fields: the fields of the `config.json` that `config` has already set.

        Raises:
            RequestError: the divisors are not those of Llama 3's scaling.
        """
        assert self._factors is not None
        factors = _dequantised(self._factors).flatten()
        K = fields["head_dim"]
        values = {"factor": float(factors.max()), "low": 1.0, "high": 4.0, "original_length": 8192}
        waves = 2 * math.pi * fields["rope_theta"] ** (torch.arange(0, K, 2).double() / K)
        old, low, high = values["original_length"], values["low"], values["high"]
        smooth = ((old / waves - low) / (high - low)).clamp(0, 1)
        expected = 1 / ((1 - smooth) / values["factor"] + smooth)
        if factors.shape != expected.shape or not torch.allclose(
            factors.double(), expected, rtol=TOLERANCE
        ):
            where = f"{self.where}, {ROPE_FACTORS}"
            expected = (
                "the factors of Llama 3's rotary scaling for an original length of 8192 tokens"
            )
            raise RequestError(Problem(where, expected))
        return {"rope_type": "llama3", **{LLAMA3[ours]: value for ours, value in values.items()}}

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
                expected = "a quantisation that the gguf package can dequantise, such as Q8_0"
                problems.append(Problem(f"{self.where}, {tensor.name}", expected, kind.name))
        if problems:
            raise RequestError(problems)


def _dequantised(tensor: ReaderTensor) -> Tensor:
    """Returns a tensor in float32, copied if it is a read-only view of the file."""
    values = dequantize(tensor.data, tensor.tensor_type)
    return torch.from_numpy(np.require(values, np.float32, ["C", "W"]))


def _released_name(name: str) -> str:
    """Converts a tensor's name in a GGUF file to its name in `transformers`.

    The name of an unknown tensor is returned unchanged.
    """
    path, _, kind = name.rpartition(".")
    block = re.match(r"blk\.(\d+)\.", path)
    pattern = re.sub(r"^blk\.\d+\.", "blk.{i}.", path)
    released = NAMES.get(pattern)
    if released is None:
        return name
    return f"{released.replace('{i}', block[1] if block else '')}.{kind}"


def _shortest_decimal(value: float) -> float:
    """Returns a number rounded to 6 significant digits, such as 1e-05 for 9.999999747e-06.

    Numbers in GGUF files are stored in float32.
    """
    return float(f"{value:.6g}")


def _unreadable_problem(file: Path, error: Exception) -> Problem:
    unknown = re.search(r"(\d+)\)? is not a valid GGMLQuantizationType", str(error))
    if unknown:
        known = ", ".join(kind.name for kind in GGMLQuantizationType)
        expected = f"a quantisation that the gguf package supports ({known})"
        return Problem(f"{file}, a tensor's type", expected, int(unknown[1]))
    reason = str(error).partition("\n")[0]
    hint = f"{reason}; check that the download is complete"
    return Problem(str(file), "a complete GGUF file", hint=hint)
