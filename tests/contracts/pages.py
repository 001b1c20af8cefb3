"""Code examples of the contracts' documentation pages."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

PAGES = Path(__file__).parents[2] / "docs" / "contracts"


@dataclass(frozen=True)
class Example:
    """Code and config of a documentation page.

    Attributes:
        code: the Python module.
        config: the config file that names its class.
    """

    name: str
    code: str
    config: str

    @property
    def module(self) -> str:
        return f"page_of_{self.name}"

    @property
    def kind(self) -> str:
        """The name of the class in the config file."""
        found = re.search(r"_target_: my_parts\.(\w+)", self.config)
        assert found is not None
        return found[1]

    def write(self, folder: Path, group: str, code: str | None = None) -> None:
        """Writes the module, and the config file `mine` of a group."""
        (folder / f"{self.module}.py").write_text(code or self.code, encoding="utf-8")
        file = folder / "conf" / group / "mine.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(self.config.replace("my_parts", self.module), encoding="utf-8")


def example(name: str) -> Example:
    """Returns the example of a page."""
    text = (PAGES / f"{name}.md").read_text(encoding="utf-8")
    code, config = (
        re.findall(rf"```{language}\n(.*?)```", text, re.S)[0] for language in ("python", "yaml")
    )
    return Example(name, code, config)
