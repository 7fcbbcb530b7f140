// The nearest codes by Hamming distance, every code compared. hamming.py calls it and says how it works.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <new>
#include <utility>
#include <vector>
#if defined(__AVX512F__) && defined(__AVX512VPOPCNTDQ__)
#define LANES 512
#elif defined(__AVX2__)
#define LANES 256
#endif
#ifdef LANES
#include <immintrin.h>
#endif

namespace {

template <typename T>
T read(const uint8_t* from) {
    T value;
    std::memcpy(&value, from, sizeof value);
    return value;
}

constexpr long CHUNK = 64;             // codes compared at once: a bit each of a word
constexpr long BLOCK = 16384;          // bytes of codes that all queries of a group see while they are in the L1 cache
constexpr long SPARE = 4 * CHUNK;      // places for candidates beside 2 k
constexpr long FETCHED = 8192;         // bytes ahead that are fetched where much is written beside the scan
constexpr int PLACE = 40;              // bits of a position; the distance stands above them

// Eight 64-bit numbers.
#if LANES == 512
struct Lanes {
    __m512i x;
    static Lanes all(uint64_t value) { return {_mm512_set1_epi64(static_cast<long long>(value))}; }
    static Lanes load(const uint64_t* from) { return {_mm512_loadu_si512(from)}; }
    static Lanes load(const uint32_t* from) {
        return {_mm512_cvtepu32_epi64(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)))};
    }
    static Lanes load(const uint16_t* from) {
        return {_mm512_cvtepu16_epi64(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)))};
    }
    static Lanes load(const uint8_t* from) {
        return {_mm512_cvtepu8_epi64(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from)))};
    }
    Lanes differing(Lanes other) const { return {_mm512_popcnt_epi64(_mm512_xor_si512(x, other.x))}; }
    uint64_t below(Lanes limit) const { return _mm512_cmplt_epu64_mask(x, limit.x); }
    // Sums of the neighbours of (a, b): a0 + a1, ..., b6 + b7.
    static Lanes pairs(Lanes a, Lanes b) {
        const __m512i even = _mm512_setr_epi64(0, 2, 4, 6, 8, 10, 12, 14);
        const __m512i odd = _mm512_setr_epi64(1, 3, 5, 7, 9, 11, 13, 15);
        return {_mm512_add_epi64(_mm512_permutex2var_epi64(a.x, even, b.x), _mm512_permutex2var_epi64(a.x, odd, b.x))};
    }
};
#elif LANES == 256
struct Lanes {
    __m256i x, y;
    static Lanes all(uint64_t value) {
        const __m256i v = _mm256_set1_epi64x(static_cast<long long>(value));
        return {v, v};
    }
    static Lanes load(const uint64_t* from) {
        const auto* at = reinterpret_cast<const __m256i*>(from);
        return {_mm256_loadu_si256(at), _mm256_loadu_si256(at + 1)};
    }
    static Lanes load(const uint32_t* from) {
        const auto* at = reinterpret_cast<const __m128i*>(from);
        return {_mm256_cvtepu32_epi64(_mm_loadu_si128(at)), _mm256_cvtepu32_epi64(_mm_loadu_si128(at + 1))};
    }
    static Lanes load(const uint16_t* from) {
        const __m128i all = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
        return {_mm256_cvtepu16_epi64(all), _mm256_cvtepu16_epi64(_mm_srli_si128(all, 8))};
    }
    static Lanes load(const uint8_t* from) {
        const __m128i all = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(from));
        return {_mm256_cvtepu8_epi64(all), _mm256_cvtepu8_epi64(_mm_srli_si128(all, 4))};
    }
    static __m256i ones(__m256i v) {  // of each half byte from a table, then summed over eight bytes
        const __m256i table = _mm256_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4,
                                               0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4);
        const __m256i low = _mm256_set1_epi8(15);
        const __m256i a = _mm256_shuffle_epi8(table, _mm256_and_si256(v, low));
        const __m256i b = _mm256_shuffle_epi8(table, _mm256_and_si256(_mm256_srli_epi16(v, 4), low));
        return _mm256_sad_epu8(_mm256_add_epi8(a, b), _mm256_setzero_si256());
    }
    Lanes differing(Lanes other) const {
        return {ones(_mm256_xor_si256(x, other.x)), ones(_mm256_xor_si256(y, other.y))};
    }
    static uint64_t mask(__m256i v) { return static_cast<uint64_t>(_mm256_movemask_pd(_mm256_castsi256_pd(v))); }
    uint64_t below(Lanes limit) const {
        return mask(_mm256_cmpgt_epi64(limit.x, x)) | mask(_mm256_cmpgt_epi64(limit.y, y)) << 4;
    }
    static __m256i pairs(__m256i a, __m256i b) {
        const __m256i sums = _mm256_add_epi64(_mm256_unpacklo_epi64(a, b), _mm256_unpackhi_epi64(a, b));
        return _mm256_permute4x64_epi64(sums, 0xD8);
    }
    static Lanes pairs(Lanes a, Lanes b) { return {pairs(a.x, a.y), pairs(b.x, b.y)}; }
};
#endif

