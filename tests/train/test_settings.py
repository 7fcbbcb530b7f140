"""A setting of training is declared once, and adding one disowns nothing that was made before."""

from __future__ import annotations

import sys
from dataclasses import fields, make_dataclass
from pathlib import Path

import click
import numpy as np
import pytest
import warm

import sdc
from sdc.commands.train import train as train_command
from sdc.errors import SdcError, UsageError
from sdc.experiments.grid import cell_name
from sdc.extract.store import Listing, write_features
from sdc.settings import option
from sdc.train import presets
from sdc.train.calibrations import CALIBRATIONS, Family
from sdc.train.methods import METHODS, published_settings
from sdc.train.presets import PAPER, PRESETS, RUNS_OWN, make_recipe
from sdc.train.recipe import ALWAYS_RECORDED, Recipe
from sdc.train.run import TrainSettings, run

Wider = make_dataclass("Recipe", [("warmup", int, option(3, "Steps."))], bases=(Recipe,), frozen=True)
# `sdc train` of a version that has one setting more, in a folder where an older one has made a model.
NEWER = """
from dataclasses import make_dataclass
from pathlib import Path
from sdc.extract.store import Listing, write_features
import importlib
import sdc.train
from sdc.settings import option
from sdc.train import presets, recipe, run
recipe.Recipe = make_dataclass("Recipe", [("warmup", int, option(3, "Steps."))], bases=(recipe.Recipe,), frozen=True)
for module in (presets, run, sdc.train):
    importlib.reload(module)
from sdc.cli import cli
from sdc.errors import UsageError
def train(*more):
    settings = ["--method", "sdc", "--bits", "8", "--epochs", "2", "--device", "cpu"]
    cli.main(["train", *settings, *more], standalone_mode=False)
before = Path("model.safetensors").read_bytes()
train()
try:
    train("--warmup", "4")
except UsageError as error:
    assert "warmup: found null, wanted 4" in str(error)
else:
    raise AssertionError
train("--overwrite")
assert Path("model.safetensors").read_bytes() == before
train("--warmup", "4", "--overwrite")
assert Path("model.safetensors").read_bytes() != before
"""


def vectors(rows=64, dimension=16):
    return np.random.default_rng(0).standard_normal((rows, dimension), dtype=np.float32)


@pytest.fixture
def newer(monkeypatch):
    monkeypatch.setattr(presets, "Recipe", Wider)


def test_every_setting_is_an_option_and_a_field():
    options = {parameter.name for parameter in train_command.params if isinstance(parameter, click.Option)}
    names = {field.name for field in fields(Recipe)}
    assert names <= {field.name for field in fields(TrainSettings)} <= options
    assert TrainSettings(lr=0.5).recipe() == make_recipe(lr=0.5)


def test_what_was_recorded_from_the_start_still_is():
    assert set(Recipe().record()) == ALWAYS_RECORDED < {field.name for field in fields(Recipe)}


def test_presets_of_the_paper_pin_every_field():
    for preset in PRESETS.keys() - {"default"}:
        assert {*PRESETS[preset], *PAPER, *RUNS_OWN, "method"} == {field.name for field in fields(Recipe)}, preset
    assert published_settings("sdc") == {}


def test_a_method_without_settings_is_refused(tmp_path, monkeypatch):
    (tmp_path / "hash_by_mine.py").write_text(
        "import numpy as np\nfrom sdc.train.methods import ClosedForm\n"
        "class Mine(ClosedForm):\n"
        "    def fit(self, features, bits, seed):\n"
        "        return {'output.bias': np.zeros(bits, np.float32)}\n"
        "METHOD = Mine()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(METHODS, "mine", "hash_by_mine")
    with pytest.raises(SdcError, match="'mine' lacks its settings: define SETTINGS in hash_by_mine"):
        sdc.Hasher(method="mine", bits=16)
    sys.modules["hash_by_mine"].SETTINGS = {"epochs": 7}
    hasher = sdc.Hasher(method="mine", bits=16)
    assert hasher.recipe.epochs == 7
    assert hasher.fit(vectors()).encode(vectors()).shape == (64, 2)


def test_a_calibration_from_outside(monkeypatch):
    monkeypatch.setitem(CALIBRATIONS, "triangle", Family("a", lambda a: lambda levels: levels ** (1 / a)))
    hasher = sdc.Hasher(bits=8, calibration="triangle:2", epochs=1).fit(vectors())
    assert hasher.model.metadata["settings"]["calibration"] == "triangle:2"
    with pytest.raises(UsageError, match="triangle takes 1 number, triangle:a"):
        sdc.Hasher(calibration="triangle")


def test_a_new_setting_leaves_older_models_what_they_are(monkeypatch, newer):
    older = {name: getattr(Recipe(bits=8), name) for name in ALWAYS_RECORDED}
    assert make_recipe(bits=8).record() == older
    assert make_recipe(bits=8, warmup=4).record() == {**older, "warmup": 4}
    assert presets.recorded_recipe(older) == make_recipe(bits=8)
    with pytest.raises(UsageError, match="did you mean 'warmup'"):
        presets.recorded_recipe({"warmups": 4})
    name = cell_name(TrainSettings(bits=8), "0")
    monkeypatch.undo()
    assert cell_name(TrainSettings(bits=8), "0") == name


def test_published_settings_do_not_change_a_loaded_model(tmp_path):
    made = sdc.Hasher(bits=8, method="greedyhash", norm=True, epochs=1).fit(vectors())
    made.save(tmp_path / "model.safetensors")
    assert sdc.Hasher.load(tmp_path / "model.safetensors").recipe == made.recipe


def test_a_newer_version_goes_on_from_what_an_older_one_made(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    listing = Listing([str(row) for row in range(200)], {"train": np.arange(200)})
    write_features(Path("feats.h5"), listing, {"source": "import"}, 16, np.float32, [vectors(200)])
    settings = TrainSettings(method="sdc", bits=8, epochs=2, device="cpu")
    run(settings)
    done = warm.run(["-c", NEWER], capture_output=True)
    assert done.returncode == 0, done.stderr
    with pytest.raises(UsageError, match="warmup: found 4, wanted null"):
        run(settings)


def test_a_newer_version_resumes_an_older_checkpoint(tmp_path, monkeypatch):
    from torch import nn, optim

    from sdc.settings import defaults
    from sdc.train.head import make_head
    from sdc.train.loop.checkpoint import Checkpoint, State

    modules = nn.ModuleDict({"head": make_head(4, 8, 0, 0)})
    optimizer = optim.Adam(modules.parameters())
    out = Path(tmp_path / "model.safetensors")
    Checkpoint(out, Recipe().record(), defaults(Recipe)).save(modules, optimizer, State(epoch=2), None)
    state, _ = Checkpoint(out, Wider().record(), defaults(Wider)).load(modules, optimizer)
    assert state.epoch == 2
    with pytest.raises(UsageError, match="warmup: found null, wanted 5"):
        Checkpoint(out, Wider(warmup=5).record(), defaults(Wider)).load(modules, optimizer)
