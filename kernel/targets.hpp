// What is compiled once for every set of instructions: plain loops over plain pointers.
//
// Nothing here, nor in scan.cpp, may use the standard library's templates: a function compiled for
// AVX-512 that the linker takes for every caller would end the process on an older machine.
#pragma once

#include <cstdint>

namespace matryo {

constexpr int block_rows = 32;   // rows whose packed codes lie interleaved
constexpr int word_bytes = 4;    // bytes of one row that stay together in a block
constexpr int most_queries = 4;  // that meet a block at once

// The packed codes of some rows. Blocks of 32 rows follow one another; in a block come the first
// four bytes of every row, then the next four, and so on.
struct Packed {
  int bits;               // per dimension: 1, 2 or 4
  int words;              // of four bytes in a row
  const uint8_t* blocks;  // 32 * 4 * words bytes each, at a multiple of 64 bytes
  const float* bounds;    // least and greatest length in a block; null for single bits
  float length;           // of the integers of every row; for single bits
  const float* angles;    // cosine and sine of the largest angle between a row and its codes in a
                          // block; null where they do not matter
};

// A query as packed codes see it.
struct PackedQuery {
  const int32_t* weights;  // by word and place in a byte, the 8-bit integers of four bytes
  const uint8_t* tables;   // for single bits: by word and half of a byte, 4 times 16 sums of
                           // weights, each with as much added as makes the least of them 0
  int32_t shift;           // what was added in all; 0 for more bits
  int32_t offset;          // what is added to twice the sum over the codes as they are stored
  float limit;             // least sum of products over the length of a row, for rows of interest;
                           // -infinity while all are
  float aside;             // with angles: what their sines are worth
  float slack;             // with angles: how much lower rows may be
};

// Called with the rows of a block that may reach the limit of a query, one bit each, and with the
// sums of all its rows. It may raise the limit.
using Found = void (*)(void* pools, int query, int64_t block, uint32_t rows, const int32_t* sums);

// Rows of numbers that are not packed.
enum class Number { float32, float16, int8 };

struct Rows {
  Number number;
  int dim;         // numbers of a row that are read
  int64_t stride;  // numbers from one row to the next
  const void* numbers;
  const float* steps;  // of int8
  bool scaled;         // whether a row is cut and scaled to length 1 before it is scored
};

struct Target {
  const char* name;

  // Scans the blocks from `first` to before `stop` for up to `most_queries` queries at once.
  // `living` has one bit per row, or is null where every row counts.
  void (*scan)(const Packed&, int64_t first, int64_t stop, const uint32_t* living,
               PackedQuery* queries, int n_queries, Found found, void* pools);

  // Float32 products of a query with the rows from `first` to before `stop`, but for rounding; with
  // `squared`, minus the squared distances. For int8 the query must come times the steps.
  void (*products)(const Rows&, int64_t first, int64_t stop, const float* query, bool squared,
                   float* products);

  // The product of a query with one row, or minus the squared distance, computed in float64.
  double (*settled)(const Rows&, int64_t row, const double* query, bool squared);
};

namespace portable {
extern const Target target;
}
namespace avx2 {
extern const Target target;
}
namespace avx512 {
extern const Target target;
}
namespace neon {
extern const Target target;
}

}  // namespace matryo