// A query whose code is of `words` times 8 bytes (-1: of any number of them, known at run time) and `tail` bytes.
template <int words, int tail>
class Scalar {
  public:
    static constexpr bool chunks = false;

    Scalar(const uint8_t* query, long width) : query_(query), end_(width - tail), rest_(rest(query + width - tail)) {
        for (int n = 0; n < words; ++n) words_[n] = read<uint64_t>(query + 8 * n);
    }

    uint64_t distance(const uint8_t* code) const {
        int sum = 0;
        if constexpr (words < 0) {
            for (long at = 0; at < end_; at += 8) sum += ones(read<uint64_t>(code + at) ^ read<uint64_t>(query_ + at));
        } else {
            for (int n = 0; n < words; ++n) sum += ones(read<uint64_t>(code + 8 * n) ^ words_[n]);
        }
        if constexpr (tail > 0) sum += ones(rest(code + (words < 0 ? end_ : 8 * words)) ^ rest_);
        return static_cast<uint64_t>(sum);
    }

  private:
    static int ones(uint64_t word) { return __builtin_popcountll(word); }

    // The last bytes, in reads of whole numbers: a copy of three bytes into a word of zeros waits for its own store.
    static uint64_t rest(const uint8_t* from) {
        uint64_t word = 0;
        if constexpr (tail & 4) word = read<uint32_t>(from);
        if constexpr (tail & 2) word = word << 16 | read<uint16_t>(from + (tail & 4));
        if constexpr (tail & 1) word = word << 8 | from[tail & 6];
        return word;
    }

    const uint8_t* query_;
    long end_;
    uint64_t words_[words > 0 ? words : 1], rest_;  // of the query, in registers while it is compared
};

#ifdef LANES
// The same, eight codes at a time: a code is W numbers of type T, where W is a power of two, 1 for T below 64 bits.
template <typename T, int W>
class Words : public Scalar<sizeof(T) * W / 8, sizeof(T) * W % 8> {
  public:
    static constexpr bool chunks = true;

    Words(const uint8_t* query, long width) : Scalar<sizeof(T) * W / 8, sizeof(T) * W % 8>(query, width) {
        for (int n = 0; n < 8; ++n) repeated_[n] = read<T>(query + n % W * sizeof(T));
    }

    uint64_t below(const uint8_t* codes, uint64_t limit) const {
        const Lanes bound = Lanes::all(limit), query = Lanes::load(repeated_);
        const T* at = reinterpret_cast<const T*>(codes);
        uint64_t found = 0;
        for (int i = 0; i < CHUNK; i += 8, at += 8 * W) found |= distances(at, query).below(bound) << i;
        return found;
    }

#if LANES == 512
    // Writes the keys of those nearer than the limit among n codes, a multiple of 8, without branches: where they are
    // many, nobody could foresee them. Up to n places are written to; returns how many count.
    long list(const uint8_t* codes, long n, uint64_t limit, long position, uint64_t* keys) const {
        const Lanes bound = Lanes::all(limit), query = Lanes::load(repeated_);
        const T* at = reinterpret_cast<const T*>(codes);
        const __m512i lanes = _mm512_setr_epi64(0, 1, 2, 3, 4, 5, 6, 7);
        long count = 0;
        for (long i = 0; i < n; i += 8, at += 8 * W) {
            __builtin_prefetch(reinterpret_cast<const char*>(at) + FETCHED);
            const Lanes far = distances(at, query);
            const auto mask = static_cast<__mmask8>(far.below(bound));
            const __m512i positions = _mm512_add_epi64(_mm512_set1_epi64(position + i), lanes);
            const __m512i listed = _mm512_or_si512(_mm512_slli_epi64(far.x, PLACE), positions);
            _mm512_storeu_si512(keys + count, _mm512_maskz_compress_epi64(mask, listed));
            count += __builtin_popcount(mask);
        }
        return count;
    }
#endif

