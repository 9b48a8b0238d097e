// The loops that read the codes, compiled once for every set of instructions (see targets.hpp).

#include <cmath>
#include <cstring>

#include "targets.hpp"

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
  float limit = query.limit;
  if (codes.angles != nullptr)
    limit =
        limit * codes.angles[2 * block] - query.aside * codes.angles[2 * block + 1] - query.slack;
  const float length =
      codes.bounds == nullptr ? codes.length : codes.bounds[2 * block + (limit < 0 ? 1 : 0)];
  const float whole = limit * length;
  // a little lower, for the rounding here and of the scores that the limit was read off
  const float least = (whole - std::fabs(whole) * 2e-6F - static_cast<float>(query.offset)) / 2 - 2;
  return least > -2e9F ? static_cast<int32_t>(least < 2e9F ? least : 2e9F) : -2000000000;
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
        const __m512i upper =
            _mm512_ternarylogic_epi32(_mm512_srli_epi16(bytes, 4), low, place, 0xEA);
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
  const __m256i limit = _mm256_set1_epi32(least - 1);  // there is no "at least"
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

inline void store(const Sums& sums, int32_t* row_sums) {
  std::memcpy(row_sums, sums, sizeof(Sums));
}

#endif

template <int bits, int n>
void scan_blocks(const Packed& codes, int64_t first, int64_t stop, const uint32_t* living,
                 PackedQuery* queries, Found found, void* pools) {
  const int64_t size = static_cast<int64_t>(codes.words) * block_word;
  for (int64_t block = first; block < stop; block++) {
    const uint32_t alive = living == nullptr ? UINT32_MAX : living[block];
    if (alive == 0) continue;
    const uint8_t* bytes = codes.blocks + block * size;
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

inline float as_number(float number) { return number; }
inline float as_number(int8_t code) { return static_cast<float>(code); }

// A half as a float, in integers, where the processor has no instruction for it.
inline float as_number(uint16_t half) {
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

// Eight numbers at a time: `Wide` are eight float64, `Narrow` eight float32.
#if defined(__AVX2__)

using Narrow = __m256;

inline Narrow eight(const float* numbers) { return _mm256_loadu_ps(numbers); }
inline Narrow eight(const uint16_t* halves) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(halves)));
}
inline Narrow eight(const int8_t* codes) {
  const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(codes));
  return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes));
}
inline Narrow zeros() { return _mm256_setzero_ps(); }
inline Narrow times(Narrow a, Narrow b) { return _mm256_mul_ps(a, b); }
inline Narrow minus(Narrow a, Narrow b) { return _mm256_sub_ps(a, b); }
inline Narrow with_product(Narrow sum, Narrow a, Narrow b) { return _mm256_fmadd_ps(a, b, sum); }
inline float total(Narrow sums) {
  float each[8], all = 0;
  _mm256_storeu_ps(each, sums);
  for (float one : each) all += one;
  return all;
}

#if defined(__AVX512F__) && defined(__AVX512DQ__)

using Wide = __m512d;

inline Wide wide(Narrow numbers) { return _mm512_maskz_cvtps_pd(0xFF, numbers); }
inline Wide wide(const double* numbers) { return _mm512_loadu_pd(numbers); }
inline Wide wide_zeros() { return _mm512_setzero_pd(); }
inline Narrow rounded(Wide numbers, double factor) {
  return _mm512_maskz_cvtpd_ps(0xFF, _mm512_mul_pd(numbers, _mm512_set1_pd(factor)));
}
inline Wide minus(Wide a, Wide b) { return _mm512_sub_pd(a, b); }
inline Wide with_product(Wide sum, Wide a, Wide b) { return _mm512_fmadd_pd(a, b, sum); }
inline double total(Wide sums) {
  double each[8], all = 0;
  _mm512_storeu_pd(each, sums);
  for (double one : each) all += one;
  return all;
}

#else

struct Wide {
  __m256d low, high;
};

