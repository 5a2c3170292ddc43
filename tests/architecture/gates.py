"""The gates over the syntax tree. Each takes sources by path (relative to src/unmask) and returns its complaints."""

import ast
import sys
from collections.abc import Iterator, Mapping

Sources = Mapping[str, str]

LAYERS = [
    {"noise", "errors", "config"},
    {"process", "denoiser"},
    {"nelbo", "cross_entropy", "policies", "propose", "model"},
    {"canvas", "decode", "trace", "model.cache", "estimators", "bound", "score"},
    {"data", "tasks", "text", "run", "windows"},
    {"train", "sweep", "pareto"},
    {"rl", "eval", "baselines", "hf"},
    {"api", "decoding", "filling", "solving", "testing"},
    {"bench", "cli", "recipes", "reproduce", "serve"},
]
# A room reaches itself; beyond that only these reach a room of their own layer. Layer 0 is one room, and so is 8.
INNER_EDGES = {
    ("nelbo", "cross_entropy"),
    ("decode", "canvas"),
    ("decode", "trace"),
    ("data", "text"),
    ("tasks", "text"),
    ("api", "decoding"),
    ("api", "filling"),
    ("api", "testing"),
    ("testing", "api"),
    ("solving", "api"),
}
ONE_ROOM_LAYERS = {0, 8}
CORE_LIBRARIES = {"torch", "pydantic", "pydantic_core", "safetensors", "unmask"}
WITHOUT_TORCH = ("config.py", "errors.py", "__init__.py", "cli/__init__.py", "cli/main.py")


def room_of(path: str) -> str:
    """policies/top_k.py -> policies; model/cache.py -> model.cache; the package's own __init__ -> ''."""
    parts = path.removesuffix(".py").split("/")
    if parts[:2] == ["model", "cache"]:
        return "model.cache"
    return "" if parts[0] == "__init__" else parts[0]


def layer_of(room: str) -> int | None:
    """The number of a room's layer; None for a room the plan does not have."""
    return next((number for number, rooms in enumerate(LAYERS) if room in rooms), None)


