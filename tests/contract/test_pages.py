"""README.md and docs/: docs/api.md is what its program writes, lines are short, and words are those of a textbook."""

import re
from pathlib import Path

import pytest
from tools import api_page, results_page

import unmask
from unmask.reproduce.results import Record
from unmask.reproduce.text import TextOptions
from unmask.reproduce.text_questions import plan_of
from unmask.reproduce.text_report import write_text_report

ROOT = Path(__file__).parents[2]
PAGES = ["README.md", "CHANGELOG.md", *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md")))]
LONGEST = 100
"""Characters in a line of prose."""
HISTORY = {"docs/log.md"}
"""Pages whose old entries are kept as they were written."""
FIGURES = re.compile(
    r"\b((?<!position-)free rules?|places of the dial|buys|knows places|scratch scripts?|strangers?|happily"
    r"|the denoiser lies)\b",
    re.IGNORECASE,
)
"""Private words and figures of speech, beside those that tests/architecture/gates.py lists."""


def test_the_comparisons_are_those_of_the_folders() -> None:
    """docs/results.md has the tables that docs/results gives; the control: a figure that was typed is noticed."""
    page = results_page.PAGE.read_text(encoding="utf-8")
    assert results_page.write_page(page) == page
    typed = page.replace(results_page.END, "| AR | 1.0000 |\n" + results_page.END)
    assert results_page.write_page(typed) != typed


def test_a_report_that_results_json_cannot_give_is_kept_as_it_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Outcomes of every problem are not in results.json; the control: without the kept report it is made anew."""
    plan = plan_of("kindred-rules", TextOptions("fast", (0,)))
    records = {cell.name: Record() for cell in plan.cells}
    source, kept = tmp_path / "run" / plan.name, tmp_path / "kept" / plan.name
    write_text_report(plan, records, source.parent)
    (source / "report.md").write_text("# rules\n\nabout\n\n## Areas\n\n![a](rules.png)\n\n## Cells\n\n| a |\n")
    (source / "rules.png").write_bytes(b"picture")
    monkeypatch.setattr(results_page, "KEPT", kept.parent)
    results_page._keep(source, kept)
    assert results_page._sections(plan, records) == ["", "#### Areas", "", f"![a](results/{plan.name}/rules.png)"]
    assert (kept / "rules.png").read_bytes() == b"picture"
    (kept / "report.md").unlink()
    assert "#### Areas" not in results_page._sections(plan, records)


def prose(text: str) -> list[tuple[int, str]]:
    """Markdown -> (number, line) of its lines of prose: no code, tables, pictures, or lines of one link alone."""
    lines: list[tuple[int, str]] = []
    inside = False
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip().startswith("```"):
            inside = not inside
        elif not inside and not line.lstrip().startswith(("|", "![", "<")):
            lines.append((number, line))
    return lines


def long_lines(page: str, text: str) -> list[str]:
    """The places of the lines of prose that are too long; a link that no line can hold does not count."""
    return [
        f"{page}:{number}: {len(line)} characters"
        for number, line in prose(text)
        if len(line) > LONGEST and max(map(len, line.split())) < LONGEST - 20
    ]


def figures(page: str, text: str) -> list[str]:
    """The places of private words; tables count too, code does not."""
    code = re.compile(r"```.*?```|`[^`\n]*`|\]\([^)]*\)", re.DOTALL)
    bare = code.sub(lambda match: "\n" * match[0].count("\n"), text)
    return [
        f"{page}:{number}: {match[0]}"
        for number, line in enumerate(bare.splitlines(), start=1)
        for match in FIGURES.finditer(line)
    ]


@pytest.mark.parametrize("page", [page for page in PAGES if page not in HISTORY])
def test_prose_is_short_and_plain(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    assert long_lines(page, text) + figures(page, text) == []


def test_long_lines_and_private_words_are_noticed() -> None:
    text = f"{'word ' * 25}\n| {'cell ' * 30} |\n```text\n{'code ' * 30}\n```\na free rule\n`buys`\n"
    assert long_lines("page", text) == ["page:1: 125 characters"]
    assert figures("page", text) == ["page:6: free rule"]
    assert figures("page", "| what it buys |") == ["page:1: buys"]


def test_the_page_of_the_api_is_what_its_program_writes() -> None:
    written = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    assert written == api_page.page(), "docs/api.md is not what the code says: run make api"


def test_the_page_of_the_api_has_every_public_name() -> None:
    names = {name for _, group in api_page.SECTIONS.values() for name in group}
    modules = {"policies", "tasks", "testing"}
    assert {f"unmask.{name}" for name in unmask.__all__} - {f"unmask.{name}" for name in modules} <= names
    for module in modules:
        assert any(name.startswith(f"unmask.{module}.") for name in names)
    with pytest.raises(AttributeError):
        api_page.entry("unmask.no_such_name")


def test_a_signature_is_readable() -> None:
    shown = api_page.signature_text("generate", unmask.Model.generate)
    assert "policy: str | UnmaskingPolicy | None = None," in shown
    assert "Annotated" not in shown
    assert "self" not in shown
