// Funnels over the segments of an index: what `matryo.stores.embedded.live` does in numpy.
//
// Rows are ranked by score, and of equal scores by id. A score is computed as numpy does it there:
// sums of packed codes are integers, scaled by two float32 products; all other scores that count
// are summed up in float64.

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstring>
#include <exception>
#include <functional>
#include <limits>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

#if defined(MATRYO_HAVE_AVX2)
#include <cpuid.h>
#endif
#if defined(MATRYO_HAVE_NEON) && defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

#include "targets.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace matryo {
namespace {

template <typename Scalar, int dims>
using Array = nb::ndarray<const Scalar, nb::ndim<dims>, nb::c_contig, nb::device::cpu>;
using Clock = std::chrono::steady_clock;

constexpr float nothing = -std::numeric_limits<float>::infinity();
constexpr int64_t page_bytes = 1 << 16;
constexpr int64_t thread_bytes = 1 << 22;  // of codes that are worth a thread of their own
constexpr int64_t chunk_blocks = 128;      // read again by the next queries while they are cached
constexpr int64_t chunk_rows = 512;
constexpr int group_queries = 32;
constexpr int most_dims = 1 << 20;          // whose sums are within 32 bits
constexpr int64_t touched_bytes = 1 << 14;  // that stay in the nearest cache until they are read
// half the step of float32 at 1, and what a product may lose below the range of float32: see
// `matryo.search.stored.rounding`
constexpr double half_step = 1.01 / (1 << 24);
constexpr double tiny = std::numeric_limits<float>::min();

#if defined(MATRYO_HAVE_AVX2)
// F16C: not every compiler knows it by name.
bool has_halves() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid(1, &a, &b, &c, &d) != 0 && (c & bit_F16C) != 0;
}
#endif

#if defined(MATRYO_HAVE_NEON)
bool has_byte_products() {
#if defined(__linux__)
  return (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0;
#else
  return true;  // every processor of Apple has them
#endif
}
#endif

// Those that were built and that this processor can run, the best first.
std::vector<const Target*> find_targets() {
  std::vector<const Target*> found;
#if defined(MATRYO_HAVE_AVX512)
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512vbmi"))
    found.push_back(&avx512::target);
#endif
#if defined(MATRYO_HAVE_AVX2)
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
      __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("popcnt") && has_halves())
    found.push_back(&avx2::target);
#endif
#if defined(MATRYO_HAVE_NEON)
  if (has_byte_products()) found.push_back(&neon::target);
#endif
  found.push_back(&portable::target);
  return found;
}

const std::vector<const Target*>& targets() {
  static const std::vector<const Target*> found = find_targets();
  return found;
}

// One level of one segment. It keeps the arrays alive that it reads.
struct Level {
  bool is_packed = false;
  int dim = 0;
  int64_t rows = 0;
  int64_t row_bytes = 0;
  Packed packed{};
  const uint16_t* excess = nullptr;  // of each row: (squared length of its integers - dim) / 8
  const float* cosines = nullptr;    // of the angle between each row and what its codes stand for
  Rows numbers{};
  const bool* checked = nullptr;  // by page of the file; null where all of it was checked
  int64_t offset = 0;             // of the first row in the file
  std::vector<nb::object> kept;

  // Of packed codes in lists; each list begins with a block.
  std::shared_ptr<Level> centroids;  // null for codes in the order of the rows
  const int64_t* starts = nullptr;   // first block of each list
  const int32_t* sizes = nullptr;    // rows of each list
  const int32_t* slots = nullptr;    // row at each place, -1 for none
  int64_t n_blocks = 0;
  int64_t n_lengths = 0;  // in `excess`

  // Whether a query looks the same to both.
  bool is_like(const Level& other) const {
    return dim == other.dim && row_bytes == other.row_bytes && is_packed == other.is_packed &&
           packed.bits == other.packed.bits && numbers.number == other.numbers.number &&
           numbers.scaled == other.numbers.scaled;
  }

  float inverse_length(int64_t place) const {
    if (excess == nullptr) return 1 / packed.length;
    return 1 / std::sqrt(static_cast<float>(dim + 8 * static_cast<int32_t>(excess[place])));
  }
};

// The ids of a segment, which decide between equal scores.
struct Ids {
  const int64_t* integers = nullptr;
  const int64_t* ends = nullptr;
  const uint8_t* text = nullptr;
  std::vector<nb::object> kept;

  int compared(uint32_t row, const Ids& other, uint32_t other_row) const {
    if (integers != nullptr) {
      const int64_t a = integers[row], b = other.integers[other_row];
      return a < b ? -1 : a > b;
    }
    const int64_t start = row ? ends[row - 1] : 0,
                  other_start = other_row ? other.ends[other_row - 1] : 0;
    const int64_t size = ends[row] - start, other_size = other.ends[other_row] - other_start;
    const int order = std::memcmp(text + start, other.text + other_start,
                                  static_cast<size_t>(std::min(size, other_size)));
    return order != 0 ? order : (size < other_size ? -1 : size > other_size);
  }
};

struct Hit {
  float score;
  uint32_t row;
  uint32_t segment;
};

struct Better {
  const std::vector<Ids>* ids;

  bool operator()(const Hit& a, const Hit& b) const {
    if (a.score != b.score) return a.score > b.score;
    if (a.segment == b.segment) return a.row < b.row;
    return (*ids)[a.segment].compared(a.row, (*ids)[b.segment], b.row) < 0;
  }
};

// The best rows so far of one query, and those that may be among them.
class Pool {
 public:
  Pool(size_t keep, const Better& better, double slack = 0)
      : keep_(keep), room_(2 * keep + 64), better_(better), slack_(static_cast<float>(slack)) {
    hits.reserve(room_);
  }

  float limit = nothing;
  std::vector<Hit> hits;

  // Returns whether the limit was raised.
  bool offer(const Hit& hit) {
    hits.push_back(hit);
    if (hits.size() < room_) return false;
    const float before = limit;
    trim();
    if (hits.size() > room_ / 4 * 3) cut();
    room_ = std::max(room_, 2 * hits.size());  // where very many are within rounding of one another
    return limit > before;
  }

  // Keep the best, and with scores that may be off, those that may be among them.
  void cut() {
    if (hits.size() <= keep_) return;
    const auto last = hits.begin() + static_cast<std::ptrdiff_t>(keep_) - 1;
    std::nth_element(hits.begin(), last, hits.end(), better_);
    limit = last->score - slack_;
    if (slack_ == 0) {
      hits.resize(keep_);
      return;
    }
    const auto stop =
        std::partition(last + 1, hits.end(), [this](const Hit& hit) { return hit.score >= limit; });
    hits.erase(stop, hits.end());
  }

