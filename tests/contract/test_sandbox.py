"""A program that a model wrote reaches nothing outside of its sandbox, and cannot make the verdict on itself.

An attack defines `attack`, which returns "done" where it works. In the sandbox it has to fail; the control runs it in a
plain Python process, where it works. A forgery is a wrong program that a plain check in one process takes for right.
"""

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from unmask.errors import RequestError, RunError
from unmask.tasks import sandbox
from unmask.tasks.sandbox import Outcome, Program, run_programs

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="programs are isolated on Linux alone")

RIGHT = "def double(x):\n    return 2 * x\n"
TESTS = "assert double(2) == 4\nassert double('ab') == 'abab'\nassert len(double([1])) == 2\n"
ROOT = os.geteuid() == 0


def outcome(source: str, tests: str = TESTS, name: str = "double", seconds: int = 5) -> Outcome:
    return run_programs([Program(source, tests, (name,))], seconds)[0]


class Outside(NamedTuple):
    """What an attack may look for: it is there for every process of the user."""

    folder: Path
    words: dict[str, str | int]
    """What the names in braces in the source of an attack stand for."""
    descriptor: int


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Outside]:
    (tmp_path / "secret").write_text("secret")
    descriptor = os.open(tmp_path / "secret", os.O_RDONLY)
    os.set_inheritable(descriptor, True)
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket(socket.AF_UNIX) as named:
        named.bind(f"\0unmask-{os.getpid()}")
        named.listen()
        port, process = listener.getsockname()[1], os.getpid()
        yield Outside(tmp_path, {"FOLDER": str(tmp_path), "PORT": port, "PROCESS": process}, descriptor)
    os.close(descriptor)


LIBC = "import ctypes; libc = ctypes.CDLL(None); return 'done' if libc."
SOCKET = "import socket; socket"
DAEMON = "import os\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n        while True: pass"
THREADS = "import threading\nfor n in range(9): threading.Thread(target=int).start()\nreturn 'done'"
BYTECODE = """import os
folder = os.path.dirname(os.__file__) + '/site-packages'
os.makedirs(folder, exist_ok=True)
open(folder + '/sitecustomize.py', 'w').write('x')"""
INHERITED = """import os
for n in range(3, 64):
    try:
        if os.pread(n, 6, 0) == b'secret': return 'done'
    except OSError: pass"""
