"""Both strands of DNA: what is drawn, what is predicted; k-mers and their divergence."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from unmask.errors import DataError, RequestError
from unmask.eval.dna import (
    coding_positions,
    gc_content,
    jensen_shannon,
    kmer_counts,
    measure_dna,
    read_fasta,
    shuffled,
    windows,
)
from unmask.model.dit import DiT
from unmask.model.settings import DiTSettings
from unmask.objective.base import Rows, Turn
from unmask.objective.masked import objective_of
from unmask.objective.strands import BothStrands, EitherStrand, complement_of, reverse_complement
from unmask.process import MaskedDiffusion
from unmask.text.build import byte_tokenizer, char_tokenizer, dna_tokenizer

DNA = dna_tokenizer()
COMPLEMENT = complement_of(DNA)
B, L = 6, 20
LAST = torch.tensor([20, 20, 20, 17, 9, 1])
VALID = torch.arange(L) < LAST[:, None]


@pytest.fixture(scope="module")
def network() -> DiT:
    torch.manual_seed(0)
    settings = DiTSettings(DNA.vocab_size, DNA.mask_id, max_length=L, width=32, blocks=2, heads=2, dropout=0.0)
    model = DiT(settings).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


@pytest.fixture
def ids() -> Tensor:
    tokens = torch.randint(0, 4, (B, L), generator=torch.Generator().manual_seed(1))
    return torch.where(VALID, tokens, DNA.pad_id)


def predicted(model: DiT | BothStrands, tokens: Tensor) -> Tensor:
    with torch.no_grad():
        return model.logits(model.hidden(tokens, valid=VALID))


def turned(logits: Tensor) -> Tensor:
    """Logits (B, L, V) -> those of the other strand at its positions."""
    at = torch.where(VALID, LAST[:, None] - 1 - torch.arange(L), torch.arange(L))
    return logits.gather(1, at[..., None].expand_as(logits))[..., list(COMPLEMENT)]


def test_the_reverse_complement_of_a_row() -> None:
    table = torch.tensor([[*DNA.encode("AACGTN"), DNA.mask_id, DNA.pad_id]])
    valid = table != DNA.pad_id
    other = reverse_complement(table, COMPLEMENT, valid)
    assert other.tolist() == [[DNA.mask_id, *DNA.encode("NACGTT"), DNA.pad_id]]
    assert torch.equal(reverse_complement(other, COMPLEMENT, valid), table)
    assert complement_of(char_tokenizer(["GATTACA", "C"]))  # other tokenizers of the four letters have one too
    for tokenizer in (byte_tokenizer(), char_tokenizer(["ACGTU"]), char_tokenizer(["ACG"])):
        with pytest.raises(RequestError, match="the tokens here are not the letters A, C, G and T"):
            complement_of(tokenizer)


def test_predictions_over_both_strands_are_equivariant(network: DiT, ids: Tensor) -> None:
    """In logits bit for bit; the control is the network alone. The padding of a row is not attended to."""
    both = BothStrands(network, COMPLEMENT)
    tokens = ids.masked_fill((torch.arange(L) % 3 == 0) & VALID, DNA.mask_id)
    other = reverse_complement(tokens, COMPLEMENT, VALID)
    assert torch.equal(predicted(both, other)[VALID], turned(predicted(both, tokens))[VALID])
    alone = predicted(network, other) - turned(predicted(network, tokens))
    assert float(alone[VALID].abs().max()) > 0.1
    where = tokens == DNA.mask_id
    with torch.no_grad():
        some = both.logits(both.hidden(tokens, valid=VALID, where=where))
    assert torch.allclose(some[where], predicted(both, tokens)[where], atol=1e-5)


def test_a_network_that_reads_from_left_to_right_has_no_prediction_over_both_strands(network: DiT) -> None:
    causal = DiT(dataclasses.replace(network.settings, causal_block=1, shift=True))
    with pytest.raises(RequestError, match="one strand would see what the other predicts"):
        BothStrands(causal, COMPLEMENT)


def test_the_bound_over_both_strands_is_at_most_the_mean_of_theirs(network: DiT, ids: Tensor) -> None:
    """Hoelder's inequality, for equal maskings; the control is that one strand alone can be below the average."""
    inner = objective_of("subs", MaskedDiffusion(DNA.mask_id))
    objective = EitherStrand(inner, COMPLEMENT)
    rows = Rows(ids, VALID, VALID)
    *drawn, _ = objective.draw(0, 0, torch.arange(B), B, VALID)
    with torch.no_grad():
        first, second = (objective.loss(network, rows, (*drawn, torch.full((B,), side))).nats for side in (False, True))
        both = objective.loss(BothStrands(network, COMPLEMENT), rows, (*drawn, torch.zeros(B, dtype=torch.bool))).nats
    assert bool((both <= (first + second) / 2 + 1e-4).all())
    assert bool((torch.minimum(first, second) < both).any())


