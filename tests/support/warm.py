"""Python processes that start warm: forked from one that has imported PyTorch, FAISS, timm and ourselves already.

A process of its own is what most tests of commands want: its exit code, its streams, its folder, its death by a
signal. The 0.4 to 6 s of imports at its start are not. `run` and `popen` take what `subprocess` takes and start
`python -m …`, `python -c …` or `python script`; the environment is the caller's. What a test says about imports,
the start itself or variables that are read at the start of a process needs a cold one: `subprocess`.

One server serves all workers of a run. It starts (conftest.py) without imports, does them at its first request and
ends with the run.
"""

from __future__ import annotations

import array
import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import types
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, NoReturn

PYTHON = "PYTHON_EXEC"  # the interpreter that torchrun starts; `server` sets it to one that starts warm
FORK = "SDC_TESTS_FORK"  # set, processes that a warm one spawns through multiprocessing are forked from it
SERVER = "SDC_TESTS_WARM"  # the environment variable with the server's socket, and the variables of its start
AT_START = (
    "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "LD_", "PYTHON", "TRITON_", "LC_", "LANG",
)  # fmt: skip  # what libraries set themselves when they are imported is not among them
IMPORTS = (
    "torch", "torch._dynamo", "torchvision", "timm", "faiss", "h5py", "scipy.linalg", "scipy.special", "scipy.stats",
    "PIL.Image", "matplotlib.pyplot", "safetensors.torch", "numpy.random", "rich.progress", "xxhash", "click",
    "sdc.cli", "sdc.api", "sdc.train.run", "sdc.extract.run", "sdc.extract.import_vectors", "sdc.retrieve.encode",
)  # fmt: skip


class Process:
    """What a `subprocess.Popen` of text is to its user."""

    def __init__(self, arguments: Sequence[str], connection: socket.socket, **streams: int | None) -> None:
        self.args, self.returncode, self._connection = arguments, None, connection
        self.stdin: IO[str] | None = _text(streams["stdin"], "w")
        self.stdout: IO[str] | None = _text(streams["stdout"], "r")
        self.stderr: IO[str] | None = _text(streams["stderr"], "r")
        self._answers = connection.makefile("r")
        self.pid = int(self._answers.readline())

    def poll(self) -> int | None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            if not select.select([self._connection], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(list(self.args), timeout or 0)
            self.returncode = int(self._answers.readline())
            self._answers.close()
            self._connection.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def communicate(self, input: str | None = None, timeout: float | None = None) -> tuple[str, str]:
        if self.stdin is not None:
            with contextlib.suppress(BrokenPipeError), self.stdin:
                self.stdin.write(input or "")
        texts = {}
        threads = []
        for name in ("stdout", "stderr"):
            stream = getattr(self, name)
            if stream is not None and not stream.closed:

                def read(name: str = name, stream: IO[str] = stream) -> None:
                    with stream:
                        texts[name] = stream.read()

                threads.append(threading.Thread(target=read, daemon=True))
                threads[-1].start()
        end = None if timeout is None else time.monotonic() + timeout
        for thread in threads:
            thread.join(None if end is None else max(0.0, end - time.monotonic()))
            if thread.is_alive():
                raise subprocess.TimeoutExpired(list(self.args), timeout or 0)
        self.wait(None if end is None else max(0.0, end - time.monotonic()))
        return texts.get("stdout", ""), texts.get("stderr", "")

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *error: object) -> None:
        for stream in (self.stdin, self.stdout, self.stderr):
            if stream is not None:
                stream.close()
        self.wait()


Started = Process | subprocess.Popen[str]