  private:
    static Lanes distances(const T* at, Lanes query) {
        Lanes sums[W];
        for (int n = 0; n < W; ++n) sums[n] = Lanes::load(at + 8 * n).differing(query);
        for (int left = W; left > 1; left /= 2)
            for (int n = 0; n < left / 2; ++n) sums[n] = Lanes::pairs(sums[2 * n], sums[2 * n + 1]);
        return sums[0];
    }

    uint64_t repeated_[8];
};
#else
template <typename T, int W>
using Words = Scalar<sizeof(T) * W / 8, sizeof(T) * W % 8>;
#endif

// The candidates of one query, by position; more than k of them are cut back to the k nearest from time to time.
class Nearest {
  public:
    Nearest(long k, long codes, long limit, long bits, long spare)
        : k_(k), room_(std::min(2 * k, codes) + spare), keys_(new uint64_t[static_cast<size_t>(room_)]),
          counts_(static_cast<size_t>(bits) + 1), limit_(static_cast<uint64_t>(limit)) {}

    // Only a code nearer than this can still be among the k: of equal ones the first comes first.
    uint64_t limit() const { return limit_; }

    void add(uint64_t distance, long position) {
        keys_[size_++] = distance << PLACE | static_cast<uint64_t>(position);
        if (size_ == room_) cut();
    }

#if LANES == 512
    template <typename Query>
    void add_all(const Query& query, const uint8_t* codes, long n, long position) {
        if (size_ + n > room_) cut();
        size_ += query.list(codes, n, limit_, position, keys_.get() + size_);
    }
#endif

    void finish(int32_t* distances, int64_t* positions) {
        if (size_ > k_) cut();
        count();
        long before = 0;
        for (long& counted : counts_) before += std::exchange(counted, before);
        for (long i = 0; i < size_; ++i) {
            const long at = counts_[keys_[i] >> PLACE]++;
            distances[at] = static_cast<int32_t>(keys_[i] >> PLACE);
            positions[at] = static_cast<int64_t>(keys_[i] & ((uint64_t{1} << PLACE) - 1));
        }
    }

    // What was found, at most k, by position, and how many there are at each distance.
    void list(uint64_t* keys, int64_t* counts) {
        if (size_ > k_) cut();
        count();
        std::copy(keys_.get(), keys_.get() + size_, keys);
        std::copy(counts_.begin(), counts_.end(), counts);
    }

  private:
    void count() {
        std::fill(counts_.begin(), counts_.end(), 0);
        for (long i = 0; i < size_; ++i) ++counts_[keys_[i] >> PLACE];
    }

    void cut() {
        count();
        uint64_t farthest = 0;
        long ties = k_;
        while (counts_[farthest] < ties) ties -= counts_[farthest++];
        long kept = 0;
        for (long i = 0; i < size_; ++i) {
            const uint64_t distance = keys_[i] >> PLACE;
            const bool stays = distance < farthest || (distance == farthest && ties > 0);
            ties -= distance == farthest;
            keys_[kept] = keys_[i];
            kept += stays;
        }
        size_ = kept;
        limit_ = farthest;
    }

    long k_, room_, size_ = 0;
    std::unique_ptr<uint64_t[]> keys_;  // not set to zero: with a large k most is never touched
    std::vector<long> counts_;
    uint64_t limit_;
};

template <typename Query>
void scan(const uint8_t* queries, const uint8_t* codes, long width, long count, [[maybe_unused]] bool many,
          std::vector<Nearest>& nearest) {
    std::vector<Query> asked;
    asked.reserve(nearest.size());
    for (size_t row = 0; row < nearest.size(); ++row)
        asked.emplace_back(queries + static_cast<long>(row) * width, width);
    const long block = std::max(BLOCK / width / CHUNK, 1L) * CHUNK;
    for (long start = 0; start < count; start += block) {
        const long end = std::min(start + block, count);
        for (size_t row = 0; row < asked.size(); ++row) {
            const Query query = asked[row];
            Nearest& near = nearest[row];
            long at = start;
#if LANES == 512
            if constexpr (Query::chunks) {
                if (many) {
                    near.add_all(query, codes + at * width, (end - at) / 8 * 8, at);
                    at += (end - at) / 8 * 8;
                }
            }
#endif
            if constexpr (Query::chunks) {
                for (; at + CHUNK <= end; at += CHUNK) {
                    uint64_t found = query.below(codes + at * width, near.limit());
                    for (; __builtin_expect(found != 0, 0); found &= found - 1) {
                        const long position = at + __builtin_ctzll(found);
                        const uint64_t distance = query.distance(codes + position * width);
                        if (distance < near.limit()) near.add(distance, position);
                    }
                }
            }
            for (; at < end; ++at) {
                const uint64_t distance = query.distance(codes + at * width);
                if (__builtin_expect(distance < near.limit(), 0)) near.add(distance, at);
            }
        }
    }
}