@pytest.mark.parametrize("name", ["subs", "ar", "d3pm", "sedd"])
def test_training_reads_each_row_from_either_strand(network: DiT, ids: Tensor, name: str) -> None:
    """A row is turned with what was drawn for it; which rows are is a function of seed, step and index alone."""
    inner = objective_of(name, MaskedDiffusion(DNA.mask_id))
    objective = EitherStrand(inner, COMPLEMENT)
    rows, index = Rows(ids, VALID, VALID), torch.arange(B)
    *drawn, side = objective.draw(3, 5, index, B, VALID)
    some = torch.tensor([4, 1])
    assert torch.equal(objective.draw(3, 5, some, B, VALID[some])[-1], side[some])
    sides = torch.stack(
        [objective.draw(3, step, torch.arange(500), 500, VALID[:1].expand(500, -1))[-1] for step in (0, 1)]
    )
    assert abs(float(sides.double().mean()) - 0.5) < 0.06
    assert not torch.equal(sides[0], sides[1])

    other = Rows(reverse_complement(ids, COMPLEMENT, VALID), VALID, VALID)
    mirror = torch.where(VALID, LAST[:, None] - 1 - torch.arange(L), torch.arange(L))
    moved = tuple(x.gather(1, mirror) if x.dim() == 2 else x for x in drawn)
    with torch.no_grad():
        plain, flipped = inner.loss(network, rows, tuple(drawn)).nats, inner.loss(network, other, moved).nats
        loss = objective.loss(network, rows, (*drawn, side)).nats
        turn = Turn(0, index, B)
        assert torch.equal(objective.bound(network, rows, turn).nats, inner.bound(network, rows, turn).nats)
    assert torch.allclose(loss, torch.where(side, flipped, plain), atol=1e-4)
    assert not torch.allclose(plain, flipped, atol=1e-2)  # the control: the strands differ
    assert 0 < int(side.sum()) < B


def test_kmers_and_gc_content() -> None:
    counts = kmer_counts("ACGTNACgt", 2)
    assert counts.sum() == 6
    assert sorted(counts[counts > 0].tolist()) == [2, 2, 2]
    assert kmer_counts("AC", 3).sum() == 0
    assert gc_content("ACGG") == 0.75
    assert gc_content("AACGTNNN") == pytest.approx(0.4)


def test_the_divergence_of_spectra() -> None:
    """0 of a law from itself, 1 bit of laws without a common event, symmetric."""
    p, q = np.array([1, 2, 3, 0]), np.array([4, 1, 0, 2])
    assert jensen_shannon(p, 5 * p) == pytest.approx(0, abs=1e-12)
    assert jensen_shannon(np.array([1, 1, 0]), np.array([0, 0, 3])) == pytest.approx(1)
    assert jensen_shannon(p, q) == pytest.approx(jensen_shannon(q, p))
    assert 0 < jensen_shannon(p, q) < 1