def popen(
    arguments: Sequence[object],
    cwd: str | os.PathLike[str] | None = None,
    env: dict[str, str] | None = None,
    stdin: Any = None,
    stdout: Any = None,
    stderr: Any = None,
    text: bool = True,
) -> Started:
    """`subprocess.Popen([sys.executable, *arguments], …)`, of text; a cold one where there is no server."""
    environment = dict(os.environ) if env is None else dict(env)
    arguments = [os.fspath(argument) if isinstance(argument, os.PathLike) else str(argument) for argument in arguments]
    address, started = json.loads(os.environ.get(SERVER, "[null, null]"))
    if address is None or _at_start(environment) != started:
        return subprocess.Popen(
            [sys.executable, *arguments], cwd=cwd, env=env, stdin=stdin, stdout=stdout, stderr=stderr, text=True
        )
    ours: dict[str, int | None] = {}
    theirs = {}
    for number, (name, stream) in enumerate({"stdin": stdin, "stdout": stdout, "stderr": stderr}.items()):
        ours[name] = None
        if stream == subprocess.PIPE:
            reading, writing = os.pipe()
            ours[name], theirs[name] = (writing, reading) if name == "stdin" else (reading, writing)
        elif stream == subprocess.DEVNULL:
            theirs[name] = os.open(os.devnull, os.O_RDWR)
        elif stream == subprocess.STDOUT:
            theirs[name] = os.dup(theirs["stdout"])
        else:
            theirs[name] = os.dup(number if stream is None else stream if isinstance(stream, int) else stream.fileno())
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(address)
        request = {"arguments": arguments, "cwd": os.fspath(cwd or os.getcwd()), "environment": environment}
        message = json.dumps(request).encode()
        fds = array.array("i", theirs.values())
        connection.sendmsg([len(message).to_bytes(8, "little")], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])
        connection.sendall(message)
    finally:
        for fd in theirs.values():
            os.close(fd)
    return Process([sys.executable, *arguments], connection, **ours)


def run(
    arguments: Sequence[object],
    capture_output: bool = False,
    check: bool = False,
    input: str | None = None,
    timeout: float | None = 600,
    **options: Any,
) -> subprocess.CompletedProcess[str]:
    """`subprocess.run([sys.executable, *arguments], …)`, of text."""
    options.setdefault("stdin", None if input is None else subprocess.PIPE)
    if capture_output:
        options |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = popen(arguments, **options)
    try:
        stdout, stderr = process.communicate(input, timeout)
    except BaseException:
        process.kill()
        raise
    done = subprocess.CompletedProcess(process.args, process.wait(), stdout, stderr)
    if check:
        done.check_returncode()
    return done


def stand_in() -> NoReturn:
    """Is `python`, of this process' arguments, for one that knows only how to start a program."""
    process = popen(sys.argv[1:])
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: process.send_signal(number))
    code = process.wait()
    if code < 0:
        if -code != signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


@contextlib.contextmanager
def server() -> Iterator[None]:
    """A server while this lasts, for this process and those it starts."""
    import tempfile

    if not hasattr(os, "pidfd_open"):  # not Linux: each process starts cold
        yield
        return
    with tempfile.TemporaryDirectory(prefix="warm-") as folder:
        address = str(Path(folder) / "socket")
        process = subprocess.Popen([sys.executable, __file__, address], stdin=subprocess.PIPE)
        while not Path(address).exists() and process.poll() is None:
            time.sleep(0.01)
        stand_in = Path(folder) / "python"
        stand_in.write_text(
            f"#!{sys.executable} -SE\nimport sys\nsys.path.insert(0, {os.path.dirname(__file__)!r})\n"
            "import warm\nwarm.stand_in()\n"
        )
        stand_in.chmod(0o755)
        os.environ[PYTHON] = str(stand_in)
        os.environ[SERVER] = json.dumps([address, _at_start(dict(os.environ))])
        try:
            yield
        finally:
            del os.environ[SERVER], os.environ[PYTHON]
            assert process.stdin is not None
            process.stdin.close()  # tells it to end
            process.wait()


def _text(fd: int | None, mode: str) -> IO[str] | None:
    return None if fd is None else open(fd, mode)


