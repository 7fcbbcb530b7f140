"""C++ that is compiled at first use, with g++ alone, into the user's cache folder."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

import xxhash

from sdc.files import sync

FLAGS = ("-O3", "-march=native", "-std=c++17", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC")
_SEAL = 8  # bytes behind a library, which the loader ignores: the XXH3 checksum of all before them


def build(source: Path, flags: tuple[str, ...] = FLAGS) -> Path:
    """The shared library of one source file in the user's cache, made there if need be.

    Its name holds a hash of the source, the flags, the processor's features and the C library, and one of the compiler,
    so that a home folder shared by unlike machines holds one for each; where there is no compiler one of another will
    do. Processes that build at once each write a file of their own and
    rename it: the last wins and all are the same. One that was cut short or damaged, which may crash the process that
    loads it, is made again.

    Raises:
        OSError: no g++, or the cache folder cannot be written.
        RuntimeError: there is no home folder, nor XDG_CACHE_HOME.
        subprocess.SubprocessError: the compiler failed, or took more than two minutes.
    """
    name = f"{source.stem}-{_hash(source.read_bytes(), ' '.join(flags), _processor(), *platform.libc_ver())[:20]}"
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sdc"
    compiler = shutil.which("g++")
    if compiler is None:
        for path in sorted(folder.glob(f"{name}-*.so")):
            if _whole(path):
                return path
        raise FileNotFoundError("there is no g++ on the PATH (install it, e.g. the package g++)")
    path = folder / f"{name}-{_compiler(compiler)}.so"
    if _whole(path):
        return path
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".build-", dir=folder) as scratch:
        built = Path(scratch) / path.name
        command = [compiler, *flags, str(source), "-o", str(built)]
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
        content = built.read_bytes()
        with open(built, "ab") as file:
            file.write(xxhash.xxh3_64_digest(content))
        sync(built)
        os.replace(built, path)
    return path


def _whole(path: Path) -> bool:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return False
    return xxhash.xxh3_64_digest(data[:-_SEAL]) == data[-_SEAL:]


def reason(error: Exception) -> str:
    """Why `build` failed, in one line."""
    if isinstance(error, subprocess.CalledProcessError):
        return f"g++ failed: {error.stderr.strip().splitlines()[0] if error.stderr.strip() else error}"
    return str(error)


def _hash(*parts: bytes | str) -> str:
    return hashlib.sha256(b"\0".join(part if isinstance(part, bytes) else part.encode() for part in parts)).hexdigest()


def _compiler(path: str) -> str:
    """Tells a compiler from another version of it, without starting it."""
    real = os.path.realpath(path)
    found = os.stat(real)
    return _hash(real, str(found.st_size), str(found.st_mtime_ns))[:8]


def _processor() -> str:
    """What -march=native depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.machine() + platform.processor()
    return platform.machine() + next((line for line in lines if line.startswith(("flags", "Features"))), "")