SEARCH = """import gc, sys
frame, texts = sys._getframe(), [text for o in gc.get_objects() for text in (o if type(o) is list else [])]
while frame: texts, frame = [*texts, *frame.f_locals.values(), *frame.f_globals.values()], frame.f_back
return 'done' if any('nee' + 'dle' in str(text) for text in texts if isinstance(text, str | dict)) else ''"""
ATTACKS: dict[str, tuple[str, bool, str]] = {  # name: (the attack, whether the control is run, parts of the reason)
    "read the accounts": ("return 'done' if open('/etc/passwd').read() else ''", True, "FileNotFound"),
    "read a file of the user": ("return 'done' if open('{FOLDER}/secret').read() else ''", True, "FileNotFound"),
    "look at the root folder": ("import os; return 'done' if 'etc' in os.listdir('/') else ''", True, ""),
    "look at the processes": ("import os; return 'done' if os.listdir('/proc') else ''", True, "FileNotFound"),
    "write outside": ("open('{FOLDER}/new', 'w').write('x'); return 'done'", True, "FileNotFound"),
    "write into the root folder": ("open('/new', 'w').write('x'); return 'done'", False, "OSError|Permission"),
    "follow a link": ("import os; os.symlink('{FOLDER}', 'l'); open('l/secret'); return 'done'", True, "FileNotFound"),
    "climb out of the folder": ("open('../' * 20 + '{FOLDER}/secret'); return 'done'", True, "FileNotFound"),
    "delete a file": ("import os; os.remove('{FOLDER}/secret'); return 'done'", True, "FileNotFound"),
    "change the library": ("import os; open(os.__file__, 'a').write(' ')", False, "OSError|Permission"),
    "leave bytecode": (BYTECODE, False, "OSError|Permission"),
    "write into shared memory": ("open('/dev/shm/unmask', 'w')", False, "FileNotFound"),
    "connect to loopback": (
        f"{SOCKET}.create_connection(('127.0.0.1', {{PORT}}), 2); return 'done'",
        True,
        "Permission",
    ),
    "connect to a name": (f"{SOCKET}.socket(1).connect('\\0unmask-{{PROCESS}}'); return 'done'", True, "Permission"),
    "connect to the machine below": ("import socket; socket.socket(40, 1).connect((2, 1))", False, "Permission"),
    "ask for an address": ("import socket; return 'done' if socket.gethostbyname('localhost') else ''", True, ""),
    "signal a process": ("import os; os.kill({PROCESS}, 0); return 'done'", True, "ProcessLookup"),
    "kill every process": ("import os; os.kill(-1, 9); return 'done'", False, "ProcessLookup"),
    "kill its group of processes": ("import os; os.kill(0, 9)", False, ""),
    "read the memory of a process": ("return 'done' if open('/proc/{PROCESS}/maps') else ''", ROOT, "FileNotFound"),
    "be traced": (LIBC + "ptrace(0, 0, 0, 0) == 0 else ''", True, ""),
    "read the environment": ("import os; return 'done' if 'PATH' in os.environ else ''", True, ""),
    "read an inherited file": (INHERITED, True, ""),
    "become root": ("import os; os.setuid(0); return 'done'", ROOT, "Permission|Invalid"),
    "mount": (LIBC + "mount(b'none', b'/work', b'tmpfs', 0, None) == 0 else ''", False, ""),
    "change the root folder": ("import os; os.chroot('.'); return 'done'", ROOT, "Permission"),
    "make a user namespace": (LIBC + "unshare(0x10000000) == 0 else ''", False, ""),
    "fork": ("import os; return 'done' if os.fork() >= 0 else ''", True, "Permission"),
    "fork without end": ("import os\nwhile True: os.fork()", False, "Permission"),
    "leave a daemon": (DAEMON, False, "Permission"),
    "run another program": ("import subprocess; subprocess.run(['true']); return 'done'", True, "Error"),
    "become another program": ("import os; os.execv('/bin/true', ['true'])", False, "Permission"),
    "start threads": (THREADS, True, "new thread"),
    "take shared memory": (LIBC + "shmget(0, 1 << 20, 0o1600) >= 0 else ''", False, ""),
    "take memory as a file": ("import os; return 'done' if os.memfd_create('x') else ''", True, "Permission"),
    "write a huge file": ("open('f', 'wb').write(b'x' * (1 << 22)); return 'done'", True, "File too large"),
    "fill the folder": ("for n in range(20): open(f'{n}', 'wb').write(b'x' * 2**19)\nreturn 'done'", True, "No space"),
    "write many files": ("for n in range(500): open(str(n), 'w')\nreturn 'done'", True, "No space left"),
    "open many files": ("f = [open('f', 'w') for n in range(100)]; return 'done'", True, "Too many open files"),
    "import what is installed": ("import numpy; return 'done'", True, "ModuleNotFound"),
    "import this library": ("import unmask; return 'done'", True, "ModuleNotFound"),
    "find the tests in memory": (SEARCH, True, ""),
}


def attack(name: str, words: dict[str, str | int]) -> str:
    """The source of an attack."""
    body = ATTACKS[name][0]
    for word, value in words.items():
        body = body.replace("{" + word + "}", str(value))
    return "def attack():\n" + "".join(f"    {line}\n" for line in body.splitlines())


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_fails(name: str, outside: Outside) -> None:
    status, why, _ = outcome(attack(name, outside.words), "assert attack() == 'done', 'needle'\n", "attack")
    assert status == "failed"
    assert any(part in why for part in ATTACKS[name][2].split("|"))
    assert (outside.folder / "secret").read_text() == "secret"
    assert outcome(RIGHT).status == "passed"  # it left nothing that harms the next


@pytest.mark.parametrize("name", [name for name, (_, control, _) in ATTACKS.items() if control])
def test_control_the_attack_works_in_a_plain_process(name: str, outside: Outside, tmp_path: Path) -> None:
    command = attack(name, outside.words) + "tests = 'needle'\nprint(attack(), flush=True)"
    done = subprocess.run(
        [sys.executable, "-c", command],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        pass_fds=[outside.descriptor],
        timeout=60,
    )
    assert done.stdout.startswith("done"), done.stderr


