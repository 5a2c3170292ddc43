"""What tasks promise, against slow twins: one solution and no clue too many, the law of traces, chains worked out."""

import itertools
from collections.abc import Iterator
from fractions import Fraction
from random import Random

import pytest

from unmask.errors import RequestError
from unmask.tasks import make
from unmask.tasks.automaton import HALT, OPERATIONS, STATES, Automaton
from unmask.tasks.base import TAIL, Example
from unmask.tasks.countdown import evaluate
from unmask.tasks.sudoku import SHAPES, Sudoku, grids, solutions


def brute(side: int, puzzle: list[int]) -> Iterator[list[int]]:
    """Every completion, cell by cell from the first, by the rules as a child is told them."""
    height, width = SHAPES[side]
    if 0 not in puzzle:
        yield puzzle
        return
    cell = puzzle.index(0)
    row, column = divmod(cell, side)
    for digit in range(1, side + 1):
        seen = (
            puzzle[other]
            for other in range(side**2)
            if other // side == row
            or other % side == column
            or (other // side // height, other % side // width) == (row // height, column // width)
        )
        if digit not in seen:
            yield from brute(side, [*puzzle[:cell], digit, *puzzle[cell + 1 :]])


def cells(example: Example) -> list[int]:
    return [int(digit) for digit in example.facts["puzzle"]]


def only_minimal(side: int, puzzle: list[int]) -> bool:
    """Whether there is one solution, and no longer one without any of the clues."""
    fewer = ([*puzzle[:cell], 0, *puzzle[cell + 1 :]] for cell, clue in enumerate(puzzle) if clue)
    return count(side, puzzle) == 1 and all(count(side, one) == 2 for one in fewer)


def count(side: int, puzzle: list[int]) -> int:
    return len(list(solutions(side, puzzle, limit=2)))


@pytest.mark.parametrize("side", [4, 6])
def test_a_puzzle_has_exactly_one_solution_by_brute_force(side: int) -> None:
    for example in Sudoku(side).examples("test", 12 if side == 4 else 3):
        puzzle = cells(example)
        (grid,) = brute(side, puzzle)
        assert "".join(str(digit) for digit, clue in zip(grid, puzzle, strict=True) if not clue) == example.answer


def test_the_solver_finds_what_brute_force_finds() -> None:
    """Also on puzzles with many solutions, with none, and with clues that contradict each other."""
    chance, seen = Random(0), set[int]()
    for _ in range(40):
        puzzle = [chance.randint(1, 4) if chance.random() < 0.25 else 0 for _ in range(16)]
        found = sorted(solutions(4, puzzle, limit=1000))
        lawful = all(not clue or puzzle_allows(puzzle, cell) for cell, clue in enumerate(puzzle))
        assert found == (sorted(brute(4, puzzle)) if lawful else [])
        seen.add(min(len(found), 2))
    assert {0, 2} <= seen  # none, and many


def puzzle_allows(puzzle: list[int], cell: int) -> bool:
    """Whether a clue agrees with the others."""
    without = [*puzzle[:cell], 0, *puzzle[cell + 1 :]]
    others = [0 if place != cell and not clue else clue for place, clue in enumerate(without)]
    row, column = divmod(cell, 4)
    return all(
        others[place] != puzzle[cell]
        for place in range(16)
        if place != cell
        and (place // 4 == row or place % 4 == column or (place // 8, place % 4 // 2) == (cell // 8, column // 2))
    )


@pytest.mark.parametrize("side, puzzles", [(4, 20), (6, 10), pytest.param(9, 3, marks=pytest.mark.slow)])
def test_a_puzzle_is_minimal(side: int, puzzles: int) -> None:
    examples = Sudoku(side).examples("valid", puzzles)
    assert all(only_minimal(side, cells(one)) for one in examples)
    assert all(one.facts["clues"] == side**2 - len(one.answer) for one in examples)
    # the controls: a clue more is not minimal, a clue less is not unique
    puzzle = cells(examples[0])
    (grid,) = solutions(side, puzzle)
    blank, clue = puzzle.index(0), next(cell for cell, digit in enumerate(puzzle) if digit)
    assert not only_minimal(side, [*puzzle[:blank], grid[blank], *puzzle[blank + 1 :]])
    assert not only_minimal(side, [*puzzle[:clue], 0, *puzzle[clue + 1 :]])


def test_more_clues_keep_the_solution_and_leave_a_hole() -> None:
    for clues in (1, 5, 35):
        for example in Sudoku(6, clues).examples("test", 4):
            assert count(6, cells(example)) == 1
            assert len(example.answer) >= 1
    few, many = (sum(one.facts["clues"] for one in Sudoku(6, n).examples("test", 20)) for n in (0, 4))
    assert 60 < many - few < 100


def test_puzzles_are_graded() -> None:
    """Each cell of a puzzle without guesses follows from single choices alone, one after the other."""
    examples = Sudoku(6).examples("test", 40)
    assert {one.facts["guesses"] > 0 for one in examples} == {True, False}
    for example in examples:
        assert (example.facts["guesses"] == 0) == follows(cells(example))


def follows(puzzle: list[int]) -> bool:
    """Fill cells that have one choice until none is left."""
    while 0 in puzzle:
        for cell in (cell for cell, digit in enumerate(puzzle) if not digit):
            choices = [d for d in range(1, 7) if allowed(puzzle, cell, d)]
            if len(choices) == 1:
                puzzle = [*puzzle[:cell], choices[0], *puzzle[cell + 1 :]]
                break
        else:
            return False
    return True


def allowed(puzzle: list[int], cell: int, digit: int) -> bool:
    row, column = divmod(cell, 6)
    return all(
        puzzle[other] != digit
        for other in range(36)
        if other // 6 == row or other % 6 == column or (other // 12, other % 6 // 3) == (row // 2, column // 3)
    )


@pytest.mark.parametrize("side", [4, 6, 9])
def test_the_verifier_knows_right_grids_from_wrong_ones(side: int) -> None:
    task, places = Sudoku(side), side**2
    blank = Example(f"[{places}]", "", {"puzzle": "0" * places})
    grid = "".join(map(str, next(grids(side, Random(1)))))
    assert task.verify(blank, grid).score == 1.0
    assert [int(digit) for digit in grid] in (list(solutions(side, [*map(int, grid[:-side]), *[0] * side], limit=9)))
    swapped = grid[1] + grid[0] + grid[2:]  # a row stays right, two columns do not
    shifted = "".join(
        str((row + column) % side + 1) for row in range(side) for column in range(side)
    )  # boxes are wrong
    assert task.verify(blank, swapped).why == "column 1 is not right"
    assert task.verify(blank, shifted).why == "box 1 is not right"
    columns = "".join(str(column + 1) for _ in range(side) for column in range(side))
    assert task.verify(blank, columns).why == "column 1 is not right"
    for wrong in ("", grid[:-1], grid + "1", grid[:-1] + "0", grid[:-1] + "²", grid[:-1] + "x", "-" + grid[1:]):
        assert task.verify(blank, wrong).why == f"'{wrong}' is not {places} digits", wrong


def test_pairs_are_full_grids_of_every_kind() -> None:
    found = [answer for prompt, answer in Sudoku(4).pairs("train", 3000) if prompt == ""]
    assert len(set(found)) == 288  # all there are
    assert all(
        list(map(int, grid)) in list(solutions(4, [*map(int, grid[:4]), *[0] * 12], limit=99)) for grid in found[:20]
    )


def traces(kind: str, count: int = 4000) -> list[int]:
    return [one.facts["trace"] for one in Automaton(24, kind).examples("train", count)]


def test_a_trace_is_what_the_table_says() -> None:
    """The table is learned from half of the traces and foretells the others; one entry in nine halts."""
    examples, table = Automaton().examples("test", 3000), dict[tuple[str, str], str]()
    for number, example in enumerate(examples):
        start, program = example.template[0], example.template[1:25]
        state = start
        for operation, answer in zip(program, example.answer, strict=True):
            if state == HALT:
                assert answer == TAIL
                continue
            if number < 1500:
                assert table.setdefault((operation, state), answer) == answer
            else:
                assert table[operation, state] == answer
            state = answer
        assert example.facts["trace"] == len(example.answer.rstrip(TAIL))
    assert set(table) == set(itertools.product(OPERATIONS, STATES))
    assert sum(state == HALT for state in table.values()) == 8


def test_how_long_traces_are() -> None:
    natural = traces("natural")
    # the table as a Markov chain: how likely the machine still runs after n operations
    table = {}
    for example in Automaton().examples("test", 3000):
        for before, operation, after in zip(
            example.template[0] + example.answer, example.template[1:25], example.answer, strict=False
        ):
            if after != TAIL:
                table[operation, before] = after
    law, runs = dict.fromkeys(STATES, 1 / 12), [1.0]
    for _ in range(24):
        new = dict.fromkeys(STATES, 0.0)
        for (_, state), after in table.items():
            if after != HALT:
                new[after] += law[state] / len(OPERATIONS)
        law = new
        runs.append(sum(law.values()))
    for places in (1, 5, 11, 23):  # a trace has more than n places where the machine runs after n operations
        share = sum(trace > places for trace in natural) / len(natural)
        assert abs(share - runs[places]) < 4 * (runs[places] / len(natural)) ** 0.5 + 1e-3
    assert abs(sum(natural) / len(natural) - 9.7) < 1.0  # with a table of its own policies.md measured 9.7


def test_long_mixed_and_short_traces() -> None:
    natural, long, mixed, short = (traces(kind) for kind in ("natural", "long", "mixed", "short"))
    share = [sum(trace >= 12 for trace in some) / len(some) for some in (natural, long, mixed, short)]
    assert share[1] == 1.0
    assert abs(share[2] - (0.5 + 0.5 * share[0])) < 0.03
    assert abs(share[3] - 0.02) < 0.008
    assert 11 not in short
    assert {11, 12} <= set(natural)


def test_a_wrong_trace_is_told_where_it_goes_wrong() -> None:
    task = make("automaton")
    example = Example("", "abc.____")
    assert task.verify(example, "abc.____").score == 1.0
    for wrong, why in [
        ("ab..____", "halts too early at place 3"),
        ("ab______", "halts too early at place 3"),
        ("adc.____", "wrong at place 2"),
        ("abc.___", "wrong at place 8"),
        ("abc._____", "halts too early at place 9"),
        ("", "wrong at place 1"),
    ]:
        assert (task.verify(example, wrong).score, task.verify(example, wrong).why) == (0.0, why)


@pytest.mark.parametrize("modulus", [2, 7, 10, 23, 1000])
def test_a_chain_worked_out(modulus: int) -> None:
    """Python's own arithmetic, on the text of the problem."""
    width = len(str(modulus - 1))
    task = make(f"arithmetic:modulus={modulus},length=6,shortest=2")
    for example in task.examples("test", 50):
        chain = example.template.split(":")[0].rstrip(TAIL)
        value, answer = int(chain[:width]), ""
        for at in range(width, len(chain), width + 1):
            value = eval(f"({value}) {chain[at]} {int(chain[at + 1 : at + 1 + width])}") % modulus
            answer += f"={value:0{width}}"
            assert chain[at] != "*" or int(chain[at + 1 : at + 1 + width]) != 0
        assert answer.ljust(6 * (1 + width), TAIL) == example.answer
        assert example.facts["steps"] == len(answer) // (1 + width)


def test_chains_are_as_long_as_they_may_be_and_use_every_sign() -> None:
    examples = make("arithmetic:length=5,shortest=2").examples("train", 300)
    assert {one.facts["steps"] for one in examples} == {2, 3, 4, 5}
    assert all(any(sign in one.template for one in examples) for sign in "+-*")
    one = next(one for one in examples if one.facts["steps"] == 2)
    assert make("arithmetic").verify(one, one.answer[:3] + "x" + one.answer[4:]).why == "wrong at step 2"
    assert make("arithmetic").verify(one, one.answer[:4] + "=1____").why == "wrong behind the chain"


def random_expression(chance: Random, depth: int) -> str:
    if depth == 0 or chance.random() < 0.3:
        return str(chance.randint(0, 12))
    one, two = (random_expression(chance, depth - 1) for _ in range(2))
    text = f"{one}{chance.choice(['+', ' - ', '*', '/'])}{two}"
    return f"({text})" if chance.random() < 0.5 else text


def test_the_parser_is_pythons_own_arithmetic() -> None:
    chance, divided = Random(3), 0
    for _ in range(500):
        text = random_expression(chance, 4)
        exact = "".join(f"Fraction({part})" if part.isdigit() else part for part in split_numbers(text))
        try:
            wanted = eval(exact, {"Fraction": Fraction})
        except ZeroDivisionError:
            divided += 1
            with pytest.raises(RequestError, match="divides by zero"):
                evaluate(text)
            continue
        used, value = evaluate(text)
        assert value == wanted
        assert used == [int(part) for part in split_numbers(text) if part.isdigit()]
    assert 0 < divided < 250


def split_numbers(text: str) -> list[str]:
    return ["".join(run) for _, run in itertools.groupby(text, str.isdigit)]


def test_any_right_expression_counts_and_nothing_else() -> None:
    task, example = make("countdown"), Example("", "", {"numbers": [3, 17, 42], "target": 62})
    for right in ("3+17+42", "42+17+3___", "(42 + (17)) + 3 \n", "((((17)+42)))+3", " 3+42+17__"):
        assert task.verify(example, right).score == 1.0, right
    half = Example("", "", {"numbers": [1, 3, 8], "target": 24})
    assert task.verify(half, "8/(1/3)").score == 1.0  # through a fraction
    assert task.verify(Example("", "", {"numbers": [1, 3, 8], "target": 6}), "8+(1-3)").score == 1.0  # and below zero
    wrong = {
        "3+17": "does not use each of 3, 17, 42 once",
        "3+17+42+3-3": "does not use each of 3, 17, 42 once",
        "62": "does not use each of 3, 17, 42 once",
        "3*17+42": "'3*17+42' is 93, not 62",
        "42//17*3": "is not an expression: '/' cannot stand where it does",
        "42**17*3": "is not an expression: '*' cannot stand",
        "-3+17+42": "is not an expression: '-' cannot stand",
        "3 17+42": "is not an expression: '17' cannot stand",
        "(3+17+42": "is not a whole expression",
        "3+17+42)": "closes a parenthesis that is not open",
        "3+17+": "is not a whole expression",
        "()": "is not an expression: ')' cannot stand",
        "3+17+42=62": "is not an expression of numbers",
        "__import__('os')": "is not an expression of numbers",
        "3+17+٤٢": "is not an expression of numbers",
        "3+17+4_2": "is not an expression of numbers",
        "42/(17-17)": "divides by zero",
        "": "nothing was written",
        "___": "nothing was written",
        "9" * 5000: "is not an expression of numbers",
        "(" * 50_000: "is not a whole expression",
    }
    for text, why in wrong.items():
        verdict = task.verify(example, text)
        assert verdict.score == 0.0
        assert why in verdict.why, text


@pytest.mark.parametrize("text", ["countdown", "countdown:numbers=6,largest=20,high=999", "countdown:numbers=2,low=1"])
def test_problems_can_be_solved_and_are_what_was_asked_for(text: str) -> None:
    task = make(text)
    shapes = set[bool]()
    for example in task.examples("test", 200):
        used, value = evaluate(example.answer.rstrip(TAIL))
        assert sorted(used) == sorted(example.facts["numbers"])
        assert len(used) == task.numbers  # type: ignore[attr-defined]
        assert max(used) <= task.largest  # type: ignore[attr-defined]
        assert task.low <= value == example.facts["target"] <= task.high  # type: ignore[attr-defined]
        shapes.add("(" in example.answer)
    assert shapes == ({False} if "numbers=2" in text else {True, False})