 private:
  // Drop rows that are below the best `keep` for certain. Counting scores by their range is faster
  // than putting them in order, and it need not be exact before the end.
  void trim() {
    constexpr int ranges = 512;
    float low = hits[0].score, high = low;
    for (const Hit& hit : hits) {
      low = std::min(low, hit.score);
      high = std::max(high, hit.score);
    }
    const float scale = (ranges - 1) / (high - low);
    if (!std::isfinite(scale) || slack_ > 0) return;
    const auto range_of = [&](float score) { return static_cast<int>((score - low) * scale); };
    uint32_t counts[ranges] = {};
    for (const Hit& hit : hits) counts[range_of(hit.score)]++;
    int range = ranges;
    for (size_t above = 0; above < keep_;) above += counts[--range];
    float least = high;
    size_t kept = 0;
    for (const Hit& hit : hits) {
      if (range_of(hit.score) < range) continue;
      least = std::min(least, hit.score);
      hits[kept++] = hit;
    }
    hits.resize(kept);
    limit = std::max(limit, least);
  }

  size_t keep_, room_;
  Better better_;
  float slack_;
};

// One query at one level.
struct Asked {
  std::vector<double> numbers;  // cut and, for a cosine, scaled
  std::vector<float> rough;     // the same in float32, for int8 times the steps
  std::vector<int32_t> weights;
  std::vector<uint8_t> tables;
  std::vector<int8_t> integers;  // by dimension, filled up to whole words
  int32_t shift = 0;
  int32_t offset = 0;
  float step = 0;
  double slack = 0;
};

struct Stage {
  int level;
  int64_t keep;
  int64_t probes;  // lists to read; 0 for every row
};

// Some blocks of a segment.
struct Span {
  size_t segment;
  int64_t first, stop;
};

struct Margin {
  int64_t probe;
  double width;
  std::vector<std::tuple<double, double, double>> lines;  // slope, level, spread
};

struct Answer {
  std::vector<Hit> hits;
  std::vector<std::pair<int64_t, int64_t>> works;  // rows that came in and rows that went on
  std::vector<double> microseconds;
};

template <typename Work>
void on_threads(int64_t n_tasks, int threads, Work work) {
  std::atomic<int64_t> next{0};
  std::exception_ptr failure;
  std::atomic<bool> failed{false};
  auto run = [&] {
    try {
      for (int64_t task = next++; task < n_tasks && !failed; task = next++) work(task);
    } catch (...) {
      if (!failed.exchange(true)) failure = std::current_exception();
    }
  };
  std::vector<std::thread> others;
  for (int64_t i = 1; i < std::min<int64_t>(threads, n_tasks); i++) {
    try {
      others.emplace_back(run);
    } catch (const std::system_error&) {
      break;  // there are no more to be had: those that there are do all of it
    }
  }
  run();
  for (std::thread& other : others) other.join();
  if (failure) std::rethrow_exception(failure);
}

class Search {
 public:
  const Target* target;
  const std::vector<std::vector<const Level*>>* levels;  // by segment, then by level
  const std::vector<Ids>* ids;
  std::vector<const uint32_t*> living;  // by segment; null where every row counts
  std::vector<Stage> stages;
  std::vector<double> longest;  // by stage: of what the rows stand for
  std::optional<Margin> margin;
  bool cosine, squared;
  const nb::callable* check = nullptr;  // compares pages of a segment with their checksums

  Asked asked(const Level& level, const double* query, double longest, bool is_double) const;
  std::vector<Span> spans(const double* query, bool is_double, int64_t& n_rows) const;
  bool has_lists() const;
  Answer run_certain(const std::vector<Asked>& query, double length, int threads) const;
  float likely_limit(const std::vector<Span>& spans, const Asked& query, int64_t n_rows) const;
  Answer run(const std::vector<Asked>& query, const std::vector<Span>& spans, int64_t n_rows,
             double microseconds, int threads) const;
  std::vector<Answer> run_group(const std::vector<std::vector<Asked>>& queries) const;

  const Level& level_of(size_t segment, int stage) const {
    return *(*levels)[segment][static_cast<size_t>(stages[static_cast<size_t>(stage)].level)];
  }

 private:
  struct Found;
  Better better() const { return {ids}; }
  int64_t shortlist(size_t stage) const;
  void scan(size_t segment, int64_t first, int64_t stop, const Asked* const* queries, int n_queries,
            Pool* const* pools) const;
  void scan_packed(const Level& level, const uint32_t* alive, size_t segment, int64_t first,
                   int64_t stop, const Asked* const* queries, int n_queries,
                   Pool* const* pools) const;
  void scan_numbers(size_t segment, int64_t first, int64_t stop, const Asked& query,
                    Pool& pool) const;
  double settled(const Level& level, int64_t row, const Asked& query) const;
  float score(const Hit& hit, int stage, const Asked& query) const;
  void rescore(std::vector<Hit>& hits, int stage, const Asked& query) const;
  void check_pages(const std::vector<Hit>& hits, int stage) const;
  void best(std::vector<Hit>& hits, int64_t keep, bool sorted) const;
  void past_the_margin(std::vector<Hit>& hits, size_t stage, const std::vector<Asked>& query) const;
  void finish(Answer& answer, Pool& pool, const std::vector<Asked>& query, int64_t n_rows,
              double microseconds) const;
  int64_t n_living(size_t segment) const;
};

double length_of(const double* numbers, int dim) {
  double squares = 0;
  for (int i = 0; i < dim; i++) squares += numbers[i] * numbers[i];
  return std::sqrt(squares);
}

void set_tables(Asked& asked, int words) {
  asked.tables.assign(static_cast<size_t>(words) * 128, 0);
  for (int word = 0; word < words; word++) {
    for (int place = 0; place < word_bytes; place++) {
      for (int half = 0; half < 2; half++) {
        const int8_t* four =
            &asked.integers[static_cast<size_t>((word * word_bytes + place) * 8 + 4 * half)];
        int below = 0;
        for (int i = 0; i < 4; i++) below += std::min<int>(0, four[i]);
        asked.shift -= below;
        uint8_t* table = &asked.tables[static_cast<size_t>(128 * word + 64 * half + 16 * place)];
        for (int nibble = 0; nibble < 16; nibble++) {
          int sum = -below;
          for (int i = 0; i < 4; i++)
            if (nibble & (8 >> i)) sum += four[i];
          table[nibble] = static_cast<uint8_t>(sum);
        }
      }
    }
  }
}

void set_weights(Asked& asked, int words, int bits) {
  const int fields = 8 / bits;
  asked.weights.resize(static_cast<size_t>(words * fields));
  for (int word = 0; word < words; word++) {
    for (int field = 0; field < fields; field++) {
      int8_t four[word_bytes];
      for (int place = 0; place < word_bytes; place++)
        four[place] =
            asked.integers[static_cast<size_t>((word * word_bytes + place) * fields + field)];
      std::memcpy(&asked.weights[static_cast<size_t>(word * fields + field)], four, sizeof four);
    }
  }
}

