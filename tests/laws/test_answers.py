r"""Answers in LaTeX: pairs that are the same and pairs that are not, in both orders; what is the answer of a text."""

import time
from itertools import product

import pytest

from unmask.tasks.latex import answer_in, same_answer

SAME = [
    (r"\frac{1}{2}", "0.5"),
    (r"\frac12", r"\dfrac{1}{2}"),
    ("1/2", r"\tfrac{1}{2}"),
    (r"-\frac{35}{9}", r"\frac{-35}{9}"),
    (r"1\frac{1}{2}", "3/2"),
    (r"2\sqrt3", r"\sqrt{12}"),
    (r"\sqrt[3]{8}", "2"),
    ("2^{10}", "1024"),
    ("2^10", "1024"),
    ("x=5", "5"),
    (r"x \in [1,2]", "[1, 2]"),
    ("f(x) = 2x+3", "3+2x"),
    (r"10\text{ cm}", "10"),
    (r"10\mathrm{cm}^2", "10"),
    (r"2\pi\text{ cm}", r"2 \pi"),
    (r"90^\circ", "90"),
    (r"\$1,000", "1000"),
    (r"10,\!000", "10000"),
    (r"\$32{,}348", r"32,\!348"),
    (r"20\%", "20"),
    ("$5$", "5."),
    ("(1,2)", "( 1 , 2 )"),
    (r"\left(\frac12,3\right)", "(0.5,3)"),
    ("1,-2", "-2, 1"),
    ("-2 and 1", r"1\text{ and }-2"),
    (r"\{1,2\}", r"\lbrace 2,1 \rbrace"),
    (r"\text{(A)}", "A"),
    (r"\textbf{even}", r"\text{Even}"),
    ("(x+1)^2", "x^2+2x+1"),
    ("p - q", "-q+p"),
    ("(1+i)^2", "2i"),
    (r"\frac{\pi}{4}", r"\pi/4"),
    ("1010_2", "1010_{2}"),
    (r"(-\infty,0)\cup(1,+\infty)", r"(-\infty, 0) \cup (1,\infty)"),
    (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\begin{pmatrix} 1 & 2 \\ 3 & \frac{8}{2} \end{pmatrix}"),
    ("x^2+y^2=1", "x^2 + y^2 = 1"),
]
DIFFERENT = [
    ("1/2", "1/3"),
    ("x", "y"),
    ("(1,2)", "(2,1)"),
    ("(1,2)", "[1,2]"),
    ("1,2", "1,3"),
    ("1,1,2", "1,2,2"),
    (r"\{1,2\}", "(1,2)"),
    ("x+1", "x-1"),
    ("1010_2", "1010_3"),
    ("1010_2", "1010"),
    ("", ""),
    ("A", "B"),
    ("even", "odd"),
    (r"\sqrt{2}", "1.414"),
    (r"\pi", "3.14"),
    ("0", "0.000001"),
    ("-5", "5"),
    ("i", "-i"),
    ("5", "5x"),
    ("12", "1,2"),
    ("x > 3", "x < 3"),
    (r"x \le 3", "x < 3"),
    (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\begin{pmatrix}1&2\\4&3\end{pmatrix}"),
    (r"\begin{pmatrix}1&2&3&4\end{pmatrix}", r"\begin{pmatrix}1&2\\3&4\end{pmatrix}"),
    ("2^{9999999}", "3^{9999999}"),
    ("1/0", "2/0"),
]


@pytest.mark.parametrize("pair", SAME, ids=map(str, SAME))
def test_answers_that_are_the_same(pair: tuple[str, str]) -> None:
    assert same_answer(*pair)
    assert same_answer(*reversed(pair))


@pytest.mark.parametrize("pair", DIFFERENT, ids=map(str, DIFFERENT))
def test_answers_that_differ(pair: tuple[str, str]) -> None:
    assert not same_answer(*pair)
    assert not same_answer(*reversed(pair))


def test_an_answer_is_the_same_as_itself_and_two_that_are_the_same_as_a_third_are_the_same() -> None:
    answers = sorted({text for pair in (*SAME[::2], *DIFFERENT[::2]) for text in pair if text})
    same = {(a, b) for a, b in product(answers, repeat=2) if same_answer(a, b)}
    assert all((text, text) in same for text in answers)
    assert len(same) < len(answers) ** 2 / 10
    assert all((a, c) in same for a, b in same for c in answers if (b, c) in same)


@pytest.mark.parametrize(
    "text, answer",
    [
        (r"first \boxed{1}, then \boxed{\frac{1}{2}}.", r"\frac{1}{2}"),
        ("<answer>\n\\boxed{7}\n</answer>", "7"),
        ("<reasoning>so</reasoning><answer> x+1 </answer>", "x+1"),
        ("The answer is $5$. It is odd.", "$5$"),
        ("no answer here", None),
        (r"\boxed{}", None),
        (r"\boxed{1", None),
    ],
)
def test_the_answer_of_a_text(text: str, answer: str | None) -> None:
    assert answer_in(text) == answer


def test_no_text_takes_long_or_fails() -> None:
    began = time.process_time()
    for part in ("(", "{", "\\frac", "\\sqrt", "^2", "9^9", "1,", "\\text{a", "- ", "&", "\\\\", "x=", "\\{", "\\cup "):
        for count in (3, 60, 399, 5000):
            assert not same_answer(part * count, "1")
            answer_in("\\boxed{" + part * count)
    assert time.process_time() - began < 2
