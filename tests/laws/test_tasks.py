"""Laws of tasks, against slow twins: puzzles are unique and minimal, traces follow the table, chains are computed."""

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
    """Every completion of a puzzle: fill the first empty cell with each digit that the rules allow, and recurse."""
    height, width = SHAPES[side]
    if 0 not in puzzle:
        yield puzzle
        return
    cell = puzzle.index(0)
    row, column = divmod(cell, side)
    for digit in range(1, side + 1):
        used = (
            puzzle[other]
            for other in range(side**2)
            if other // side == row
            or other % side == column
            or (other // side // height, other % side // width) == (row // height, column // width)
        )
        if digit not in used:
            yield from brute(side, [*puzzle[:cell], digit, *puzzle[cell + 1 :]])


def cells(example: Example) -> list[int]:
    return [int(digit) for digit in example.facts["puzzle"]]


def only_minimal(side: int, puzzle: list[int]) -> bool:
    """Whether the puzzle has one solution, and more than one if any clue is removed."""
    fewer = ([*puzzle[:cell], 0, *puzzle[cell + 1 :]] for cell, clue in enumerate(puzzle) if clue)
    return count(side, puzzle) == 1 and all(count(side, smaller) == 2 for smaller in fewer)


def count(side: int, puzzle: list[int]) -> int:
    return len(list(solutions(side, puzzle, limit=2)))


@pytest.mark.parametrize("side", [4, 6])
def test_a_puzzle_has_exactly_one_solution_by_brute_force(side: int) -> None:
    for example in Sudoku(side).examples("test", 12 if side == 4 else 3):
        puzzle = cells(example)
        (grid,) = brute(side, puzzle)
        assert "".join(str(digit) for digit, clue in zip(grid, puzzle, strict=True) if not clue) == example.answer


def test_the_solver_equals_brute_force() -> None:
    """Also on puzzles with many solutions, with none, and with clues that contradict each other."""
    generator, seen = Random(0), set[int]()
    for _ in range(40):
        puzzle = [generator.randint(1, 4) if generator.random() < 0.25 else 0 for _ in range(16)]
        results = sorted(solutions(4, puzzle, limit=1000))
        consistent = all(not clue or puzzle_allows(puzzle, cell) for cell, clue in enumerate(puzzle))
        assert results == (sorted(brute(4, puzzle)) if consistent else [])
        seen.add(min(len(results), 2))
    assert {0, 2} <= seen  # puzzles without solutions, and with several


def puzzle_allows(puzzle: list[int], cell: int) -> bool:
    """Whether a clue agrees with the others."""
    without = [*puzzle[:cell], 0, *puzzle[cell + 1 :]]
    row, column = divmod(cell, 4)
    return all(
        without[other] != puzzle[cell]
        for other in range(16)
        if other != cell
        and (other // 4 == row or other % 4 == column or (other // 8, other % 4 // 2) == (cell // 8, column // 2))
    )


@pytest.mark.parametrize("side, puzzles", [(4, 20), (6, 10), pytest.param(9, 3, marks=pytest.mark.slow)])
def test_a_puzzle_is_minimal(side: int, puzzles: int) -> None:
    examples = Sudoku(side).examples("valid", puzzles)
    assert all(only_minimal(side, cells(example)) for example in examples)
    assert all(example.facts["clues"] == side**2 - len(example.answer) for example in examples)
    # the controls: with one more clue it is not minimal, with one clue less not unique
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
    few, many = (sum(example.facts["clues"] for example in Sudoku(6, n).examples("test", 20)) for n in (0, 4))
    assert 60 < many - few < 100


def test_puzzles_are_graded() -> None:
    """A puzzle has 0 guesses if and only if single choices fill it, cell after cell."""
    examples = Sudoku(6).examples("test", 40)
    assert {example.facts["guesses"] > 0 for example in examples} == {True, False}
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
def test_the_verifier_accepts_right_grids_only(side: int) -> None:
    task, count = Sudoku(side), side**2
    blank = Example(f"[{count}]", "", {"puzzle": "0" * count})
    grid = "".join(map(str, next(grids(side, Random(1)))))
    assert task.verify(blank, grid).score == 1.0
    assert [int(digit) for digit in grid] in (list(solutions(side, [*map(int, grid[:-side]), *[0] * side], limit=9)))
    swapped = grid[1] + grid[0] + grid[2:]  # every row is right, two columns are not
    shifted = "".join(
        str((row + column) % side + 1) for row in range(side) for column in range(side)
    )  # boxes are wrong
    assert task.verify(blank, swapped).why == "column 1 is not right"
    assert task.verify(blank, shifted).why == "box 1 is not right"
    columns = "".join(str(column + 1) for _ in range(side) for column in range(side))
    assert task.verify(blank, columns).why == "column 1 is not right"
    for wrong in ("", grid[:-1], grid + "1", grid[:-1] + "0", grid[:-1] + "²", grid[:-1] + "x", "-" + grid[1:]):
        assert task.verify(blank, wrong).why == f"'{wrong}' is not {count} digits", wrong


def test_pairs_are_all_full_grids() -> None:
    answers = [answer for prompt, answer in Sudoku(4).pairs("train", 3000) if prompt == ""]
    assert len(set(answers)) == 288  # the number of Sudoku grids of side 4
    assert all(
        list(map(int, grid)) in list(solutions(4, [*map(int, grid[:4]), *[0] * 12], limit=99)) for grid in answers[:20]
    )


def test_equivalent_grids_of_side_9_are_full_and_differ() -> None:
    """Control: a grid in which two cells are exchanged is not full."""
    answers = [answer for _, answer in Sudoku(9).pairs("train", 200)]
    assert len(set(answers)) == 200
    grids = [list(map(int, answer)) for answer in answers]
    assert all(list(solutions(9, grid)) == [grid] for grid in grids)
    wrong = [grids[0][1], grids[0][0], *grids[0][2:]]
    assert list(solutions(9, wrong)) == []


def traces(wanted: str, count: int = 4000) -> list[int]:
    return [example.facts["trace"] for example in Automaton(24, wanted).examples("train", count)]


def test_a_trace_follows_the_table() -> None:
    """A table that is read from half of the traces predicts the others; one entry in nine halts."""
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
    # the table as a Markov chain: the probability that the automaton has not halted after n operations
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
    for length in (1, 5, 11, 23):  # a trace has more than n letters if the automaton has not halted after n operations
        share = sum(trace > length for trace in natural) / len(natural)
        assert abs(share - runs[length]) < 4 * (runs[length] / len(natural)) ** 0.5 + 1e-3
    assert abs(sum(natural) / len(natural) - 9.7) < 1.0  # with a table of its own policies.md measured 9.7


def test_long_mixed_and_short_traces() -> None:
    natural, long, mixed, short = (traces(wanted) for wanted in ("natural", "long", "mixed", "short"))
    share = [sum(trace >= 12 for trace in lengths) / len(lengths) for lengths in (natural, long, mixed, short)]
    assert share[1] == 1.0
    assert abs(share[2] - (0.5 + 0.5 * share[0])) < 0.03
    assert abs(share[3] - 0.02) < 0.008
    assert 11 not in short
    assert {11, 12} <= set(natural)


def test_the_verdict_on_a_wrong_trace_names_the_first_wrong_position() -> None:
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
def test_a_chain_equals_pythons_arithmetic(modulus: int) -> None:
    """The text of the problem, evaluated by Python."""
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
    assert {example.facts["steps"] for example in examples} == {2, 3, 4, 5}
    assert all(any(sign in example.template for example in examples) for sign in "+-*")
    short = next(example for example in examples if example.facts["steps"] == 2)
    assert make("arithmetic").verify(short, short.answer[:3] + "x" + short.answer[4:]).why == "wrong at step 2"
    assert make("arithmetic").verify(short, short.answer[:4] + "=1____").why == "wrong behind the chain"


def random_expression(generator: Random, depth: int) -> str:
    if depth == 0 or generator.random() < 0.3:
        return str(generator.randint(0, 12))
    left, right = (random_expression(generator, depth - 1) for _ in range(2))
    text = f"{left}{generator.choice(['+', ' - ', '*', '/'])}{right}"
    return f"({text})" if generator.random() < 0.5 else text


def test_the_parser_equals_pythons_arithmetic() -> None:
    generator, divided = Random(3), 0
    for _ in range(500):
        text = random_expression(generator, 4)
        exact = "".join(f"Fraction({part})" if part.isdigit() else part for part in split_numbers(text))
        try:
            expected = eval(exact, {"Fraction": Fraction})
        except ZeroDivisionError:
            divided += 1
            with pytest.raises(RequestError, match="divides by zero"):
                evaluate(text)
            continue
        used, value = evaluate(text)
        assert value == expected
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
def test_problems_have_solutions_and_keep_their_limits(text: str) -> None:
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
