"""Registry of the supported model families, by their `model_type` in `config.json`."""

from __future__ import annotations

from etude.errors import Problem, RequestError, nearest
from etude.interop.bert import BertFamily
from etude.interop.family import Family
from etude.interop.gemma3 import Gemma3Family
from etude.interop.gpt2 import GPT2Family
from etude.interop.gpt_neox import GPTNeoXFamily
from etude.interop.hf_config import HFConfig
from etude.interop.llama import LlamaFamily
from etude.interop.marian import MarianFamily
from etude.interop.qwen3 import Qwen3Family
from etude.interop.roberta import RobertaFamily
from etude.interop.t5 import T5Family

FAMILIES: dict[str, Family] = {
    each.model_type: each
    for each in (
        GPT2Family(),
        GPTNeoXFamily(),
        LlamaFamily(),
        Qwen3Family(),
        Gemma3Family(),
        BertFamily(),
        RobertaFamily(),
        T5Family(),
        MarianFamily(),
    )
}


def family_of(config: HFConfig) -> Family:
    """Returns the family of a config's `model_type`.

    Raises:
        RequestError: `model_type` is missing or unsupported.
    """
    name = config.get("model_type")
    if not isinstance(name, str) or name not in FAMILIES:
        expected = f"one of {', '.join(FAMILIES)}"
        where = f"{config.where}, model_type"
        raise RequestError(Problem(where, expected, name, nearest(str(name), FAMILIES)))
    return FAMILIES[name]
