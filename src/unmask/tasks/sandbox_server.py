"""The process that isolates programs for `tasks.sandbox`: a script of the standard library alone, never imported.

It enters namespaces of its own, in which there is no network, no process of the system and no file but those of the
standard library, read-only. For each request it forks a checker, and the checker forks the program:

    server    keeps the rights to make namespaces; runs nothing of a request
    checker   first process of a new process namespace; runs the tests, see `sandbox_check`
    program   first process of another, inside of the checker's; runs the program, and never holds the tests

Checker and program give up every right before they run anything, and share no memory. When the checker ends or is
killed, the kernel ends every process in its namespace. What one request wrote is gone before the next.
"""

__all__ = ["main"]

import ctypes
import errno
import json
import os
import platform
import resource
import select
import signal
import socket
import struct
import sys
from functools import cache
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

_NEW = {"NS": 0x20000, "UTS": 0x4000000, "IPC": 0x8000000, "USER": 0x10000000, "PID": 0x20000000, "NET": 0x40000000}
_READ_ONLY, _NOSUID, _NODEV, _NOEXEC, _REMOUNT, _BIND, _REC, _PRIVATE = 1, 2, 4, 8, 32, 4096, 16384, 1 << 18
_NOATIME, _NODIRATIME, _DETACH = 1024, 2048, 2
_NOBODY = 65534
_FOLDER = "/work"
"""The folder of the program, in memory, new for each."""
_libc = ctypes.CDLL(None, use_errno=True)

# The machine in the notation of the kernel, the number of pivot_root, and the system calls that no program needs: they
# make processes, sockets or memory outside of the limits of a process, or began escapes from containers.
_CALLS = {
    "x86_64": (0xC000003E, 155, (
        56, 57, 58, 435, 59, 322, 41,  # clone fork vfork clone3 execve execveat socket
        29, 64, 68, 240, 319, 447, 248, 249, 250,  # shmget semget msgget mq_open memfd_create memfd_secret, keys
        101, 310, 311, 312, 434, 438, 424,  # ptrace process_vm_readv process_vm_writev kcmp, handles of processes
        165, 166, 155, 161, 272, 308, 304, 428, 429, 430, 431, 432, 433, 442,  # mounts, chroot, namespaces
        321, 298, 323, 425, 426, 427, 300, 175, 313, 246, 320, 154, 135, 139,  # bpf perf io_uring modules kexec ...
    )),
    "aarch64": (0xC00000B7, 41, (
        220, 435, 221, 281, 198,
        194, 190, 186, 180, 279, 447, 217, 218, 219,
        117, 270, 271, 272, 434, 438, 424,
        40, 39, 41, 51, 97, 268, 265, 428, 429, 430, 431, 432, 433, 442,
        280, 241, 282, 425, 426, 427, 262, 105, 273, 104, 294, 92,
    )),
}  # fmt: skip


def _call(name: str, *arguments: int | str | bytes | None) -> None:
    """Call a function of the C library. Raises OSError where its result is negative."""
    values = [value.encode() if isinstance(value, str) else value for value in arguments]
    if getattr(_libc, name)(*(ctypes.c_long(value) if isinstance(value, int) else value for value in values)) < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{name}: {os.strerror(code)}")


# ---- isolation -------------------------------------------------------------------------------------------------------


def _enter_namespaces() -> None:
    """Leave the namespaces of the system: with the rights of root where they are there, else in a user namespace."""
    flags = _NEW["NS"] | _NEW["PID"] | _NEW["NET"] | _NEW["IPC"] | _NEW["UTS"]
    user, group = os.geteuid(), os.getegid()
    try:
        _call("unshare", flags)
    except OSError as error:
        if error.errno != errno.EPERM:
            raise
        _call("unshare", flags | _NEW["USER"])
        maps = {"setgroups": "deny", "uid_map": f"{_NOBODY} {user} 1", "gid_map": f"{_NOBODY} {group} 1"}
        for name, text in maps.items():
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)