@pytest.mark.parametrize(
    "body, why",
    [
        ("while True: pass", "s of processor time"),
        pytest.param("return 9 ** 9 ** 9", "s of processor time", marks=pytest.mark.slow),
        pytest.param("import time; time.sleep(60)", "took more than 3 s", marks=pytest.mark.slow),
        pytest.param(
            "import signal\n for n in (15, 24): signal.signal(n, 1)\n while True: pass", "", marks=pytest.mark.slow
        ),
    ],
)
def test_a_program_without_end_is_ended(body: str, why: str) -> None:
    result = outcome(f"def double(x):\n {body}\n", seconds=1)
    assert result.status == "timeout"
    assert why in result.why or "took more than 3 s" in result.why  # on a machine with other work


@pytest.mark.parametrize(
    "body, status, why",
    [
        ("return bytearray(1 << 30)", "memory", "more memory"),
        ("x = [0]\n while True: x += x", "memory", "more memory"),
        ("def f(): f()\n f()", "failed", "RecursionError"),
        ("import ctypes; ctypes.string_at(0)", "failed", "signal 11"),
        ("import os; os.abort()", "failed", "ended"),
        ("import os; os._exit(0)", "failed", "ended with code 0"),
        ("import os; os.closerange(0, 99)\n while True: pass", "failed", "nothing that the tests can read"),
        ("return 'x' * (70 << 20)", "failed", "nothing that the tests can read"),
        ("print('x' * 5_000_000); return 2 * x", "failed", "File too large"),
        ("x = []\n for n in range(10**5): x = [x]\n return x", "failed", "RecursionError"),
        ("raise KeyboardInterrupt", "failed", "KeyboardInterrupt"),
    ],
)
def test_a_program_beyond_its_limits_is_ended(body: str, status: str, why: str) -> None:
    result = outcome(f"def double(x):\n {body}\n")
    assert result.status == status
    assert why in result.why
    assert outcome(RIGHT) == ("passed", "", "")


FORGERIES = {
    "exit": "import os\nos._exit(0)",
    "system exit": "import sys\nsys.exit(0)",
    "system exit in a call": "def double(x): raise SystemExit(0)",
    "exit at the end": "import atexit, os\natexit.register(os._exit, 0)\ndef double(x): return 0",
    "exit in the destructor": (
        "import os\nclass A:\n    def __del__(self): os._exit(0)\ndef double(x):\n    A()\n    return 0"
    ),
    "equal to all": (
        "class A:\n    def __eq__(self, other): return True\n    def __len__(self): return 2\ndef double(x): return A()"
    ),
    "a number that equals all": (
        "class A(int):\n    def __eq__(self, other): return True\n    def __len__(self): return 2\n"
        "def double(x): return A()"
    ),
    "a dictionary that equals all": (
        "class A(dict):\n    def __eq__(self, other): return True\n    def __len__(self): return 2\n"
        "def double(x): return A()"
    ),
    "other builtins": (
        "import builtins\nclass A:\n    def __eq__(self, other): return True\n"
        "builtins.double = None\nbuiltins.len = lambda x: A()\ndef double(x): return 4 if x == 2 else 'abab'"
    ),
    "own names": (
        "class A:\n    def __eq__(self, other): return True\n"
        "def len(x): return A()\ndef double(x): return 4 if x == 2 else 'abab'"
    ),
    "assertions that do not fail": (
        "import sys\ndef trace(frame, event, argument):\n"
        "    if frame.f_code.co_filename != __file__ and event == 'exception': __import__('os')._exit(0)\n"
        "    return trace\n"
        "sys.settrace(trace)\nsys._getframe().f_trace = trace\ndef double(x): return 0"
    ),
    "a hook for errors": "import sys, os\nsys.excepthook = lambda *error: os._exit(0)\ndef double(x): return 0",
    "a verdict on the output": (
        "print('passed')\nimport sys\nprint('{\"status\": \"passed\"}', file=sys.stderr)\nsys.stdout.flush()\n"
        "import os\nos._exit(0)"
    ),
    "a verdict on every descriptor": (
        "import os\nfor n in range(3, 64):\n    try: os.pwrite(n, b'{\"status\": \"passed\", \"why\": \"\"}', 0)\n"
        "    except OSError: pass\nprint('passed')\nos._exit(0)"
    ),
    "the check replaced": (
        "import sys\nframe = sys._getframe()\nwhile frame:\n    for name in ('verdict', 'check', 'tests'):\n"
        "        if name in frame.f_globals: frame.f_globals[name] = {'status': 'passed'}\n    frame = frame.f_back\n"
        "__import__('os')._exit(0)"
    ),
}  # fmt: skip
PLAIN = """
import sys
program, tests = sys.argv[1:]
names = {"__name__": "program", "__file__": "program"}
exec(compile(program, "program", "exec"), names)
exec(compile(tests, "tests", "exec"), names)
"""


