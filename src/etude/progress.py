"""Progress of long work: bars and live tables in terminals and notebooks, otherwise log lines."""

from __future__ import annotations

import logging
import multiprocessing
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any, Protocol, TypeVar

from etude.console import rich_console, start_live

log = logging.getLogger("etude.progress")

SECONDS_BETWEEN_LINES = 10.0
_SECONDS_BETWEEN_DISPLAYS = 0.3

T = TypeVar("T")


def is_notebook() -> bool:
    """Returns whether this process is the kernel of a notebook."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    # A forked process of a sweep inherits the shell, but not the connection to the notebook
    return hasattr(shell, "kernel") and multiprocessing.parent_process() is None


def has_display() -> bool:
    """Returns whether bars and live tables are shown: on a terminal or in a notebook."""
    return sys.stdout.isatty() or is_notebook()


def with_progress(items: Iterable[T], label: str, total: int) -> Iterator[T]:
    """Yields the items, and shows how many are done.

    On a terminal and in a notebook, this is a progress bar; elsewhere, a log line every ten
    seconds.

    Args:
        items: the items.
        label: description of the work.
        total: number of items.
    """
    if has_display():
        from tqdm.auto import tqdm

        yield from tqdm(items, desc=label, total=total, leave=False)
        return
    last = time.monotonic()
    for number, item in enumerate(items, 1):
        if time.monotonic() - last >= SECONDS_BETWEEN_LINES:
            last = time.monotonic()
            log.info("%s: %d of %d", label, number, total)
        yield item


class Bar(Protocol):
    """Progress bar of a run."""

    def update(self, step: int) -> None:
        """Sets the number of steps that are done; fast enough to be called at every step."""

    def describe(self, text: str) -> None:
        """Sets the text after the bar."""

    def close(self) -> None:
        """Removes the bar."""


def open_bar(label: str, total: int, step: int = 0) -> Bar | None:
    """Returns a progress bar on a terminal or in a notebook; None elsewhere.

    Args:
        label: description of the work.
        total: number of steps.
        step: number of steps that are done.
    """
    if sys.stdout.isatty():
        return TerminalBar(label, total, step)
    return NotebookBar(label, total, step) if is_notebook() else None


class TerminalBar:
    """Progress bar on a terminal; see `open_bar`."""

    def __init__(self, label: str, total: int, step: int) -> None:
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        self._bar = Progress(
            TextColumn(label),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[text]}"),
            transient=True,
            console=rich_console(),
        )
        self._task = self._bar.add_task("", total=total, completed=step, text="")
        start_live(self._bar)

    def update(self, step: int) -> None:
        self._bar.update(self._task, completed=step)

    def describe(self, text: str) -> None:
        self._bar.update(self._task, text=text)

    def close(self) -> None:
        self._bar.stop()


class NotebookBar:
    """Progress bar in a notebook; see `open_bar`."""

    def __init__(self, label: str, total: int, step: int) -> None:
        from tqdm.auto import tqdm

        self._bar = tqdm(desc=label, total=total, initial=step, leave=False)

    def update(self, step: int) -> None:
        self._bar.update(step - self._bar.n)

    def describe(self, text: str) -> None:
        self._bar.set_postfix_str(text)

    def close(self) -> None:
        self._bar.close()


class LiveDisplay(Protocol):
    """Table that changes in place."""

    def update(self, renderable: Any) -> None:
        """Shows a renderable of Rich instead of the previous one."""

    def print(self, text: str) -> None:
        """Prints a text above the table."""

    def close(self) -> None:
        """Removes the table."""


def open_live_display() -> LiveDisplay | None:
    """Returns a live display on a terminal or in a notebook; None elsewhere."""
    if sys.stdout.isatty():
        return TerminalDisplay()
    return NotebookDisplay() if is_notebook() else None


class TerminalDisplay:
    """Live display on a terminal; see `open_live_display`."""

    def __init__(self) -> None:
        from rich.live import Live

        self._live = Live(auto_refresh=False, transient=True, console=rich_console())
        start_live(self._live)

    def update(self, renderable: Any) -> None:
        self._live.update(renderable, refresh=True)

    def print(self, text: str) -> None:
        self._live.console.print(text, markup=False, highlight=False)

    def close(self) -> None:
        self._live.stop()


class NotebookDisplay:
    """Live display in a notebook, an output that is replaced; see `open_live_display`."""

    def __init__(self) -> None:
        from IPython.display import display

        self._handle = display({"text/plain": ""}, raw=True, display_id=True)
        self._last = 0.0

    def update(self, renderable: Any) -> None:
        now = time.monotonic()
        if now - self._last >= _SECONDS_BETWEEN_DISPLAYS:
            self._last = now
            self._handle.update(_as_mime(renderable), raw=True)

    def print(self, text: str) -> None:
        print(text)

    def close(self) -> None:
        self._handle.update({"text/plain": ""}, raw=True)


def _as_mime(renderable: Any) -> dict[str, str]:
    """Returns a renderable of Rich as HTML and as text, by MIME type."""
    import io

    from rich.console import Console

    # In a notebook, Rich would also display what it prints, as another output.
    console = Console(record=True, file=io.StringIO(), width=120, force_jupyter=False)
    console.print(renderable)
    html = console.export_html(inline_styles=True, code_format=_PRE, clear=False)
    return {"text/html": html, "text/plain": console.export_text()}


_PRE = '<pre style="white-space:pre;overflow-x:auto;line-height:normal">{code}</pre>'
