"""Exports: other runtimes give the model's own codes, and an export that would not is never written."""

from __future__ import annotations

import logging
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import warm

import sdc
from sdc.errors import SdcError, UsageError
from sdc.extract import ImportSettings, import_features
from sdc.extract.store import FeatureStore
from sdc.retrieve.bits import pack
from sdc.train.export.run import ExportSettings, check, run
from sdc.train.head import PackedHead, make_head
from sdc.train.model import Model

onnx = pytest.importorskip("onnx", reason="the extra `export` is not installed")
onnxruntime = pytest.importorskip("onnxruntime", reason="the extra `export` is not installed")

README = Path(__file__).parents[2] / "README.md"
KINDS = {
    "mlp": {"method": "sdc", "head": "mlp", "hidden": 24, "epochs": 1, "batch_size": 64},
    "linear": {"method": "sdc", "head": "linear", "epochs": 1, "batch_size": 64},
    "itq": {"method": "itq"},
    "lsh": {"method": "lsh"},
    "sh": {"method": "sh"},
    "sign": {"method": "sign"},
    "neighbors": {"goal": "neighbors", "steps": 5, "hidden": 24, "batch_size": 64},
}


def embeddings(rows=300, dimension=16, seed=0):
    return np.random.default_rng(seed).standard_normal((rows, dimension)).astype(np.float32)


