// The loops that read the codes, compiled once for every set of instructions (see targets.hpp).

#include "targets.hpp"

#include <cmath>
#include <cstring>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#ifndef MATRYO_TARGET
#define MATRYO_TARGET portable
#endif
#define MATRYO_TEXT(name) #name
#define MATRYO_NAME(name) MATRYO_TEXT(name)

namespace matryo::MATRYO_TARGET {
namespace {

constexpr int block_word = block_rows * word_bytes;  // bytes of one word of all rows of a block

// The least sum over the codes with which a row of this block can reach the limit of a query.
inline int32_t least_sum(const Packed& codes, int64_t block, const PackedQuery& query) {
  if (std::isinf(query.limit)) return -INT32_MAX;  // from which 1 may be taken
  const double length = static_cast<double>(
      codes.bounds == nullptr ? codes.length : codes.bounds[2 * block + (query.limit < 0 ? 1 : 0)]);
  const double whole = query.limit * length;
  // a little lower, for the rounding of the scores that the limit was read off
  const double least = (whole - std::fabs(whole) * 1e-6 - query.offset) / 2;
  if (least <= -INT32_MAX) return -INT32_MAX;
  return least < INT32_MAX ? static_cast<int32_t>(std::floor(least)) : INT32_MAX;
}

#if defined(__AVX512VNNI__) && defined(__AVX512VBMI__)

using Sums = __m512i[2];  // of rows 0 to 15 and 16 to 31

inline __m512i at_once(const uint8_t* bytes) { return _mm512_loadu_si512(bytes); }

inline __m512i looked_up(const uint8_t* tables, __m512i indices) {
  // the form with a mask, of all ones: the other one has some compilers warn of their own headers
  return _mm512_maskz_permutexvar_epi8(~__mmask64{0}, indices, at_once(tables));
}

template <int bits, int n>
inline void add_block(const Packed& codes, const uint8_t* block, const PackedQuery* queries,
                      Sums* sums) {
  for (int q = 0; q < n; q++) sums[q][0] = sums[q][1] = _mm512_setzero_si512();
  if constexpr (bits == 1) {
    // a byte is looked up half by half; the upper bits of an index say which byte of the word it is
    const __m512i low = _mm512_set1_epi8(15), ones = _mm512_set1_epi8(1);
    const __m512i place = _mm512_set1_epi32(0x30201000);
    for (int word = 0; word < codes.words; word++) {
      for (int half = 0; half < 2; half++) {
        const __m512i bytes = at_once(block + word * block_word + 64 * half);
        const __m512i upper = _mm512_ternarylogic_epi32(_mm512_srli_epi16(bytes, 4), low, place, 0xEA);
        const __m512i lower = _mm512_ternarylogic_epi32(bytes, low, place, 0xEA);  // (a & b) | c
        for (int q = 0; q < n; q++) {
          const uint8_t* tables = queries[q].tables + 128 * word;
          sums[q][half] = _mm512_dpbusd_epi32(sums[q][half], looked_up(tables, upper), ones);
          sums[q][half] = _mm512_dpbusd_epi32(sums[q][half], looked_up(tables + 64, lower), ones);
        }
      }
    }
  } else {
    constexpr int fields = 8 / bits;
    const __m512i mask = _mm512_set1_epi8((1 << bits) - 1);
    for (int word = 0; word < codes.words; word++) {
      for (int half = 0; half < 2; half++) {
        const __m512i bytes = at_once(block + word * block_word + 64 * half);
        for (int field = 0; field < fields; field++) {
          const int shift = 8 - bits * (field + 1);
          const __m512i levels =
              _mm512_and_si512(_mm512_srli_epi16(bytes, static_cast<unsigned>(shift)), mask);
          for (int q = 0; q < n; q++) {
            const __m512i weights = _mm512_set1_epi32(queries[q].weights[word * fields + field]);
            sums[q][half] = _mm512_dpbusd_epi32(sums[q][half], levels, weights);
          }
        }
      }
    }
  }
}

inline uint32_t reaching(const Sums& sums, int32_t least) {
  const __m512i limit = _mm512_set1_epi32(least);
  return static_cast<uint32_t>(_mm512_cmpge_epi32_mask(sums[0], limit)) |
         static_cast<uint32_t>(_mm512_cmpge_epi32_mask(sums[1], limit)) << 16;
}

inline void store(const Sums& sums, int32_t* row_sums) {
  _mm512_storeu_si512(row_sums, sums[0]);
  _mm512_storeu_si512(row_sums + 16, sums[1]);
}

#elif defined(__AVX2__)

using Sums = __m256i[4];  // of eight rows each

inline __m256i at_once(const uint8_t* bytes) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(bytes));
}

inline __m256i both_halves(const uint8_t* bytes) {
  return _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes)));
}

