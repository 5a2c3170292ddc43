"""Files that torch.save wrote: what is read equals torch's own reading; a malicious file is refused or inert."""

import argparse
import collections
import contextlib
import copyreg
import io
import os
import pickle
import struct
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unmask.disk import pickles, torch_files
from unmask.disk.torch_files import TorchFile
from unmask.errors import CheckpointError

SPRUNG: list[str] = []
"""What a malicious file ran; a test fails where it is not empty."""


def spring(*_: object) -> str:
    """What a malicious file would run."""
    SPRUNG.append("called")
    return "sprung"


class Nested:
    """An object as a callback or an omegaconf node: a class of its own, with state."""

    def __init__(self, **state: Any) -> None:
        self.__dict__.update(state)

    def __setstate__(self, state: dict[str, Any]) -> None:
        SPRUNG.append("given state")
        self.__dict__.update(state)


class Made:
    """A class whose construction is noticed."""

    def __new__(cls, *_: object, **__: object) -> "Made":
        SPRUNG.append("made")
        return super().__new__(cls)


class Calls:
    """Pickles as a call of a function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.call


@pytest.fixture(autouse=True)
def nothing_runs() -> Any:
    SPRUNG.clear()
    yield
    assert not SPRUNG


def state() -> dict[str, Any]:
    """Tensors of every format and shape of view that checkpoints have."""
    base = torch.arange(24, dtype=torch.float32).view(4, 6)
    tied = torch.randn(3, 5)
    return {
        "weight": base,
        "transposed": base.t(),
        "part": base[1:3, ::2],
        "tied": tied,
        "tied.again": tied,
        "parameter": torch.nn.Parameter(torch.randn(2, 2)),
        "half": torch.randn(3).half(),
        "brain": torch.randn(3).bfloat16(),
        "flags": torch.tensor([True, False, True]),
        "counts": torch.arange(3),
        "byte": torch.tensor([1, 200], dtype=torch.uint8),
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 4),
        "none": torch.zeros(0),
    }


def equal(ours: dict[str, Any], theirs: dict[str, Any]) -> bool:
    """Whether two dictionaries have the same tensors, in format, shape and every element, in the same order."""
    return list(ours) == list(theirs) and all(
        a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)
        for a, b in zip(ours.values(), theirs.values(), strict=True)
    )


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("protocol", [2, 4])
def test_reads_what_torch_reads(tmp_path: Path, zipped: bool, protocol: int) -> None:
    file, tensors = tmp_path / "file.pt", state()
    value = {"model": collections.OrderedDict(tensors), "step": 3, "names": ["a", ("b", 1.5)], "size": torch.Size([2])}
    torch.save(value, file, _use_new_zipfile_serialization=zipped, pickle_protocol=protocol)
    opened, expected = TorchFile(file), torch.load(file, weights_only=False)
    assert opened.keys == ("model", "step", "names", "size")
    assert equal(opened.read("model"), expected["model"])
    whole = opened.read()
    assert (whole["step"], whole["names"], whole["size"]) == (3, ["a", ("b", 1.5)], (2,))
    tied = opened.read("model")
    assert tied["tied"].data_ptr() == tied["tied.again"].data_ptr()
    tied["tied"].zero_()  # the file is copied where it is written to
    assert equal(TorchFile(file).read("model"), expected["model"])


@pytest.mark.parametrize("zipped", [True, False])
def test_foreign_objects_are_inert(tmp_path: Path, zipped: bool) -> None:
    """A Namespace (Sapiens), a node of a configuration and a nested callback beside the weights, as in Lightning."""
    file = tmp_path / "file.ckpt"
    config = Nested(content={"lr": Nested(value=1e-3)}, parent=None)
    value: dict[str, Any] = {
        "state_dict": state(),
        "args": argparse.Namespace(lr=[0.1], data="x"),
        "hyper_parameters": {"config": config, "seed": 1, "device": torch.device("cpu"), "dtype": torch.float32},
        "callbacks": {"checkpoint": {"best": Nested(inner=[Nested(x=1)]), "count": 2}},
        "path": Path("a"),
        "set": {1, 2},
    }
    torch.save(value, file, _use_new_zipfile_serialization=zipped)
    opened = TorchFile(file)
    assert equal(opened.read("state_dict"), value["state_dict"])
    assert opened.read("hyper_parameters") == {"seed": 1}
    assert opened.read("callbacks") == {"checkpoint": {"count": 2}}
    assert set(opened.read()) == {"state_dict", "hyper_parameters", "callbacks"}
    with pytest.raises(CheckpointError, match="'argparse Namespace\\(\\)' where a tensor or a plain value has to be"):
        opened.read("args")
    with pytest.raises(CheckpointError, match="has nothing under 'ema'; it has: state_dict, args"):
        opened.read("ema")


# ---- malicious files -------------------------------------------------------------------------------------------------


def archive(file: Path, pickled: bytes, storages: dict[str, bytes] | None = None, **others: bytes) -> Path:
    """Write a zip archive as torch.save does, around a pickle."""
    with zipfile.ZipFile(file, "w") as opened:
        opened.writestr("archive/data.pkl", pickled)
        for key, content in (storages or {}).items():
            opened.writestr(f"archive/data/{key}", content)
        for name, content in others.items():
            opened.writestr(f"archive/{name}", content)
    return file


def older(file: Path, value: bytes, keys: Any, content: bytes, little: bool = True) -> Path:
    """Write a file as torch before 1.6 did, around a pickle."""
    system = {"protocol_version": 1001, "little_endian": little, "type_sizes": {}}
    start = b"".join(pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, system))
    file.write_bytes(start + value + pickle.dumps(keys, 2) + content)
    return file


def text(word: str) -> bytes:
    """The opcode of a text."""
    return b"X" + struct.pack("<I", len(word)) + word.encode()


def number(value: int) -> bytes:
    """The opcode of a whole number of at most 127 bytes."""
    return b"\x8a\x10" + value.to_bytes(16, "little", signed=True)


def storage(key: str = "0", count: int = 4, name: str = "torch FloatStorage") -> bytes:
    """The opcodes of a storage."""
    module, _, leaf = name.partition(" ")
    parts = text("storage") + f"c{module}\n{leaf}\n".encode() + text(key) + text("cpu") + number(count)
    return b"(" + parts + b"tQ"


def tensor(size: tuple[int, ...], stride: tuple[int, ...], offset: int = 0, source: bytes = b"") -> bytes:
    """The opcodes of a tensor."""
    shape, steps = (b"(" + b"".join(map(number, part)) + b"t" for part in (size, stride))
    rest = number(offset) + shape + steps + b"\x89" + b"ccollections\nOrderedDict\n)R"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + (source or storage()) + rest + b"tR"


def under(value: bytes) -> bytes:
    """The pickle of {"a": value}."""
    return b"\x80\x02}" + text("a") + value + b"s."


FLOATS = {"0": bytes(16)}
HERE = __name__.encode()


def wrong_view(*facts: Any, **options: Any) -> Callable[[Path], Path]:
    return lambda file: archive(file, under(tensor(*facts, **options)), FLOATS)


def pickled(value: bytes) -> Callable[[Path], Path]:
    return lambda file: archive(file, under(value), FLOATS)


def dumped(value: Any, protocol: int = 4) -> Callable[[Path], Path]:
    return lambda file: archive(file, pickle.dumps({"a": value}, protocol))


def compressed(file: Path) -> Path:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as opened:
        opened.writestr("archive/data.pkl", under(tensor((1 << 20,), (1,), source=storage(count=1 << 20))))
        opened.writestr("archive/data/0", bytes(4 << 20))
    return file


def twice(file: Path) -> Path:
    archive(file, under(number(1)), {"pkl": under(number(2))})
    return _written(file, file.read_bytes().replace(b"archive/data/pkl", b"archive/data.pkl"))


def far_header(file: Path) -> Path:
    archive(file, under(tensor((4,), (1,))), FLOATS)
    content = file.read_bytes()
    at = content.rindex(b"PK\x01\x02") + 42  # where the last entry begins
    file.write_bytes(content[:at] + struct.pack("<I", 1 << 30) + content[at + 4 :])
    return file


def many_views(file: Path) -> Path:
    views = b"".join(text(str(n)) + tensor((4000,), (1,), source=storage(count=4000)) for n in range(100))
    return archive(file, b"\x80\x02}(" + views + b"u.", {"0": bytes(16_000)})


def deep_key(file: Path) -> Path:
    return archive(file, b"\x80\x02}" + b")" + b"\x85" * 100_000 + number(1) + b"s.")


INERT: dict[str, Callable[[Path], Path]] = {
    "a call of a function": dumped(Calls(spring, "x")),
    "a call of the system": dumped(Calls(os.mkdir, "sprung")),
    "a call of eval": dumped(Calls(eval, "__import__('os').mkdir('sprung')")),
    "a call of what a call returns": pickled(
        b"cbuiltins\ngetattr\n(cos\n\nX\x06\x00\x00\x00systemtR(X\x01\x00\x00\x00xtR"
    ),
    "a call in protocol 0": dumped(Calls(spring, "x"), 0),
    "an import": pickled(b"cthis\nsprung\n"),
    "an import by a name on the stack": pickled(b"\x8c\x04this\x8c\x06sprung\x93"),
    "a call of torch.load": pickled(b"ctorch.storage\n_load_from_bytes\n(C\x01.tR"),
    "state for an object": dumped(Nested(x=1)),
    "a class that is constructed": pickled(b"c" + HERE + b"\nMade\n)\x81"),
    "a class with keywords": pickled(b"c" + HERE + b"\nMade\n)}\x92"),
    "an instance (INST)": pickled(b"(i" + HERE + b"\nMade\n"),
    "an instance (OBJ)": pickled(b"(c" + HERE + b"\nMade\no"),
    "an entry of copyreg": pickled(b"\x82\x01"),
    "items for an object": pickled(b"c" + HERE + b"\nMade\n)R(" + text("k") + number(1) + b"u"),
    "a persistent id of its own": pickled(text("sprung") + b"Q"),
    "a tensor over a call": wrong_view((4,), (1,), source=b"c" + HERE + b"\nspring\n)R"),
    "a rebuild by a dotted name": pickled(b"\x8c\x05torch\x8c\x19_utils._rebuild_tensor_v2\x93(tR"),
    "a quantised storage": wrong_view((4,), (1,), source=storage(name="torch QInt8Storage")),
    "a set of what cannot be hashed": pickled(b"\x8f(]}\x90"),
    "a key that is a deep tuple": deep_key,
    "a memo of a huge number": pickled(b"cthis\nsprung\nr\xff\xff\xff\xff"),
}
REFUSED: dict[str, tuple[Callable[[Path], Path], str]] = {
    "a negative stride": (wrong_view((4,), (-1,), 3), "impossible shape, stride or offset"),
    "a negative offset": (wrong_view((4,), (1,), -1), "impossible shape"),
    "a negative size": (wrong_view((-4,), (1,)), "impossible shape"),
    "strides of another number": (wrong_view((2, 2), (1,)), "impossible shape"),
    "a huge size": (wrong_view((1 << 60,), (0,)), "impossible shape"),
    "many dimensions": (wrong_view((1,) * 65, (1,) * 65), "impossible shape"),
    "an offset outside": (wrong_view((1,), (1,), 4), "outside of its storage"),
    "an empty tensor outside": (wrong_view((0,), (1,), 9), "outside of its storage"),
    "a size outside": (wrong_view((5,), (1,)), "outside of its storage"),
    "a stride outside": (wrong_view((2, 2), (3, 1)), "outside of its storage"),
    "a tensor that repeats an element": (wrong_view((1 << 40,), (0,)), "outside of its storage"),
    "a storage larger than its bytes": (wrong_view((5,), (1,), source=storage(count=5)), "ends within a tensor"),
    "a storage elsewhere": (wrong_view((4,), (1,), source=storage("../../etc/passwd")), "ends within a tensor"),
    "a storage of two formats": (
        wrong_view((1,), (1,), source=storage() + b"0" + storage(name="torch DoubleStorage", count=2)),
        "describes a storage in two ways",
    ),
    "a compressed archive": (compressed, "compressed or encrypted"),
    "two pickles of a name": (twice, "not as torch.save writes it"),
    "an entry that begins elsewhere": (far_header, "ends within a tensor"),
    "a program": (lambda file: archive(file, under(number(1)), None, **{"constants.pkl": b""}), "TorchScript"),
    "the other byte order": (lambda file: archive(file, under(number(1)), byteorder=b"big"), "byte order"),
    "deep lists": (pickled(b"]" * 100_000 + b"a" * 99_999), "nests deeper than 32 levels"),
    "a list in itself": (pickled(b"]q\x00h\x00a"), "nests deeper than 32 levels"),
    "lists that double": (pickled(b"]q\x000" + b"](h\x00h\x00eq\x000" * 25 + b"h\x00"), "more than 20,000 values"),
    "many tensors in a storage": (many_views, "4 times its size"),
    "copies of a long list": (
        pickled(b"](" + b"K\x01K\x01\x86" * 2000 + b"eq\x010" + b"ccollections\nOrderedDict\n(h\x01tR0" * 5000 + b"N"),
        "steps",
    ),
    "an empty stack": (pickled(b"000"), "cut or wrong"),
    "no end": (lambda file: archive(file, b"\x80\x02}"), "cut or wrong"),
    "a length beyond the file": (pickled(b"\x8d" + struct.pack("<Q", 1 << 62)), "cut or wrong"),
    "a number of thousands of digits": (pickled(b"L" + b"9" * 10_000 + b"L\n"), "cut or wrong"),
    "an older file with a storage of its own": (
        lambda file: older(file, under(tensor((4,), (1,))), ["0", "1"], struct.pack("<q", 4) + bytes(16)),
        "ends within a tensor",
    ),
    "an older file that is cut": (
        lambda file: older(file, under(tensor((4,), (1,))), ["0"], struct.pack("<q", 4) + bytes(15)),
        "ends within a tensor",
    ),
    "an older file with a negative length": (
        lambda file: older(file, under(tensor((4,), (1,))), ["0"], struct.pack("<q", -4) + bytes(16)),
        "ends within a tensor",
    ),
    "an older file of the other byte order": (lambda f: older(f, under(number(1)), [], b"", False), "byte order"),
    "another program's pickle": (lambda f: _written(f, pickle.dumps({"a": 1}, 2)), "torch.save wrote"),
    "no pickle": (lambda f: _written(f, b"ustar, or what you like"), "torch.save wrote"),
    "nothing": (lambda f: _written(f, b""), "is empty"),
}


def _written(file: Path, content: bytes) -> Path:
    file.write_bytes(content)
    return file


@pytest.mark.parametrize("name", INERT)
def test_a_malicious_file_is_inert(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    copyreg.add_extension(__name__, "Made", 1) if "copyreg" in name else None
    try:
        file = INERT[name](tmp_path / "file.pt")
        SPRUNG.clear()  # of making the file
        sys.modules.pop("this", None)
        assert TorchFile(file).read() == {}
    finally:
        copyreg.remove_extension(__name__, "Made", 1) if "copyreg" in name else None
    assert "this" not in sys.modules
    assert [entry.name for entry in tmp_path.iterdir()] == ["file.pt"]


@pytest.mark.parametrize("name", REFUSED)
def test_a_malicious_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    make, reason = REFUSED[name]
    monkeypatch.setattr(pickles, "_STEPS", 500_000)
    monkeypatch.setattr(torch_files, "_VALUES", 20_000)
    with pytest.raises(CheckpointError, match=reason) as caught:
        TorchFile(make(tmp_path / "file.pt")).read()
    assert str(caught.value).startswith(f"{tmp_path / 'file.pt'} ")
    assert str(caught.value).endswith(".")


def test_traps_spring_where_a_pickle_is_loaded() -> None:
    """The control of the tests above: pickle itself runs what they hold."""
    pickle.loads(pickle.dumps(Calls(spring, "x")))
    pickle.loads(pickle.dumps(Nested(x=1)))
    pickle.loads(b"\x80\x02c" + HERE + b"\nMade\n)\x81.")
    assert SPRUNG == ["called", "given state", "made"]
    SPRUNG.clear()


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_damage_is_a_sentence(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Whatever bytes change, the answer is values or a CheckpointError."""
    zipped = data.draw(st.booleans())
    content = bytearray(_WHOLE[zipped])
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    cut = content[: data.draw(st.integers(1, len(content)))] if data.draw(st.booleans()) else content
    file = tmp_path_factory.getbasetemp() / "damaged.pt"
    file.write_bytes(cut)
    with contextlib.suppress(CheckpointError):
        TorchFile(file).read()


def _whole(zipped: bool) -> bytes:
    buffer = io.BytesIO()
    torch.save({"m": state(), "args": argparse.Namespace(a=1)}, buffer, _use_new_zipfile_serialization=zipped)
    return buffer.getvalue()


_WHOLE = {zipped: _whole(zipped) for zipped in (True, False)}