def _enter_root(stdlib: str, root: str = "/tmp") -> None:
    """Make a file system of the standard library, read-only, and an empty folder; nothing else can be named any more.

    `root` is a folder to mount on; outside of this namespace it stays what it was.
    """
    source = os.open(stdlib, os.O_PATH)  # it may lie in `root`
    _call("mount", None, "/", None, _REC | _PRIVATE, None)
    _call("mount", "none", root, "tmpfs", _NOSUID | _NODEV, "size=1m,mode=755")
    library = root + stdlib
    os.makedirs(library, 0o755)
    os.mkdir(root + _FOLDER, 0o755)
    _call("mount", f"/proc/self/fd/{source}", library, None, _BIND | _REC, None)
    kept = os.statvfs(library).f_flag & (_NOEXEC | _NOATIME | _NODIRATIME)  # a user namespace may not take them off
    _call("mount", None, library, None, _BIND | _REMOUNT | _READ_ONLY | _NOSUID | _NODEV | kept, None)
    for name in ("site-packages", "dist-packages"):
        if os.path.isdir(f"{library}/{name}"):
            _call("mount", "none", f"{library}/{name}", "tmpfs", _READ_ONLY | _NOSUID | _NODEV, "size=4k,mode=755")
    os.close(source)
    os.chdir(root)
    _call("syscall", _CALLS[platform.machine()][1], ".", ".")  # pivot_root
    _call("umount2", ".", _DETACH)
    os.chdir("/")
    _call("mount", None, "/", None, _BIND | _REMOUNT | _READ_ONLY | _NOSUID | _NODEV, None)


