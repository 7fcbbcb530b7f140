"""Compiles the Triton kernels for chips that are not here, and reads what they cost out of the machine code.

    python -m sdc.kernels.aot                                          # compile everything, print the table
    python -m sdc.kernels.aot --write tests/kernels/aot_table.json     # the same, and write it there

No CUDA device is needed: Triton brings the assembler and the disassembler. One compilation is one `Case`;
its cost is a `Resources`. Tests hold the costs against the committed table.
"""

from __future__ import annotations

import argparse
import collections
import json
import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sdc.files import atomic_write
from sdc.kernels import gpu

NAMED = ("SHFL", "BAR", "LDS", "STS", "LDG", "STG", "LDL", "STL", "HMMA", "HGMMA", "UTCHMMA", "VIMNMX", "IMNMX")
# What runs in the pipe of integers, comparisons and selections, at half the issue rate.
ALU = frozenset({
    "VIMNMX", "IMNMX", "VIMNMX3", "SEL", "ISETP", "LOP3", "SHF", "FSETP", "FSEL", "FMNMX", "PLOP3", "IADD3",
    "VIADD", "VIADDMNMX", "PRMT", "SGXT", "LEA", "I2FP", "POPC", "BREV", "FLO",
})  # fmt: skip


@dataclass(frozen=True)
class Case:
    """One kernel, compiled for one chip and one configuration.

    `aligned`: whether B, d, K and the strides of features and outputs are multiples of 16, which the launcher
    tells the compiler.
    """

    kernel: str  # gram, row_sort, backward, halves, halves_backward
    capability: int
    B: int
    K: int = 64
    dtype: str = "fp16"  # of the features
    loss: str = "l1"
    precision: str = "tf32x3"
    aligned: bool = True

    @property
    def name(self) -> str:
        parts = [self.kernel, f"sm_{self.capability}", f"B{self.B}", f"K{self.K}", self.dtype, self.loss]
        parts += [self.precision] if self.dtype == "fp32" else []
        return "-".join([*parts, *([] if self.aligned else ["unaligned"])])


@dataclass(frozen=True)
class Resources:
    """What one compiled kernel takes."""

    registers: int  # a thread
    stack: int  # bytes a thread; more than 0 means spilled registers
    local: int  # likewise
    shared: int  # bytes a program
    instructions: int
    alu: int  # of them, in the pipe of integers and comparisons
    opcodes: dict[str, int]  # of them, those of NAMED that occur


def cases(chips: Sequence[int] = gpu.CAPABILITIES) -> Iterator[Case]:
    """Everything the launcher may choose on these chips: each kernel over sizes, types, losses and strides."""
    for chip in chips:
        tiles = {gpu.rows_config(chip, B, 64, 16).gram.tile: B for B in (256, 4096, 1024)}
        for B in tiles.values():
            for aligned in (True, False):
                yield Case("gram", chip, B, aligned=aligned)
                yield Case("gram", chip, B, dtype="fp32", aligned=aligned)
                yield Case("gram", chip, B, dtype="fp32", precision="tf32", aligned=aligned)
            yield Case("gram", chip, B, dtype="bf16")
        yield Case("gram", chip, 2 * gpu.LARGEST_SORT)
        for log_b in range(4, 15):
            yield Case("row_sort", chip, 1 << log_b)
        yield Case("row_sort", chip, 1024, loss="l2")
        yield Case("row_sort", chip, 1024, K=33, loss="one-sided", aligned=False)
        for K in (16, 64, 128, 256, 512):
            for loss in ("l1", "l2"):
                for aligned in (True, False):
                    yield Case("backward", chip, 1024, K=K, loss=loss, aligned=aligned)
        for B in (64, 256, 2048, 2 * gpu.LARGEST_HALVES):
            yield Case("halves", chip, B)
        yield Case("halves", chip, 2048, K=512, dtype="fp32", loss="l2")
        yield Case("halves", chip, 256, K=33, dtype="bf16", loss="one-sided", aligned=False)
        for K in (16, 64, 512):
            yield Case("halves_backward", chip, 1024, K=K)
        yield Case("halves_backward", chip, 1024, K=65, aligned=False)