Asked Search::asked(const Level& level, const double* query, double longest_row,
                    bool is_double) const {
  Asked asked;
  asked.numbers.assign(query, query + level.dim);
  std::vector<double>& numbers = asked.numbers;
  if (cosine) {
    if (is_double) {  // squares of 1e-200 would vanish
      double largest = 0;
      for (double number : numbers) largest = std::max(largest, std::fabs(number));
      for (double& number : numbers) number /= largest;
    }
    const double length = length_of(numbers.data(), level.dim);
    for (double& number : numbers) number /= length;
    if (!is_double)
      for (double& number : numbers) number = static_cast<double>(static_cast<float>(number));
  }
  if (level.is_packed) {
    const int bits = level.packed.bits, words = level.packed.words;
    const double most = bits == 1 ? 63 : 127;
    double largest = 0;
    for (double number : numbers) largest = std::max(largest, std::fabs(number));
    asked.step = static_cast<float>(largest / most);
    asked.integers.assign(static_cast<size_t>(words * word_bytes * 8 / bits), 0);
    int sum = 0;
    for (size_t i = 0; i < numbers.size(); i++) {
      asked.integers[i] =
          static_cast<int8_t>(std::nearbyint(numbers[i] / static_cast<double>(asked.step)));
      sum += asked.integers[i];
    }
    asked.offset = -((1 << bits) - 1) * sum;
    set_weights(asked, words, bits);
    if (bits == 1) set_tables(asked, words);
    asked.offset -= 2 * asked.shift;
    return asked;
  }
  asked.rough.resize(numbers.size());
  for (size_t i = 0; i < numbers.size(); i++) {
    asked.rough[i] = static_cast<float>(numbers[i]);
    if (level.numbers.number == Number::int8 && !squared) asked.rough[i] *= level.numbers.steps[i];
  }
  const double length = length_of(numbers.data(), level.dim);
  const double sum = length + longest_row;
  const double reach = squared ? sum * sum : length * longest_row;
  asked.slack = 2 * (level.dim + 8) * (half_step * reach + tiny);
  return asked;
}

// Rows that a stage keeps at most.
int64_t Search::shortlist(size_t stage) const {
  const bool last = stage + 1 == stages.size();
  return margin && !last ? std::max(stages[stage].keep, margin->probe) : stages[stage].keep;
}

bool is_living(const uint32_t* living, int64_t row) {
  return living == nullptr || (living[row / block_rows] >> (row % block_rows) & 1U);
}

// What a scan of packed codes reports to.
struct Search::Found {
  const Level* level;
  uint32_t segment;
  const Asked* const* queries;
  Pool* const* pools;
  PackedQuery* packed;
  const uint32_t* living;  // read for codes in lists; the scan knows those of other rows

  static void take(void* all, int query, int64_t block, uint32_t rows, const int32_t* sums) {
    Found& found = *static_cast<Found*>(all);
    const Asked& asked = *found.queries[query];
    Pool& pool = *found.pools[query];
    for (; rows != 0; rows &= rows - 1) {
      const int place = __builtin_ctz(rows);
      const int64_t slot = block * block_rows + place;
      int64_t row = slot;
      if (found.level->slots != nullptr) {
        row = found.level->slots[slot];
        if (row < 0 || !is_living(found.living, row)) continue;
      } else if (row >= found.level->rows) {
        break;  // the last block is filled up with rows that are none
      }
      const float sum = static_cast<float>(2 * sums[place] + asked.offset);
      const float score = sum * found.level->inverse_length(slot) * asked.step;
      if (score < pool.limit) continue;
      if (pool.offer({score, static_cast<uint32_t>(row), found.segment}))
        found.packed[query].limit = pool.limit / asked.step;
    }
  }
};

void Search::scan_packed(const Level& level, const uint32_t* alive, size_t segment, int64_t first,
                         int64_t stop, const Asked* const* queries, int n_queries,
                         Pool* const* pools) const {
  PackedQuery packed[most_queries];
  for (int q = 0; q < n_queries; q++) {
    const float limit = pools[q]->limit / queries[q]->step;
    packed[q] = {queries[q]->weights.data(),
                 queries[q]->tables.data(),
                 queries[q]->shift,
                 queries[q]->offset,
                 limit,
                 0,
                 0};
  }
  Found found{&level, static_cast<uint32_t>(segment), queries, pools, packed, alive};
  const uint32_t* known = level.slots == nullptr ? alive : nullptr;
  Packed codes = level.packed;
  codes.angles = nullptr;  // they matter for certainty alone
  target->scan(codes, first, stop, known, packed, n_queries, Found::take, &found);
}

double Search::settled(const Level& level, int64_t row, const Asked& query) const {
  const double score = target->settled(level.numbers, row, query.numbers.data(), squared);
  if (std::isnan(score))  // it cannot be ranked
    throw std::domain_error("rows cut to " + std::to_string(level.dim) +
                            " numbers: only zeros remain of some");
  return score;
}

void Search::scan_numbers(size_t segment, int64_t first, int64_t stop, const Asked& query,
                          Pool& pool) const {
  const Level& level = level_of(segment, 0);
  const int64_t last = std::min(stop * block_rows, level.rows);
  float rough[chunk_rows];
  for (int64_t start = first * block_rows; start < last; start += chunk_rows) {
    const int64_t count = std::min(chunk_rows, last - start);
    if (level.numbers.scaled || (level.numbers.number == Number::int8 && squared)) {
      for (int64_t i = 0; i < count; i++)
        rough[i] = is_living(living[segment], start + i)
                       ? static_cast<float>(settled(level, start + i, query))
                       : nothing;
    } else {
      target->products(level.numbers, start, start + count, query.rough.data(), squared, rough);
    }
    for (int64_t i = 0; i < count; i++) {
      if (rough[i] < pool.limit || !is_living(living[segment], start + i)) continue;
      pool.offer({rough[i], static_cast<uint32_t>(start + i), static_cast<uint32_t>(segment)});
    }
  }
}

void Search::scan(size_t segment, int64_t first, int64_t stop, const Asked* const* queries,
                  int n_queries, Pool* const* pools) const {
  if (level_of(segment, 0).is_packed) {
    scan_packed(level_of(segment, 0), living[segment], segment, first, stop, queries, n_queries,
                pools);
  } else {
    for (int q = 0; q < n_queries; q++) scan_numbers(segment, first, stop, *queries[q], *pools[q]);
  }
}

int32_t packed_sum(const Level& level, int64_t row, const Asked& query) {
  const int bits = level.packed.bits, fields = 8 / bits;
  const uint8_t* block =
      level.packed.blocks + (row / block_rows) * block_rows * word_bytes * level.packed.words;
  const uint8_t* bytes = block + (row % block_rows) * word_bytes;
  int32_t sum = 0;
  size_t next = 0;
  for (int word = 0; word < level.packed.words; word++) {
    for (int place = 0; place < word_bytes; place++) {
      const uint8_t byte = bytes[word * block_rows * word_bytes + place];
      for (int field = 0; field < fields; field++) {
        const int stored = (byte >> (8 - bits * (field + 1))) & ((1 << bits) - 1);
        sum += query.integers[next++] * (2 * stored - ((1 << bits) - 1));
      }
    }
  }
  return sum;
}

