"""What number a worked answer gives: traps of every parser that was used as a reward, and what is no number."""

import re
import string
from fractions import Fraction

import pytest

from unmask.tasks.numbers import final_number, parse_number, reference_number

# text | value; \n stands for a line's end
TABLE = r"""
\boxed{1,000} | 1000
\boxed{1,234,567.89} | 123456789/100
\boxed{3/4} | 3/4
\boxed{\frac{3}{4}} | 3/4
\boxed{\dfrac34} | 3/4
\boxed{-\tfrac{3}{4}} | -3/4
\boxed{\frac{-3}{4}} | -3/4
\boxed{\frac{1,000}{3}} | 1000/3
\boxed{1\frac{1}{2}} | 3/2
\boxed{-1\frac{1}{2}} | -3/2
\boxed{1 1/2} | 3/2
\boxed{3 / 4} | 3/4
\boxed{3} and then \boxed{5} | 5
\boxed{5} leaves 7 | 5
\boxed{\boxed{5}} | 5
\boxed{{42}} | 42
\boxed {42} | 42
\boxed 42. | 42
\fbox{7} | 7
$\boxed{42}$ | 42
\boxed{$42$} | 42
\boxed{\mathbf{42}} | 42
\boxed{\text{42 apples}} | 42
\boxed{42\text{ apples}} | 42
\boxed{42 \, \text{km}} | 42
\boxed{42 \text{ km}^2} | 42
\boxed{5\ \mathrm{m}^{2}} | 5
\boxed{5 m^2} | 5
\boxed{5 cm²} | 5
\boxed{60 km/h} | 60
\boxed{42 dollars per hour} | 42
\boxed{3rd} | 3
\boxed{\$1,000.50} | 2001/2
\boxed{€ 42} | 42
\boxed{42€} | 42
\boxed{50\%} | 50
\boxed{50%} | 50
\boxed{50 percent} | 50
\boxed{90^\circ} | 90
\boxed{90^{\circ}} | 90
\boxed{x = 5} | 5
\boxed{3 + 4 = 7} | 7
\boxed{\approx 3} | 3
\boxed{\text{Total: }42} | 42
\boxed{(42)} | 42
\boxed{1{,}000} | 1000
\boxed{1\,000\,000} | 1000000
\boxed{1 000} | 1000
\boxed{-5} | -5
\boxed{−5} | -5
\boxed{- 5} | -5
\boxed{+5} | 5
\boxed{-$5} | -5
\boxed{$-5} | -5
\boxed{-0} | 0
\boxed{007} | 7
\boxed{.5} | 1/2
\boxed{5.} | 5
\boxed{3.0} | 3
\boxed{0.333} | 333/1000
\boxed{5 million dollars} | 5000000
\boxed{2 hundred thousand} | 200000
\boxed{1.5 million} | 1500000
\boxed{42 | 42
first \boxed{7} and then \boxed{4 | 7
1 2 3\n#### 42 | 42
#### 1,234 apples | 1234
#### $5.50 | 11/2
#### -3\n | -3
#### 3\nor rather\n#### 5 | 5
#### Step 1: take 3.\nSo there are 7 in all. | 7
#### 42\n9 more lines | 42
<answer>1,200</answer> | 1200
<answer> 3 </answer> 7 <answer>\n4\n</answer> 9 | 4
<ANSWER>$7</ANSWER> | 7
<answer>\boxed{3/4}</answer> | 3/4
\boxed{1} #### 2\n<answer>3</answer> the answer is 4. 5 | 1
#### 2\n<answer>3</answer> the answer is 4. 5 | 2
<answer>3</answer> the answer is 4. 5 | 3
the answer is 4. 5 | 4
The answer is 42. It took 3 steps. | 42
The final answer is: $1,000. | 1000
The answer is 3 * 4 = 12 apples | 12
So the answer is **42**. | 42
The answer is 10 apples, not 12. | 10
The answer is 3.5. | 7/2
The answer is -\frac{3}{4}. | -3/4
The answer is 3. No, the answer is 4. | 4
The answer is not known, but 7 is near | 7
She has 3 cats and 4 dogs, 7 in all. | 7
The total is $1,000. | 1000
5-3=2 | 2
it is 3-4 |
it falls to -4 | -4
she lost -$40 | -40
x = -3/4 | -3/4
it took 1 1/2 hours | 3/2
it cost 5 million | 5000000
in 2019, 100 people | 100
1,2,3 |
1/0 |
\boxed{} 42 |
\boxed{no idea} 42 |
\boxed{3, 4} |
\boxed{1,00} |
\boxed{1,0000} |
\boxed{1000,000} |
\boxed{1.000,50} |
\boxed{1.2.3} |
\boxed{3-4} |
\boxed{3/4/5} |
\boxed{1/0} |
\boxed{5:30} |
\boxed{2\pi} |
\boxed{2 pi} |
\boxed{2x} |
\boxed{\sqrt{4}} |
\boxed{2^{10}} |
\boxed{10^3} |
\boxed{10²} |
\boxed{1e3} | 1000
\boxed{2½} |
\boxed{5 and a half} |
\boxed{5 feet 3 inches} |
\boxed{-} |
\boxed{$} |
\boxed{٤٢} |
<answer>none</answer> 42 |
GPT4 |
no number here |
"""
ROWS = [(text.replace("\\n", "\n"), value.strip()) for text, _, value in (
    line.rpartition(" |") for line in TABLE.strip().splitlines()
)]  # fmt: skip


