"""The gates over the syntax tree. Each takes sources by path (relative to src/unmask) and returns its complaints."""

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator, Mapping
from functools import cache

Sources = Mapping[str, str]

ABOVE_API = ("train", "rl", "eval", "solve", "bench", "recipes", "reproduce", "serve", "cli")
"""Packages that drive the API or train; nothing that `api` imports, nor `api` itself, may import one of them."""
APART = (("policies", "model"), ("model", "policies"))
"""Pairs (package, package it may never import)."""
DOORS = {
    "matplotlib": "plots",
    "transformers": "hf",
    "huggingface_hub": "hf",
    "torchao": "hf",
    "outlines_core": "hf",
    "jsonschema": "hf",
    "fastapi": "serve",
    "ray": "run",
    "lm_eval": "eval",
    "datasets": "data",
    "pyarrow": "data",
}
"""Third-party library: the only package that may import it."""
CORE = (
    "batch",
    "noise",
    "errors",
    "limits",
    "ranges",
    "config",
    "process",
    "denoiser",
    "policies",
    "objective",
    "decode",
    "model",
)
CORE_LIBRARIES = {"torch", "pydantic", "pydantic_core", "safetensors", "unmask"}
"""What the packages in CORE may import beside the standard library."""
WITHOUT_TORCH = ("config.py", "errors.py", "limits.py", "ranges.py", "__init__.py", "cli/__init__.py", "cli/main.py")


@cache
def tree_of(source: str) -> ast.Module:
    """Source -> its syntax tree, made once for all gates."""
    return ast.parse(source)


@cache
def nodes_of(source: str) -> tuple[ast.AST, ...]:
    """Source -> the nodes of its syntax tree, listed once for all gates."""
    return tuple(ast.walk(tree_of(source)))


READERS = {
    "disk/json.py": "the one reader of JSON, TOML and lines",
    "disk/files.py": "locks, and the last byte of a file before it is appended to",
    "disk/folders.py": "the first bytes of a file, to tell a pickle",
    "disk/torch_files.py": "a mapped file of tensors, whose pickle is interpreted and never loaded",
    "disk/tensors.py": "the length in the header of a safetensors file that its library refused",
    "data/documents.py": "opens what the reader decodes line by line, gzip too",
    "data/sources.py": "blocks of a corpus, which documents.decode_utf8 decodes; bundled corpora with their checksum",
    "data/shards.py": "checksums, and the bytes that they are of",
    "data/packer.py": "the shard that it goes on writing; JSON of a tokenizer that the own process has just made",
    "data/prepare.py": "the checksum of a tokenizer in the cache",
    "reproduce/publish.py": "bytes of the pictures that become part of a page",
    "run/metrics.py": "opens what the reader decodes line by line",
    "solve/sweep.py": "opens what the reader decodes line by line",
    "hf/convert.py": "files of a wheel whose checksum was compared",
    "hf/packages.py": "an archive whose checksum was compared",
    "hf/texts.py": "files of a wheel or an archive whose checksum was compared",
    "hf/schemas.py": "JSON that a model wrote, which is checked against a schema",
    "hf/gguf.py": "a mapped file of tensors, with its own bounded header",
    "tasks/files.py": "bytes that are hashed, and that the reader decodes line by line",
    "tasks/registry.py": "bytes that are hashed",
    "tasks/sandbox.py": "JSON that the own process has just made",
    "tasks/sandbox_check.py": "JSON of the messages of a program, in a process of its own",
    "tasks/sandbox_server.py": "JSON that the library has just made; a script that imports nothing of it",
    "trace/page.py": "assets of the library",
    "trace/picture.py": "an asset of the library",
    "config.py": "/proc of the system",
    "limits.py": "/proc and control groups of the system",
    "run/machine.py": "/proc of the system",
    "text/tokenizer.py": "JSON that the tokenizers library has just made",
    "bench/train.py": "JSON that the own child process has just made",
    "cli/reproduce.py": "a page that the command has just written",
}
"""File: why it may open a file to read, or parse JSON or TOML, beside the one reader."""


def package_of(path: str) -> str:
    """policies/top_k.py -> policies; noise.py -> noise; the library's own __init__ -> ''."""
    first = path.removesuffix(".py").split("/")[0]
    return "" if first == "__init__" else first


