"""src/unmask -> a picture of its packages and the imports between them: docs/pictures/imports.png.

    python tools/import_picture.py [FILE.png]

A package is drawn above all packages that it imports. Arrows that follow from others are left out: "a imports c" is not
drawn if a imports b and b imports c. The graph is that of tests/architecture/gates.py, which the tests enforce.
"""

__all__ = ["draw", "essential", "levels", "main"]

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.architecture.gates import package_imports, package_of, reachable  # noqa: E402

from unmask.plots import new_figure, save_figure  # noqa: E402

Edges = Mapping[tuple[str, str], str]
_GROUND = ("errors", "noise", "config")
"""Packages that nearly all others import: drawn without arrows, at the bottom."""


def levels(packages: set[str], edges: Edges) -> dict[str, int]:
    """Packages and imports -> the height of each package: 0 if it imports nothing, else 1 above its highest import."""
    heights: dict[str, int] = {}

    def height(package: str) -> int:
        if package not in heights:
            heights[package] = max((height(there) + 1 for here, there in edges if here == package), default=0)
        return heights[package]

    for package in packages:
        height(package)
    return heights


def essential(edges: Edges) -> list[tuple[str, str]]:
    """Imports -> those that do not follow from others."""
    return [
        (here, there)
        for here, there in edges
        if not any(a == here and b != there and there in reachable(edges, b) for a, b in edges)
    ]


def _places(heights: Mapping[str, int], arrows: list[tuple[str, str]]) -> dict[str, tuple[float, float]]:
    """Heights and arrows -> (x, y) of each package; a row is sorted by the mean x of the packages that import it."""
    places = {package: ((n + 0.5) / len(_GROUND), 0.0) for n, package in enumerate(_GROUND)}
    for level in range(max(heights.values()), -1, -1):
        row: list[tuple[float, str]] = []
        for package in (name for name, height in heights.items() if height == level):
            above = [places[here][0] for here, there in arrows if there == package]
            row.append((sum(above) / len(above) if above else 0.5, package))
        for n, (_, package) in enumerate(sorted(row)):
            places[package] = ((n + 0.5) / len(row), level + 1.0)
    return places


def draw(sources: Mapping[str, str], path: Path) -> None:
    """Sources by path -> the picture. Raises ConfigError or RunError if the file cannot be written."""
    edges = {pair: place for pair, place in package_imports(sources).items() if not set(pair) & set(_GROUND)}
    packages = {package_of(name) for name in sources} - {"", *_GROUND}
    lines = dict.fromkeys((*packages, *_GROUND), 0)
    files = dict.fromkeys(lines, 0)
    for name, source in sources.items():
        if package_of(name):
            lines[package_of(name)] += len(source.splitlines())
            files[package_of(name)] += 1
    heights = levels(packages, edges)
    arrows = essential(edges)
    places = _places(heights, arrows)
    figure = new_figure(10, 1.05 * (max(heights.values()) + 2))
    axes = figure.subplots()
    boxes: dict[str, Any] = {}
    for package, (x, y) in places.items():
        label = f"{package}\n{files[package]} files, {lines[package]:,} lines" if files[package] > 1 else package
        box = {"boxstyle": "round,pad=0.35", "facecolor": "#eef3f8", "edgecolor": "#34495e"}
        text = axes.text(x, y, label, ha="center", va="center", fontsize=8, bbox=box)
        boxes[package] = text.get_bbox_patch()
    for here, there in arrows:
        options = {"arrowstyle": "-|>", "color": "#6b7c93", "linewidth": 0.9, "shrinkA": 0, "shrinkB": 0}
        ends = {"patchA": boxes[here], "patchB": boxes[there]}
        axes.annotate("", xy=places[there], xytext=places[here], arrowprops=options | ends)
    axes.set_xlim(0, 1)
    axes.set_ylim(-0.5, max(heights.values()) + 1.5)
    axes.axis("off")
    save_figure(path, figure)


def main() -> int:
    """Draw the packages of this checkout."""
    package = ROOT / "src" / "unmask"
    sources = {path.relative_to(package).as_posix(): path.read_text("utf-8") for path in package.rglob("*.py")}
    path = Path(sys.argv[1]) if sys.argv[1:] else ROOT / "docs" / "pictures" / "imports.png"
    draw(sources, path)
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