// Four bytes of each of 32 rows, turned into 32 rows of each of four bytes. Of a result, byte p of
// half h is that of row 8 * (p / 4) + 4 * h + p % 4.
inline void by_byte(const uint8_t* word, __m256i* bytes) {
  const __m256i order = _mm256_broadcastsi128_si256(
      _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
  __m256i rows[4];
  for (int i = 0; i < 4; i++) rows[i] = _mm256_shuffle_epi8(at_once(word + 32 * i), order);
  const __m256i low01 = _mm256_unpacklo_epi32(rows[0], rows[1]);
  const __m256i high01 = _mm256_unpackhi_epi32(rows[0], rows[1]);
  const __m256i low23 = _mm256_unpacklo_epi32(rows[2], rows[3]);
  const __m256i high23 = _mm256_unpackhi_epi32(rows[2], rows[3]);
  bytes[0] = _mm256_unpacklo_epi64(low01, low23);
  bytes[1] = _mm256_unpackhi_epi64(low01, low23);
  bytes[2] = _mm256_unpacklo_epi64(high01, high23);
  bytes[3] = _mm256_unpackhi_epi64(high01, high23);
}

// Sums of 16 bits of even and of odd bytes, as `by_byte` orders rows, added to those of each row.
inline void add_wide(__m256i even, __m256i odd, Sums& sums) {
  const __m256i low = _mm256_unpacklo_epi16(even, odd), high = _mm256_unpackhi_epi16(even, odd);
  const __m256i parts[2] = {low, high};
  for (int i = 0; i < 4; i++) {
    // rows 8i to 8i + 3 lie in the lower half, 8i + 4 to 8i + 7 in the upper one
    const __m256i part = parts[i / 2];
    const __m256i words = i % 2 ? _mm256_srli_si256(part, 8) : part;
    const __m256i wide = _mm256_unpacklo_epi16(words, _mm256_setzero_si256());
    sums[i] = _mm256_add_epi32(sums[i], wide);
  }
}

template <int bits, int n>
inline void add_block(const Packed& codes, const uint8_t* block, const PackedQuery* queries,
                      Sums* sums) {
  for (int q = 0; q < n; q++)
    for (int i = 0; i < 4; i++) sums[q][i] = _mm256_setzero_si256();
  if constexpr (bits == 1) {
    const __m256i low = _mm256_set1_epi8(15), lower = _mm256_set1_epi16(255);
    __m256i even[n], odd[n];
    for (int start = 0; start < codes.words; start += 32) {  // 16 bits hold 32 words
      for (int q = 0; q < n; q++) even[q] = odd[q] = _mm256_setzero_si256();
      const int stop = codes.words < start + 32 ? codes.words : start + 32;
      for (int word = start; word < stop; word++) {
        __m256i bytes[4];
        by_byte(block + word * block_word, bytes);
        for (int place = 0; place < 4; place++) {
          const __m256i first = _mm256_and_si256(_mm256_srli_epi16(bytes[place], 4), low);
          const __m256i second = _mm256_and_si256(bytes[place], low);
          for (int q = 0; q < n; q++) {
            const uint8_t* tables = queries[q].tables + 128 * word + 16 * place;
            const __m256i a = _mm256_shuffle_epi8(both_halves(tables), first);
            const __m256i b = _mm256_shuffle_epi8(both_halves(tables + 64), second);
            even[q] = _mm256_add_epi16(
                even[q], _mm256_add_epi16(_mm256_and_si256(a, lower), _mm256_and_si256(b, lower)));
            odd[q] = _mm256_add_epi16(
                odd[q], _mm256_add_epi16(_mm256_srli_epi16(a, 8), _mm256_srli_epi16(b, 8)));
          }
        }
      }
      for (int q = 0; q < n; q++) add_wide(even[q], odd[q], sums[q]);
    }
  } else {
    constexpr int fields = 8 / bits;
    const __m256i mask = _mm256_set1_epi8((1 << bits) - 1), ones = _mm256_set1_epi16(1);
    for (int start = 0; start < codes.words; start += 4) {  // 16 bits hold four words
      const int stop = codes.words < start + 4 ? codes.words : start + 4;
      for (int i = 0; i < 4; i++) {
        __m256i part[n];
        for (int q = 0; q < n; q++) part[q] = _mm256_setzero_si256();
        for (int word = start; word < stop; word++) {
          const __m256i bytes = at_once(block + word * block_word + 32 * i);
          for (int field = 0; field < fields; field++) {
            const __m256i levels =
                _mm256_and_si256(_mm256_srli_epi16(bytes, 8 - bits * (field + 1)), mask);
            for (int q = 0; q < n; q++) {
              const __m256i weights = _mm256_set1_epi32(queries[q].weights[word * fields + field]);
              part[q] = _mm256_add_epi16(part[q], _mm256_maddubs_epi16(levels, weights));
            }
          }
        }
        for (int q = 0; q < n; q++)
          sums[q][i] = _mm256_add_epi32(sums[q][i], _mm256_madd_epi16(part[q], ones));
      }
    }
  }
}

inline uint32_t reaching(const Sums& sums, int32_t least) {
  const __m256i limit = _mm256_set1_epi32(least - 1);
  uint32_t rows = 0;
  for (int i = 0; i < 4; i++) {
    const __m256i above = _mm256_cmpgt_epi32(sums[i], limit);
    rows |= static_cast<uint32_t>(_mm256_movemask_ps(_mm256_castsi256_ps(above))) << (8 * i);
  }
  return rows;
}

inline void store(const Sums& sums, int32_t* row_sums) {
  for (int i = 0; i < 4; i++)
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(row_sums + 8 * i), sums[i]);
}

