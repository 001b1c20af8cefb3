"""Random arguments for the command line: all of Hydra's override grammar, and all keys."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

PLAIN = [
    "", "0", "1", "-1", "2", "7", "1e400", "-1e400", "nan", "-nan", "inf", "1e-320", "999999999999",
    "99999999999999999999999999", "-7", "0.5", "1_000", "0x10", "0o17", "12:30", "true", "False",
    "yes", "off", "null", "~", "None", "???", "auto", "a", "a b", "é", "\U0001f600", "\u202e",
    "\ufeff", "\x00", "\x1b[31m", "\n", "\t", " ", "%", "@", "a:b", "a:", ":a", "/", "//", "..",
    "../..", "/nonexistent", ".", "-", "--", "---", "=", "a=b", "==", "#", "&a", "*a", "!a", "|",
    ">", "2020-01-01", "9" * 5000, "x" * 300, "\ud800", "\\", "\\\\", "$", "$$", "a\\,b", "a\\=b",
]  # fmt: skip
INTERPOLATIONS = [
    "${", "${}", "${seed}", "${model.dim}", "${nosuch}", "${nosuch:1}", "${oc.env:NOSUCH}",
    "${oc.env:HOME}", "${oc.env:NOSUCH,null}", "${oc.select:model.dim}", "${oc.decode:'{'}",
    "${oc.create:{a:1}}", "${oc.dict.keys:model}", "${oc.dict.values:model}", "${hydra:job.num}",
    "${hydra:nosuch}", "${now:%Y}", "${name}", "${vars.a}", "${model}", "${data}", "${.}", "${..}",
    "${.dim}", "${..seed}", "${...seed}", "${seed}${seed}", "${${name}}", "\\${seed}", "${seed",
    "${oc.deprecated:seed}", "${run}", "${optimizer.lr}", "${oc.env:}", "${python_version:}",
]  # fmt: skip
TARGETS = [
    "os.system", "builtins.eval", "etude", "etude.", ".etude", "etude.nn.norm.LayerNorm",
    "etude.nn.norm", "etude.nn.norm.Nosuch", "etude.optim.adamw.AdamW", "torch.nn.Linear",
    "etude.models.decoder.Decoder", "etude.data.tokenizer.Char", "a b", "", "null", "1", "[a]",
    "{a:1}", "etude.nn.norm.LayerNorm.__init__", "${name}", "\u00e9.a", "a..b",
]  # fmt: skip


def plain(draw: Random) -> str:
    """Returns an unquoted value, an interpolation, or both."""
    kind = draw.random()
    if kind < 0.7:
        return draw.choice(PLAIN)
    if kind < 0.9:
        return draw.choice(INTERPOLATIONS)
    return draw.choice(PLAIN) + draw.choice(INTERPOLATIONS)


def quoted(draw: Random) -> str:
    """Returns a quoted value, whose last quote may be missing and which may contain one."""
    quote = draw.choice("'\"")
    end = quote if draw.random() < 0.9 else ""
    return quote + plain(draw).replace(quote, draw.choice([quote, "\\" + quote])) + end


def value(draw: Random, depth: int = 0) -> str:
    """Returns a value: unquoted, quoted, a list, a dict, or a function of Hydra's grammar."""
    kind = draw.random()
    if kind < 0.45 or depth > 3:
        return plain(draw)
    if kind < 0.55:
        return quoted(draw)
    items = [value(draw, depth + 1) for _ in range(draw.randrange(4))]
    if kind < 0.68:
        return "[" + ",".join(items) + draw.choice(["]", "]", "]", ""])
    if kind < 0.82:
        return "{" + ",".join(f"{plain(draw) or 'k'}:{item}" for item in items) + "}"
    if kind < 0.86:
        return "[" * 40 + "]" * 40
    return function(draw, items)


def function(draw: Random, items: Sequence[str]) -> str:
    """Returns a call of one of Hydra's functions, whose arguments may be invalid."""
    numbers = ",".join(draw.choice(["0", "1", "3", "-2", "0.5", "a", "nan"]) for _ in range(3))
    inner = ",".join(items)
    return draw.choice(
        [
            f"choice({inner})",
            f"range({numbers})",
            "range(0,3)",
            "range(3,0,0)",
            "range(1,0)",
            "interval(0,1)",
            f"interval({numbers})",
            "glob(*)",
            "glob([a*,*],exclude=b*)",
            f"glob({inner})",
            "sort(3,1,2)",
            f"sort({inner},reverse=true)",
            f"shuffle({inner})",
            "shuffle(range(0,3))",
            f"tag(a,b,choice({inner}))",
            "tag(1,2)",
            f"int({inner})",
            "int(nan)",
            "float(a)",
            f"str({inner})",
            "bool(2)",
            "json_str({a:1})",
            f"json_str({inner})",
            f"extend_list({inner})",
            "extend_list(1)",
            "nosuch(1)",
            "range(start=1,stop=4,step=0)",
            "choice(a,choice(b,c))",
            ",".join(items) or ",",
        ]
    )


