"""A bitonic sorting network for int32 keys whose cheap steps are the many ones.

A network over n = log2 N index bits compares keys that differ in one bit: bit 0 in every one of its n
stages, bit n − 1 in one. On the machine a bit of the position is a register (a comparison costs no
exchange), a lane (a shuffle) or a warp (shared memory and a barrier). So the bits are relabelled: the
often compared low bits of the *rank* are held by registers, the rarely compared high ones by lanes and
warps. The keys end up in rank order up to that fixed permutation, which `rank_of` undoes.

A row of keys is laid out as Triton loads it: four neighbours a thread, then lanes, then warps
(together `thread_bits`), then the thread's further registers. As a rotation of the bits above the lowest two:

    position  [ further registers | warp, lane | vector ]
    rank      [ warp, lane | further registers | vector ]
"""

# Triton reads these signatures itself; a tensor there has no type that mypy knows.
# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"

from __future__ import annotations

import triton
import triton.language as tl


@triton.constexpr_function
def _axis(bit, log_n, thread_bits):
    """Of the (2, …, 2) cube of positions, the axis that holds `bit` of the rank (the last one is bit 0)."""
    registers = log_n - 2 - thread_bits
    rotated = bit + thread_bits if bit < 2 + registers else bit - registers
    return log_n - 1 - (rotated if bit >= 2 else bit)


@triton.constexpr_function
def _along(bit, log_n, thread_bits):
    """The shape of a tensor that broadcasts over the cube and varies along that axis."""
    return [2 if axis == _axis(bit, log_n, thread_bits) else 1 for axis in range(log_n)]


@triton.jit
def rank_of(position, LOG_N: tl.constexpr, THREAD_BITS: tl.constexpr):
    """The rank of the key that `sort_keys` leaves at a position; a bijection of [0, 2^LOG_N)."""
    REGISTERS: tl.constexpr = LOG_N - 2 - THREAD_BITS
    upper = position >> 2
    threads = upper & ((1 << THREAD_BITS) - 1)
    return (position & 3) | (upper >> THREAD_BITS << 2) | (threads << (2 + REGISTERS))


@triton.jit
def sort_keys(keys, LOG_N: tl.constexpr, THREAD_BITS: tl.constexpr):
    """Sorts (2^LOG_N,) int32 keys: position p receives the key of rank `rank_of(p)`."""
    cube = tl.reshape(keys, [2] * LOG_N)
    bit = tl.arange(0, 2)
    for stage in tl.static_range(1, LOG_N + 1):
        # Blocks of 2^stage ranks alternate in direction, until the last stage makes one ascending block.
        descending = tl.reshape(bit, _along(stage, LOG_N, THREAD_BITS)) if stage < LOG_N else 0
        for step in tl.static_range(1, stage + 1):
            upper = tl.reshape(bit, _along(stage - step, LOG_N, THREAD_BITS))
            # The partner, as sum − self: the same exchange as an XOR, in fewer steps of the interpreter.
            partner = tl.sum(cube, axis=_axis(stage - step, LOG_N, THREAD_BITS), keep_dims=True) - cube
            cube = tl.where(descending != upper, tl.maximum(cube, partner), tl.minimum(cube, partner))
    return tl.reshape(cube, [1 << LOG_N])


@triton.jit
def packed_keys(values, valid, index, LOG_N: tl.constexpr):
    """int32 keys that order by value, then by index; (value, index) of invalid places come last.

    A key is a fixed-point value scaled to the row's own [min, max], shifted left, over its index: 24 bits
    of value (all a float32 holds) as long as LOG_N ≤ 8, 32 − LOG_N above. 2^−LOG_N of a row's range can't
    move a rank by more than one on average, whatever the precision of the values.
    """
    VALUE_BITS: tl.constexpr = 24 if LOG_N < 8 else 32 - LOG_N
    # The margin keeps rounding away from the last value, which the invalid places take.
    LARGEST: tl.constexpr = float((1 << VALUE_BITS) - 8)
    high = tl.max(tl.where(valid, values, -float("inf")), axis=0)
    low = tl.min(tl.where(valid, values, float("inf")), axis=0)
    span = high - low
    scale = tl.where(span > 1e-30, LARGEST / tl.maximum(span, 1e-30), 0.0)
    fixed = tl.floor((values - low) * scale).to(tl.int32) - (1 << (VALUE_BITS - 1))
    fixed = tl.where(valid, fixed, (1 << (31 - LOG_N)) - 1)
    return (fixed << LOG_N) | index


@triton.jit
def pair_loss(difference, LOSS: tl.constexpr):
    """ℓ(s − c) of each pair. LOSS as `sdc.kernels.names.LOSSES` numbers them: 0 l1, 1 l2, 2 one-sided."""
    if LOSS == 0:
        value = tl.abs(difference)
    elif LOSS == 1:
        value = difference * difference
    else:
        value = tl.maximum(difference, 0.0)
    return value


@triton.jit
def pair_slope(difference, LOSS: tl.constexpr):
    """dℓ/ds of each pair: a sign for l1, 2·difference for l2, an indicator for one-sided. Float32."""
    above = tl.where(difference > 0, 1.0, 0.0)
    if LOSS == 0:
        slope = above - tl.where(difference < 0, 1.0, 0.0)
    elif LOSS == 1:
        slope = 2.0 * difference
    else:
        slope = above
    return slope


@triton.jit
def inverse_norm(squares):
    """1 / max(|z|, 1e-12) from |z|², as `torch.nn.functional.normalize` has it."""
    return tl.rsqrt(tl.maximum(squares, 1e-24))