#else

using Sums = int32_t[block_rows];

template <int bits, int n>
inline void add_block(const Packed& codes, const uint8_t* block, const PackedQuery* queries,
                      Sums* sums) {
  constexpr int fields = 8 / bits;
  constexpr int32_t mask = (1 << bits) - 1;
  for (int q = 0; q < n; q++)
    for (int row = 0; row < block_rows; row++) sums[q][row] = queries[q].shift;
  for (int word = 0; word < codes.words; word++) {
    int32_t rows[block_rows];  // the compiler can do several of them at once
    std::memcpy(rows, block + word * block_word, sizeof rows);
    for (int field = 0; field < fields; field++) {
      for (int place = 0; place < word_bytes; place++) {
        const int down = 8 * place + 8 - bits * (field + 1);  // the first byte is the lowest
        int32_t levels[block_rows];
        for (int row = 0; row < block_rows; row++) levels[row] = (rows[row] >> down) & mask;
        for (int q = 0; q < n; q++) {
          int8_t weights[word_bytes];
          std::memcpy(weights, &queries[q].weights[word * fields + field], sizeof weights);
          const int32_t weight = weights[place];
          for (int row = 0; row < block_rows; row++) sums[q][row] += weight * levels[row];
        }
      }
    }
  }
}

inline uint32_t reaching(const Sums& sums, int32_t least) {
  uint32_t rows = 0;
  for (int row = 0; row < block_rows; row++)
    rows |= static_cast<uint32_t>(sums[row] >= least) << row;
  return rows;
}

inline void store(const Sums& sums, int32_t* row_sums) { std::memcpy(row_sums, sums, sizeof(Sums)); }

#endif

template <int bits, int n>
void scan_blocks(const Packed& codes, int64_t first, int64_t stop, const uint32_t* living,
                 PackedQuery* queries, Found found, void* pools) {
  const int64_t size = static_cast<int64_t>(codes.words) * block_word;
  for (int64_t block = first; block < stop; block++) {
    const uint32_t alive = living == nullptr ? UINT32_MAX : living[block];
    if (alive == 0) continue;
    const uint8_t* bytes = codes.blocks + block * size;
    for (int64_t ahead = 0; ahead < size; ahead += 64) __builtin_prefetch(bytes + 4 * size + ahead);
    Sums sums[n];
    add_block<bits, n>(codes, bytes, queries, sums);
    for (int q = 0; q < n; q++) {
      const uint32_t rows = alive & reaching(sums[q], least_sum(codes, block, queries[q]));
      if (rows == 0) continue;
      int32_t row_sums[block_rows];
      store(sums[q], row_sums);
      found(pools, q, block, rows, row_sums);
    }
  }
}

template <int bits>
void scan_bits(const Packed& codes, int64_t first, int64_t stop, const uint32_t* living,
               PackedQuery* queries, int n_queries, Found found, void* pools) {
  if (n_queries == 4) {
    scan_blocks<bits, 4>(codes, first, stop, living, queries, found, pools);
  } else if (n_queries == 3) {
    scan_blocks<bits, 3>(codes, first, stop, living, queries, found, pools);
  } else if (n_queries == 2) {
    scan_blocks<bits, 2>(codes, first, stop, living, queries, found, pools);
  } else {
    scan_blocks<bits, 1>(codes, first, stop, living, queries, found, pools);
  }
}

void scan(const Packed& codes, int64_t first, int64_t stop, const uint32_t* living,
          PackedQuery* queries, int n_queries, Found found, void* pools) {
  if (codes.bits == 1) {
    scan_bits<1>(codes, first, stop, living, queries, n_queries, found, pools);
  } else if (codes.bits == 2) {
    scan_bits<2>(codes, first, stop, living, queries, n_queries, found, pools);
  } else {
    scan_bits<4>(codes, first, stop, living, queries, n_queries, found, pools);
  }
}