def _at_start(environment: dict[str, str]) -> dict[str, str]:
    ours = (SERVER, FORK, PYTHON)
    return {name: value for name, value in environment.items() if name.startswith(AT_START) and name not in ours}


# In the server.


def _serve(address: str) -> dict[str, Any]:
    """Answers requests; returns in a child alone, with its request."""
    import gc
    import importlib

    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address + ".new")
    listener.listen(64)
    os.rename(address + ".new", address)
    signal.signal(signal.SIGCHLD, _reap)
    ready = False
    while True:
        readable, _, _ = select.select([listener, 0], [], [])
        if 0 in readable:
            os._exit(0)
        connection, _ = listener.accept()
        if not ready:
            for name in IMPORTS:
                with contextlib.suppress(ImportError):  # it is for the process that needs it to say so
                    importlib.import_module(name)
            gc.collect()
            gc.freeze()
            ready = True
        if os.fork() == 0:
            listener.close()
            return _child(connection)
        connection.close()


def _reap(*_: object) -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _child(connection: socket.socket) -> dict[str, Any]:
    """Forks once more: one process waits and tells how the other ended."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    size, ancillary, _, _ = connection.recvmsg(8, socket.CMSG_SPACE(3 * 4))
    fds = array.array("i")
    fds.frombytes(ancillary[0][2])
    with connection.makefile("rb") as file:
        request: dict[str, Any] = json.loads(file.read(int.from_bytes(size, "little")))
    worker = os.fork()
    if worker:
        for number in (*fds, 1, 2):
            os.close(number)
        os.setsid()
        connection.sendall(f"{worker}\n".encode())
        ended = os.pidfd_open(worker)
        if ended not in select.select([ended, connection], [], [])[0]:
            os.kill(worker, signal.SIGKILL)  # nobody waits for it
        _, status = os.waitpid(worker, 0)
        with contextlib.suppress(OSError):
            connection.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())
        os._exit(0)
    connection.close()
    for number, fd in enumerate(fds):
        os.dup2(fd, number)
        os.close(fd)
    return request


def _start(request: dict[str, Any]) -> None:
    import runpy

    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored, where the tests run in the background
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["cwd"])
    kind, *arguments = request["arguments"]
    unbuffered = kind == "-u"
    if unbuffered:
        kind, *arguments = arguments
    sys.path.insert(0, "" if kind.startswith("-") else os.path.dirname(os.path.abspath(kind)))
    if FORK in os.environ:
        import multiprocessing

        get_context = multiprocessing.get_context
        multiprocessing.get_context = lambda method=None: get_context("fork" if method == "spawn" else method)
    # Anew, since those of the server know it as what they were opened on, such as a file in which one can seek.
    sys.stdout = open(1, "w", 1 if os.isatty(1) else -1, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stdout.reconfigure(write_through=unbuffered)
    sys.stderr = open(2, "w", 1, encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
    if kind == "-m":
        sys.argv = arguments
        runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
    elif kind == "-c":
        sys.argv = ["-c", *arguments[1:]]
        main = sys.modules["__main__"] = types.ModuleType("__main__")
        exec(compile(arguments[0], "<string>", "exec"), main.__dict__)
    else:
        sys.argv = [kind, *arguments]
        runpy.run_path(kind, run_name="__main__")


def _run(request: dict[str, Any]) -> NoReturn:
    """Ends as an interpreter does, but for taking apart all modules, which costs more than most commands."""
    import atexit
    import traceback

    code = 0
    try:
        _start(request)
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
        if code and not isinstance(error.code, int):
            print(error.code, file=sys.stderr)
    except BaseException as error:
        traceback.print_exc()
        if isinstance(error, KeyboardInterrupt):
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGINT)
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]  # waits for those that are no daemons
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        code = 120
    os._exit(code)


if __name__ == "__main__":
    _run(_serve(sys.argv[1]))
