// Codes as sums of one of 256 vectors a byte: finding better codes, and scoring them. byte_tables.py says how it works.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <new>
#include <vector>
#ifdef __AVX512F__
#include <immintrin.h>
#endif

namespace {

constexpr float GRID = 16777216.0F;  // scores are whole numbers of 1 / GRID
constexpr long GROUP = 16;           // codes scored together
constexpr long AHEAD = 64;           // codes that are fetched before their turn: they lie anywhere in memory
constexpr size_t SPARE = 256;        // places for candidates beside 2 k

struct Scorer {
    long m;
    const float* table;  // (m, 256)
    float offset;
    const uint8_t *codes, *lengths;
    const float* factors;  // (256,)

    // (offset + the sum of a table's entry a byte) * the factor of the length, rounded to GRID; sums are in the order
    // of the bytes, here as below.
    float score(int64_t place) const {
        const uint8_t* code = codes + place * m;
        float sum = offset;
        for (long j = 0; j < m; j++) sum += table[256 * j + code[j]];
        return std::nearbyint(sum * factors[lengths[place]] * GRID) / GRID;
    }

    // Of the codes at n <= GROUP places. A vector of look-ups is 1.6 times as fast as one after the other with AVX-512;
    // of AVX2's, with half as many, that is not so on every processor.
    void group(const int64_t* places, long n, float* scores) const {
#ifdef __AVX512F__
        if (n == GROUP && m % 4 == 0) {
            const __m512i width = _mm512_set1_epi64(m), low = _mm512_set1_epi32(255);
            __m512i first = _mm512_mullox_epi64(_mm512_loadu_si512(places), width);
            __m512i second = _mm512_mullox_epi64(_mm512_loadu_si512(places + 8), width);
            __m512 sums = _mm512_set1_ps(offset);
            const float* entries = table;
            for (const uint8_t* at = codes; at < codes + m; at += 4) {  // four bytes of each code
                const __m256i a = _mm512_i64gather_epi32(first, at, 1), b = _mm512_i64gather_epi32(second, at, 1);
                __m512i values = _mm512_inserti64x4(_mm512_castsi256_si512(a), b, 1);
                for (int byte = 0; byte < 4; byte++, entries += 256, values = _mm512_srli_epi32(values, 8))
                    sums = _mm512_add_ps(sums, _mm512_i32gather_ps(_mm512_and_si512(values, low), entries, 4));
            }
            alignas(64) float scale[GROUP];
            for (long i = 0; i < GROUP; i++) scale[i] = factors[lengths[places[i]]];
            const __m512 fine = _mm512_mul_ps(_mm512_mul_ps(sums, _mm512_load_ps(scale)), _mm512_set1_ps(GRID));
            _mm512_storeu_ps(scores, _mm512_mul_ps(_mm512_roundscale_ps(fine, 0), _mm512_set1_ps(1 / GRID)));
            return;
        }
#endif
        for (long i = 0; i < n; i++) scores[i] = score(places[i]);
    }
};

struct Scored {
    float score;
    int64_t place;
    bool operator<(const Scored& other) const {
        return score > other.score || (score == other.score && place < other.place);
    }
};

}  // namespace

// Sets byte k of n codes of m bytes to the value of least cost, whole numbers throughout.
//   unary    (n, 256): what each value of byte k costs by itself
//   pairs    (m, 256, 256): what it costs beside each value of each other byte
//   codes    (n, m), changed in place
//   changes  (n,): the change of each code's cost is added
//   forced   not 0: the value that the byte has is not allowed
extern "C" void sdc_set_byte(long n, long m, long k, const int16_t* unary, const int16_t* pairs, uint8_t* codes,
                             int32_t* changes, int forced) {
    alignas(64) int16_t cost[256];
    for (long i = 0; i < n; i++) {
        uint8_t* code = codes + i * m;
        std::memcpy(cost, unary + i * 256, sizeof cost);
        for (long j = 0; j < m; j++) {
            if (j == k) continue;
            const int16_t* beside = pairs + (256 * j + code[j]) * 256;
            for (int value = 0; value < 256; value++) cost[value] += beside[value];
        }
        const int16_t before = cost[code[k]];
        if (forced) cost[code[k]] = INT16_MAX;
        int16_t least = cost[0];
        for (int value = 1; value < 256; value++) least = cost[value] < least ? cost[value] : least;
        int best = 0;
        while (cost[best] != least) best++;
        changes[i] += static_cast<int32_t>(least) - before;
        code[k] = static_cast<uint8_t>(best);
    }
}

// For few rows 3 times as fast as BLAS, which wants floats; for a hundred BLAS is 5 times as fast as this.
// Products (q, n) of q rows with n vectors of d whole numbers; no sum leaves 32 bits.
extern "C" void sdc_products(long q, long n, long d, const int32_t* rows, const int16_t* vectors, int32_t* products) {
    for (long vector = 0; vector < n; vector++) {
        const int16_t* v = vectors + vector * d;
        for (long row = 0; row < q; row++) {
            const int32_t* x = rows + row * d;
            int32_t sum = 0;
            for (long i = 0; i < d; i++) sum += x[i] * v[i];
            products[row * n + vector] = sum;
        }
    }
}

// Scores of n codes of m bytes for one query, see Scorer.
extern "C" void sdc_scores(long n, long m, const float* table, float offset, const uint8_t* codes,
                           const uint8_t* lengths, const float* factors, float* scores) {
    const Scorer scorer{m, table, offset, codes, lengths, factors};
    int64_t places[GROUP];
    for (long start = 0; start < n; start += GROUP) {
        for (long i = 0; i < GROUP; i++) places[i] = start + i;
        scorer.group(places, std::min(GROUP, n - start), scores + start);
    }
}

// The k <= n best of codes at n places by (score descending, place). Returns 1 where the memory does not suffice.
//   places        (n,), distinct: where in codes and lengths they are
//   scores, best  (k,)
extern "C" int sdc_best(long n, long m, const float* table, float offset, const uint8_t* codes, const uint8_t* lengths,
                        const float* factors, const int64_t* places, long k, float* scores, int64_t* best) {
    try {
        const Scorer scorer{m, table, offset, codes, lengths, factors};
        const size_t keep = static_cast<size_t>(k), room = 2 * keep + SPARE;
        std::vector<Scored> found;
        found.reserve(room);
        float least = -INFINITY;  // what the k-th best reached when it was last looked at
        float values[GROUP];
        for (long start = 0; start < n; start += GROUP) {
            const long count = std::min(GROUP, n - start);
            for (long i = start + AHEAD; i < std::min(start + AHEAD + GROUP, n); i++) {
                __builtin_prefetch(codes + places[i] * m);
                __builtin_prefetch(lengths + places[i]);
            }
            scorer.group(places + start, count, values);
            for (long i = 0; i < count; i++)
                if (values[i] >= least) found.push_back({values[i], places[start + i]});
            if (found.size() + GROUP <= room) continue;
            std::nth_element(found.begin(), found.begin() + k - 1, found.end());
            found.resize(keep);
            least = found.back().score;
        }
        std::partial_sort(found.begin(), found.begin() + k, found.end());
        for (long i = 0; i < k; i++) {
            scores[i] = found[static_cast<size_t>(i)].score;
            best[i] = found[static_cast<size_t>(i)].place;
        }
    } catch (const std::bad_alloc&) {
        return 1;
    }
    return 0;
}