inline Wide wide(Narrow numbers) {
  return {_mm256_cvtps_pd(_mm256_castps256_ps128(numbers)),
          _mm256_cvtps_pd(_mm256_extractf128_ps(numbers, 1))};
}
inline Wide wide(const double* numbers) {
  return {_mm256_loadu_pd(numbers), _mm256_loadu_pd(numbers + 4)};
}
inline Wide wide_zeros() { return {_mm256_setzero_pd(), _mm256_setzero_pd()}; }
inline Narrow rounded(Wide numbers, double factor) {
  const __m256d factors = _mm256_set1_pd(factor);
  return _mm256_set_m128(_mm256_cvtpd_ps(_mm256_mul_pd(numbers.high, factors)),
                         _mm256_cvtpd_ps(_mm256_mul_pd(numbers.low, factors)));
}
inline Wide minus(Wide a, Wide b) {
  return {_mm256_sub_pd(a.low, b.low), _mm256_sub_pd(a.high, b.high)};
}
inline Wide with_product(Wide sum, Wide a, Wide b) {
  return {_mm256_fmadd_pd(a.low, b.low, sum.low), _mm256_fmadd_pd(a.high, b.high, sum.high)};
}
inline double total(Wide sums) {
  double each[8], all = 0;
  _mm256_storeu_pd(each, sums.low);
  _mm256_storeu_pd(each + 4, sums.high);
  for (double one : each) all += one;
  return all;
}

#endif

#else

struct Narrow {
  float each[8];
};
struct Wide {
  double each[8];
};

template <typename Stored>
inline Narrow eight(const Stored* numbers) {
  Narrow eight;
  for (int i = 0; i < 8; i++) eight.each[i] = as_number(numbers[i]);
  return eight;
}
inline Narrow zeros() { return {}; }
inline Narrow times(Narrow a, const Narrow& b) {
  for (int i = 0; i < 8; i++) a.each[i] *= b.each[i];
  return a;
}
inline Narrow minus(Narrow a, const Narrow& b) {
  for (int i = 0; i < 8; i++) a.each[i] -= b.each[i];
  return a;
}
inline Narrow with_product(Narrow sum, const Narrow& a, const Narrow& b) {
  for (int i = 0; i < 8; i++) sum.each[i] += a.each[i] * b.each[i];
  return sum;
}
inline float total(const Narrow& sums) {
  float all = 0;
  for (float one : sums.each) all += one;
  return all;
}
inline Wide wide(const Narrow& numbers) {
  Wide wide;
  for (int i = 0; i < 8; i++) wide.each[i] = static_cast<double>(numbers.each[i]);
  return wide;
}
inline Wide wide(const double* numbers) {
  Wide wide;
  for (int i = 0; i < 8; i++) wide.each[i] = numbers[i];
  return wide;
}
inline Wide wide_zeros() { return {}; }
inline Narrow rounded(const Wide& numbers, double factor) {
  Narrow narrow;
  for (int i = 0; i < 8; i++) narrow.each[i] = static_cast<float>(numbers.each[i] * factor);
  return narrow;
}
inline Wide minus(Wide a, const Wide& b) {
  for (int i = 0; i < 8; i++) a.each[i] -= b.each[i];
  return a;
}
inline Wide with_product(Wide sum, const Wide& a, const Wide& b) {
  for (int i = 0; i < 8; i++) sum.each[i] += a.each[i] * b.each[i];
  return sum;
}
inline double total(const Wide& sums) {
  double all = 0;
  for (double one : sums.each) all += one;
  return all;
}

#endif

// Adds whole eights of `dim` numbers to two sums in turn, so that one need not wait for the other.
// Returns how many numbers that are.
template <typename Sum, typename Added>
inline int add_eights(int dim, Sum& even, Sum& odd, Added added) {
  int i = 0;
  for (; i + 16 <= dim; i += 16) {
    even = added(even, i);
    odd = added(odd, i + 8);
  }
  for (; i + 8 <= dim; i += 8) even = added(even, i);
  return i;
}