float Search::score(const Hit& hit, int stage, const Asked& query) const {
  const Level& level = level_of(hit.segment, stage);
  if (level.is_packed) {
    const float sum = static_cast<float>(packed_sum(level, hit.row, query));
    return sum * level.inverse_length(hit.row) * query.step;
  }
  return static_cast<float>(settled(level, hit.row, query));
}

void Search::rescore(std::vector<Hit>& hits, int stage, const Asked& query) const {
  // Rows lie far apart. A loop that does nothing but touch them has many of them on their way at
  // once, which the sums of one row after the other, or prefetching, do not.
  const int64_t row_bytes = level_of(0, stage).row_bytes;
  const size_t group = static_cast<size_t>(std::max<int64_t>(1, touched_bytes / row_bytes));
  for (size_t start = 0; start < hits.size(); start += group) {
    const size_t stop = std::min(hits.size(), start + group);
    if (!level_of(0, stage).is_packed) {
      unsigned touched = 0;
      for (size_t i = start; i < stop; i++) {
        const void* numbers = level_of(hits[i].segment, stage).numbers.numbers;
        const uint8_t* row = static_cast<const uint8_t*>(numbers) + hits[i].row * row_bytes;
        for (int64_t byte = 0; byte < row_bytes; byte += 64) touched += row[byte];
      }
      asm volatile("" ::"r"(touched));  // or else the compiler would leave the loop out
    }
    for (size_t i = start; i < stop; i++) hits[i].score = score(hits[i], stage, query);
  }
}

void Search::best(std::vector<Hit>& hits, int64_t keep, bool sorted) const {
  const size_t kept = std::min(hits.size(), static_cast<size_t>(keep));
  const auto stop = hits.begin() + static_cast<std::ptrdiff_t>(kept);
  if (kept < hits.size()) std::nth_element(hits.begin(), stop, hits.end(), better());
  hits.resize(kept);
  if (sorted) std::sort(hits.begin(), hits.end(), better());
}

// Keep what passes the stop rule `Margin`: see `matryo.search.funnel`.
void Search::past_the_margin(std::vector<Hit>& hits, size_t stage,
                             const std::vector<Asked>& query) const {
  const size_t probe = static_cast<size_t>(margin->probe);
  if (hits.size() <= probe) return;
  std::vector<Hit> ahead(hits.begin(), hits.begin() + margin->probe);
  rescore(ahead, static_cast<int>(stage) + 1, query[stage + 1]);
  best(ahead, stages.back().keep, true);
  const auto& [slope, level, spread] = margin->lines[stage];
  const double least =
      slope * static_cast<double>(ahead.back().score) + level - margin->width * spread;
  size_t kept = probe;
  while (kept < hits.size() && static_cast<double>(hits[kept].score) >= least) kept++;
  hits.resize(kept);
}

// Have the pages that hold these rows compared with their checksums, if they were not before.
void Search::check_pages(const std::vector<Hit>& hits, int stage) const {
  std::vector<std::pair<uint32_t, int64_t>> missing;
  for (const Hit& hit : hits) {
    const Level& level = level_of(hit.segment, stage);
    if (level.checked == nullptr) continue;
    const int64_t start = level.offset + hit.row * level.row_bytes;
    for (int64_t page = start / page_bytes; page <= (start + level.row_bytes - 1) / page_bytes;
         page++)
      if (!level.checked[page]) missing.emplace_back(hit.segment, page);
  }
  if (missing.empty()) return;
  nb::gil_scoped_acquire acquired;
  for (const auto& [segment, page] : missing) (*check)(segment, page);
}

double since(Clock::time_point start) {
  return std::chrono::duration<double, std::micro>(Clock::now() - start).count();
}

// From the rows that a scan left to the answer.
void Search::finish(Answer& answer, Pool& pool, const std::vector<Asked>& query, int64_t n_rows,
                    double microseconds) const {
  std::vector<Hit>& hits = pool.hits;
  int64_t received = n_rows;
  for (size_t stage = 0; stage < stages.size(); stage++) {
    const Clock::time_point start = Clock::now();
    const int number = static_cast<int>(stage);
    const bool last = stage + 1 == stages.size();
    if (stage > 0) {
      check_pages(hits, number);
      rescore(hits, number, query[stage]);
    } else {
      pool.cut();
      if (!level_of(0, 0).is_packed) rescore(hits, 0, query[0]);
    }
    best(hits, shortlist(stage), last || margin.has_value());
    if (margin && !last) {
      check_pages(hits, number + 1);
      past_the_margin(hits, stage, query);
    }
    answer.works.emplace_back(received, static_cast<int64_t>(hits.size()));
    answer.microseconds.push_back(since(start) + (stage == 0 ? microseconds : 0));
    received = static_cast<int64_t>(hits.size());
  }
  answer.hits = hits;
}

int64_t Search::n_living(size_t segment) const {
  const int64_t rows = level_of(segment, 0).rows;
  if (living[segment] == nullptr) return rows;
  int64_t count = 0;
  for (int64_t word = 0; word < (rows + block_rows - 1) / block_rows; word++)
    count += __builtin_popcount(living[segment][word]);
  return count;
}

bool Search::has_lists() const {
  if (stages[0].probes == 0) return false;
  for (size_t segment = 0; segment < levels->size(); segment++)
    if (level_of(segment, 0).centroids) return true;
  return false;
}

// The blocks that a query reads, and how many rows that may be found are in them.
std::vector<Span> Search::spans(const double* query, bool is_double, int64_t& n_rows) const {
  std::vector<Span> spans;
  n_rows = 0;
  for (size_t segment = 0; segment < levels->size(); segment++) {
    const Level& level = level_of(segment, 0);
    if (stages[0].probes == 0 || !level.centroids) {
      spans.push_back({segment, 0, level.n_blocks});
      n_rows += n_living(segment);
      continue;
    }
    const Level& centroids = *level.centroids;
    const Asked asked = this->asked(centroids, query, 1, is_double);
    const std::vector<Ids> none(1);
    Pool pool(static_cast<size_t>(std::min(stages[0].probes, centroids.rows)), {&none});
    const Asked* asked_at = &asked;
    Pool* pool_at = &pool;
    scan_packed(centroids, nullptr, 0, 0, centroids.n_blocks, &asked_at, 1, &pool_at);
    pool.cut();
    for (const Hit& hit : pool.hits) {
      const int64_t first = level.starts[hit.row], stop = level.starts[hit.row + 1];
      spans.push_back({segment, first, stop});
      if (living[segment] == nullptr) {
        n_rows += level.sizes[hit.row];
        continue;
      }
      for (int64_t slot = first * block_rows; slot < stop * block_rows; slot++)
        n_rows += level.slots[slot] >= 0 && is_living(living[segment], level.slots[slot]);
    }
  }
  return spans;
}