@pytest.mark.parametrize("text, value", ROWS, ids=[text for text, _ in ROWS])
def test_the_number_of_an_answer(text: str, value: str) -> None:
    assert final_number(text) == (Fraction(value) if value else None)


def test_the_table_tries_both_ways() -> None:
    assert len(ROWS) > 110
    assert 20 < sum(not value for _, value in ROWS) < 60
    assert final_number("") is None


@pytest.mark.parametrize("text", ["", "x", "()", "$", "$$", '"', "=", ":", "1 2", "3 apples 4", "{", "\\frac{1}{0}"])
def test_what_is_not_one_number(text: str) -> None:
    assert parse_number(text) is None


def test_a_value_is_exact_and_a_long_text_is_no_trap() -> None:
    assert parse_number("0.1") == Fraction(1, 10) != Fraction(0.1)
    assert parse_number("1/3") != parse_number("0.3333333333")
    assert parse_number("9" * 60) == 10**60 - 1
    assert parse_number("9" * 5000) is None
    assert final_number("9" * 100_000) is None
    assert final_number("\\boxed{" * 2000 + "5" + "}" * 2000) == 5
    assert final_number("{" * 50_000 + "7") == 7


# Each is read, or refused, at every place where a final number may stand.
PLACES = [
    "{}",
    "#### {}",
    "18 is near.\n#### {}",
    "18 or \\boxed{{{}}}",
    "18 <answer>{}</answer>",
    "18. The answer is {}",
    "The answer is {}.",
    "18 first, then the total is {}",
    "3*6=<<3*6=18>>18\nIt is {}",
]
EIGHTEEN = (
    """
18; 18 dollars; 18 because 3*6=18; $18; 18 €; 18€; £18; $18.00; USD 18; 18 USD; 18%; 18.; (18); **18**; $18$; \\$18
1.8e1; 0.018e3; 1.8E+1; 180e-1; 1.8 × 10^1; 1.8 \\times 10^{1}; 1.8x10^1; 1.8 x 10^1; 1.8*10**1; 1.8 × 10¹; 36/2; 18.00
3*6 = 18; x = 18; 18 m^2; 18 km/h; 18th; 18 dollars per day; 018; <b>18</b>; 18 °C; 18°C; US$18
""".replace("\n", "; ")
    .strip("; ")
    .split("; ")
)
REFUSED = (
    """
18x; 18k; $18M; $3M; 18e3x; 18e; e18; x18; a18; 0x18; 18a; 18h; 18km; 18i; 18π; 18 π; 18 x; 18 k; 18 K; 18k dollars; #18
18½; ½; 18 ½; 18 and a half; 18²; 18^2; 3^18; 18 squared; 18\\pi; 18 \\pi; １8; 1８; ١8; 18٣; 18_0; 18'000; 18–; 18‰
5:18; 18:30; 12,18; 18,5; 1,8,18; 1,18,4; 1 8; 18 0; 1.2.18; 18.2.1; 192.168.1.18; --18; +-18; ±18; 18\u200b1; 18\u0301
2018-05-18; 18/5/2018; 3-18; 18-20; 3–18; 18 to 20; 18 or 19; 3 * 18; 18 * 3; 18 + 3; 18/0; 18e3.5; 18-year-old
1e999999; 18e99999999999999999999; 1e-999999; 5 feet 18 inches; 18 hours 30 minutes
""".replace("\n", "; ")
    .strip("; ")
    .split("; ")
)


