"""Run the examples of a page -> the page with what they print today, and its pictures: `make pictures`.

    python tools/page_outputs.py [PAGE ...]        # by default README.md

A ```text fence directly after a ```sh run, ```sh dry or ```python run fence is its output: that of its commands, with
an empty line between them. A ```text head fence shows the beginning, as many lines as it has. Of an `sh dry` fence
only the commands with --dry are run. A file that an example writes into its folder replaces the picture of that name in
docs/pictures. The examples of a page are run in order, in one folder.
"""

__all__ = [
    "LIMIT",
    "PAGES",
    "PICTURES",
    "ROOT",
    "Fence",
    "commands_of",
    "fences_of",
    "folder_of",
    "main",
    "output_of",
    "outputs",
    "shell_words",
]

import contextlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
PAGES = ["README.md", *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md")))]
PICTURES = ROOT / "docs" / "pictures"
LIMIT = 180
"""Seconds of waiting that a command may take."""
_RUN = ("sh run", "sh dry", "python run")


class Fence(NamedTuple):
    """A block of code of a page."""

    page: str
    line: int
    declaration: str
    text: str

    @property
    def end(self) -> int:
        """The number of the line of the closing marks."""
        return self.line + self.text.count("\n") + 1

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def fences_of(page: str, text: str) -> list[Fence]:
    """Markdown -> its fences. Raises AssertionError for one that does not end."""
    fences: list[Fence] = []
    lines = iter(enumerate(text.splitlines(), start=1))
    for number, line in lines:
        if (start := re.fullmatch(r"(\s*)```(.*)", line)) is None:
            continue
        body: list[str] = []
        for _, inner in lines:
            if inner.strip() == "```":
                break
            body.append(inner.removeprefix(start[1]))
        else:
            raise AssertionError(f"{page}:{number}: the fence does not end")
        fences.append(Fence(page, number, start[2].strip(), "".join(f"{line}\n" for line in body)))
    return fences


def commands_of(text: str) -> list[str]:
    """The text of a shell fence -> its commands, a line each, without comments and prompts."""
    joined = text.replace("\\\n", "")
    lines = (line.strip().removeprefix("$ ") for line in joined.splitlines())
    return [line for line in lines if line and shlex.split(line, comments=True)]


def folder_of(page: Path) -> Path:
    """A folder -> the same, made, with the examples of the repository."""
    page.mkdir(exist_ok=True)
    with contextlib.suppress(FileExistsError):
        (page / "examples").symlink_to(ROOT / "examples")
    return page


def output_of(words: Sequence[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Words of a command and its folder -> the ended process; `unmask` and `python` are those of this program.

    The command runs offline. Raises subprocess.TimeoutExpired after LIMIT seconds.
    """
    programs = folder.parent / "programs"
    programs.mkdir(exist_ok=True)
    (programs / "unmask").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m unmask "$@"\n')
    (programs / "python").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    for name in ("unmask", "python"):
        (programs / name).chmod(0o755)
    environment = os.environ | {
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT / "src"),
        "HF_HUB_OFFLINE": "1",
        **dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9"),
    }
    return subprocess.run(
        words,
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=LIMIT,
        check=False,
    )


def shell_words(line: str) -> list[str]:
    """A line of a shell -> the words of the command that runs it; it fails where any part of a pipe fails."""
    return ["bash", "-o", "pipefail", "-c", line]


def _printed(fence: Fence, folder: Path) -> str:
    """A fence and its folder -> what its commands print. Raises RuntimeError for an exit code other than 0."""
    if fence.declaration == "python run":
        runs = [[sys.executable, "-c", fence.text]]
    else:
        dry = fence.declaration == "sh dry"
        lines = commands_of(fence.text)
        runs = [shell_words(f"{line} 2>&1" if dry else line) for line in lines if not dry or "--dry" in line.split()]
    texts: list[str] = []
    for words in runs:
        done = output_of(words, folder)
        if done.returncode != 0:
            raise RuntimeError(f"{fence}: {words[-1]}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
        texts.append("\n".join(line.rstrip() for line in done.stdout.splitlines()).strip("\n"))
    return "\n\n".join(text for text in texts if text)


def _followed(fences: Sequence[Fence], lines: Sequence[str]) -> Iterator[tuple[Fence, Fence | None]]:
    """Fences of a page and its lines -> each fence that is run, with the fence of its output, if any."""
    for fence, after in zip(fences, [*fences[1:], None], strict=True):
        if fence.declaration in _RUN:
            between = [] if after is None else lines[fence.end : after.line - 1]
            is_output = (
                after is not None and after.declaration in ("text", "text head") and not any(map(str.strip, between))
            )
            yield fence, after if is_output else None


def outputs(page: str, text: str, folder: Path) -> str:
    """A page, its Markdown and a folder for its examples -> the Markdown with the outputs of today.

    Raises RuntimeError for an example that fails, subprocess.TimeoutExpired for one that takes longer than LIMIT s.
    """
    lines = text.splitlines()
    runs = [(output, _printed(fence, folder)) for fence, output in _followed(fences_of(page, text), lines)]
    for output, printed in reversed(runs):  # from the end, so that the numbers of the lines before stay right
        if output is not None:
            most = output.text.count("\n") if output.declaration == "text head" else None
            lines[output.line : output.end - 1] = printed.splitlines()[:most]
    return "\n".join(lines) + "\n"


def main(pages: Sequence[str]) -> int:
    """Pages -> exit code; the pages and the pictures of docs/pictures are replaced."""
    for page in pages or ["README.md"]:
        path = ROOT / page
        with tempfile.TemporaryDirectory() as parent:
            folder = folder_of(Path(parent) / "page")
            path.write_text(outputs(page, path.read_text(encoding="utf-8"), folder), encoding="utf-8")
            for picture in sorted(PICTURES.iterdir()):
                if (folder / picture.name).is_file():
                    shutil.copyfile(folder / picture.name, picture)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
