"""All families, by what `config.json` calls them."""

from __future__ import annotations

from etude.errors import Problem, RequestError, nearest
from etude.interop.bert import Bert
from etude.interop.family import Family
from etude.interop.gemma3 import Gemma3
from etude.interop.gpt2 import GPT2
from etude.interop.gpt_neox import GPTNeoX
from etude.interop.hf_config import HFConfig
from etude.interop.llama import Llama
from etude.interop.marian import Marian
from etude.interop.qwen3 import Qwen3
from etude.interop.roberta import Roberta
from etude.interop.t5 import T5

FAMILIES: dict[str, Family] = {
    each.model_type: each
    for each in (GPT2(), GPTNeoX(), Llama(), Qwen3(), Gemma3(), Bert(), Roberta(), T5(), Marian())
}


def family_of(config: HFConfig) -> Family:
    """The family that a config names.

    Raises:
        RequestError: it names none, or one that is not here.
    """
    name = config.get("model_type")
    if not isinstance(name, str) or name not in FAMILIES:
        expected = f"one of {', '.join(FAMILIES)}"
        where = f"{config.where}, model_type"
        raise RequestError(Problem(where, expected, name, nearest(str(name), FAMILIES)))
    return FAMILIES[name]
