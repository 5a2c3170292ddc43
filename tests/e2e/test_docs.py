"""The Python examples of the README and of docs/ run unchanged, and print what the text says."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
PAGES = ["README.md", "docs/decoding.md", "docs/policies.md", "docs/tour.md"]


def blocks(page: str) -> list[str]:
    """Page -> its Python examples."""
    return BLOCK.findall((ROOT / page).read_text(encoding="utf-8"))


@pytest.mark.parametrize("page", PAGES)
def test_the_examples_run(page: str, capsys: pytest.CaptureFixture[str]) -> None:
    examples = blocks(page)
    assert examples, f"{page} has no Python example: remove it from PAGES"
    for code in examples:
        exec(compile(code, page, "exec"), {"__name__": "example"})
    assert capsys.readouterr().out.strip()


def test_the_tour_ends_at_the_exact_likelihood(capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(blocks("docs/tour.md")[0], "tour", "exec"), {"__name__": "example"})
    estimate, exact = (float(x) for x in re.findall(r"(\d\.\d+)(?= nats|$)", capsys.readouterr().out.strip()))
    assert exact == pytest.approx(0.916, abs=1e-3)
    assert estimate == pytest.approx(exact, abs=0.02)


def test_a_page_without_examples_would_be_noticed() -> None:
    assert not BLOCK.findall("no code here\n```\nls\n```\n")
