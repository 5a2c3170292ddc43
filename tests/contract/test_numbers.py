"""What number a worked answer gives: traps of every parser that was used as a reward, and what is no number."""

from fractions import Fraction

import pytest

from unmask.tasks.numbers import final_number, parse_number

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
it is 3-4 | 4
it falls to -4 | -4
she lost -$40 | -40
x = -3/4 | -3/4
it took 1 1/2 hours | 3/2
it cost 5 million | 5000000
in 2019, 100 people | 100
1,2,3 | 3
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
\boxed{1e3} |
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