def imports_of(path: str, source: str) -> Iterator[tuple[str, int]]:
    """(dotted module, line) of every import anywhere in a file, TYPE_CHECKING blocks and functions included."""
    package = ["unmask", *path.split("/")[:-1]]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((name.name, node.lineno) for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from ((f"{module}.{name.name}", node.lineno) for name in node.names)


def layer_complaints(sources: Sources) -> list[str]:
    """Imports that go up, or sideways where the plan draws no edge; rooms that the plan does not have."""
    found: list[str] = []
    for path, source in sources.items():
        room = room_of(path)
        here = layer_of(room)
        if room in ("", "assets", "__main__"):
            continue
        if here is None:
            found.append(f"{path}: the plan has no room '{room}'")
            continue
        for module, line in imports_of(path, source):
            if module.split(".")[0] != "unmask" or module.count(".") == 0:
                continue
            other = room_of("/".join(module.split(".")[1:]))
            there = layer_of(other)
            allowed = other == room or (room, other) in INNER_EDGES or (here == there and here in ONE_ROOM_LAYERS)
            if there is not None and there >= here and not allowed:
                found.append(f"{path}:{line}: {room} (layer {here}) imports {other} (layer {there})")
    return found


def library_complaints(sources: Sources) -> list[str]:
    """Layers 0 to 3 that import anything but the standard library, torch, pydantic and safetensors."""
    found: list[str] = []
    for path, source in sources.items():
        layer = layer_of(room_of(path))
        if layer is None or layer > 3:
            continue
        for module, line in imports_of(path, source):
            top = module.split(".")[0]
            if top not in CORE_LIBRARIES and top not in sys.stdlib_module_names:
                found.append(f"{path}:{line}: layer {layer} imports {top}")
    return found


def edge_complaints(sources: Sources, library: str, room: str) -> list[str]:
    """Files outside of `room` that import `library`: some libraries have one door."""
    return [
        f"{path}:{line}: only {room} may import {library}"
        for path, source in sources.items()
        for module, line in imports_of(path, source)
        if module.split(".")[0] == library and room_of(path) != room
    ]


def function_lengths(sources: Sources) -> dict[str, int]:
    """Lines of every function, docstring and decorators included, by path, line and name."""
    return {
        f"{path}:{node.lineno} {node.name}": (node.end_lineno or node.lineno) - node.lineno + 1
        for path, source in sources.items()
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


def function_complaints(sources: Sources, longest: int = 80, usual: int = 45, share: float = 0.95) -> list[str]:
    """Functions above `longest` lines; and, if fewer than `share` of all keep to `usual`, those that do not."""
    lengths = function_lengths(sources)
    found = [f"{name}: {length} lines, at most {longest}" for name, length in lengths.items() if length > longest]
    long = [f"{name}: {length} lines" for name, length in lengths.items() if length > usual]
    if len(long) > (1 - share) * len(lengths):
        found.append(f"{len(long)} of {len(lengths)} functions have more than {usual} lines: {'; '.join(long)}")
    return found


def line_limit(path: str) -> int:
    """The most lines a file may have."""
    rule = path.startswith("policies/") and path.count("/") == 1 and not path.endswith("__init__.py")
    return (
        80
        if path == "objective/masked.py" or (rule and path not in ("policies/base.py", "policies/registry.py"))
        else 350
    )


def file_complaints(sources: Sources) -> list[str]:
    """Files above their limit of lines."""
    return [
        f"{path}: {count} lines, at most {line_limit(path)}"
        for path, source in sources.items()
        if (count := len(source.splitlines())) > line_limit(path)
    ]


def all_complaints(sources: Sources) -> list[str]:
    """A module without `__all__`, or one that is unsorted or lacks or invents a public name.

    `__init__.py` and `__main__.py` may do without. Public are the functions and classes a module defines without a
    leading underscore; constants may be public too, and are where they are listed.
    """
    found: list[str] = []
    for path, source in sources.items():
        tree = ast.parse(source)
        listed = _listed_names(tree)
        if listed is None:
            if not path.endswith(("__init__.py", "__main__.py")):
                found.append(f"{path}: no __all__")
            continue
        defined, public = _defined_names(tree)
        if listed != sorted(listed, key=_order):
            found.append(f"{path}: __all__ is not sorted")
        if missing := sorted(public - set(listed)):
            found.append(f"{path}: __all__ lacks {', '.join(missing)}")
        lazy = "__getattr__" in defined or path.endswith("__init__.py")
        if (invented := sorted(set(listed) - defined)) and not lazy:
            found.append(f"{path}: __all__ invents {', '.join(invented)}")
    return found


def _order(name: str) -> tuple[int, str]:
    """ruff's order of names (RUF022): constants, then classes, then functions, each by the alphabet."""
    return (0 if name.isupper() and len(name) > 1 else 1 if name[:1].isupper() else 2), name


def _listed_names(tree: ast.Module) -> list[str] | None:
    """The names in `__all__`, or None without one."""
    for node in tree.body:
        if not isinstance(node, ast.Assign):
            continue
        if any(isinstance(target, ast.Name) and target.id == "__all__" for target in node.targets):
            return [str(name) for name in ast.literal_eval(node.value)]
    return None


def _defined_names(tree: ast.Module) -> tuple[set[str], set[str]]:
    """All names a module binds at its top, and those of its public functions and classes."""
    defined: set[str] = set()
    public: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            defined.add(node.name)
            if not node.name.startswith("_"):
                public.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            defined |= {name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)}
        elif isinstance(node, ast.Import | ast.ImportFrom):
            defined |= {(name.asname or name.name).split(".")[0] for name in node.names}
    return defined, public


def docstring_complaints(sources: Sources) -> list[str]:
    """Modules, public functions and public classes without a docstring (empty `__init__.py` files excepted)."""
    found: list[str] = []
    for path, source in sources.items():
        tree = ast.parse(source)
        if source.strip() and ast.get_docstring(tree) is None:
            found.append(f"{path}: no docstring")
        for node in tree.body:
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) or node.name.startswith("_"):
                continue
            told = ast.get_docstring(node) is not None or path == "errors.py"  # the tree at its top tells them
            if not told:
                found.append(f"{path}:{node.lineno}: {node.name} has no docstring")
    return found


def torch_free_modules(sources: Sources) -> list[str]:
    """Dotted names of the modules that must import where torch cannot be: settings, config, errors, recipes, cli."""
    paths = [
        path for path in sources if path in WITHOUT_TORCH or path.endswith("settings.py") or path.startswith("recipes/")
    ]
    return [".".join(["unmask", *path.removesuffix(".py").split("/")]).removesuffix(".__init__") for path in paths]
