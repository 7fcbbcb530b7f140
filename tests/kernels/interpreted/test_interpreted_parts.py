"""The sorting network by itself, and the bytes that the kernels move, counted."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from hypothesis import given, settings
from hypothesis import strategies as st
from triton.runtime import interpreter

from sdc.kernels.gpu import config, ops
from sdc.kernels.gpu.network import rank_of, sort_keys


@triton.jit
def sort_kernel(keys_ptr, sorted_ptr, rank_ptr, LOG_N: tl.constexpr, THREAD_BITS: tl.constexpr):
    place = tl.arange(0, 1 << LOG_N)
    keys = sort_keys(tl.load(keys_ptr + place), LOG_N, THREAD_BITS)
    rank = rank_of(place, LOG_N, THREAD_BITS)
    tl.store(rank_ptr + place, rank)
    tl.store(sorted_ptr + rank, keys)


def sorted_and_ranks(keys, thread_bits):
    out, ranks = torch.empty_like(keys), torch.empty_like(keys)
    sort_kernel[(1,)](keys, out, ranks, LOG_N=len(keys).bit_length() - 1, THREAD_BITS=thread_bits)
    return out, ranks


@pytest.mark.parametrize(("log_n", "thread_bits"), [(4, 2), (5, 3), (6, 4), (7, 5), (9, 5), (9, 6), (9, 7), (11, 7)])
def test_network_sorts_and_ranks_are_a_permutation(log_n, thread_bits):
    keys = torch.randint(-(2**31), 2**31, (1 << log_n,), dtype=torch.int32)
    found, ranks = sorted_and_ranks(keys, thread_bits)
    assert torch.equal(found, keys.sort()[0])
    assert torch.equal(ranks.sort()[0], torch.arange(1 << log_n, dtype=torch.int32))


@settings(max_examples=15, deadline=None, derandomize=True)
@given(st.lists(st.sampled_from([-(2**31), -1, 0, 1, 2**31 - 1]), min_size=16, max_size=16))
def test_network_sorts_repeated_and_extreme_keys(values):
    keys = torch.tensor(values, dtype=torch.int32)
    assert torch.equal(sorted_and_ranks(keys, 2)[0], keys.sort()[0])


class Traffic:
    """What each launch loads and stores: distinct bytes loaded, bytes stored, places stored twice."""

    def __init__(self, monkeypatch):
        self.launches = []
        call, load, store = (
            interpreter.GridExecutor.__call__,
            interpreter.InterpreterBuilder.create_masked_load,
            interpreter.InterpreterBuilder.create_masked_store,
        )

        def launched(executor, *arguments, **options):
            self.launches.append({"name": executor.fn.__name__, "loads": [], "stores": []})
            return call(executor, *arguments, **options)

        def loaded(builder, pointers, mask, *rest):
            self.record("loads", pointers, mask)
            return load(builder, pointers, mask, *rest)

        def stored(builder, pointers, value, mask, *rest):
            self.record("stores", pointers, mask)
            return store(builder, pointers, value, mask, *rest)

        monkeypatch.setattr(interpreter.GridExecutor, "__call__", launched)
        monkeypatch.setattr(interpreter.InterpreterBuilder, "create_masked_load", loaded)
        monkeypatch.setattr(interpreter.InterpreterBuilder, "create_masked_store", stored)

    def record(self, kind, pointers, mask):
        width = pointers.get_element_ty().primitive_bitwidth // 8
        wanted = np.broadcast_to(mask.data, pointers.data.shape)
        self.launches[-1][kind].append((width, np.unique(pointers.data[wanted]), int(wanted.sum())))

    def summary(self):
        """(name, distinct bytes loaded, bytes stored, places stored twice) of each launch."""
        rows = []
        for launch in self.launches:
            distinct = {
                kind: {
                    width: np.unique(np.concatenate([places for w, places, _ in launch[kind] if w == width]))
                    for width in {w for w, _, _ in launch[kind]}
                }
                for kind in ("loads", "stores")
            }
            loaded = sum(width * len(places) for width, places in distinct["loads"].items())
            stored = sum(width * count for width, _, count in launch["stores"])
            unique = sum(width * len(places) for width, places in distinct["stores"].items())
            rows.append((launch["name"], loaded, stored, stored - unique))
        return rows


@pytest.mark.parametrize(
    ("B", "d", "K", "most"), [(64, 32, 8, 22.0), pytest.param(512, 64, 16, 19.0, marks=pytest.mark.slow)]
)
def test_bytes_a_pair(B, d, K, most, monkeypatch):
    """Loads count once a launch: what is read again (tiles of X, the transposed slopes) comes from the L2
    cache. Between two launches nothing is taken to stay there. Eager PyTorch moves 140 bytes a pair.
    """
    x = F.normalize(torch.randn(B, d)).half()
    z = torch.randn(B, K, requires_grad=True)
    traffic = Traffic(monkeypatch)
    calibration, quantization = ops.calibration_rows(x, z, torch.linspace(-0.5, 0.5, B - 1))
    (calibration + quantization).backward()
    launches = traffic.summary()
    assert [name for name, *_ in launches] == ["gram_kernel", "row_sort_kernel", "backward_kernel"]
    assert all(twice == 0 for *_, twice in launches), "two programs store to one place: a race"
    means = 2 * 4 * B  # read by the two `mean`s, which are not ours
    total = sum(loaded + stored for _, loaded, stored, _ in launches) + means
    print(f"B={B} d={d} K={K}: {total / B**2:.2f} bytes a pair", launches)
    assert total / B**2 <= most
    assert total / B**2 >= 18  # t and s written and read, the slopes written and read: the count is whole


def test_halves_take_one_launch_each_way(monkeypatch):
    x, z = F.normalize(torch.randn(24, 16)), torch.randn(24, 16, requires_grad=True)
    traffic = Traffic(monkeypatch)
    sum(ops.calibration_halves(x, z, torch.linspace(-0.5, 0.5, 12))).backward()
    assert [name for name, *_ in traffic.summary()] == ["halves_kernel", "halves_backward_kernel"]


def test_interpreted_configuration_is_a_real_one():
    assert config.rows_config(90, 96, 8, 16).gram.tile in (32, 64)