@pytest.mark.parametrize("place", PLACES)
def test_a_number_is_read_whole_at_every_place(place: str) -> None:
    assert {text: final_number(place.format(text)) for text in EIGHTEEN} == dict.fromkeys(EIGHTEEN, Fraction(18))


@pytest.mark.parametrize("place", PLACES)
def test_what_is_not_read_whole_is_refused_without_another_number(place: str) -> None:
    ends = {"18 to 20": 20, "18 or 19": 19, "18 hours 30 minutes": 30}  # in running text these end in their last number
    values = {text: final_number(place.format(text)) for text in REFUSED}
    assert {text: value for text, value in values.items() if value is not None and value != ends.get(text)} == {}


@pytest.mark.parametrize(
    "text, value",
    {
        "18e3": 18000,
        "1.5e3": 1500,
        "3.5 × 10^6": 3_500_000,
        "-3.5 x 10^-2": Fraction(-7, 200),
        "1\u2009234\u2009567": 1_234_567,
        "1\u202f234": 1234,
        "\uff0d5": -5,
        "−5": -5,
        "1e300": 10**300,
        "5 million": 5_000_000,
    }.items(),
)
def test_exponents_and_typographic_signs(text: str, value: int) -> None:
    assert [final_number(place.format(text)) for place in PLACES] == [Fraction(value)] * len(PLACES)


def _old_reader(text: str) -> Fraction | None:
    """The last digits of a text, whatever touches them: what many rewards do."""
    runs = re.findall(r"(?<![\w^.])[0-9]+", text)
    return Fraction(runs[-1]) if runs else None


def _disguised(text: str, sign: str) -> list[str]:
    """`text` with a character put at every place in it and beside it."""
    return [text[:n] + sign + text[n:] for n in range(len(text) + 1)]


SIGNS = [*string.ascii_letters, *string.digits, *"äßçñéøπλжя中十年あ٣８½²Ⅷ"]


@pytest.mark.parametrize("answer", ["18", "5.25", "3/4", "1,234"])
def test_a_letter_or_digit_beside_a_right_answer_never_passes_for_it(answer: str) -> None:
    right = parse_number(answer)
    passed = [
        (place, text)
        for sign in SIGNS
        for text in _disguised(answer, sign)
        for place in PLACES
        if final_number(place.format(text)) == right and not _same(text, answer)
    ]
    assert passed == []
    old = [
        text for sign in SIGNS for text in _disguised("18", sign) if _old_reader(text) == 18 and not _same(text, "18")
    ]
    assert len(old) > 50  # the control: a reader that looks for digits lets most of them pass


def _same(text: str, answer: str) -> bool:
    """Whether a text is the same number with a zero that changes nothing, such as 018 or 5.250."""
    plain = text.replace(",", "")
    return plain.isascii() and re.fullmatch(r"[0-9./]+", plain) is not None and _exact(plain) == _exact(answer)


def _exact(text: str) -> Fraction:
    top, _, bottom = text.replace(",", "").partition("/")
    return Fraction(top) / Fraction(bottom or 1)


def test_a_reference_states_its_number_in_its_last_line() -> None:
    assert reference_number("3*6=<<3*6=18>>18\n#### 1,234") == 1234
    assert reference_number("so 7") == 7
    for text in ("3 * 6 = 18\n#### 18x", "3 * 6 = 18\n#### eighteen", "18\n####", "18k", "#### 3-5"):
        assert reference_number(text) is None