def override(draw: Random, keys: Sequence[str], groups: dict[str, list[str]]) -> str:
    """Returns an override of a key or a group, mostly of an existing one."""
    kind = draw.random()
    if kind < 0.55:
        key = draw.choice(keys)
        mark = draw.choice(["", "", "", "+", "++", "~"])
        if draw.random() < 0.15:
            key += draw.choice([".x", "._target_", "._partial_", ".", "..a", "[0]", "@b", "/a"])
        return (
            f"{mark}{key}" if mark == "~" and draw.random() < 0.5 else f"{mark}{key}={value(draw)}"
        )
    if kind < 0.7:
        key = draw.choice(["model", "data", "task", "optimizer", "schedule", "trainer", "vars.a"])
        key = draw.choice([key, *[k for k in keys if "." in k]]).rpartition(".")[0] or key
        return f"{draw.choice(['', '++'])}{key}._target_={draw.choice(TARGETS)}"
    if kind < 0.9:
        group = draw.choice(sorted(groups))
        mark = draw.choice(["", "", "+", "~", "++"])
        choice = draw.choice(groups[group] or ["none"]) if draw.random() < 0.6 else value(draw)
        at = draw.choice([""] * 6 + ["@model", "@_global_", "@", "@vars.x", "@a.b"])
        return f"{mark}{group}{at}" + ("" if mark == "~" and draw.random() < 0.5 else f"={choice}")
    key = draw.choice([plain(draw), "vars.a", "callbacks.x", "logger.y", "hydra.job.num", "hydra"])
    return f"{draw.choice(['', '+', '++', '~'])}{key}={value(draw)}"


RAISED = [
    "TypeError('t')", "KeyError('k')", "IndexError()", "AttributeError('no')", "ValueError()",
    "RuntimeError('r\\x1b[0m')", "OSError(2, 'gone')", "AssertionError()", "StopIteration()",
    "RecursionError('deep')", "MemoryError()", "ZeroDivisionError('z')", "NotImplementedError()",
    "UnicodeDecodeError('utf-8', b'a', 0, 1, 'bad')", "ImportError('i')", "SystemExit(0)",
    "Exception('\\n\\n')", "EOFError()", "FloatingPointError('f')", "BufferError()",
    "LookupError()", "type('Odd', (Exception,), {'__str__': lambda s: 1 // 0})()",
]  # fmt: skip


def users_module(draw: Random) -> tuple[str, str, str]:
    """Returns the source of a module with a faulty class, its slot and its name."""
    raised = draw.choice(RAISED)
    fault = f"raise {raised}"
    slot, base = draw.choice(
        [
            ("model.norm", "from etude.nn.norm import LayerNorm as Base"),
            ("model.feedforward", "from etude.nn.feedforward import GELU as Base"),
            ("model.position", "from etude.nn.position import Learned as Base"),
            ("model.attention", "from etude.nn.attention import MultiHeadAttention as Base"),
            ("task", "from etude.tasks.causal_lm import CausalLM as Base"),
            ("optimizer", "from etude.optim.adamw import AdamW as Base"),
            ("schedule", "from etude.optim.schedules import Cosine as Base"),
            ("data.tokenizer", "from etude.data.tokenizer import Char as Base"),
            ("data", "from etude.data.text_files import TextFiles as Base"),
            ("callbacks.mine", "from lightning.pytorch import Callback as Base"),
            ("logger.mine", "Base = object"),
        ]
    )
    names = ["forward", "__call__", "build", "scale", "train", "prepare", "encode", "__repr__"]
    names += ["__getattr__", "on_train_start", "on_train_batch_end", "training_step", "parameters"]
    method = draw.choice(names)
    body = draw.choice(
        [
            f"class Mine(Base):\n    def __init__(self, *a, **k):\n        {fault}\n",
            f"class Mine(Base):\n    def {method}(self, *a, **k):\n        {fault}\n",
            f"class Mine(Base):\n    def {method}(self, *a, **k):\n        return None\n",
            f"class Mine(Base):\n    def __new__(cls, *a, **k):\n        {fault}\n",
            "class Mine:\n    pass\n",
            "class Mine(Base):\n    def __init__(self):\n        pass\n",
            "class Mine(Base):\n    def __init__(self, needed: 'Nosuch'):\n        pass\n",
            "def Mine(*a, **k):\n    return 3\n",
            f"def Mine(*a, **k):\n    {fault}\n",
            f"{fault}\n",
            "Mine = 3\n",
            "class Mine(Base\n",
            f"def __getattr__(name):\n    {fault}\n",
        ]
    )
    return f"{base}\n{body}", slot, "Mine"
