"""The machine code of every Triton kernel, for chips that need not be here, against the committed table.

`python -m sdc.kernels.aot --write tests/kernels/aot_table.json` makes the table anew. The quick test
compiles each kernel once, in all for a chip of each generation, the slow one everything.
"""

import json
from pathlib import Path

import pytest

pytest.importorskip("triton")

from sdc.kernels import aot
from sdc.kernels.gpu import config

TABLE = json.loads(Path(__file__).with_name("aot_table.json").read_text())
CASES = {case.name: case for case in aot.cases()}
CORE = [
    "gram-sm_90-B1024-K64-fp16-l1",
    "gram-sm_100-B1024-K64-fp32-l1-tf32x3-unaligned",
    "row_sort-sm_80-B256-K64-fp16-l1",
    "backward-sm_100-B1024-K64-fp16-l1-unaligned",
    "halves-sm_120-B256-K64-fp16-l1",
    "halves_backward-sm_90-B1024-K64-fp16-l1",
]
MINIMUM = {80: "IMNMX", 86: "IMNMX", 89: "IMNMX", 90: "VIMNMX", 100: "VIMNMX", 120: "VIMNMX"}


def problems(case, cost, expected):
    """What is wrong with a compiled kernel, in words."""
    limit = config.shared_limit(case.capability)
    if cost.stack or cost.local or cost.opcodes.get("LDL") or cost.opcodes.get("STL"):
        yield f"spills: stack {cost.stack}, local {cost.local}, {cost.opcodes}"
    if cost.shared > limit:
        yield f"{cost.shared} bytes of shared memory, sm_{case.capability} has {limit}"
    if cost.shared != expected["shared"]:
        yield f"{cost.shared} bytes of shared memory, the table says {expected['shared']}"
    if abs(cost.registers - expected["registers"]) > 0.1 * expected["registers"]:
        yield f"{cost.registers} registers, the table says {expected['registers']}"
    if abs(cost.instructions - expected["instructions"]) > 0.1 * expected["instructions"]:
        yield f"{cost.instructions} instructions, the table says {expected['instructions']}"
    if case.kernel == "row_sort" and not cost.opcodes.get(MINIMUM[case.capability]):
        yield "the sort does not compile to integer minima and maxima"
    tensor = {90: "HGMMA", 100: "UTCHMMA"}.get(case.capability)
    if case.kernel == "gram" and case.B > 512 and tensor and not cost.opcodes.get(tensor):
        yield f"the products do not use {tensor}"


def check(names):
    wanted = [CASES[name] for name in names]
    found = [
        f"{case.name}: {problem}"
        for case, cost in aot.compile_all(wanted)
        for problem in problems(case, cost, TABLE["cases"][case.name])
    ]
    assert not found, f"(table made with Triton {TABLE['triton']})\n" + "\n".join(found)


def test_the_table_lists_every_case():
    assert list(TABLE["cases"]) == list(CASES)


@pytest.mark.parametrize("name", CASES)
def test_the_table_itself_is_clean(name):
    cost = aot.Resources(**TABLE["cases"][name])
    assert list(problems(CASES[name], cost, TABLE["cases"][name])) == []


def test_core_of_the_table():
    check(CORE)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("chip", config.CAPABILITIES)
def test_whole_table(chip):
    check([name for name, case in CASES.items() if case.capability == chip])


def test_problems_are_found():
    case = CASES["row_sort-sm_80-B256-K64-fp16-l1"]
    good = TABLE["cases"][case.name]
    for change, word in (
        ({"stack": 8}, "spills"),
        ({"opcodes": {"IMNMX": 9, "LDL": 1}}, "spills"),
        ({"shared": 200_000}, "sm_80 has"),
        ({"instructions": 2 * good["instructions"]}, "instructions"),
        ({"registers": 2 * good["registers"]}, "registers"),
        ({"opcodes": {}}, "minima"),
    ):
        found = list(problems(case, aot.Resources(**{**good, **change}), good))
        assert any(word in problem for problem in found), change


def test_opcodes_are_counted_without_modifiers_or_padding():
    assembly = """
        .section .text.kernel
        /*0000*/                   IMAD.MOV.U32 R1, RZ, RZ, c[0x0][0x28] ;
        /*0010*/              @!P0 BRA `(.L_1) ;
        /*0020*/             @!UP1 STL [R1], R2 ;
        /*0030*/                   NOP ;
        /*0040*/                   EXIT ;
    .L_1:
    """
    assert dict(aot.count_opcodes(assembly)) == {"IMAD": 1, "BRA": 1, "STL": 1, "EXIT": 1}


def test_refuses_to_compile_while_interpreting(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with pytest.raises(RuntimeError, match="TRITON_INTERPRET"):
        aot.compile_case(next(aot.cases()))