def imports_of(path: str, source: str) -> Iterator[tuple[str, int]]:
    """(dotted module, line) of every import anywhere in a file, TYPE_CHECKING blocks and functions included."""
    package = ["unmask", *path.split("/")[:-1]]
    for node in nodes_of(source):
        if isinstance(node, ast.Import):
            yield from ((name.name, node.lineno) for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from ((f"{module}.{name.name}", node.lineno) for name in node.names)


def package_imports(sources: Sources) -> dict[tuple[str, str], str]:
    """(package, package it imports) -> the first place, "path:line"; the library's own __init__ is left out."""
    packages = {package_of(path) for path in sources}
    edges: dict[tuple[str, str], str] = {}
    for path, source in sources.items():
        here = package_of(path)
        for module, line in imports_of(path, source):
            parts = module.split(".")
            if here and parts[0] == "unmask" and len(parts) > 1 and parts[1] in packages and parts[1] != here:
                edges.setdefault((here, parts[1]), f"{path}:{line}")
    return edges


def reachable(edges: Mapping[tuple[str, str], str], start: str) -> set[str]:
    """Every package that `start` imports, directly or through others."""
    seen: set[str] = set()
    waiting = [start]
    while waiting:
        package = waiting.pop()
        new = {target for source, target in edges if source == package} - seen
        seen |= new
        waiting += new
    return seen


def circle_complaints(sources: Sources) -> list[str]:
    """Imports between packages that lie on a circle."""
    edges = package_imports(sources)
    return [
        f"{place}: {here} imports {there}, which imports {here} through others"
        for (here, there), place in edges.items()
        if here in reachable(edges, there)
    ]


def order_complaints(sources: Sources) -> list[str]:
    """What `api` reaches importing a package above it; policies importing models, or models policies."""
    edges = package_imports(sources)
    below = {"api"} | reachable(edges, "api")
    complaints = [
        f"{place}: {here} is below api and imports {there}, which is above it"
        for (here, there), place in edges.items()
        if here in below and there in ABOVE_API
    ]
    complaints += [f"{edges[edge]}: {edge[0]} may not import {edge[1]}" for edge in edges if edge in APART]
    return complaints


def library_complaints(sources: Sources) -> list[str]:
    """Packages of the core that import anything but the standard library, torch, pydantic and safetensors."""
    return [
        f"{path}:{line}: {package_of(path)} belongs to the core and imports {top}"
        for path, source in sources.items()
        if package_of(path) in CORE
        for module, line in imports_of(path, source)
        if (top := module.split(".")[0]) not in CORE_LIBRARIES and top not in sys.stdlib_module_names
    ]


def door_complaints(sources: Sources) -> list[str]:
    """Third-party libraries imported outside of the one package that is their door."""
    return [
        f"{path}:{line}: only {DOORS[top]} may import {top}"
        for path, source in sources.items()
        for module, line in imports_of(path, source)
        if (top := module.split(".")[0]) in DOORS and package_of(path) != DOORS[top]
    ]


def function_lengths(sources: Sources) -> dict[str, int]:
    """Lines of every function, docstring and decorators included, by path, line and name."""
    return {
        f"{path}:{node.lineno} {node.name}": (node.end_lineno or node.lineno) - node.lineno + 1
        for path, source in sources.items()
        for node in nodes_of(source)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


def function_complaints(sources: Sources, longest: int = 80, usual: int = 45, share: float = 0.95) -> list[str]:
    """Functions above `longest` lines; and, if fewer than `share` of all keep to `usual`, those that do not."""
    lengths = function_lengths(sources)
    complaints = [f"{name}: {length} lines, at most {longest}" for name, length in lengths.items() if length > longest]
    long = [f"{name}: {length} lines" for name, length in lengths.items() if length > usual]
    if len(long) > (1 - share) * len(lengths):
        complaints.append(f"{len(long)} of {len(lengths)} functions have more than {usual} lines: {'; '.join(long)}")
    return complaints


def file_complaints(sources: Sources, longest: int = 350) -> list[str]:
    """Files of more than `longest` lines."""
    return [
        f"{path}: {count} lines, at most {longest}"
        for path, source in sources.items()
        if (count := len(source.splitlines())) > longest
    ]


def all_complaints(sources: Sources) -> list[str]:
    """A module without `__all__`, or with an unsorted or incomplete list, or a name that it does not define.

    `__init__.py` and `__main__.py` may do without. Public are the functions and classes a module defines without a
    leading underscore; constants may be public too, and are where they are listed.
    """
    complaints: list[str] = []
    for path, source in sources.items():
        tree = tree_of(source)
        listed = _listed_names(tree)
        if listed is None:
            if not path.endswith(("__init__.py", "__main__.py")):
                complaints.append(f"{path}: no __all__")
            continue
        defined, public = _defined_names(tree)
        if listed != sorted(listed, key=_order):
            complaints.append(f"{path}: __all__ is not sorted")
        if missing := sorted(public - set(listed)):
            complaints.append(f"{path}: __all__ lacks {', '.join(missing)}")
        lazy = "__getattr__" in defined or path.endswith("__init__.py")
        if (invented := sorted(set(listed) - defined)) and not lazy:
            complaints.append(f"{path}: __all__ invents {', '.join(invented)}")
    return complaints


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
    complaints: list[str] = []
    for path, source in sources.items():
        tree = tree_of(source)
        if source.strip() and ast.get_docstring(tree) is None:
            complaints.append(f"{path}: no docstring")
        for node in tree.body:
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) or node.name.startswith("_"):
                continue
            overload = any(isinstance(mark, ast.Name) and mark.id == "overload" for mark in node.decorator_list)
            if ast.get_docstring(node) is None and not overload and path != "errors.py":  # its tree at the top has them
                complaints.append(f"{path}:{node.lineno}: {node.name} has no docstring")
    return complaints


def torch_free_modules(sources: Sources) -> list[str]:
    """Dotted names of the modules that must import where torch cannot be: settings, config, errors, recipes, cli."""
    paths = [
        path
        for path in sources
        if path in WITHOUT_TORCH
        or path.startswith("recipes/")
        or (path.endswith("settings.py") and path != "solve/settings.py")  # that one reads the registry of policies
    ]
    return [".".join(["unmask", *path.removesuffix(".py").split("/")]).removesuffix(".__init__") for path in paths]


IDENTIFIERS = frozenset({"found", "told", "given", "one", "kind", "chance", "said"})
"""Names that say nothing of what they hold: no variable, argument or attribute may have one of them."""
FIGURES = re.compile(
    r"\b(house|tapes?|coins?|honest|honestly|blind|blindly|blindfold|walls?|prices?)\b|right, and soon"
    r"|the rest of the library believes|on the disk's way|numbers told of|(the|a) text bears|place of the dial"
    r"|\brooms?\b(?! (for|to|left))",
    re.IGNORECASE,
)
"""Figures of speech and private words: no comment, text or page may have them."""


def identifier_complaints(sources: Sources) -> list[str]:
    """Variables, arguments, attributes and fields whose name is on the list."""
    complaints: list[str] = []
    for path, source in sources.items():
        for node in nodes_of(source):
            names = [name for name in _bound_names(node) if name.strip("_") in IDENTIFIERS]
            complaints += [f"{path}:{getattr(node, 'lineno', 0)}: '{name}'" for name in names]
    return complaints


def _bound_names(node: ast.AST) -> list[str]:
    """The names that a node binds: a target, an argument, an attribute that is set, a field, `as NAME`."""
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
        return [node.id]
    if isinstance(node, ast.arg):
        return [node.arg]
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [node.name]
    if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):  # inspect.Parameter.kind may be read
        return [node.attr]
    if isinstance(node, ast.ExceptHandler | ast.MatchAs | ast.MatchStar) and node.name:
        return [node.name]
    if isinstance(node, ast.keyword) and node.arg:
        return [node.arg]
    return []