def _give_up_rights(limits: dict[str, int]) -> None:
    """Become nobody, without capabilities, within limits, without the forbidden system calls; there is no way back."""
    os.setsid()  # a signal to the own group of processes reaches nobody else
    if os.geteuid() != _NOBODY:
        os.setgroups([])
        os.setresgid(_NOBODY, _NOBODY, _NOBODY)
        os.setresuid(_NOBODY, _NOBODY, _NOBODY)
    _call("capset", struct.pack("=Ii", 0x20080522, 0), bytes(24))
    most = {
        resource.RLIMIT_CPU: limits["seconds"],
        resource.RLIMIT_AS: limits["memory"],
        resource.RLIMIT_FSIZE: limits["file"],
        resource.RLIMIT_NOFILE: 32,
        resource.RLIMIT_NPROC: 1,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_MEMLOCK: 0,
        12: 0,  # RLIMIT_MSGQUEUE
    }
    for limit, value in most.items():
        resource.setrlimit(limit, (value, value))
    _call("prctl", 4, 0, 0, 0, 0)  # PR_SET_DUMPABLE: no process may trace this one
    _call("prctl", 38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
    header = struct.pack("@HP", len(_filter()) // 8, ctypes.addressof(_filter()))
    _call("prctl", 22, 2, header, 0, 0)  # PR_SET_SECCOMP


@cache
def _filter() -> ctypes.Array[ctypes.c_char]:
    """The program of the kernel's filter (seccomp) that refuses the forbidden system calls with EPERM."""
    machine, _, numbers = _CALLS[platform.machine()]
    count = len(numbers)  # a jump counts from the next statement; the last one refuses, and the one before it allows
    statements = [(0x20, 0, 0, 4), (0x15, 0, count + 3, machine)]  # the machine has to be this one
    statements += [(0x20, 0, 0, 0), (0x35, count + 1, 0, 1 << 30)]  # the number; from 2**30 there is another table
    statements += [(0x15, count - at, 0, number) for at, number in enumerate(numbers)]
    statements += [(0x06, 0, 0, 0x7FFF0000), (0x06, 0, 0, 0x00050000 | errno.EPERM)]
    code = b"".join(struct.pack("=HBBI", *statement) for statement in statements)
    return (ctypes.c_char * len(code)).from_buffer_copy(code)


def _close_all_but(*kept: int) -> None:
    """Close every file descriptor but these and the standard ones."""
    last = 2
    for number in sorted(kept):
        os.closerange(last + 1, number)
        last = number
    os.closerange(last + 1, 1 << 20)


# ---- requests --------------------------------------------------------------------------------------------------------


def _read(descriptor: int) -> str:
    """The text of a file in memory, wherever it was read last."""
    data = os.pread(descriptor, os.fstat(descriptor).st_size, 0)
    return data.decode("utf-8", "surrogatepass")


def _checker(check: Any, files: list[int], limits: dict[str, int]) -> None:
    """Fork the program into a process namespace of its own, check it, and write the verdict.

    `files` are descriptors of files in memory: the program, its tests, and what becomes the verdict and the output.
    """
    program, job, verdict, output = files
    here, there = (end.detach() for end in socket.socketpair())
    _call("unshare", _NEW["PID"])
    child = os.fork()
    if child == 0:
        source, refusal = _read(program), ""
        os.dup2(output, 1)
        os.dup2(output, 2)
        _close_all_but(there)
        try:
            os.chdir(_FOLDER)
            _give_up_rights(limits)
        except OSError as error:
            refusal = error.strerror
        check.send(there, refusal)
        if not refusal:
            check.run_program(there, source)
    _close_all_but(here, job, verdict)
    _give_up_rights(limits)
    if refusal := check.received(here):
        raise OSError(0, refusal)
    result = check.verdict(here, child, json.loads(_read(job)), limits["seconds"])
    os.write(verdict, json.dumps(result).encode())


def _answer(control: socket.socket, own: int, check: Any, files: list[int], limits: dict[str, int]) -> dict[str, Any]:
    """A request -> how its checker ended: its exit code, its processor time, and whether it was killed for being late.

    `own` is a descriptor of the process namespace of the server.
    """
    options = f"size={limits['folder']},nr_inodes=256,mode=777"
    _call("mount", "none", _FOLDER, "tmpfs", _NOSUID | _NODEV | _NOEXEC, options)
    _call("unshare", _NEW["PID"])
    child = os.fork()
    if child == 0:
        try:
            _checker(check, files, limits)
        except OSError as error:
            os.write(files[2], json.dumps({"refused": error.strerror}).encode())
        finally:
            os._exit(0)
    _call("setns", own, _NEW["PID"])
    handle = os.pidfd_open(child)
    poll = select.poll()
    poll.register(handle, select.POLLIN)
    poll.register(control, select.POLLHUP)  # the library has ended
    late = all(number != handle for number, _ in poll.poll(1000 * limits["elapsed"]))
    if late:
        os.kill(child, signal.SIGKILL)
    _, status, usage = os.wait4(child, 0)
    os.close(handle)
    _call("umount2", _FOLDER, _DETACH)
    used = usage.ru_utime + usage.ru_stime
    return {"late": late, "code": os.waitstatus_to_exitcode(status), "used": used}


def _serve(control: socket.socket, own: int, check: Any) -> None:
    """Answer requests until the library closes the connection."""
    while True:
        data, files, _, _ = socket.recv_fds(control, 4096, 4)
        if not data:
            return
        try:
            answer = _answer(control, own, check, files, json.loads(data))
        except OSError as error:
            answer = {"refused": error.strerror}
        control.send(json.dumps(answer).encode())
        for file in files:
            os.close(file)


def main() -> None:
    """Enter the namespaces, say so or why not, and serve."""
    control = socket.socket(fileno=int(sys.argv[1]))
    os.environ.clear()
    os.umask(0)
    try:
        if platform.machine() not in _CALLS:
            raise OSError(0, f"the numbers of the system calls of {platform.machine()} are not known")
        spec = spec_from_file_location("sandbox_check", Path(__file__).with_name("sandbox_check.py"))
        assert spec is not None
        assert spec.loader is not None
        check = module_from_spec(spec)
        spec.loader.exec_module(check)
        _filter()  # once, before the first fork
        _enter_namespaces()
        if child := os.fork():
            control.close()
            os.wait4(child, 0)
            return
        _call("prctl", 1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG: it ends with its parent
        own = os.open("/proc/self/ns/pid", os.O_RDONLY)
        _enter_root(os.path.dirname(os.__file__))
    except OSError as error:
        control.send(json.dumps({"refused": error.strerror}).encode())
        return
    control.send(b"{}")
    _serve(control, own, check)


if __name__ == "__main__":
    main()
