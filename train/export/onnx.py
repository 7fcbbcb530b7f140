"""ONNX: the head's graph, written node by node from the model's tensors.

It is a dozen nodes: writing them needs no tracing, and the same model gives the same bytes.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from sdc.errors import SdcError
from sdc.files import checksum
from sdc.train.export.formats import Engine, Format, metadata
from sdc.train.model import Model
from sdc.train.tensors import NORM_EPS

try:
    import onnx
    import onnxruntime
    from google.protobuf.message import DecodeError
    from onnx import TensorProto, helper, numpy_helper
except ImportError as error:
    raise SdcError(f"--onnx needs onnx and onnxruntime ({error}); pip install 'sdc-hash[export]'") from error

OPSET, IR_VERSION = 17, 8  # of ONNX 1.12 (2022), which later runtimes read


class Onnx(Format):
    def build(self, model: Model) -> bytes:
        graph = _Graph(model.tensors)
        outputs = _head(graph, "features")
        codes = _pack(graph, outputs, model.bits)
        graph.node("Identity", codes, output="codes")
        graph.node("Identity", outputs, output="outputs")
        graph_proto = helper.make_graph(
            graph.nodes, "sdc",
            [_value("features", TensorProto.FLOAT, model.dimension)],
            [_value("codes", TensorProto.UINT8, model.bits // 8), _value("outputs", TensorProto.FLOAT, model.bits)],
            [numpy_helper.from_array(tensor, name) for name, tensor in graph.tensors.items()],
        )  # fmt: skip
        opsets = [helper.make_opsetid("", OPSET)]
        proto = helper.make_model(graph_proto, producer_name="sdc", opset_imports=opsets, ir_version=IR_VERSION)
        for key, value in metadata(model).items():
            proto.metadata_props.add(key=key, value=value)
        proto.metadata_props.add(key="checksum", value=checksum(_bytes(proto)))
        return _bytes(proto)

    def describe(self, data: bytes) -> dict[str, Any]:
        try:
            proto = onnx.load_model_from_string(data)
        except DecodeError as error:
            raise ValueError(error) from None
        properties = {entry.key: entry.value for entry in proto.metadata_props}
        if list(properties)[-1:] != ["checksum"]:
            raise ValueError("it was not written by `sdc export`")
        del proto.metadata_props[-1]
        if checksum(_bytes(proto)) != properties.pop("checksum"):
            raise ValueError("its checksum does not fit")
        return properties

    def open(self, data: bytes) -> Engine:
        session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])

        def engine(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            codes, outputs = session.run(["codes", "outputs"], {"features": features})
            return codes, outputs

        return engine


class _Graph:
    """Nodes and the tensors they name, in the order in which they are added."""

    def __init__(self, tensors: dict[str, np.ndarray]) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.tensors = dict(tensors)

    def node(self, op: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        """Adds a node; the name of its output."""
        name = output or f"{op}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], **attributes))
        return name

    def constant(self, name: str, value: Any, dtype: type = np.float32) -> str:
        self.tensors[name] = np.array(value, dtype)
        return name


def _head(graph: _Graph, x: str) -> str:
    """Features (N, d) -> outputs (N, K), the steps of `Model.outputs`; the name of the last node's output."""
    tensors = graph.tensors
    if "unit.epsilon" in tensors:
        length = graph.node("ReduceL2", x, axes=[1], keepdims=1)
        x = graph.node("Div", x, graph.node("Max", length, "unit.epsilon"))
    features = x
    if "hidden.weight" in tensors:
        x = _gelu(graph, graph.node("Gemm", x, "hidden.weight", "hidden.bias", transB=1))
    if "output.weight" in tensors:
        x = graph.node("Gemm", x, "output.weight", "output.bias", transB=1)
    else:
        x = graph.node("Add", x, "output.bias")
    if "residual.weight" in tensors:
        x = graph.node("Gemm", features, "residual.weight", x, transB=1)
    if "norm.weight" in tensors:
        norm = [f"norm.{name}" for name in ("weight", "bias", "running_mean", "running_var")]
        x = graph.node("BatchNormalization", x, *norm, epsilon=NORM_EPS)
    if "cosine.phase" in tensors:
        x = graph.node("Cos", graph.node("Add", x, "cosine.phase"))
    return x


def _gelu(graph: _Graph, x: str) -> str:
    """The exact GELU by its definition: runtimes fuse these nodes, and older ones have no node for it."""
    erf = graph.node("Erf", graph.node("Div", x, graph.constant("sqrt2", np.sqrt(2))))
    doubled = graph.node("Mul", x, graph.node("Add", erf, graph.constant("one", 1)))
    return graph.node("Mul", doubled, graph.constant("half", 0.5))


def _pack(graph: _Graph, outputs: str, bits: int) -> str:
    """Outputs (N, K) -> codes (N, K // 8): sums of powers of two below 256, which any float format holds exactly."""
    signs = graph.node("Cast", graph.node("Greater", outputs, graph.constant("zero", 0)), to=TensorProto.FLOAT)
    eights = graph.node("Reshape", signs, graph.constant("eights", [0, bits // 8, 8], np.int64))
    sums = graph.node("MatMul", eights, graph.constant("powers", 2.0 ** np.arange(8)))
    return graph.node("Cast", sums, to=TensorProto.UINT8)


def _value(name: str, kind: int, width: int) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, ["N", width])


def _bytes(proto: onnx.ModelProto) -> bytes:
    return bytes(proto.SerializeToString(deterministic=True))


FORMAT = Onnx()
