"""A built wheel installs in a fresh environment, adds only `sdc`, and `sdc --help` is quick there."""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    out = tmp_path_factory.mktemp("wheel")
    copy = out / "source"
    subprocess.run(["git", "-C", ROOT, "rev-parse"], check=True, capture_output=True)
    listed = subprocess.run(
        ["git", "-C", ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        check=True, capture_output=True,
    ).stdout.decode()  # fmt: skip
    for name in filter(None, listed.split("\0")):
        source, target = ROOT / name, copy / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_symlink():
            target.symlink_to(source.readlink())
        elif source.exists():
            target.write_bytes(source.read_bytes())
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, copy],
        check=True, capture_output=True,
    )  # fmt: skip
    return next(out.glob("*.whl"))


def test_the_wheel_has_every_module_and_only_sdc(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"sdc"}
    assert "sdc/py.typed" in names
    for folder in ("sdc", "extract", "kernels", "train", "retrieve"):
        for file in (file for kind in ("py", "cpp", "html", "json") for file in (ROOT / folder).rglob(f"*.{kind}")):
            name = str(file.relative_to(ROOT))
            assert (name if folder == "sdc" else f"sdc/{name}") in names


def spent():
    """Seconds of processors that children took, whatever else the machine does."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


@pytest.mark.slow
def test_it_installs_in_a_fresh_environment_and_help_is_quick(wheel, tmp_path):
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    before = {path.name for path in next((tmp_path / "venv" / "lib").glob("*/site-packages")).iterdir()}
    pip = [python, "-m", "pip", "install", "-q"]
    subprocess.run([*pip, "--no-deps", wheel], check=True)
    after = {path.name for path in next((tmp_path / "venv" / "lib").glob("*/site-packages")).iterdir()}
    assert {name for name in after - before if not name.endswith(".dist-info")} == {"sdc"}
    # What --help needs: no torch, no FAISS, no HDF5.
    subprocess.run([*pip, "click", "numpy", "xxhash"], check=True)
    seconds = []
    for _ in range(6):
        started = spent()
        done = subprocess.run([python.parent / "sdc", "--help"], capture_output=True, text=True, cwd=tmp_path)
        seconds.append(spent() - started)
        assert done.returncode == 0, done.stderr
    commands = "extract import datasets train encode search evaluate diagnose ablate export inspect"
    for command in commands.split():
        assert f"\n  {command} " in done.stdout
    assert statistics.median(seconds[1:]) < 0.5