def text_complaints(texts: Sources) -> list[str]:
    """Figures of speech in comments and strings of Python files, and anywhere in other files."""
    complaints: list[str] = []
    for path, text in texts.items():
        for line, words in _prose(path, text):
            complaints += [f"{path}:{line}: '{match[0]}'" for match in FIGURES.finditer(words)]
    return complaints


def _prose(path: str, text: str) -> Iterator[tuple[int, str]]:
    """(line, text) of the comments and strings of a Python file, or of every line of another file."""
    if not path.endswith(".py"):
        yield from enumerate(text.splitlines(), start=1)
        return
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type in (tokenize.COMMENT, tokenize.STRING):
            yield from enumerate(token.string.splitlines(), start=token.start[0])


PRINTER = "output.py"
"""The only module that may print."""


def print_complaints(sources: Sources) -> list[str]:
    """Calls of print, writes to sys.stdout or sys.stderr, and consoles of rich, outside of the one printer."""
    return [
        f"{path}:{node.lineno}: '{name}' prints past {PRINTER}"
        for path, source in sources.items()
        if path != PRINTER
        for node in nodes_of(source)
        if isinstance(node, ast.Call)
        for name in [ast.unparse(node.func)]
        if re.fullmatch(r"print|pprint|(\w+\.)*(Console|print_exception)|sys\.__?std(out|err)__.*", name)
        or re.fullmatch(r"sys\.std(out|err)\.(?!flush|isatty|fileno).*", name)
    ]


def reading_complaints(sources: Sources) -> list[str]:
    """Files that are opened to be read, and JSON or TOML that is parsed, outside of READERS."""
    return [
        f"{path}:{node.lineno}: '{ast.unparse(node.func)}' reads past disk/json.py"
        for path, source in sources.items()
        if path not in READERS
        for node in nodes_of(source)
        if isinstance(node, ast.Call) and _reads(node)
    ]


def _reads(call: ast.Call) -> bool:
    """Whether a call opens a file to read it, or parses JSON or TOML."""
    name = ast.unparse(call.func)
    if re.fullmatch(r"(.*\.)?(read_text|read_bytes)|(json|tomllib|yaml|pickle|torch)\.loads?", name):
        return "." in name  # the reader's own read_text is a bare name
    if name.split(".")[-1] != "open" or name.startswith("os."):
        return False
    words = [word.value for word in ast.walk(call) if isinstance(word, ast.Constant) and isinstance(word.value, str)]
    modes = [word for word in words if re.fullmatch(r"[rwaxbt+]{1,3}", word)]
    return not any(set(mode) & set("wax") for mode in modes)
