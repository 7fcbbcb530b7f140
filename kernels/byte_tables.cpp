// Codes as sums of one of 256 vectors a byte: finding better codes, and scoring them. byte_tables.py says how it works.

#include <cstdint>
#include <cstring>

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

// Scores of n codes of m bytes for one query: (offset + the sum of a table's entry a byte) * factors[lengths[i]].
//   table    (m, 256)
//   lengths  (n,)
//   factors  (256,)
extern "C" void sdc_scores(long n, long m, const float* table, float offset, const uint8_t* codes,
                           const uint8_t* lengths, const float* factors, float* scores) {
    for (long i = 0; i < n; i++) {
        const uint8_t* code = codes + i * m;
        float sum = offset;
        for (long j = 0; j < m; j++) sum += table[256 * j + code[j]];
        scores[i] = sum * factors[lengths[i]];
    }
}