def test_shuffled_sequences_have_the_letters_and_not_the_kmers() -> None:
    """Of a Markov chain; the control is another sample of the chain, whose divergence is that of its size alone."""
    generator = np.random.default_rng(0)

    def chain(count: int) -> list[str]:
        steps = generator.choice([1, 1, 1, 2, 3], (count, 200)).cumsum(-1) % 4
        return ["".join("ACGT"[at] for at in row) for row in steps]

    train, test = chain(400), chain(100)
    reference = {size: kmer_counts("".join(train), size) for size in (1, 3)}
    mixed = shuffled(test, 0)
    assert [sorted(text) for text in mixed] == [sorted(text) for text in test]
    real, other = measure_dna(test, reference), measure_dna(mixed, reference)
    assert real.gc == other.gc
    assert real.gc[0] == pytest.approx(0.5, abs=5 * real.gc[1])
    assert other.divergence[3][0] > 20 * real.divergence[3][0]
    assert abs(other.divergence[1][0] - real.divergence[1][0]) < 1e-9
    assert 0 < real.divergence[3][1] < real.divergence[3][0]
    with pytest.raises(RequestError, match="an error needs two"):
        measure_dna(["NNNN", "ACGT"], reference)


def test_windows_lie_in_one_region_and_have_their_labels(tmp_path: Path) -> None:
    """CDS of either strand counts, genes and introns do not."""
    letters = "".join(np.random.default_rng(0).choice(list("ACGT"), 103))
    (tmp_path / "a.fa").write_text(f">one the first\n{letters[:60]}\n{letters[60:].lower()}\n>two\nACGTN\n")
    genome = read_fasta(tmp_path / "a.fa")
    assert genome == {"one": letters, "two": "ACGTN"}
    lines = [("gene", 1, 100, "+"), ("CDS", 11, 20, "+"), ("CDS", 31, 45, "-")]
    rows = [f"one\tx\t{feature}\t{first}\t{last}\t.\t{strand}\t0\tID=a" for feature, first, last, strand in lines]
    (tmp_path / "a.gff3").write_text("\n".join(["##gff-version 3", "", *rows, "three\tx\tCDS\t1\t9\t.\t+\t0\t."]))
    coding = coding_positions(tmp_path / "a.gff3", genome)
    assert coding["one"].nonzero()[0].tolist() == [*range(10, 20), *range(30, 45)]
    assert not coding["two"].any()
    parts = windows("one", letters, 10, 50, coding["one"])
    assert [part.letters for part in parts] == [letters[at : at + 10] for at in range(0, 100, 10)]
    assert [part.coding for part in parts] == [0, 1, 0, 1, 0.5, 0, 0, 0, 0, 0]
    assert [part.region for part in parts] == ["one 0"] * 5 + ["one 1"] * 5
    assert [len(windows("one", letters, 10, size)) for size in (25, 15)] == [8, 7]  # none lies in two regions
    assert [part.letters for part in windows("two", "ACGTNACGT", 2, 9)] == ["AC", "GT", "CG"]


@pytest.mark.parametrize(
    ("fasta", "gff3", "match"),
    [
        (">a\nACGT\n>a\nAC\n", "", "is not FASTA"),
        ("ACGT\n", "", "is not FASTA"),
        (">a\nACGQ\n", "", "sequence a, has the letter 'Q'"),
        (">a\nACGT\n", "a\tx\tCDS\t1\n", "line 1 is no feature of GFF3"),
        (">a\nACGT\n", "#\na\tx\tCDS\t2\t5\t.\t+\t0\t.\n", "line 2 lies outside of a"),
        (">a\nACGT\n", "", "is empty; give GFF3"),
    ],
)
def test_files_that_are_no_annotated_genome(tmp_path: Path, fasta: str, gff3: str, match: str) -> None:
    (tmp_path / "a.fa").write_text(fasta)
    (tmp_path / "a.gff3").write_text(gff3)
    with pytest.raises(DataError, match=match):
        coding_positions(tmp_path / "a.gff3", read_fasta(tmp_path / "a.fa"))
