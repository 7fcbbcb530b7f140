// One panel of anchor rows of the calibration loss: their ranks, their loss and dL/ds. cpu.py holds the rest.
//
// Threads are the caller's: `parallel` is the entry point GOMP_parallel of the OpenMP runtime that torch itself
// runs on, so this file is compiled without OpenMP and never brings a second runtime into the process.

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <exception>
#include <limits>
#include <optional>
#include <utility>
#include <vector>

namespace {

using Parallel = void (*)(void (*body)(void*), void* argument, unsigned threads, unsigned flags);

// 64 bytes of numbers: one AVX-512 register, two of AVX2. Written out because the loops that need it are the ones
// the compiler leaves scalar.
template <typename T>
struct Vector {
    typedef T type __attribute__((vector_size(64)));
    static constexpr long size = 64 / sizeof(T);

    static type load(const T* from, long count = size) {
        type value{};
        std::memcpy(&value, from, count * sizeof(T));
        return value;
    }
};

enum Loss { L1, L2, ONE_SIDED, RANKS };

constexpr long GROUP = 16;        // rows a thread takes at a time: a cache line of floats of a transposed block
constexpr long LANES = Vector<uint32_t>::size;
constexpr long COUNT_UP_TO = 192; // rows up to this length are ranked by comparing all with all
constexpr int DIGIT = 11;         // the widest radix digit: its counters (8 KiB) stay in the first-level cache

template <typename T>
struct Panel {
    const T* t;              // (rows, size - own * edge): X Xᵀ of these rows from the diagonal block on
    T* const* blocks;        // the same cut into blocks: left of the diagonal what earlier panels kept, to be read as
                             // its transpose; right of it (rows, width) to be filled for later panels
    long own, edge;          // number of the diagonal block; rows and columns of every block but the last
    long size, rows;         // rows of the batch (B), rows of this panel
    T* s;                    // (rows, size): similarities of the outputs in, dL/ds (or ranks) out; 0 on the diagonal
    const T* q;              // (size - 1): targets, ascending
    double* losses;          // (rows): sum of a row's loss
    int loss;
    std::atomic<long> next;  // the first row that no thread has taken
};

// What one thread needs beside the panel.
template <typename T>
struct Scratch {
    long stride;             // padded, so that the group's rows don't fall into the same cache sets
    std::vector<T> t, targets;
    std::vector<uint32_t> keys, spare, counts;
    std::vector<std::pair<T, uint32_t>> order;

