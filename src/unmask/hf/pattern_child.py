"""A script in its own process: a regular expression -> the table of outlines-core; a JSON schema -> an expression.

It imports nothing of this library, so that it starts in a tenth of a second, and its parent can end it at any time; it
limits its own memory. Standard input is what `patterns._run` writes: six numbers of 8 bytes, the size of each token,
the text, the tokens. Standard output: of a schema the regular expression; else numbers of 8 bytes, which are the first
state, the number of final states, these, and three numbers for each edge. Exit codes: 3 the text is refused, with the
reason on standard error; 4 the table is too large, with its numbers of states and edges there.
"""

__all__ = ["main"]

import importlib
import os
import resource
import sys
from array import array
from typing import Any


def main() -> int:
    """Read a text and tokens, and write their table -> exit code."""
    read, write = sys.stdin.buffer.read, sys.stdout.buffer.write
    memory, most_states, most_edges, schema, count, length = array("q", read(48))
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    sizes, text = array("q", read(8 * count)), read(length).decode()
    tokens = [read(size) for size in sizes]
    library: Any = importlib.import_module("outlines_core.json_schema" if schema else "outlines_core")
    try:
        if schema:
            write(library.build_regex_from_schema(text).encode())
            return 0
        vocabulary = library.Vocabulary(count, {token: [number] for number, token in enumerate(tokens)})
        index = library.Index(text, vocabulary)
    except (ValueError, TypeError) as error:
        os.write(2, str(error).encode())
        return 3
    table, final = index.get_transitions(), index.get_final_states()
    number_of_edges = sum(map(len, table.values()))
    if len(table) > most_states or number_of_edges > most_edges:
        os.write(2, f"{len(table):,} states and {number_of_edges:,} edges".encode())
        return 4
    numbers = array("q", [index.get_initial_state(), len(final), *final])
    for state, following in table.items():
        for token, after in following.items():
            if token != count:  # the end of a text, which the reader adds where it is wanted
                numbers.extend((state, token, after))
    write(numbers.tobytes())
    return 0


if __name__ == "__main__":
    sys.exit(main())
