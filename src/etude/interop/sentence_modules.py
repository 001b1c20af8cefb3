"""Export for `sentence-transformers` of models that classify the mean of their output vectors.

No class of `transformers` for BERT or RoBERTa classifies the mean over all positions. So the export
consists of three modules: a body that `transformers` can load, the mean, and a linear layer.
`SentenceTransformer(folder).encode` computes the logits, and `AutoModel` loads the body.
"""

from __future__ import annotations

import json
from copy import copy
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from etude.models.heads import MeanClassificationHead

MODULES = "modules.json"
POOLING, DENSE = "1_Pooling", "2_Dense"
WEIGHTS = "model.safetensors"
_KINDS = {"": "Transformer", POOLING: "Pooling", DENSE: "Dense"}


def split_mean_head(module: Any) -> tuple[Any, MeanClassificationHead | None]:
    """Returns a module without its mean head, and the mean head.

    A mean head classifies the mean of the output vectors. The result is a copy of the module that
    shares the weights; the argument is not changed. If the module has no mean head, returns the
    module itself and None.
    """
    head = getattr(module, "head", None)
    if not isinstance(head, MeanClassificationHead):
        return module, None
    body = copy(module)
    body._modules = {**module._modules, "head": None}
    return body, head


def write_modules(folder: Path, head: MeanClassificationHead, max_length: int) -> None:
    """Writes the `sentence-transformers` modules that compute the mean and the logits.

    Args:
        folder: the folder with the exported body, the model without its head.
        head: the mean head of the model.
        max_length: the maximum number of tokens per text.
    """
    layer = head.classifier
    modules = [
        {
            "idx": number,
            "name": str(number),
            "path": path,
            "type": f"sentence_transformers.models.{kind}",
        }
        for number, (path, kind) in enumerate(_KINDS.items())
    ]
    _write_json(folder / MODULES, modules)
    length = {"max_seq_length": max_length, "do_lower_case": False}
    _write_json(folder / "sentence_bert_config.json", length)
    width = {"word_embedding_dimension": layer.in_features, "pooling_mode_mean_tokens": True}
    _write_json(folder / POOLING / "config.json", {**width, "pooling_mode_cls_token": False})
    sizes = {
        "in_features": layer.in_features,
        "out_features": layer.out_features,
        "bias": layer.bias is not None,
        "activation_function": "torch.nn.modules.linear.Identity",
    }
    _write_json(folder / DENSE / "config.json", sizes)
    tensors = {f"linear.{name}": x.detach().clone() for name, x in layer.named_parameters()}
    save_file(tensors, folder / DENSE / WEIGHTS, metadata={"format": "pt"})
    (folder / DENSE / WEIGHTS).chmod(folder.stat().st_mode & 0o666)


def mean_head_logits(folder: Path, vectors: Tensor) -> Tensor:
    """Computes logits of shape (B, labels) from a body's output, with the `sentence-transformers`
    modules in a folder.

    Args:
        folder: the folder, written by `write_modules`.
        vectors: the body's output (B, T, D), without padding; its dtype is that of the logits.
    """
    sizes = json.loads((folder / DENSE / "config.json").read_text(encoding="utf-8"))
    layer = nn.Linear(sizes["in_features"], sizes["out_features"], sizes["bias"])
    weights = load_file(folder / DENSE / WEIGHTS)
    layer.load_state_dict({name.removeprefix("linear."): x for name, x in weights.items()})
    with torch.inference_mode():
        logits: Tensor = layer.to(vectors.dtype)(vectors.mean(1))
        return logits


def _write_json(file: Path, content: Any) -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