@pytest.mark.parametrize("name", FORGERIES)
def test_a_verdict_cannot_be_forged(name: str) -> None:
    assert outcome(FORGERIES[name]).status == "failed"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", PLAIN, FORGERIES[name], TESTS], capture_output=True)
    assert done.returncode == 0, "control: a check in the process of the program takes it for right"


replies = [b"", b"{}", b"[1]", b'{"value": 4}', b'{"value": {"object": [0, 1]}}', b'{"value": {"set": 5}}', b"nonsense"]
replies += [b'{"value": {"int": "x"}}', b'{"value": {"a": 1, "b": 2}}', b'{"error": 1}', b'{"value": {"set": [[1]]}}']
replies += [b'{"error": "Gone", "message": ""}', b"\xff", b'{"value": {"type": "exec"}}']


@pytest.mark.parametrize("reply", [*replies, None])
def test_messages_that_the_program_writes_itself_do_not_pass(reply: bytes | None) -> None:
    """The program writes to its connection: answers in advance, and no answers; a message of 2**60 bytes."""
    data = None if reply is None else len(reply).to_bytes(8, "little") + reply
    data = (1 << 60).to_bytes(8, "little") if data is None else data
    source = f"import os\nfor n in range(3, 64):\n  try: os.write(n, {data!r} * 3)\n  except OSError: pass\n" + RIGHT
    assert outcome(source).status == "failed"


def test_plain_values_pass_both_ways() -> None:
    values = [None, True, 1, -(10**40), 1.5, "ä\ud800\0", b"\xff", 1j, [1, [2]], (1, (2,)), {1: 2, "a": [()]}]
    values += [{1, (2, 3)}, frozenset({1}), range(1, 9, 2)]
    tests = "".join(f"v = {value!r}\nassert same(v) == v and type(same(v)) is type(v)\n" for value in values)
    tests += "assert same(int) is int and same([str]) == [str]\n"
    tests += "assert same(1e999) == 1e999\nv = same(1e999 - 1e999)\nassert v != v\n"
    tests += "assert list(numbers(3)) == [0, 1, 2]\nassert keys() == ({'a': 1}.keys(), {'a': 1}.items())\n"
    tests += "try: fail()\nexcept KeyError as error: assert 'no' in str(error)\nelse: assert 0\n"
    tests += "try: fail_by_own_error()\nexcept RuntimeError as error: assert str(error) == 'Own: so'\nelse: assert 0\n"
    tests += "node = Node(1)\nnode.next = Node(2)\nassert total(node) == 3 and node.next.value == 2 and node\n"
    source = (
        "def same(x): return x\ndef numbers(n): yield from range(n)\n"
        "def keys(): return {'a': 1}.keys(), {'a': 1}.items()\n"
        "def fail(): raise KeyError('no')\nclass Own(Exception): pass\ndef fail_by_own_error(): raise Own('so')\n"
        "class Node:\n    def __init__(self, value): self.value, self.next = value, None\n"
        "def total(n): return n.value + total(n.next) if n else 0\n"
    )
    names = ("same", "numbers", "keys", "fail", "fail_by_own_error", "Node", "total")
    assert run_programs([Program(source, tests, names)])[0] == ("passed", "", "")
    for test in ("assert Node(1) == Node(1)", "assert Node(1) in [1]", "same(print)", "assert same(2) == 3, 'so'"):
        assert run_programs([Program(source, test, names)])[0].status == "failed"