def specialize(case: Case) -> Any:
    """The `Specialization` the launcher would take for this case on that chip."""
    bits = 32 if case.dtype == "fp32" else 16
    if case.kernel in ("halves", "halves_backward"):
        halves = gpu.halves_config(case.capability, case.B // 2, case.K)
        return gpu.halves_forward(halves, case.loss) if case.kernel == "halves" else gpu.halves_backward(halves)
    rows = gpu.rows_config(case.capability, case.B, case.K, bits)
    if case.kernel == "gram":
        return gpu.gram_tiles(rows, case.precision, symmetric=case.B <= gpu.LARGEST_SORT)
    if case.kernel == "row_sort":
        return gpu.sorted_rows(rows, case.loss, gradient=True)
    return gpu.rows_backward(rows)


def compile_case(case: Case) -> Resources:
    """Compiles one case and disassembles it.

    Raises:
        RuntimeError: TRITON_INTERPRET is set, so that there is nothing to compile.
    """
    if os.environ.get("TRITON_INTERPRET") == "1":
        raise RuntimeError("TRITON_INTERPRET=1 replaces the compiler: unset it to compile ahead of time")
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    specialization = specialize(case)
    signature, constants, attributes = {}, {}, {}
    for position, name in enumerate(specialization.kernel.arg_names):
        if name in specialization.constants:
            signature[name] = "constexpr"
            constants[(position,)] = specialization.constants[name]
            continue
        signature[name] = _argument_type(case, name)
        if _divisible(case, name):
            attributes[(position,)] = [["tt.divisibility", 16]]
    source = ASTSource(fn=specialization.kernel, signature=signature, constexprs=constants, attrs=attributes)
    options = {"num_warps": specialization.warps, "num_stages": specialization.stages}
    compiled = triton.compile(source, target=GPUTarget("cuda", case.capability, 32), options=options)
    return _read(compiled.asm["cubin"], compiled.metadata.shared)


def _argument_type(case: Case, name: str) -> str:
    if name == "X_ptr":
        return f"*{case.dtype}"
    if name == "G_ptr" and case.kernel in ("row_sort", "backward"):
        return "*fp16" if case.loss == "l2" else "*i8"
    if name == "ticket_ptr":
        return "*i32"
    return "*fp32" if name.endswith("_ptr") else "i32"


def _divisible(case: Case, name: str) -> bool:
    """Whether the launcher's argument is a multiple of 16: addresses and scratch always are."""
    return case.aligned or name.endswith("_ptr") or name in ("T_stride", "G_stride")


def _read(cubin: bytes, shared: int) -> Resources:
    import triton

    tools = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        usage = _output(tools / "cuobjdump", "--dump-resource-usage", path)
        assembly = _output(tools / "nvdisasm", "-c", path)
    figures = re.search(r"REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)", usage)
    if figures is None:
        raise RuntimeError(f"cuobjdump names no resources: {usage[:200]!r}")
    registers, stack, _, local = map(int, figures.groups())
    opcodes = count_opcodes(assembly)
    alu = sum(count for name, count in opcodes.items() if name in ALU)
    named = {name: opcodes[name] for name in NAMED if opcodes[name]}
    return Resources(registers, stack, local, shared, sum(opcodes.values()), alu, named)


def _output(tool: Path, *arguments: str | Path) -> str:
    return subprocess.run([tool, *arguments], capture_output=True, text=True, check=True).stdout


def count_opcodes(assembly: str) -> collections.Counter[str]:
    """Instructions by opcode (without modifiers) in what nvdisasm prints; the padding NOPs are left out."""
    pattern = re.compile(r"^\s*(?:/\*[0-9a-f]+\*/)?\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_]*)[.\s;]", re.MULTILINE)
    counts = collections.Counter(pattern.findall(assembly))
    del counts["NOP"]
    return counts


def compile_all(cases: Sequence[Case], workers: int = 2) -> Iterator[tuple[Case, Resources]]:
    """Compiles many cases, in order, in processes of their own (fresh ones: this process may be interpreting)."""
    context = multiprocessing.get_context("spawn")
    interpret = os.environ.pop("TRITON_INTERPRET", None)
    try:
        with ProcessPoolExecutor(workers, mp_context=context) as pool:
            yield from zip(cases, pool.map(compile_case, cases), strict=True)
    finally:
        if interpret is not None:
            os.environ["TRITON_INTERPRET"] = interpret


def sort_cost(capability: int, B: int) -> gpu.SortCost:
    """What `sdc.kernels.gpu.model.predict_rows` asks of the row sort on this chip."""
    cost = compile_case(Case("row_sort", capability, B))
    exchanges = sum(cost.opcodes.get(name, 0) for name in ("SHFL", "LDS", "STS"))
    return gpu.SortCost(cost.instructions, cost.alu, exchanges)


def describe(case: Case, cost: Resources) -> str:
    """One line of the printed table."""
    opcodes = " ".join(f"{name}={count}" for name, count in cost.opcodes.items())
    return (
        f"{case.name:52s} registers={cost.registers:3d} stack={cost.stack} local={cost.local} "
        f"shared={cost.shared:6d} instructions={cost.instructions:5d} {opcodes}"
    )


def write_table(path: Path, costs: dict[Case, Resources]) -> None:
    """{"triton": version, "cases": {name: resources}}, a case a line so that a change reads as a diff."""
    import triton

    lines = [f"  {json.dumps(case.name)}: {json.dumps(asdict(cost))}" for case, cost in costs.items()]
    text = f'{{"triton": {json.dumps(triton.__version__)}, "cases": {{\n' + ",\n".join(lines) + "\n}}\n"
    with atomic_write(path) as temporary:
        temporary.write_text(text)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m sdc.kernels.aot", description=__doc__.split("\n")[0])
    parser.add_argument(
        "--chips", type=int, nargs="+", default=gpu.CAPABILITIES, metavar="SM", help="such as 80 90 120"
    )
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the table there, as JSON")
    options = parser.parse_args(arguments)
    costs = {}
    for case, cost in compile_all(list(cases(options.chips)), options.workers):
        costs[case] = cost
        print(describe(case, cost), flush=True)
    if options.write:
        write_table(options.write, costs)
    return 0


if __name__ == "__main__":
    sys.exit(main())
