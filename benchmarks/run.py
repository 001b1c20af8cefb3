"""All benchmarks, written to `docs/performance.md`.

    make bench                      about 40 minutes; on a machine that does nothing else
    make bench ARGS=--quick         a look whether everything works; writes nothing
    python benchmarks/run.py training generation       some sections, printed

Each section runs in a process of its own; one that fails is told in the page, and the others go on.
"""

from __future__ import annotations

import argparse
import datetime
import importlib
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rows import Row, table

PAGE = Path(__file__).resolve().parents[1] / "docs" / "performance.md"
SECTIONS = {
    "training": "Training",
    "finetuning": "Finetuning",
    "forward": "Forward and backward",
    "generation": "Generation",
    "products": "Products of few rows",
    "documents": "Packed documents",
    "loading": "Loading released weights",
    "data": "Data",
    "registry": "Records",
    "inside": "Looking inside a model",
    "starting": "Starting",
}
"""The modules beside this one that have `measure(quick) -> list[Row]`, and perhaps `NOTES`."""

INTRODUCTION = """\
# Performance

Written by `make bench`. Both sides of a ratio are measured in turn, step by step or call by call,
so that a change of the machine's speed hits both; times are medians, ratios are medians of
the paired ratios, and above 1 means that Étude is the faster one. These are the figures of one
machine on one day. Where a target is missed, the text under the table says what takes the rest.
"""


@dataclass(frozen=True)
class Section:
    """What one section found.

    Args:
        title: its heading.
        rows: its figures.
        notes: prose that belongs under the table.
        error: why there are no figures.
    """

    title: str
    rows: Sequence[Row] = ()
    notes: str = ""
    error: str = ""


def page(machine: Sequence[str], date: str, sections: Sequence[Section]) -> str:
    """The whole page, in Markdown."""
    parts = [INTRODUCTION, "\n".join([f"- {date}", *machine]) + "\n"]
    for section in sections:
        body = f"Not measured: {section.error}\n" if section.error else table(section.rows)
        parts += [f"## {section.title}\n", body]
        if section.notes and not section.error:
            parts.append(section.notes)
    return "\n".join(part.rstrip("\n") + "\n" for part in parts)


def run_section(name: str, quick: bool) -> Section:
    """Runs a section in a process of its own; whatever happens there comes back as a `Section`."""
    title = SECTIONS.get(name, name)
    command = [sys.executable, __file__, "--only", name, *(["--quick"] if quick else [])]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        return Section(title, error=said[-1])
    found = json.loads(done.stdout.splitlines()[-1])
    return Section(title, [Row(**row) for row in found["rows"]], found["notes"])


def measured(name: str, quick: bool) -> str:
    """What the module of a section measures and notes, as JSON."""
    module = importlib.import_module(name)
    rows = [asdict(row) for row in module.measure(quick)]
    return json.dumps({"rows": rows, "notes": getattr(module, "NOTES", "")})


def main() -> int:
    """Runs the sections; writes the page if they are all there and measured in full."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=", ".join(SECTIONS))
    parser.add_argument("--quick", action="store_true", help="few repeats; prints, writes nothing")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.only:
        print(measured(asked.only, asked.quick))
        return 0
    unknown = [name for name in asked.sections if name not in SECTIONS]
    if unknown:
        parser.error(f"no section {unknown[0]!r}; there are {', '.join(SECTIONS)}")
    found = []
    for name in asked.sections or SECTIONS:
        began = time.monotonic()
        print(f"{name} ...", end=" ", file=sys.stderr, flush=True)
        found.append(run_section(name, asked.quick))
        seconds = time.monotonic() - began
        print(found[-1].error or "done", f"({seconds:.0f} s)", file=sys.stderr, flush=True)
    machine = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("machine.py"))],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    text = page(machine, datetime.date.today().isoformat(), found)
    if asked.quick or asked.sections:
        print(text)
    else:
        PAGE.write_text(text, encoding="utf-8")
        print(f"written: {PAGE}", file=sys.stderr)
    return 1 if any(section.error for section in found) else 0


if __name__ == "__main__":
    sys.exit(main())