// A score that the rows to be kept are likely to reach, read off some blocks: with it
// most rows need not be looked at. -infinity where that would not pay.
float Search::likely_limit(const std::vector<Span>& spans, const Asked& query,
                           int64_t n_rows) const {
  constexpr int64_t run = 32, share = 32;  // blocks read in a row, and one such run in so many
  const int64_t keep = shortlist(0);
  if (!level_of(0, 0).is_packed || keep < 64 || n_rows < 64 * keep) return nothing;
  // half as many again as are expected, and some, so that chance hardly ever reaches there
  const size_t wanted = static_cast<size_t>(keep * 3 / (2 * share) + 16);
  Pool pool(wanted, better());
  const Asked* asked = &query;
  Pool* pool_at = &pool;
  int64_t passed = 0;  // blocks of the spans before
  for (const Span& span : spans) {
    const int64_t size = span.stop - span.first;
    for (int64_t start = (passed + run * share - 1) / (run * share) * run * share - passed;
         start < size; start += run * share)
      scan(span.segment, span.first + start, std::min(span.first + start + run, span.stop), &asked,
           1, &pool_at);
    passed += size;
  }
  pool.cut();
  return pool.hits.size() < wanted ? nothing : pool.limit;
}

// One query; its scan may be spread over threads.
Answer Search::run(const std::vector<Asked>& query, const std::vector<Span>& spans, int64_t n_rows,
                   double microseconds, int threads) const {
  const Clock::time_point start = Clock::now();
  int64_t bytes = 0;
  for (const Span& span : spans)
    bytes += (span.stop - span.first) * block_rows * level_of(span.segment, 0).row_bytes;
  const int64_t n_parts = std::max<int64_t>(1, std::min<int64_t>(threads, bytes / thread_bytes));
  const size_t keep = static_cast<size_t>(shortlist(0));
  const Asked* asked = &query[0];
  Pool found(keep, better(), query[0].slack);
  for (float limit = likely_limit(spans, query[0], n_rows);; limit = nothing) {
    std::vector<Pool> pools(static_cast<size_t>(n_parts), Pool(keep, better(), query[0].slack));
    for (Pool& pool : pools) pool.limit = limit;
    on_threads(n_parts, static_cast<int>(n_parts), [&](int64_t part) {
      Pool* pool = &pools[static_cast<size_t>(part)];
      for (const Span& span : spans) {  // every thread has its share of each span
        const int64_t blocks = span.stop - span.first;
        scan(span.segment, span.first + blocks * part / n_parts,
             span.first + blocks * (part + 1) / n_parts, &asked, 1, &pool);
      }
    });
    found.hits.clear();
    for (const Pool& pool : pools)
      found.hits.insert(found.hits.end(), pool.hits.begin(), pool.hits.end());
    if (found.hits.size() >= keep || limit == nothing) break;  // the limit was not too high
  }
  Answer answer;
  finish(answer, found, query, n_rows, microseconds + since(start));
  return answer;
}

// The rows that may be among the best for certain, by angles: see `matryo.search.certified`.
class Possible {
 public:
  struct Row {
    double most;  // the highest score that it can have
    uint32_t row;
    uint32_t segment;
  };

  Possible(const Asked& asked, double length, size_t keep)
      : asked_(asked), length_(length), keep_(keep) {
    double squares = 0;
    for (size_t i = 0; i < asked.numbers.size(); i++) {
      const double gap = asked.numbers[i] -
                         static_cast<double>(asked.integers[i]) * static_cast<double>(asked.step);
      squares += gap * gap;
    }
    off_ = length * std::sqrt(squares) + certain_rounding;
  }

  std::vector<Row> rows;
  std::vector<double> least;  // the lowest scores that the best rows have, as a heap

  double bar() const { return least.size() < keep_ ? -1 : least.front(); }

  PackedQuery packed() const {
    PackedQuery query{
        asked_.weights.data(), asked_.tables.data(), asked_.shift, asked_.offset, nothing, 0, 0};
    set_limit(query);
    return query;
  }

  void set_limit(PackedQuery& query) const {
    // the cosine of the sum of two angles: below it a row cannot reach the bar
    const double bar = this->bar() - certain_rounding,
                 unit = length_ * static_cast<double>(asked_.step);
    if (bar < -0.9) return;  // the two angles may be more than half a turn together
    query.limit = static_cast<float>(bar / unit);
    query.aside = static_cast<float>(std::sqrt(1 - bar * bar) / unit);
    query.slack = static_cast<float>(off_ / unit);
  }

  // Returns whether the bar was raised.
  bool offer(double score, double cosine, uint32_t row, uint32_t segment) {
    const double near = score * length_, angle = std::acos(std::clamp(cosine, -1.0, 1.0));
    const double first = std::acos(std::clamp(near + off_, -1.0, 1.0));
    const double most = std::cos(std::max(first - angle, 0.0)) + certain_rounding;
    if (most < bar()) return false;
    rows.push_back({most, row, segment});
    const double second = std::acos(std::clamp(near - off_, -1.0, 1.0));
    const double lowest = std::cos(std::min(second + angle, std::acos(-1.0))) - certain_rounding;
    if (least.size() == keep_ && lowest <= least.front()) return false;
    if (least.size() == keep_) {
      std::pop_heap(least.begin(), least.end(), std::greater<>());
      least.pop_back();
    }
    least.push_back(lowest);
    std::push_heap(least.begin(), least.end(), std::greater<>());
    return least.size() == keep_;
  }

 private:
  static constexpr double certain_rounding = 1e-6;
  const Asked& asked_;
  double length_, off_ = 0;
  size_t keep_;
};

