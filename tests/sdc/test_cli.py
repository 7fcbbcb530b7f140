"""The command line: the chain with no options, JSON keys, refusals and exit codes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import warm

import sdc
from sdc.api import inspect

TRAIN = ("train", "--epochs", "3", "--batch-size", "64", "--bits", "32")


@pytest.fixture
def chain(made, tmp_path, command_in):
    """`sdc` in a folder of its own with a whole chain of files under their default names."""
    shutil.copytree(made, tmp_path / "chain")
    return command_in(tmp_path / "chain")


def test_the_chain_needs_no_options(command, vectors):
    command("import", "vectors.npy")
    model = command.json("train", "--epochs", "2")
    assert set(model) == {"model", "method", "bits", "seconds", "loss", "epochs", "fingerprint"}
    assert (model["model"], model["method"]) == ("model.safetensors", "neighbors")
    assert (model["bits"], model["epochs"]) == (64, 2)
    command("encode")
    found = command.json("search")
    assert (found["index"], found["k"], len(found["results"])) == ("db.bin", 10, 30)
    first = found["results"][0]
    assert set(first) == {"query", "neighbors"}
    assert all(set(neighbor) == {"id", "row", "distance"} for neighbor in first["neighbors"])
    order = [(neighbor["distance"], neighbor["row"]) for neighbor in first["neighbors"]]
    assert order == sorted(order)
    assert len(command("search").stdout.splitlines()) == 10


def test_evaluate_reports_the_contracts_keys(chain):
    found = chain.json("evaluate", "--neighbors", "float")
    assert {"protocol", "at", "queries", "database", "map", "map_best", "map_worst", "precision", "recall"} <= set(
        found
    )
    assert set(found["neighbor_recall"]) == {"1", "10", "100"}
    assert found["map_worst"] <= found["map"] <= found["map_best"]
    assert found["map"] > 0.6  # five well-parted clusters
    assert "map " in chain("evaluate").stdout


def test_inspect_tells_the_three_kinds_apart(chain):
    features, model, index = (chain.json("inspect", name) for name in ("feats.h5", "model.safetensors", "db.bin"))
    assert [found["kind"] for found in (features, model, index)] == ["features", "model", "index"]
    assert all(found["whole"] is True and found["fingerprint"] for found in (features, model, index))
    assert (features["rows"], model["rows"], index["rows"]) == (300, 270, 300)
    assert index["model"]["fingerprint"] == model["fingerprint"]
    assert index["features"]["fingerprint"] == model["features"]["fingerprint"] == features["fingerprint"]


@pytest.mark.parametrize("name", ["feats.h5", "model.safetensors", "db.bin"])
def test_damage_is_found_by_inspect_and_refused_by_the_stages(chain, name):
    path = chain.folder / name
    good = path.read_bytes()
    for bad in (good[:-7], good[: len(good) // 2], good[:2000] + bytes([good[2000] ^ 4]) + good[2001:]):
        path.write_bytes(bad)
        shown = chain("inspect", name, "--json", code=1)
        assert '"whole": false' in shown.stdout
        use = {
            "feats.h5": ("train", "--out", "other"),
            "model.safetensors": ("encode", "--out", "other"),
            "db.bin": ("search",),
        }[name]
        assert name in chain.error(*use)


def test_an_output_that_is_there_is_kept_refused_or_replaced(chain):
    before = {name: (chain.folder / name).read_bytes() for name in ("feats.h5", "model.safetensors", "db.bin")}
    for again in (("import", "vectors.npy", "--labels", "labels.npy"), TRAIN, ("encode",)):
        assert "nothing to do" in chain(*again).stderr
    assert {name: (chain.folder / name).read_bytes() for name in before} == before
    assert "dtype" in chain.error("import", "vectors.npy", "--labels", "labels.npy", "--dtype", "float16", code=2)
    assert "epochs: found 3, wanted 4" in chain.error(*TRAIN, "--epochs", "4", code=2)
    chain(*TRAIN, "--epochs", "4", "--overwrite")
    assert "model" in chain.error("encode", code=2)
    chain("encode", "--overwrite")
    assert chain.json("inspect", "model.safetensors")["epochs"] == 4


def test_training_twice_gives_the_same_file(chain):
    chain(*TRAIN, "--out", "again.safetensors")
    again = (chain.folder / "again.safetensors").read_bytes()
    assert again == (chain.folder / "model.safetensors").read_bytes()


def test_queries_by_vector_and_by_id(chain):
    features = np.load(chain.folder / "vectors.npy")
    np.save(chain.folder / "queries.npy", features[:3])
    by_vector = chain.json("search", "--queries", "queries.npy", "-k", "5")["results"]
    by_id = chain.json("search", "--id", "0", "--id", "1", "--id", "2", "-k", "5")["results"]
    assert [r["neighbors"] for r in by_vector] == [r["neighbors"] for r in by_id]
    assert by_vector[0]["neighbors"][0]["distance"] == 0
    everything = chain.json("search", "--id", "0", "-k", "100000")["results"][0]["neighbors"]
    assert len(everything) == 300


def test_another_head_than_the_indexs_is_refused(chain):
    chain(*TRAIN, "--seed", "1", "--out", "other.safetensors")
    np.save(chain.folder / "queries.npy", np.load(chain.folder / "vectors.npy")[:3])
    line = chain.error("search", "--queries", "queries.npy", "--model", "other.safetensors", code=2)
    for name in ("model.safetensors", "other.safetensors"):
        assert chain.json("inspect", name)["fingerprint"] in line


def test_bad_values_are_named(command, vectors):
    features = np.load(vectors)
    features[[4, 9]] = np.nan
    np.save(command.folder / "nan.npy", features)
    line = command.error("import", "nan.npy")
    assert "4" in line
    assert "9" in line
    np.save(command.folder / "none.npy", features[:0])
    assert "at least one row" in command.error("import", "none.npy")
    command("import", "vectors.npy")
    assert "does not exist" in command.error("import", "vectors.npy", "--out", "none/feats.h5")
    assert "multiple of 8" in command.error("train", "--bits", "12", code=2)
    assert "did you mean 'paper-code'" in command.error("train", "--preset", "paper-cod", code=2)
    assert "--method" in command.error("train", "--methd", "itq", code=2)
    assert "--device nonsense" in command.error("train", "--device", "nonsense", code=2)
    assert "--seed is -1" in command.error("import", "vectors.npy", "--seed", "-1", "--out", "other.h5", code=2)


def test_an_unwritable_output_is_refused_before_the_work(chain):
    for arguments in (TRAIN, ("encode",)):
        done = chain(*arguments, "--out", "none/out", code=1)
        assert "none does not exist" in done.stderr
        assert "training" not in done.stderr
        assert "is a folder" in chain.error(*arguments, "--out", ".", "--overwrite", code=2)
        assert "is read here" in chain.error(*arguments, "--out", "feats.h5", "--overwrite", code=2)
    done = chain("evaluate", "--curves", "none/curves.csv", code=1)
    assert "none does not exist" in done.stderr
    assert "clamped" not in done.stderr


def test_named_queries_are_all_answered(chain):
    ids = [argument for number in range(12) for argument in ("--id", number)]
    assert len(chain("search", *ids).stdout.splitlines()) == 12
    assert len(chain("search", "--queries", "vectors.npy").stdout.splitlines()) == 300
    assert len(chain("search", *ids, "--limit", "2").stdout.splitlines()) == 2


def test_an_index_of_984_bits_is_not_taken_for_a_model(tmp_path):
    """The length of its codes, 123 bytes, is the brace with which a model's header begins."""
    path = sdc.Index.build(np.zeros((3, 123), np.uint8)).save(tmp_path / "db.bin")
    found = inspect(path)
    assert (found["kind"], found["bits"], found["whole"]) == ("index", 984, True)


