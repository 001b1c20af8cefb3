"""Random changes to files: bytes of any file, leaves and keys of JSON, headers of weights."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from random import Random
from typing import Any

LEAVES: list[Any] = [
    None, True, 0, -1, 1e308, float("nan"), float("inf"), 10**30, "", "a", "\x00", "../../x",
    "\ud800", [], {}, [None], {"a": 1}, [[]], "9" * 3000, "\x1b]0;x\x07", "${seed}", 0.5, 3,
]  # fmt: skip


def mutate(draw: Random, file: Path) -> str:
    """Changes a file and returns a description of the change."""
    content = file.read_bytes()
    if file.suffix == ".json" and draw.random() < 0.7:
        return _json(draw, file, content)
    if file.suffix == ".jsonl" and draw.random() < 0.6:
        return _lines(draw, file, content)
    if file.suffix == ".yaml" and draw.random() < 0.6:
        return _yaml(draw, file, content)
    if file.suffix == ".safetensors" and draw.random() < 0.7:
        return _safetensors(draw, file, content)
    return _bytes(draw, file, content)


def _bytes(draw: Random, file: Path, content: bytes) -> str:
    kind = draw.choice(["flip", "flip", "cut", "empty", "zeros", "append", "repeat", "folder"])
    data = bytearray(content)
    if kind == "flip":
        for _ in range(draw.choice([1, 1, 3, 30])):
            early = draw.random() < 0.5  # a header is worth more than a body
            if data:
                data[draw.randrange(min(len(data), 400) if early else len(data))] = draw.randrange(
                    256
                )
    elif kind == "cut":
        del data[draw.randrange(len(data) + 1) :]
    elif kind == "empty":
        data.clear()
    elif kind == "zeros":
        data[:] = bytes(len(data))
    elif kind == "append":
        data += draw.randbytes(draw.choice([1, 9, 1000]))
    elif kind == "repeat":
        data *= 2
    else:
        file.unlink()
        file.mkdir()
        return f"{file.name}: a folder"
    file.write_bytes(bytes(data))
    return f"{file.name}: {kind}"


def _slots(value: Any, depth: int = 0) -> list[tuple[Any, Any]]:
    """Returns the positions in a JSON value down to a depth, as container and key."""
    if not isinstance(value, dict | list) or depth > 20:
        return []
    pairs = list(value.items() if isinstance(value, dict) else enumerate(value))[:60]
    below = [slot for _, inner in pairs for slot in _slots(inner, depth + 1)]
    return [(value, key) for key, _ in pairs] + below


def change_leaves(draw: Random, value: Any) -> tuple[Any, str]:
    """Returns the value with one or two positions changed, removed, renamed or wrapped."""
    said = []
    for _ in range(draw.choice([1, 1, 2])):
        slots = _slots(value)
        if not slots or draw.random() < 0.05:
            return draw.choice(LEAVES), "the whole value"
        container, key = draw.choice(slots)
        kind = draw.choice(["change", "change", "change", "remove", "wrap", "deep", "add"])
        if kind == "change":
            container[key] = draw.choice(LEAVES)
            said.append(f"{key} = {str(container[key])[:30]!r}")
        elif kind == "remove":
            del container[key]
            said.append(f"{key} removed")
        elif kind == "wrap":
            container[key] = [container[key]]
            said.append(f"{key} in a list")
        elif kind == "add" and isinstance(container, dict):
            container["nosuch"] = draw.choice(LEAVES)
            said.append(f"nosuch beside {key}")
        else:
            deep: Any = 1
            for _ in range(draw.choice([50, 900])):
                deep = [deep]
            container[key] = deep
            said.append(f"{key} deep")
    return value, ", ".join(said)


def _json(draw: Random, file: Path, content: bytes) -> str:
    if draw.random() < 0.1:  # a key twice
        file.write_bytes(content.replace(b"{", b'{"nosuch": 1, "nosuch": 2, ', 1))
        return f"{file.name}: a key twice"
    value, said = change_leaves(draw, json.loads(content))
    file.write_text(json.dumps(value), encoding="utf-8")
    return f"{file.name}: {said}"


def _lines(draw: Random, file: Path, content: bytes) -> str:
    lines = content.decode().splitlines()
    at = draw.randrange(len(lines))
    kind = draw.choice(["change", "remove", "twice", "swap"])
    if kind == "change":
        value, kind = change_leaves(draw, json.loads(lines[at]))
        lines[at] = json.dumps(value)
    elif kind == "remove":
        del lines[at]
    elif kind == "twice":
        lines.insert(at, lines[at])
    else:
        draw.shuffle(lines)
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return f"{file.name}, line {at + 1}: {kind}"


def _yaml(draw: Random, file: Path, content: bytes) -> str:
    import yaml

    if draw.random() < 0.2:
        extra = draw.choice(
            ["a: &a [*a]\n", "a: !!python/object:os.x {}\n", "\t- a\n", "---\n- 1\n"]
        )
        file.write_text(content.decode() + extra, encoding="utf-8")
        return f"{file.name}: with {extra!r}"
    value, said = change_leaves(draw, yaml.safe_load(content))
    file.write_text(json.dumps(value), encoding="utf-8")  # JSON is YAML
    return f"{file.name}: {said}"


def _safetensors(draw: Random, file: Path, content: bytes) -> str:
    size = int.from_bytes(content[:8], "little")
    kind = draw.choice(["leaves", "leaves", "leaves", "length"])
    if kind == "length":
        length = draw.choice([0, 1, size - 1, size + 1, 2**32, 2**63, 2**64 - 1])
        file.write_bytes(struct.pack("<Q", length) + content[8:])
        return f"{file.name}: a header of {length} bytes"
    value, said = change_leaves(draw, json.loads(content[8 : 8 + size]))
    header = json.dumps(value).encode()
    file.write_bytes(struct.pack("<Q", len(header)) + header + content[8 + size :])
    return f"{file.name}: header {said}"