// A half as a float, in integers, where the processor has no instruction for it.
inline float as_float(uint16_t half) {
#if defined(__F16C__)
  return _cvtsh_ss(half);
#else
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000U) << 16;
  const uint32_t exponent = (half >> 10) & 31U, fraction = half & 1023U;
  if (exponent == 0) {
    const float small = static_cast<float>(fraction) * 5.9604644775390625e-8F;  // 2 to the -24
    return sign ? -small : small;
  }
  const uint32_t bits = sign | ((exponent + 112U) << 23) | (fraction << 13);
  float number;
  std::memcpy(&number, &bits, sizeof number);
  return number;
#endif
}

inline float number_at(const float* row, int i) { return row[i]; }
inline float number_at(const uint16_t* row, int i) { return as_float(row[i]); }
inline float number_at(const int8_t* row, int i) { return static_cast<float>(row[i]); }

constexpr int lanes = 16;  // sums that grow side by side, so that the compiler can use wide registers

template <bool squared, typename Stored>
inline float rough(const Stored* row, const float* query, int dim) {
  float sums[lanes] = {};
  int i = 0;
  for (; i + lanes <= dim; i += lanes) {
    for (int lane = 0; lane < lanes; lane++) {
      const float number = number_at(row, i + lane), asked = query[i + lane];
      sums[lane] += squared ? (asked - number) * (asked - number) : asked * number;
    }
  }
  float total = 0;
  for (; i < dim; i++) {
    const float number = number_at(row, i);
    total += squared ? (query[i] - number) * (query[i] - number) : query[i] * number;
  }
  for (int lane = 0; lane < lanes; lane++) total += sums[lane];
  return squared ? -total : total;
}

template <typename Stored>
void rough_rows(const Rows& rows, int64_t first, int64_t stop, const float* query, bool squared,
                float* products) {
  const Stored* numbers = static_cast<const Stored*>(rows.numbers);
  for (int64_t row = first; row < stop; row++) {
    const Stored* start = numbers + row * rows.stride;
    products[row - first] = squared ? rough<true>(start, query, rows.dim)
                                    : rough<false>(start, query, rows.dim);
  }
}

void products(const Rows& rows, int64_t first, int64_t stop, const float* query, bool squared,
              float* out) {
  if (rows.number == Number::float32) {
    rough_rows<float>(rows, first, stop, query, squared, out);
  } else if (rows.number == Number::float16) {
    rough_rows<uint16_t>(rows, first, stop, query, squared, out);
  } else {
    rough_rows<int8_t>(rows, first, stop, query, squared, out);
  }
}

constexpr int wide_lanes = 8;

template <typename Number>
inline double summed(int dim, Number number) {
  double sums[wide_lanes] = {};
  int i = 0;
  for (; i + wide_lanes <= dim; i += wide_lanes)
    for (int lane = 0; lane < wide_lanes; lane++) sums[lane] += number(i + lane);
  double total = 0;
  for (; i < dim; i++) total += number(i);
  for (int lane = 0; lane < wide_lanes; lane++) total += sums[lane];
  return total;
}

template <typename Form>
inline double settled_form(int dim, const double* query, bool squared, Form form) {
  if (squared) {
    return -summed(dim, [&](int i) {
      const double gap = static_cast<double>(form(i)) - query[i];
      return gap * gap;
    });
  }
  return summed(dim, [&](int i) { return static_cast<double>(form(i)) * query[i]; });
}

double settled(const Rows& rows, int64_t row, const double* query, bool squared) {
  const int dim = rows.dim;
  if (rows.number == Number::int8) {
    const int8_t* codes = static_cast<const int8_t*>(rows.numbers) + row * rows.stride;
    const float* steps = rows.steps;
    return settled_form(dim, query, squared,
                        [&](int i) { return static_cast<float>(codes[i]) * steps[i]; });
  }
  if (rows.number == Number::float16) {
    const uint16_t* halves = static_cast<const uint16_t*>(rows.numbers) + row * rows.stride;
    return settled_form(dim, query, squared, [&](int i) { return as_float(halves[i]); });
  }
  const float* numbers = static_cast<const float*>(rows.numbers) + row * rows.stride;
  if (!rows.scaled) {
    return settled_form(dim, query, squared, [&](int i) { return numbers[i]; });
  }
  const double length = std::sqrt(summed(dim, [&](int i) {
    return static_cast<double>(numbers[i]) * static_cast<double>(numbers[i]);
  }));
  const double inverse = 1 / length;
  return settled_form(dim, query, squared, [&](int i) {
    return static_cast<float>(static_cast<double>(numbers[i]) * inverse);
  });
}

}  // namespace

extern const Target target{MATRYO_NAME(MATRYO_TARGET), scan, products, settled};

}  // namespace matryo::MATRYO_TARGET