using Scan = void (*)(const uint8_t*, const uint8_t*, long, long, bool, std::vector<Nearest>&);

Scan chosen(long width) {
    switch (width) {
        case 1: return scan<Words<uint8_t, 1>>;
        case 2: return scan<Words<uint16_t, 1>>;
        case 4: return scan<Words<uint32_t, 1>>;
        case 8: return scan<Words<uint64_t, 1>>;
        case 16: return scan<Words<uint64_t, 2>>;
        case 32: return scan<Words<uint64_t, 4>>;
        case 64: return scan<Words<uint64_t, 8>>;
    }
    const Scan others[] = {scan<Scalar<-1, 0>>, scan<Scalar<-1, 1>>, scan<Scalar<-1, 2>>, scan<Scalar<-1, 3>>,
                           scan<Scalar<-1, 4>>, scan<Scalar<-1, 5>>, scan<Scalar<-1, 6>>, scan<Scalar<-1, 7>>};
    return others[width % 8];
}

// The candidates of each query; limits of null begin beyond every distance. With limits many are expected to be found.
std::vector<Nearest> scanned(const uint8_t* queries, const uint8_t* codes, long width, long rows, long count, long k,
                             const int64_t* limits) {
    std::vector<Nearest> nearest;
    nearest.reserve(static_cast<size_t>(rows));
    for (long row = 0; row < rows; ++row)
        nearest.emplace_back(k, count, limits ? limits[row] : 8 * width + 1, 8 * width, limits ? BLOCK : SPARE);
    chosen(width)(queries, codes, width, count, limits != nullptr, nearest);
    return nearest;
}

}  // namespace

// k is from 1 to count; returns 1 where the memory does not suffice.
extern "C" int sdc_nearest(const uint8_t* queries, const uint8_t* codes, long width, long rows, long count, long k,
                           int32_t* distances, int64_t* positions) {
    try {
        auto nearest = scanned(queries, codes, width, rows, count, k, nullptr);
        for (long row = 0; row < rows; ++row)
            nearest[static_cast<size_t>(row)].finish(distances + row * k, positions + row * k);
    } catch (const std::bad_alloc&) {
        return 1;
    }
    return 0;
}

// The same of codes nearer than a limit, unsorted: keys are (distance, position) in one number, by position.
//   limits  (rows,): distances from here on do not count
//   keys    (rows, k)
//   counts  (rows, 8 * width + 1): how many keys have each distance
extern "C" int sdc_nearer(const uint8_t* queries, const uint8_t* codes, long width, long rows, long count, long k,
                          const int64_t* limits, uint64_t* keys, int64_t* counts) {
    try {
        auto nearest = scanned(queries, codes, width, rows, count, k, limits);
        for (long row = 0; row < rows; ++row)
            nearest[static_cast<size_t>(row)].list(keys + row * k, counts + row * (8 * width + 1));
    } catch (const std::bad_alloc&) {
        return 1;
    }
    return 0;
}

// Of n keys the positions, plus `first`, of those at a distance below `limit` and of the first `ties` at it, which are
// `count` in all.
extern "C" void sdc_positions(const uint64_t* keys, long n, uint64_t limit, long ties, long first, long count,
                              int64_t* positions) {
    for (long i = 0, found = 0; i < n && found < count; ++i) {  // without branches, which nobody could foresee
        const uint64_t distance = keys[i] >> PLACE;
        positions[found] = first + static_cast<int64_t>(keys[i] & ((uint64_t{1} << PLACE) - 1));
        found += (distance < limit) | ((distance == limit) & (ties > 0));
        ties -= distance == limit;
    }
}