// One query with an exact stop: codes of every row, then whole rows while they may be in the
// answer.
Answer Search::run_certain(const std::vector<Asked>& query, double length, int threads) const {
  const Clock::time_point start = Clock::now();
  struct Reading {
    const Level* level;
    const Asked* asked;
    uint32_t segment;
    PackedQuery packed;
    Possible* possible;

    static void take(void* all, int, int64_t block, uint32_t rows, const int32_t* sums) {
      Reading& reading = *static_cast<Reading*>(all);
      for (; rows != 0; rows &= rows - 1) {
        const int place = __builtin_ctz(rows);
        const int64_t row = block * block_rows + place;
        if (row >= reading.level->rows) break;
        const float sum = static_cast<float>(2 * sums[place] + reading.asked->offset);
        const float score = sum * reading.level->inverse_length(row) * reading.asked->step;
        if (reading.possible->offer(static_cast<double>(score),
                                    static_cast<double>(reading.level->cosines[row]),
                                    static_cast<uint32_t>(row), reading.segment))
          reading.possible->set_limit(reading.packed);
      }
    }
  };
  int64_t bytes = 0, n_rows = 0;
  for (size_t segment = 0; segment < levels->size(); segment++) {
    bytes += level_of(segment, 0).rows * level_of(segment, 0).row_bytes;
    n_rows += n_living(segment);
  }
  const size_t keep = static_cast<size_t>(shortlist(1));
  const int64_t n_parts = std::max<int64_t>(1, std::min<int64_t>(threads, bytes / thread_bytes));
  std::vector<Possible> parts(static_cast<size_t>(n_parts), Possible(query[0], length, keep));
  on_threads(n_parts, static_cast<int>(n_parts), [&](int64_t part) {
    Possible& possible = parts[static_cast<size_t>(part)];
    for (size_t segment = 0; segment < levels->size(); segment++) {
      const Level& level = level_of(segment, 0);
      Reading reading{&level, &query[0], static_cast<uint32_t>(segment), possible.packed(),
                      &possible};
      target->scan(level.packed, level.n_blocks * part / n_parts,
                   level.n_blocks * (part + 1) / n_parts, living[segment], &reading.packed, 1,
                   Reading::take, &reading);
    }
  });
  double bar = -1;
  std::vector<Possible::Row> rows;
  for (Possible& possible : parts) {
    bar = std::max(bar, possible.bar());
    rows.insert(rows.end(), possible.rows.begin(), possible.rows.end());
  }
  rows.erase(
      std::remove_if(rows.begin(), rows.end(), [&](const auto& row) { return row.most < bar; }),
      rows.end());
  std::sort(rows.begin(), rows.end(), [](const auto& a, const auto& b) { return a.most > b.most; });
  Answer answer;
  answer.works.emplace_back(n_rows, static_cast<int64_t>(rows.size()));
  answer.microseconds.push_back(since(start));
  const Clock::time_point second = Clock::now();
  constexpr size_t at_once = 64;
  Pool pool(keep, better());
  size_t read = 0;
  while (read < rows.size() && rows[read].most >= static_cast<double>(pool.limit)) {
    std::vector<Hit> hits;
    for (size_t i = read; i < std::min(rows.size(), read + at_once); i++)
      hits.push_back({0, rows[i].row, rows[i].segment});
    read += hits.size();
    check_pages(hits, 1);
    rescore(hits, 1, query[1]);
    pool.hits.insert(pool.hits.end(), hits.begin(), hits.end());
    pool.cut();
  }
  answer.hits = std::move(pool.hits);
  std::sort(answer.hits.begin(), answer.hits.end(), better());
  answer.works.emplace_back(static_cast<int64_t>(read), static_cast<int64_t>(answer.hits.size()));
  answer.microseconds.push_back(since(second));
  return answer;
}

// Some queries on one thread: a chunk of codes is read again while it is cached.
std::vector<Answer> Search::run_group(const std::vector<std::vector<Asked>>& queries) const {
  const Clock::time_point start = Clock::now();
  const size_t keep = static_cast<size_t>(shortlist(0));
  std::vector<Pool> pools;
  std::vector<Span> whole;
  int64_t n_rows = 0;
  for (size_t segment = 0; segment < levels->size(); segment++) {
    whole.push_back({segment, 0, level_of(segment, 0).n_blocks});
    n_rows += n_living(segment);
  }
  std::vector<float> limits;
  for (const auto& query : queries) {
    limits.push_back(likely_limit(whole, query[0], n_rows));
    pools.emplace_back(keep, better(), query[0].slack);
    pools.back().limit = limits.back();
  }
  for (size_t segment = 0; segment < levels->size(); segment++) {
    const int64_t blocks = level_of(segment, 0).n_blocks;
    for (int64_t first = 0; first < blocks; first += chunk_blocks) {
      const int64_t stop = std::min(blocks, first + chunk_blocks);
      for (size_t q = 0; q < queries.size(); q += most_queries) {
        const Asked* asked[most_queries];
        Pool* own[most_queries];
        const int count = static_cast<int>(std::min<size_t>(most_queries, queries.size() - q));
        for (int i = 0; i < count; i++) {
          asked[i] = &queries[q + static_cast<size_t>(i)][0];
          own[i] = &pools[q + static_cast<size_t>(i)];
        }
        scan(segment, first, stop, asked, count, own);
      }
    }
  }
  const double each = since(start) / static_cast<double>(queries.size());
  std::vector<Answer> answers(queries.size());
  for (size_t q = 0; q < queries.size(); q++) {
    if (limits[q] != nothing && pools[q].hits.size() < keep) {  // the limit was too high
      answers[q] = run(queries[q], whole, n_rows, each, 1);
    } else {
      finish(answers[q], pools[q], queries[q], n_rows, each);
    }
  }
  return answers;
}

// What Python sees: the levels of all segments of one state.
class Segments {
 public:
  std::vector<Ids> ids;
  std::vector<std::vector<std::shared_ptr<Level>>> levels;

  void add_integers(Array<int64_t, 1> integers, std::vector<std::shared_ptr<Level>> own) {
    Ids one;
    one.integers = integers.data();
    one.kept.push_back(nb::cast(integers));
    add(std::move(one), static_cast<int64_t>(integers.shape(0)), std::move(own));
  }

  void add_texts(Array<int64_t, 1> ends, Array<uint8_t, 1> text,
                 std::vector<std::shared_ptr<Level>> own) {
    const int64_t size = static_cast<int64_t>(text.shape(0));
    for (size_t i = 0; i < ends.shape(0); i++)
      if (ends.data()[i] < (i ? ends.data()[i - 1] : 0) || ends.data()[i] > size)
        throw std::invalid_argument("expected ascending ends of ids within the text");
    Ids one;
    one.ends = ends.data();
    one.text = text.data();
    one.kept = {nb::cast(ends), nb::cast(text)};
    add(std::move(one), static_cast<int64_t>(ends.shape(0)), std::move(own));
  }

 private:
  void add(Ids one, int64_t n_ids, std::vector<std::shared_ptr<Level>> own) {
    if (own.empty() || (!levels.empty() && own.size() != levels[0].size()))
      throw std::invalid_argument("expected as many levels as the other segments have");
    for (size_t i = 0; i < own.size(); i++) {
      if (!own[i] || own[i]->rows != n_ids)
        throw std::invalid_argument("expected levels with one row for each id");
      if (!levels.empty() && !own[i]->is_like(*levels[0][i]))
        throw std::invalid_argument("expected levels like those of the other segments");
    }
    if (!ids.empty() && (one.integers == nullptr) != (ids[0].integers == nullptr))
      throw std::invalid_argument("expected ids of the kind of the other segments");
    ids.push_back(std::move(one));
    levels.push_back(std::move(own));
  }
};

