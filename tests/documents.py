"""The pages for users (README.md, docs/*.md) as tests read them: sections, blocks of code, files and commands."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from tests.helpers import ROOT

#: What a shell reads on our pages. Blocks of what a program prints, and of files, have other names or none.
SHELL = ("bash", "sh")


def _is_whole(command: str) -> bool:
    """Whether all quotes are closed."""
    try:
        shlex.split(command, comments=True)
    except ValueError:
        return False
    return True


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, the heading above it, its text, and the number of its first line in the page."""

    language: str
    section: str
    text: str
    line: int

    @property
    def file(self) -> str:
        """The name of the file that the block is, from a comment in its first line; "" where there is none."""
        found = re.match(r"# ([\w./-]+\.(?:py|yaml|yml))\n", self.text)
        return found[1] if found else ""

    def commands(self) -> Iterator[tuple[int, str]]:
        """(Line in the page, command); a line that ends in a backslash, or within quotes, continues."""
        pending, first = "", self.line
        for number, line in enumerate(self.text.splitlines(), start=self.line):
            first = first if pending else number
            pending += line + "\n"
            if not line.endswith("\\") and _is_whole(pending):
                if shlex.split(pending, comments=True):
                    yield first, pending.strip()
                pending = ""
        assert not pending, f"line {first}: a command without an end: {pending}"


@dataclass(frozen=True)
class Page:
    """A page of the repository."""

    path: Path

    @classmethod
    def of(cls, name: str) -> Page:
        """`README.md`, or the name of a page in docs/."""
        return cls(ROOT / name if (ROOT / name).is_file() else ROOT / "docs" / name)

    @cached_property
    def text(self) -> str:
        return self.path.read_text(encoding="utf-8")

    @cached_property
    def blocks(self) -> list[Block]:
        found: list[Block] = []
        section, language, start, lines = "", None, 0, list[str]()
        for number, line in enumerate(self.text.splitlines(), start=1):
            if line.startswith("```"):
                if language is None:
                    language, start, lines = line[3:].strip(), number + 1, []
                else:
                    found.append(Block(language, section, "\n".join(lines) + "\n", start))
                    language = None
            elif language is not None:
                lines.append(line)
            elif line.startswith("#"):
                section = line.lstrip("# ")
        return found

    def of_language(self, *languages: str, section: str | None = None) -> list[str]:
        """The texts of blocks, of one section or of the whole page."""
        return [b.text for b in self.blocks if b.language in languages and section in (None, b.section)]

    def files(self) -> dict[str, str]:
        """Name -> contents of the files that the page shows (a comment with the name in the first line)."""
        return {block.file: block.text for block in self.blocks if block.file}

    def commands(self, section: str | None = None) -> list[str]:
        """What a reader types, in order."""
        blocks = [b for b in self.blocks if b.language in SHELL and section in (None, b.section)]
        return [command for block in blocks for _, command in block.commands()]


def words_of(command: str) -> list[str]:
    """What a command is called with, `raybc NAME ...`, however it is written; other programs stay as they are."""
    words = shlex.split(command.replace("\\\n", " "), comments=True)
    module = words[2] if words[:2] == ["python", "-m"] and len(words) > 2 else ""
    return ["raybc", module.removeprefix("raybc."), *words[3:]] if module.startswith("raybc.") else words


def pages() -> list[Page]:
    """Every page that a user reads."""
    return [Page(ROOT / "README.md"), *(Page(path) for path in sorted((ROOT / "docs").glob("*.md")))]