def decided(model, x):
    """The rows of which no output is so near to 0 that another order of a sum could turn it."""
    return x[(np.abs(model.outputs(x)) > 1e-4).all(axis=1)]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A trained model of each kind, as a file."""
    folder = tmp_path_factory.mktemp("models")
    return {
        kind: sdc.Hasher(bits=16, **settings).fit(embeddings()).save(folder / f"{kind}.safetensors")
        for kind, settings in KINDS.items()
    }


def run_onnx(path, x):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(["codes", "outputs"], {"features": x})


def run_torch(path, x):
    codes, outputs = torch.export.load(path).module()(torch.from_numpy(x))
    return codes.numpy(), outputs.numpy()


RUNTIMES = {"onnx": (run_onnx, "model.onnx"), "torch": (run_torch, "model.pt2")}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", RUNTIMES)
def test_any_number_of_rows_gives_the_models_codes(models, tmp_path, form, kind):
    runtime, name = RUNTIMES[form]
    path = run(ExportSettings(models[kind], form, tmp_path / name))
    model = Model.load(models[kind])
    x = decided(model, embeddings(seed=1))
    assert len(x) > 250
    for rows in (x, x[:2], x[:1], x[:0]):
        codes, outputs = runtime(path, rows)
        assert (codes.dtype, outputs.dtype) == (np.uint8, np.float32)
        np.testing.assert_array_equal(codes, pack(model.outputs(rows)))
        np.testing.assert_allclose(outputs, model.outputs(rows), atol=2e-5)


@pytest.mark.parametrize("form", RUNTIMES)
def test_an_output_of_exactly_0_is_a_0(models, tmp_path, form):
    runtime, name = RUNTIMES[form]
    path = run(ExportSettings(models["sign"], form, tmp_path / name))
    x = np.zeros((1, 16), np.float32)
    x[0, [1, 9, 15]] = 1
    assert runtime(path, x)[0].tolist() == [[0b10, 0b10000010]]


def test_the_onnx_file_is_valid_and_says_what_it_is(models, tmp_path):
    path = run(ExportSettings(models["mlp"], "onnx", tmp_path / "model.onnx"))
    onnx.checker.check_model(onnx.load(path), full_check=True)
    session = onnxruntime.InferenceSession(path)
    described = session.get_modelmeta().custom_metadata_map
    assert described["fingerprint"] == Model.load(models["mlp"]).fingerprint
    assert (described["bits"], described["method"]) == ("16", "sdc")
    assert "least significant first" in described["bit_order"]
    shapes = {value.name: (value.type, value.shape) for value in [*session.get_inputs(), *session.get_outputs()]}
    assert shapes == {
        "features": ("tensor(float)", ["N", 16]),
        "codes": ("tensor(uint8)", ["N", 2]),
        "outputs": ("tensor(float)", ["N", 16]),
    }


@pytest.mark.parametrize("form", RUNTIMES)
def test_the_same_model_gives_the_same_bytes_on_any_machine(models, tmp_path, form):
    elsewhere = shutil.copy(models["mlp"], tmp_path / "elsewhere.safetensors")
    a = run(ExportSettings(models["mlp"], form, tmp_path / "a")).read_bytes()
    b = run(ExportSettings(elsewhere, form, tmp_path / "b")).read_bytes()
    assert a == b
    assert str(tmp_path).encode() not in a
    assert b"head.py" not in a


def test_the_torch_export_holds_no_pickle(models, tmp_path):
    import zipfile

    path = run(ExportSettings(models["mlp"], "torch", tmp_path / "model.pt2"))
    with zipfile.ZipFile(path) as archive:
        contents = [archive.read(name) for name in archive.namelist()]
    assert not any(content.startswith((b"\x80", b"PK")) for content in contents)


@pytest.mark.parametrize("hidden", [0, 20])
def test_the_packed_head_is_the_hash_head_bit_for_bit(hidden):
    head = make_head(16, 24, hidden, seed=3)
    head(torch.randn(64, 16) + 1)
    head.eval()
    tensors = {name: value.numpy() for name, value in head.state_dict().items()}
    del tensors["norm.num_batches_tracked"]
    x = torch.from_numpy(embeddings())
    with torch.no_grad():
        codes, outputs = PackedHead(tensors)(x)
        assert torch.equal(outputs, head(x))
    np.testing.assert_array_equal(codes.numpy(), pack(outputs.numpy()))


# What `check` asks of an engine. NumPy's own outputs serve as a right one: its sums have another order.


def engine_of(model, outputs=lambda x: x, codes=pack):
    def engine(features):
        found = outputs(model.outputs(features))
        return codes(found), found

    return engine


@pytest.mark.parametrize("kind", KINDS)
def test_another_order_of_the_sums_is_right(models, tmp_path, kind):
    model = Model.load(models[kind])
    check(engine_of(model), model, tmp_path, "export")


WRONG = {
    "a shift": {"outputs": lambda z: z + np.float32(1e-4)},
    "one column": {"outputs": lambda z: z[:, [1, 0, *range(2, 16)]]},
    "NaN": {"outputs": lambda z: np.where(z == z.max(), np.float32(np.nan), z), "codes": lambda z: pack(z > 0)},
    "one bit": {"codes": lambda z: pack(z) ^ np.array([0, 128], np.uint8)},
    "bit order": {"codes": lambda z: np.packbits(z > 0, axis=1)},
    "one row": {"outputs": lambda z: z if len(z) > 1 else z * 2},
}


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("kind", ["mlp", "sign"])
def test_a_wrong_engine_is_refused(models, tmp_path, kind, wrong):
    model = Model.load(models[kind])
    with pytest.raises(SdcError, match="export is not written: on 1000 random rows"):
        check(engine_of(model, **WRONG[wrong]), model, tmp_path, "export")


def test_an_approximate_gelu_is_refused(models, tmp_path, monkeypatch):
    tanh = torch.nn.GELU(approximate="tanh")
    monkeypatch.setattr("sdc.train.model._gelu", lambda x: tanh(torch.from_numpy(x)).numpy())
    model = Model.load(models["mlp"])
    with pytest.raises(SdcError, match="of which rounding explains"):
        check(engine_of(model), model, tmp_path, "export")


def test_a_step_of_the_model_that_pytorch_lacks_is_found(models, tmp_path, monkeypatch):
    outputs = Model.outputs
    monkeypatch.setattr(Model, "outputs", lambda model, x: outputs(model, np.sqrt(np.abs(x)) * np.sign(x)))
    with pytest.raises(SdcError, match="of which rounding explains"):
        run(ExportSettings(models["itq"], "onnx", tmp_path / "out"))


@pytest.mark.parametrize("form", RUNTIMES)
def test_an_export_that_does_not_hold_is_not_written(models, tmp_path, monkeypatch, form):
    build = PackedHead.forward
    monkeypatch.setattr("sdc.train.export.onnx.NORM_EPS", 1e-2)
    monkeypatch.setattr(
        "sdc.train.export.torch_program.PackedHead",
        type("Shifted", (PackedHead,), {"forward": lambda self, features: build(self, features + 1e-3)}),
    )
    with pytest.raises(SdcError, match="is not written"):
        run(ExportSettings(models["mlp"], form, tmp_path / "out"))
    assert list(tmp_path.iterdir()) == []


def model_on(folder, vectors, weight):
    """A linear model, with `vectors` as the features it was trained on, in the same folder."""
    np.save(folder / "vectors.npy", vectors)
    store = FeatureStore(import_features(ImportSettings(folder / "vectors.npy", out=folder / "feats.h5")))
    recorded = {"path": "feats.h5", "fingerprint": store.fingerprint}
    tensors = {"output.weight": weight, "output.bias": np.zeros(len(weight), np.float32)}
    return Model(tensors, {"method": "lsh", "settings": {}, "features": recorded, "training": {}})


def test_bits_that_rounding_decides_are_accepted_and_counted(tmp_path, caplog):
    weight = np.repeat(embeddings(1, 16, seed=5), 8, axis=0)
    x = embeddings()
    x -= np.outer(x @ weight[0], weight[0]) / (weight[0] @ weight[0])  # outputs of 0, but for rounding
    model = model_on(tmp_path, x, weight)
    assert 0 < np.abs(model.outputs(x)).max() < 2e-6
    caplog.set_level(logging.INFO, "sdc")
    turned = engine_of(model, outputs=lambda z: np.where(np.abs(z) < 2e-6, -z, z))
    check(turned, model, tmp_path, "export")
    line = caplog.messages[-1]
    differ = int(re.search(r"(\d+) of 2400 bits differ", line).group(1))
    assert differ > 1000
    assert line.endswith("of 0: 2400")
    with pytest.raises(SdcError, match=r"rows of .*feats\.h5 outputs are off"):
        check(engine_of(model, outputs=lambda z: np.where(np.abs(z) < 2e-6, 1e-4 - z, z)), model, tmp_path, "export")


@pytest.mark.parametrize("state", ["there", "gone", "others", "few"])
def test_the_models_features_are_used_where_at_hand(tmp_path, caplog, state):
    caplog.set_level(logging.INFO, "sdc")
    model = model_on(tmp_path, embeddings(20 if state == "few" else 300), embeddings(8, 16, seed=5))
    if state == "gone":
        (tmp_path / "feats.h5").unlink()
    if state == "others":
        np.save(tmp_path / "vectors.npy", embeddings(seed=9))
        import_features(ImportSettings(tmp_path / "vectors.npy", out=tmp_path / "feats.h5", overwrite=True))
    run(ExportSettings(model.save(tmp_path / "model.safetensors"), "onnx", tmp_path / "model.onnx"))
    said = {"there": "on 300 rows of", "gone": "no feature store at", "others": "holds others", "few": "are too few"}
    assert said[state] in "\n".join(caplog.messages)


@pytest.mark.parametrize("form", RUNTIMES)
def test_an_export_that_is_there_is_kept_refused_or_replaced(models, tmp_path, caplog, form):
    caplog.set_level(logging.INFO, "sdc")
    out = tmp_path / "out"
    good = run(ExportSettings(models["itq"], form, out)).read_bytes()
    run(ExportSettings(models["itq"], form, out))
    assert "nothing to do" in caplog.messages[-1]
    with pytest.raises(UsageError, match=r"fingerprint: found .*, wanted .*method"):
        run(ExportSettings(models["lsh"], form, out))
    for place in (3, len(good) // 3, len(good) // 2, len(good) - 40, len(good) - 1):
        bad = good[:place] + bytes([good[place] ^ 4]) + good[place + 1 :]
        for content in (bad, good[:place], b""):
            out.write_bytes(content)
            with pytest.raises(SdcError, match=r"is no whole .* export .*--overwrite replaces it"):
                run(ExportSettings(models["itq"], form, out))
            assert out.read_bytes() == content
    run(ExportSettings(models["itq"], form, out, overwrite=True))
    assert out.read_bytes() == good


def test_what_cannot_be_exported_is_refused(models, tmp_path):
    with pytest.raises(UsageError, match="unknown format 'onx': did you mean 'onnx'"):
        run(ExportSettings(models["itq"], "onx", tmp_path / "out"))
    odd = Model({"output.bias": np.zeros(12, np.float32)}, {"method": "sign"}).save(tmp_path / "odd.safetensors")
    with pytest.raises(UsageError, match="codes of 12 bits, which do not fill whole bytes"):
        run(ExportSettings(odd, "onnx", tmp_path / "out"))
    with pytest.raises(UsageError, match="is read here"):
        run(ExportSettings(models["itq"], "onnx", models["itq"], overwrite=True))
    with pytest.raises(SdcError, match="does not exist"):
        run(ExportSettings(models["itq"], "onnx", tmp_path / "none" / "out"))


def test_the_command_writes_both_and_says_what_is_missing(models, command):
    assert "sdc train" in command.error("export", "--onnx", "model.onnx")
    good = models["mlp"].read_bytes()
    (command.folder / "model.safetensors").write_bytes(good[:-5] + bytes([good[-5] ^ 1]) + good[-4:])
    assert "model.safetensors is damaged" in command.error("export", "--onnx", "model.onnx")
    (command.folder / "model.safetensors").write_bytes(good)
    assert "--onnx FILE, --torch FILE or both" in command.error("export", code=2)
    done = command("export", "--onnx", "model.onnx", "--torch", "model.pt2")
    assert done.stdout == "model.onnx: sdc, 16 bits, for onnx\nmodel.pt2: sdc, 16 bits, for torch\n"
    assert done.stderr.count("bits differ from PyTorch's") == 2
    assert "Warning" not in done.stderr
    assert command.json("export", "--onnx", "model.onnx") == {
        "model": "model.safetensors",
        "method": "sdc",
        "bits": 16,
        "fingerprint": Model.load(models["mlp"]).fingerprint,
        "onnx": "model.onnx",
        "torch": None,
    }
    shutil.copy(models["linear"], command.folder / "model.safetensors")
    assert "model.onnx exists" in command.error("export", "--onnx", "model.onnx", code=2)


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_without_the_extra_the_pip_command_is_said(models, tmp_path, package):
    script = (
        f"import sys; sys.modules[{package!r}] = None\n"
        f"sys.argv = ['sdc', 'export', '--model', {str(models['itq'])!r}, '--onnx', 'model.onnx']\n"
        "from sdc.cli import main; main()"
    )
    done = warm.run(["-c", script], cwd=tmp_path, capture_output=True)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("sdc: error: --onnx needs onnx and onnxruntime")
    assert "pip install 'sdc-hash[export]'" in line
    assert list(tmp_path.iterdir()) == []


# The README's code, as it stands there.


def readme_block(beginning):
    (block,) = re.findall(rf"```python\n({re.escape(beginning)}.*?)```", README.read_text(), re.DOTALL)
    return block


def numpy_reader():
    reader = readme_block("import json, math, struct, numpy as np\n")
    assert len(reader.splitlines()) < 60
    return reader


@pytest.mark.parametrize("kind", KINDS)
def test_the_readmes_numpy_reader_gives_the_models_codes(models, tmp_path, kind):
    reader = numpy_reader()
    model = Model.load(models[kind])
    x = decided(model, embeddings(seed=1))
    np.save(tmp_path / "x.npy", x)
    script = (
        f"{reader}\nimport sys\n"
        f"np.save('codes.npy', encode(read({str(models[kind])!r}), np.load('x.npy')))\n"
        "assert not {'sdc', 'torch', 'safetensors', 'scipy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True)
    np.testing.assert_array_equal(np.load(tmp_path / "codes.npy"), pack(model.outputs(x)))


@pytest.fixture(scope="module")
def refined():
    """A model of the goal neighbors whose codes are refined, with the vectors it was trained on."""
    features = embeddings(1100)
    small = {"steps": 10, "batch_size": 256, "hidden": 24}
    return sdc.Hasher(bits=16, goal="neighbors", **small).fit(features).model, features


@pytest.mark.parametrize("index_type", ["flat", "ivf"])
def test_the_readmes_numpy_reader_searches_both_ways(refined, tmp_path, index_type):
    model, features = refined
    queries, codes = decided(model, embeddings(20, seed=1)), model.encode(features)
    assert (codes != model.encode(features, refine=False)).any()
    decoder = model.tables.decoder
    rows = 3 * np.arange(len(codes))
    model.save(tmp_path / "model.safetensors")
    index = sdc.Index.build(codes, rows=rows, lengths=decoder.lengths(codes), index_type=index_type)
    index.save(tmp_path / "db.bin")

    names = {}
    exec(numpy_reader(), names)
    head, stored = names["read"](tmp_path / "model.safetensors"), names["read_index"](tmp_path / "db.bin")
    distances, neighbors = names["search_codes"](stored, names["encode"](head, queries), 10)
    exact = sdc.Index.build(codes, rows=rows).search(model.encode(queries, refine=False), 10)
    np.testing.assert_array_equal(distances, exact[0])
    np.testing.assert_array_equal(neighbors, exact[1])

    scores, neighbors = names["search_floats"](head, stored, queries, 10)
    expected = decoder.scores(queries, codes, decoder.lengths(codes))
    np.testing.assert_allclose(scores, -np.sort(-expected, axis=1)[:, :10], atol=1e-5)
    np.testing.assert_allclose(np.take_along_axis(expected, neighbors // 3, axis=1), scores, atol=1e-5)


def test_the_readmes_onnxruntime_snippet_gives_the_models_codes(models, tmp_path, monkeypatch):
    run(ExportSettings(models["mlp"], "onnx", tmp_path / "model.onnx"))
    model = Model.load(models["mlp"])
    names = {"embeddings": decided(model, embeddings(seed=1))}
    monkeypatch.chdir(tmp_path)
    exec(readme_block("import onnxruntime\n"), names)
    np.testing.assert_array_equal(names["codes"], pack(model.outputs(names["embeddings"])))