std::shared_ptr<Level> packed_level(int bits, int dim, int64_t rows, Array<uint8_t, 1> blocks,
                                    std::optional<Array<uint16_t, 1>> excess,
                                    std::optional<Array<float, 1>> bounds) {
  if ((bits != 1 && bits != 2 && bits != 4) || dim < 1 || dim > most_dims || rows < 1 ||
      (bits == 1 ? excess || bounds : !excess || !bounds))
    throw std::invalid_argument("expected 1, 2 or 4 bits, dims, rows, and lengths of several bits");
  auto level = std::make_shared<Level>();
  const int words = (dim * bits + 31) / 32;
  // codes in lists have more places than rows
  const int64_t block_size = static_cast<int64_t>(block_rows) * words * word_bytes;
  const int64_t n_blocks = static_cast<int64_t>(blocks.shape(0)) / block_size;
  if (blocks.shape(0) != static_cast<size_t>(n_blocks * block_size) ||
      n_blocks * block_rows < rows || (excess && excess->shape(0) < static_cast<size_t>(rows)) ||
      (bounds && bounds->shape(0) != static_cast<size_t>(2 * n_blocks)))
    throw std::invalid_argument("expected blocks, lengths and bounds that fit the rows");
  level->is_packed = true;
  level->dim = dim;
  level->rows = rows;
  level->row_bytes = words * word_bytes;
  level->n_blocks = n_blocks;
  level->packed = {bits,
                   words,
                   blocks.data(),
                   bounds ? bounds->data() : nullptr,
                   std::sqrt(static_cast<float>(dim)),
                   nullptr};
  level->excess = excess ? excess->data() : nullptr;
  level->n_lengths = excess ? static_cast<int64_t>(excess->shape(0)) : 0;
  level->kept = {nb::cast(blocks), nb::cast(excess), nb::cast(bounds)};
  return level;
}

void keep_in_lists(Level& level, std::shared_ptr<Level> centroids, Array<int64_t, 1> starts,
                   Array<int32_t, 1> sizes, Array<int32_t, 1> slots) {
  const size_t count = static_cast<size_t>(centroids->rows);
  if (!level.is_packed || starts.shape(0) != count + 1 || sizes.shape(0) != count ||
      starts.data()[count] != level.n_blocks ||
      slots.shape(0) != static_cast<size_t>(level.n_blocks * block_rows) ||
      (level.excess != nullptr && level.n_lengths != level.n_blocks * block_rows))
    throw std::invalid_argument("expected lists that fit the codes");
  for (size_t i = 0; i < count; i++)
    if (starts.data()[i] < 0 || starts.data()[i] > starts.data()[i + 1])
      throw std::invalid_argument("expected lists that follow one another");
  for (size_t i = 0; i < slots.shape(0); i++)
    if (slots.data()[i] < -1 || slots.data()[i] >= level.rows)
      throw std::invalid_argument("expected rows in the places of lists, or -1");
  level.centroids = std::move(centroids);
  level.starts = starts.data();
  level.sizes = sizes.data();
  level.slots = slots.data();
  for (auto& kept : {nb::cast(starts), nb::cast(sizes), nb::cast(slots)})
    level.kept.push_back(kept);
}

void with_angles(Level& level, Array<float, 1> cosines, Array<float, 1> angles) {
  if (!level.is_packed || cosines.shape(0) != static_cast<size_t>(level.rows) ||
      angles.shape(0) != static_cast<size_t>(2 * level.n_blocks))
    throw std::invalid_argument("expected angles that fit the codes");
  level.cosines = cosines.data();
  level.packed.angles = angles.data();
  for (auto& kept : {nb::cast(cosines), nb::cast(angles)}) level.kept.push_back(kept);
}

std::shared_ptr<Level> number_level(
    nb::ndarray<nb::ro, nb::ndim<2>, nb::c_contig, nb::device::cpu> numbers, int dim,
    std::optional<Array<float, 1>> steps, bool scaled,
    std::optional<std::pair<Array<bool, 1>, int64_t>> checked) {
  auto level = std::make_shared<Level>();
  if (dim < 1 || static_cast<size_t>(dim) > numbers.shape(1) ||
      (steps && steps->shape(0) != static_cast<size_t>(dim)))
    throw std::invalid_argument("expected a dim and steps that fit the numbers");
  if (numbers.dtype() == nb::dtype<float>()) {
    level->numbers.number = Number::float32;
  } else if (numbers.dtype() == nb::dtype<int8_t>()) {
    level->numbers.number = Number::int8;
    if (!steps) throw std::invalid_argument("int8 needs steps");
  } else if (numbers.dtype().code == static_cast<uint8_t>(nb::dlpack::dtype_code::Float) &&
             numbers.dtype().bits == 16) {
    level->numbers.number = Number::float16;
  } else {
    throw std::invalid_argument("expected float32, float16 or int8");
  }
  level->dim = dim;
  level->rows = static_cast<int64_t>(numbers.shape(0));
  level->n_blocks = (level->rows + block_rows - 1) / block_rows;
  level->numbers.dim = dim;
  level->numbers.stride = static_cast<int64_t>(numbers.shape(1));
  level->row_bytes = level->numbers.stride * numbers.dtype().bits / 8;
  level->numbers.numbers = numbers.data();
  level->numbers.steps = steps ? steps->data() : nullptr;
  level->numbers.scaled = scaled;
  level->kept = {nb::cast(numbers), nb::cast(steps)};
  if (checked) {
    const int64_t stop = checked->second + level->rows * level->row_bytes;
    if (checked->second < 0 ||
        checked->first.shape(0) < static_cast<size_t>((stop + page_bytes - 1) / page_bytes))
      throw std::invalid_argument("expected one flag for each page of the rows");
    level->checked = checked->first.data();
    level->offset = checked->second;
    level->kept.push_back(nb::cast(checked->first));
  }
  return level;
}

template <typename Scalar>
nb::object as_numpy(std::vector<Scalar> values, std::vector<size_t> shape) {
  auto* kept = new std::vector<Scalar>(std::move(values));
  nb::capsule owner(kept, [](void* p) noexcept { delete static_cast<std::vector<Scalar>*>(p); });
  return nb::cast(nb::ndarray<nb::numpy, Scalar>(kept->data(), shape.size(), shape.data(), owner));
}