def test_output_is_kept_short_and_may_be_anything() -> None:
    text = outcome("import os\nos.write(1, b'\\0\\xff')\nprint('\\x1b[2J' + 'ä' * 3000)\n" + RIGHT).output
    assert text.startswith("\0\ufffd\x1b[2J")
    assert len(text) == 2000
    assert outcome("import sys, os\nsys.stdout.close()\nos.close(1)\n" + RIGHT).status == "passed"


def test_a_program_has_the_same_verdict_each_time_and_leaves_nothing() -> None:
    source = (
        "import os, random\ndef double(x):\n    open('left', 'x').close()\n"
        "    return [random.random(), hash('a'), list({'a', 'b', 'c', 'd'}), os.getpid(), sorted(os.listdir('.'))]\n"
    )
    results = run_programs([Program(source, "assert 0, double(1)", ("double",))] * 8)
    assert len(set(results)) == 1
    tests = "import random\nassert random.random() == 0, str(random.random())"
    assert len(set(run_programs([Program(RIGHT, tests, ())] * 8))) == 1


def test_many_programs_keep_their_order() -> None:
    programs = [Program(f"def f(): return {n % 3}", "assert f() == 1", ("f",)) for n in range(30)]
    assert [result.status == "passed" for result in run_programs(programs)] == [n % 3 == 1 for n in range(30)]
    assert run_programs([]) == []


def test_no_process_is_left() -> None:
    """Neither after the servers are closed, nor after one was killed, which the next call survives."""
    outcome(RIGHT)
    server = sandbox._servers[0].process
    server.kill()
    server.wait()
    with pytest.raises(RunError, match="run the command again"):
        outcome(RIGHT)
    assert outcome(RIGHT).status == "passed"
    children = [server.process.pid for server in sandbox._servers]
    sandbox._end()
    assert not any(Path(f"/proc/{child}").exists() for child in children)


def test_two_threads_share_the_servers() -> None:
    results: list[Outcome] = []
    threads = [threading.Thread(target=lambda: results.append(outcome(RIGHT))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [result.status for result in results] == ["passed"] * 4


def test_a_fork_has_servers_of_its_own() -> None:
    outcome(RIGHT)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = 0 if outcome(RIGHT).status == "passed" else 1
            sandbox._end()
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    assert outcome(RIGHT).status == "passed"


def test_a_user_namespace_isolates_without_the_rights_of_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begin = (
        "import ctypes, os, sys\nctypes.CDLL(None).prctl(24, 21, 0, 0, 0)  # no CAP_SYS_ADMIN from the next line on\n"
        f"os.execv(sys.executable, [sys.executable, '-s', '-S', '-P', '-B', {str(sandbox._SCRIPT)!r}, sys.argv[1]])\n"
    )
    (tmp_path / "server.py").write_text(begin)
    sandbox._end()
    with monkeypatch.context() as patch:
        patch.setattr(sandbox, "_SCRIPT", tmp_path / "server.py")
        assert outcome(RIGHT).status == "passed"
        look = "import os\ndef look(): return os.getuid(), sorted(os.listdir('/'))[-1], os.path.exists('/etc')\n"
        assert outcome(look, "assert look() == (65534, 'work', False)", "look") == ("passed", "", "")
        for name in (
            "fork",
            "mount",
            "kill every process",
            "kill its group of processes",
            "change the library",
            "become root",
            "connect to loopback",
        ):
            assert outcome(attack(name, {"PORT": 1}), "assert attack() == 'done'", "attack").status == "failed"
        status = "def status(): return open('/proc/self/status').read()"
        assert "FileNotFoundError" in outcome(status, "status()", "status").why
        sandbox._end()
    assert outcome(RIGHT).status == "passed"


def test_without_isolation_nothing_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refusing = 'import socket, sys\nsocket.socket(fileno=int(sys.argv[1])).send(b\'{"refused": "unshare: no"}\')\n'
    (tmp_path / "server.py").write_text(refusing)
    sandbox._end()
    monkeypatch.setattr(sandbox, "_SCRIPT", tmp_path / "server.py")
    with pytest.raises(RequestError) as caught:
        outcome(RIGHT)
    assert str(caught.value) == (
        "Programs cannot be isolated on this system (unshare: no), so none is run: use Linux, where user namespaces "
        "are allowed or as root with the right to make namespaces (in a container: the capability SYS_ADMIN)."
    )
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(RequestError, match="it is darwin"):
        outcome(RIGHT)