def test_missing_files_say_how_to_make_them(command):
    assert "sdc extract" in command.error("train")
    assert "sdc train" in command.error("encode")
    assert "sdc encode" in command.error("search")
    assert "sdc encode" in command.error("evaluate")
    assert "nothere.npy" in command.error("import", "nothere.npy")
    assert "nothere" in command.error("extract", "--data", "folder", "--root", "nothere")
    (command.folder / "empty").mkdir()
    assert "no image" in command.error("extract", "--data", "folder", "--root", "empty")


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small file system, which needs root")
@pytest.mark.parametrize("stage", ["import", "train", "encode"])
def test_a_full_disk_leaves_nothing_half_written(chain, stage):
    full = chain.folder / "full"
    full.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", full], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"cannot mount a file system here: {mounted.stderr.strip()}")
    try:
        arguments = {"import": ("import", "vectors.npy"), "train": TRAIN, "encode": ("encode",)}[stage]
        assert "disk is full" in chain.error(*arguments, "--out", "full/out")
        assert os.listdir(full) == []
    finally:
        subprocess.run(["umount", full], check=True)


def test_no_write_permission_is_said(command, vectors):
    (command.folder / "closed").mkdir(mode=0o555)
    for folder in (command.folder, *command.folder.parents):
        if os.geteuid() == 0 and folder != folder.parent:
            folder.chmod(folder.stat().st_mode | 0o005)
    # Root may write anywhere: it imports what is needed, then becomes nobody.
    script = (
        "import mmap, os, sys, h5py, numpy.random, sdc.api, sdc.cli, sdc.commands.import_vectors\n"
        "import sdc.extract.store.file_format\n"
        "if os.geteuid() == 0: os.setgid(65534); os.setuid(65534)\n"
        "sys.argv = ['sdc', 'import', 'vectors.npy', '--out', 'closed/feats.h5']\n"
        "sdc.cli.main()\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=command.folder, capture_output=True, text=True)
    assert done.returncode == 1
    assert "no permission" in done.stderr
    assert "Traceback" not in done.stderr


PRESSED = """
import os, signal
from sdc.cli import main
from sdc.progress import Progress

advance, steps = Progress.advance, []

def pressed(*arguments):
    advance(*arguments)
    steps.append(arguments)
    if len(steps) == 50:
        os.kill(os.getpid(), signal.SIGINT)

Progress.advance = pressed
main()
"""


def test_ctrl_c_saves_a_checkpoint_and_resume_continues_it(chain):
    arguments = ("train", "--epochs", "30", "--patience", "0", "--batch-size", "64", "--bits", "32", "--out", "a")
    done = warm.run(["-c", PRESSED, *arguments], cwd=chain.folder, capture_output=True)
    assert done.returncode == 130, done.stderr
    assert "training" in done.stderr
    assert "--resume" in done.stderr
    assert not (chain.folder / "a").exists()
    assert "continuing" in chain(*arguments, "--resume").stderr
    assert not (chain.folder / "a.checkpoint").exists()
    assert chain.json("inspect", "a")["epochs"] == 30


def test_ctrl_c_during_an_import_ends_with_130_too(tmp_path):
    (tmp_path / "pressed.py").write_text(
        "import signal, sdc.cli\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # ignored, where the tests run in the background
        "sdc.cli.cli.main = lambda **_: exec('signal.raise_signal(signal.SIGINT)\\nwhile True: pass')\n"
        "sdc.cli.main()\n"
    )
    done = subprocess.run([sys.executable, "-m", "pressed"], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (130, "sdc: error: interrupted\n")


def test_search_and_evaluate_run_without_torch(chain):
    script = (
        "import sys; sys.modules['torch'] = None\n"
        "from sdc.cli import cli\n"
        "cli.main(['search', '--queries', 'vectors.npy', '--json'], standalone_mode=False)\n"
        "cli.main(['evaluate', '--neighbors', 'float', '--json'], standalone_mode=False)\n"
    )
    subprocess.run([sys.executable, "-c", script], cwd=chain.folder, check=True, capture_output=True)


def test_import_sdc_and_help_load_nothing_heavy():
    script = (
        "import sys, sdc.cli\n"
        "heavy = {'torch', 'triton', 'faiss', 'timm', 'h5py', 'scipy', 'PIL', 'rich'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
    done = subprocess.run([sys.executable, "-m", "sdc", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == sdc.__version__


def test_help_needs_no_heavy_module():
    """Nor one that not every system has; and each command's line in the list is the one of its own help."""
    script = (
        "import sys\n"
        "for name in ('fcntl', 'torch', 'triton', 'faiss', 'timm', 'h5py', 'scipy', 'PIL', 'rich'):\n"
        "    sys.modules[name] = None\n"
        "from click.testing import CliRunner\n"
        "from sdc.cli import cli\n"
        "from sdc.commands import COMMANDS\n"
        "def ask(*arguments):\n"
        "    done = CliRunner().invoke(cli, arguments, prog_name='sdc')\n"
        "    assert done.exit_code == 0, (arguments, done.exception)\n"
        "    return done.output\n"
        "assert 'search' in ask('--help')\n"
        "assert not any('sdc.commands.' + name in sys.modules for name in COMMANDS)\n"
        "for name, line in COMMANDS.items():\n"
        "    assert ' '.join(ask(name, '--help').split()).startswith(f'Usage: sdc {name} [OPTIONS]')\n"
        "    command = cli.get_command(None, name)\n"
        "    assert command.name == name\n"
        "    assert command.help.startswith(line), name\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