// The product of two rows of eights, or minus the squared distance: of `dim` numbers, the last of
// which may be fewer than eight and are then read one by one.
template <bool squared, typename Stored>
inline float rough(const Stored* row, const float* query, int dim) {
  const auto added = [&](Narrow sum, int i) {
    const Narrow asked = eight(query + i), number = eight(row + i);
    const Narrow gap = squared ? minus(asked, number) : number;
    return with_product(sum, squared ? gap : asked, gap);
  };
  Narrow even = zeros(), odd = zeros();
  int i = add_eights(dim, even, odd, added);
  float all = total(even) + total(odd);
  for (; i < dim; i++) {
    const float number = as_number(row[i]), gap = query[i] - number;
    all += squared ? gap * gap : query[i] * number;
  }
  return squared ? -all : all;
}

template <typename Stored>
void rough_rows(const Rows& rows, int64_t first, int64_t stop, const float* query, bool squared,
                float* products) {
  const Stored* numbers = static_cast<const Stored*>(rows.numbers);
  for (int64_t row = first; row < stop; row++) {
    const Stored* start = numbers + row * rows.stride;
    products[row - first] =
        squared ? rough<true>(start, query, rows.dim) : rough<false>(start, query, rows.dim);
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

// `form(i)` gives eight numbers of the row from the i-th on, `one(i)` one of them, both as float32.
template <bool squared, typename Form, typename One>
inline double settled_row(const double* query, int dim, Form form, One one) {
  const auto added = [&](Wide sum, int i) {
    const Wide asked = wide(query + i), number = wide(form(i));
    const Wide gap = squared ? minus(asked, number) : number;
    return with_product(sum, squared ? gap : asked, gap);
  };
  Wide even = wide_zeros(), odd = wide_zeros();
  int i = add_eights(dim, even, odd, added);
  double all = total(even) + total(odd);
  for (; i < dim; i++) {
    const double number = static_cast<double>(one(i)), gap = query[i] - number;
    all += squared ? gap * gap : query[i] * number;
  }
  return squared ? -all : all;
}

double inverse_length(const float* row, int dim) {
  const auto added = [&](Wide sum, int i) {
    const Wide number = wide(eight(row + i));
    return with_product(sum, number, number);
  };
  Wide even = wide_zeros(), odd = wide_zeros();
  int i = add_eights(dim, even, odd, added);
  double squares = total(even) + total(odd);
  for (; i < dim; i++) squares += static_cast<double>(row[i]) * static_cast<double>(row[i]);
  return 1 / std::sqrt(squares);
}

template <bool squared>
double settled_number(const Rows& rows, int64_t row, const double* query) {
  const int dim = rows.dim;
  if (rows.number == Number::int8) {
    const int8_t* codes = static_cast<const int8_t*>(rows.numbers) + row * rows.stride;
    const float* steps = rows.steps;
    return settled_row<squared>(
        query, dim, [&](int i) { return times(eight(codes + i), eight(steps + i)); },
        [&](int i) { return as_number(codes[i]) * steps[i]; });
  }
  if (rows.number == Number::float16) {
    const uint16_t* halves = static_cast<const uint16_t*>(rows.numbers) + row * rows.stride;
    return settled_row<squared>(
        query, dim, [&](int i) { return eight(halves + i); },
        [&](int i) { return as_number(halves[i]); });
  }
  const float* numbers = static_cast<const float*>(rows.numbers) + row * rows.stride;
  if (!rows.scaled) {
    return settled_row<squared>(
        query, dim, [&](int i) { return eight(numbers + i); }, [&](int i) { return numbers[i]; });
  }
  const double factor = inverse_length(numbers, dim);
  return settled_row<squared>(
      query, dim, [&](int i) { return rounded(wide(eight(numbers + i)), factor); },
      [&](int i) { return static_cast<float>(static_cast<double>(numbers[i]) * factor); });
}

double settled(const Rows& rows, int64_t row, const double* query, bool squared) {
  return squared ? settled_number<true>(rows, row, query) : settled_number<false>(rows, row, query);
}

}  // namespace

extern const Target target{MATRYO_NAME(MATRYO_TARGET), scan, products, settled};

}  // namespace matryo::MATRYO_TARGET