    explicit Scratch(long size)
        : stride(size + GROUP), t(GROUP * stride), targets(size), keys(size + 2 * LANES), spare(size + 2 * LANES),
          counts(3 << DIGIT) {
        if (sizeof(T) == sizeof(double)) order.reserve(size);  // so that nothing is allocated later
    }
};

template <typename T>
void gather(const Panel<T>& panel, long first, long count, Scratch<T>& scratch) {
    const long begin = panel.own * panel.edge, ahead = panel.size - begin;
    T* target = scratch.t.data();
    for (long b = 0; b < panel.own; b++)
        for (long j = 0; j < panel.edge; j++) {
            const T* source = panel.blocks[b] + j * panel.rows + first;
            for (long r = 0; r < count; r++) target[r * scratch.stride + b * panel.edge + j] = source[r];
        }
    for (long r = first; r < first + count; r++, target += scratch.stride) {
        const T* row = panel.t + r * ahead;
        std::memcpy(target + begin, row, ahead * sizeof(T));
        for (long b = panel.own + 1; b * panel.edge < panel.size; b++) {
            const long column = b * panel.edge, width = std::min(panel.edge, panel.size - column);
            std::memcpy(panel.blocks[b] + r * width, row + column - begin, width * sizeof(T));
        }
    }
}

// keys[k] = t, fixed-point in `bits` bits over the row's own range | column; the diagonal is left out.
// Whatever t holds (NaN too), the low bits are the column.
void pack(float* t, long size, long diagonal, int columns, int bits, uint32_t* keys) {
    t[diagonal] = t[diagonal ? 0 : 1];
    auto low = Vector<float>::type{} + t[0], high = low;
    for (long j = 0; j < size; j += LANES) {
        const auto value = Vector<float>::load(t + std::min(j, size > LANES ? size - LANES : 0), std::min(size, LANES));
        low = value < low ? value : low;
        high = value > high ? value : high;
    }
    float start = low[0], end = high[0];
    for (long l = 1; l < std::min(size, LANES); l++) start = std::min(start, low[l]), end = std::max(end, high[l]);
    const float range = end - start;
    // 4 below the largest key: the product may round up.
    const float scale = range > 1e-30f ? static_cast<float>((1u << bits) - 4) / range : 0.f;
    for (long k = 0; k < size; k++) {
        const float place = (t[k] - start) * scale;
        keys[k] = uint32_t(int32_t(place > 0.f ? place : 0.f)) << columns | uint32_t(k);  // of NaN: 0
    }
    std::memmove(keys + diagonal, keys + diagonal + 1, (size - 1 - diagonal) * sizeof(uint32_t));
}

// targets[column] = q[rank], the rank being the number of smaller keys.
void count(const uint32_t* keys, long n, uint32_t mask, const float* q, float* targets) {
    for (long k = 0; k < n; k += 2 * LANES) {
        using V = Vector<uint32_t>;
        const auto a = V::load(keys + k), b = V::load(keys + k + LANES);
        V::type below_a{}, below_b{};
        for (long other = 0; other < n; other++) {
            const auto key = V::type{} + keys[other];
            below_a -= reinterpret_cast<V::type>(key < a);
            below_b -= reinterpret_cast<V::type>(key < b);
        }
        for (long l = 0; l < 2 * LANES && k + l < n; l++)
            targets[keys[k + l] & mask] = q[l < LANES ? below_a[l] : below_b[l - LANES]];
    }
}

// The same by a stable radix sort, least significant digit first. The last pass needs no sorted copy: the place
// where it would put a key is the key's rank.
template <int passes>
void radix(uint32_t* keys, uint32_t* spare, uint32_t* counts, long n, int columns, int bits, const float* q,
           float* targets) {
    const int width = (bits + passes - 1) / passes;
    const uint32_t digit = (1u << width) - 1, mask = (1u << columns) - 1;
    std::memset(counts, 0, (static_cast<size_t>(passes) << width) * sizeof(uint32_t));
    for (long k = 0; k < n; k++)
        for (int pass = 0; pass < passes; pass++)
            counts[(pass << width) + (keys[k] >> (columns + pass * width) & digit)]++;
    for (int pass = 0; pass < passes; pass++) {
        uint32_t* place = counts + (pass << width);
        uint32_t total = 0;
        for (uint32_t d = 0; d <= digit; d++) total += std::exchange(place[d], total);
        const int shift = columns + pass * width;
        if (pass + 1 == passes) {
            for (long k = 0; k < n; k++) targets[keys[k] & mask] = q[place[keys[k] >> shift & digit]++];
        } else {
            for (long k = 0; k < n; k++) spare[place[keys[k] >> shift & digit]++] = keys[k];
            std::swap(keys, spare);
        }
    }
}

void rank(Scratch<float>& scratch, float* t, long size, long diagonal, const float* q) {
    int columns = 1;
    while ((1l << columns) < size) columns++;
    const int bits = std::min(24, 32 - columns);
    uint32_t* keys = scratch.keys.data();
    pack(t, size, diagonal, columns, bits, keys);
    uint32_t *spare = scratch.spare.data(), *counts = scratch.counts.data();
    float* targets = scratch.targets.data();
    if (size <= COUNT_UP_TO)
        count(keys, size - 1, (1u << columns) - 1, q, targets);
    else if (bits <= 2 * DIGIT)
        radix<2>(keys, spare, counts, size - 1, columns, bits, q, targets);
    else
        radix<3>(keys, spare, counts, size - 1, columns, bits, q, targets);
}

// Double precision is there to be checked against, not to be fast: an exact comparison sort.
void rank(Scratch<double>& scratch, double* t, long size, long diagonal, const double* q) {
    auto& order = scratch.order;
    order.clear();
    for (long j = 0; j < size; j++)
        if (j != diagonal) order.emplace_back(t[j], static_cast<uint32_t>(j));
    std::sort(order.begin(), order.end());
    for (long k = 0; k < size - 1; k++) scratch.targets[order[k].second] = q[k];
}

// difference = s - target becomes dl/ds; returns l.
template <int loss, typename V>
V slope(V& difference) {
    const V zero{};
    V value;
    if (loss == L1) {
        value = difference > zero ? difference : -difference;
        difference = (difference > zero ? zero + 1 : zero) - (difference < zero ? zero + 1 : zero);
    } else if (loss == L2) {
        value = difference * difference;
        difference = 2 * difference;
    } else {
        value = difference < zero ? zero : difference;  // this way round a NaN stays one
        difference = difference > zero ? zero + 1 : zero;
    }
    return value;
}

// s becomes dL/ds without the factor of the mean; returns the sum of the row's loss.
template <int loss, typename T>
double settle(T* s, const T* targets, long size) {
    using V = Vector<T>;
    constexpr long CHUNK = 16 * V::size;  // few enough sums in single precision to add no error
    double total = 0;
    for (long start = 0; start < size; start += CHUNK) {
        typename V::type sum{};
        const long end = std::min(size, start + CHUNK);
        long j = start;
        for (; j + V::size <= end; j += V::size) {
            auto difference = V::load(s + j) - V::load(targets + j);
            sum += slope<loss>(difference);
            std::memcpy(s + j, &difference, sizeof difference);
        }
        if (j < end) {
            auto difference = V::load(s + j, end - j) - V::load(targets + j, end - j);
            sum += slope<loss>(difference);
            std::memcpy(s + j, &difference, (end - j) * sizeof(T));
        }
        for (long l = 0; l < V::size; l++) total += sum[l];
    }
    return total;
}

template <typename T>
double settle(T* s, const T* targets, long size, int loss) {
    if (loss == L1) return settle<L1>(s, targets, size);
    if (loss == L2) return settle<L2>(s, targets, size);
    return settle<ONE_SIDED>(s, targets, size);
}

template <typename T>
void work(void* argument) {
    Panel<T>& panel = *static_cast<Panel<T>*>(argument);
    std::optional<Scratch<T>> room;
    try {
        room.emplace(panel.size);
    } catch (const std::exception&) {
        return;  // other threads take the rows; `run` sees whether any did
    }
    Scratch<T>& scratch = *room;
    for (long first; (first = panel.next.fetch_add(GROUP)) < panel.rows;) {
        const long count = std::min(GROUP, panel.rows - first);
        gather(panel, first, count, scratch);
        for (long r = 0; r < count; r++) {
            const long diagonal = panel.own * panel.edge + first + r;
            T* s = panel.s + (first + r) * panel.size;
            rank(scratch, scratch.t.data() + r * scratch.stride, panel.size, diagonal, panel.q);
            T* targets = scratch.targets.data();
            if (panel.loss == RANKS) {
                std::copy(targets, targets + panel.size, s);
                s[diagonal] = 0;
            } else {
                targets[diagonal] = s[diagonal];
                panel.losses[first + r] = settle(s, targets, panel.size, panel.loss);
            }
        }
    }
}

// Returns 1 where the memory does not suffice.
template <typename T>
int run(const T* t, T* const* blocks, long own, long edge, long size, long rows, T* s, const T* q, double* losses,
         int loss, Parallel parallel, unsigned threads) {
    Panel<T> panel{t, blocks, own, edge, size, rows, s, q, losses, loss, {0}};
    const unsigned groups = static_cast<unsigned>((rows + GROUP - 1) / GROUP);
    parallel(work<T>, &panel, std::min(threads, groups), 0);
    return panel.next < rows;
}

}  // namespace

extern "C" int sdc_panel_float(const float* t, float* const* blocks, long own, long edge, long size, long rows,
                                float* s, const float* q, double* losses, int loss, Parallel parallel,
                                unsigned threads) {
    return run(t, blocks, own, edge, size, rows, s, q, losses, loss, parallel, threads);
}

extern "C" int sdc_panel_double(const double* t, double* const* blocks, long own, long edge, long size, long rows,
                                 double* s, const double* q, double* losses, int loss, Parallel parallel,
                                 unsigned threads) {
    return run(t, blocks, own, edge, size, rows, s, q, losses, loss, parallel, threads);
}