// Runs the queries. Returns rows `(q, keep)` numbered through all segments, scores, how many there
// are of each, what every stage read and kept `(q, stages, 2)`, and its microseconds.
template <typename Scalar>
nb::object search(const Segments& segments, const std::string& target_name,
                  Array<Scalar, 2> queries,
                  const std::vector<std::tuple<int, int64_t, double, int64_t>>& stages,
                  const std::vector<std::optional<Array<uint32_t, 1>>>& living,
                  const std::string& metric, std::optional<Margin> margin, bool certain,
                  const nb::callable& check, int threads) {
  Search search{};
  for (const Target* each : targets())
    if (target_name == each->name) search.target = each;
  if (search.target == nullptr) throw std::invalid_argument("no such set of instructions here");
  if (segments.levels.empty() || living.size() != segments.levels.size())
    throw std::invalid_argument("expected at least one segment, and what lives in each");
  std::vector<std::vector<const Level*>> levels;
  for (const auto& own : segments.levels) {
    levels.emplace_back();
    for (const auto& level : own) levels.back().push_back(level.get());
  }
  if (stages.empty() || threads < 1 || (metric != "cosine" && metric != "dot" && metric != "l2"))
    throw std::invalid_argument("expected a stage, a thread, and cosine, dot or l2");
  if (margin && (margin->probe < 1 || margin->lines.size() + 1 != stages.size()))
    throw std::invalid_argument("expected a margin that probes rows, with a line for each step");
  int64_t n_all = 0;
  for (const auto& own : levels) n_all += own[0]->rows;
  search.levels = &levels;
  search.ids = &segments.ids;
  search.cosine = metric == "cosine";
  search.squared = metric == "l2";
  search.margin = std::move(margin);
  if (search.margin)
    search.margin->probe = std::min(search.margin->probe, std::max<int64_t>(n_all, 1));
  search.check = &check;
  for (const auto& [level, keep, longest, probes] : stages) {
    if (level < 0 || static_cast<size_t>(level) >= levels[0].size() || keep < 1 || probes < 0)
      throw std::invalid_argument("expected a known level and rows to keep");
    if (queries.shape(1) < static_cast<size_t>(levels[0][static_cast<size_t>(level)]->dim))
      throw std::invalid_argument("expected queries as wide as every stage");
    // no more room than there are rows
    search.stages.push_back({level, std::min(keep, std::max<int64_t>(n_all, 1)), probes});
    search.longest.push_back(longest);
  }
  for (size_t segment = 0; segment < living.size(); segment++) {
    const int64_t rows = levels[segment][0]->rows;
    if (living[segment] &&
        living[segment]->shape(0) < static_cast<size_t>((rows + block_rows - 1) / block_rows))
      throw std::invalid_argument("expected one bit for each row");
    search.living.push_back(living[segment] ? living[segment]->data() : nullptr);
  }
  for (const auto& own : levels)
    if (certain && (stages.size() != 2 ||
                    own[static_cast<size_t>(search.stages[0].level)]->cosines == nullptr))
      throw std::invalid_argument("expected two stages and angles to be certain by");
  const int64_t n = static_cast<int64_t>(queries.shape(0)),
                width = static_cast<int64_t>(queries.shape(1));
  std::vector<Answer> answers(static_cast<size_t>(n));
  {
    nb::gil_scoped_release released;
    // few queries: each is spread over the threads; many: they are shared out in groups
    const bool few = n < 2 * threads;
    const int64_t size = few || certain || search.has_lists()
                             ? 1
                             : std::min<int64_t>(group_queries, (n + threads - 1) / threads);
    const int64_t n_groups = (n + size - 1) / size;
    on_threads(n_groups, few ? 1 : threads, [&](int64_t group) {
      const Clock::time_point start = Clock::now();
      std::vector<std::vector<Asked>> asked;
      std::vector<double> wide(static_cast<size_t>(width));
      for (int64_t q = group * size; q < std::min(n, (group + 1) * size); q++) {
        std::copy(queries.data() + q * width, queries.data() + (q + 1) * width, wide.begin());
        asked.emplace_back();
        for (size_t stage = 0; stage < search.stages.size(); stage++)
          asked.back().push_back(search.asked(search.level_of(0, static_cast<int>(stage)),
                                              wide.data(), search.longest[stage],
                                              std::is_same_v<Scalar, double>));
      }
      if (certain) {
        const Asked& whole = asked[0][1];
        const double length = length_of(whole.numbers.data(), search.level_of(0, 0).dim);
        answers[static_cast<size_t>(group)] =
            search.run_certain(asked[0], length, few ? threads : 1);
      } else if (size == 1) {
        int64_t n_rows = 0;
        const std::vector<Span> spans =
            search.spans(wide.data(), std::is_same_v<Scalar, double>, n_rows);
        answers[static_cast<size_t>(group)] =
            search.run(asked[0], spans, n_rows, since(start), few ? threads : 1);
      } else {
        std::vector<Answer> own = search.run_group(asked);
        std::move(own.begin(), own.end(), answers.begin() + group * size);
      }
    });
  }
  const size_t keep = static_cast<size_t>(search.stages.back().keep), n_stages = stages.size();
  std::vector<int64_t> starts{0};
  for (const auto& own : levels) starts.push_back(starts.back() + own[0]->rows);
  const size_t count = static_cast<size_t>(n);
  size_t widest = 0;
  for (const Answer& answer : answers) widest = std::max(widest, answer.hits.size());
  widest = std::min(widest, keep);
  std::vector<int64_t> rows(count * widest, -1), counts(count), works(count * n_stages * 2);
  std::vector<float> scores(count * widest, nothing);
  std::vector<double> microseconds(count * n_stages);
  for (size_t q = 0; q < count; q++) {
    const Answer& answer = answers[q];
    counts[q] = static_cast<int64_t>(answer.hits.size());
    for (size_t i = 0; i < answer.hits.size(); i++) {
      rows[q * widest + i] = starts[answer.hits[i].segment] + answer.hits[i].row;
      scores[q * widest + i] = answer.hits[i].score;
    }
    for (size_t stage = 0; stage < n_stages; stage++) {
      works[(q * n_stages + stage) * 2] = answer.works[stage].first;
      works[(q * n_stages + stage) * 2 + 1] = answer.works[stage].second;
      microseconds[q * n_stages + stage] = answer.microseconds[stage];
    }
  }
  return nb::make_tuple(
      as_numpy(std::move(rows), {count, widest}), as_numpy(std::move(scores), {count, widest}),
      as_numpy(std::move(counts), {count}), as_numpy(std::move(works), {count, n_stages, 2}),
      as_numpy(std::move(microseconds), {count, n_stages}));
}

}  // namespace
}  // namespace matryo

NB_MODULE(_kernel, module) {
  using namespace matryo;
  module.def("instruction_sets", [] {
    std::vector<std::string> names;
    for (const Target* target : targets()) names.emplace_back(target->name);
    return names;
  });
  nb::class_<Level>(module, "Level");
  module.def("packed_level", &packed_level, "bits"_a, "dim"_a, "rows"_a, "blocks"_a,
             "excess"_a.none(), "bounds"_a.none());
  module.def("keep_in_lists", &keep_in_lists, "level"_a, "centroids"_a, "starts"_a, "sizes"_a,
             "slots"_a);
  module.def("with_angles", &with_angles, "level"_a, "cosines"_a, "angles"_a);
  module.def("number_level", &number_level, "numbers"_a, "dim"_a, "steps"_a.none(), "scaled"_a,
             "checked"_a.none());
  nb::class_<Margin>(module, "Margin")
      .def(nb::init<int64_t, double, std::vector<std::tuple<double, double, double>>>(), "probe"_a,
           "width"_a, "lines"_a);
  nb::class_<Segments>(module, "Segments")
      .def(nb::init<>())
      .def("add_integers", &Segments::add_integers, "ids"_a, "levels"_a)
      .def("add_texts", &Segments::add_texts, "ends"_a, "text"_a, "levels"_a);
  module.def("search", &search<float>, "segments"_a, "target"_a, "queries"_a, "stages"_a,
             "living"_a, "metric"_a, "margin"_a.none(), "certain"_a, "check"_a, "threads"_a);
  module.def("search", &search<double>, "segments"_a, "target"_a, "queries"_a, "stages"_a,
             "living"_a, "metric"_a, "margin"_a.none(), "certain"_a, "check"_a, "threads"_a);
}
