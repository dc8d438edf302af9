// A weight laid out row by row as one stream, times few tokens: Y(tokens, out) = act(X(tokens, in) W^T + bias), the
// weights read once for all the tokens. The SIMD axis is the input features.
//
// A row is a stream of chunks of 64 columns (four units of 16), at any byte address:
//   bitmask  64 bits that say which columns are there (little-endian, column 0 first), then those columns' values
//   fixed    the same, but every unit of 16 holds `per_unit` values, so that nothing has to be counted (N:M)
//   dense    64 values
//   index    16 columns (16 bits each) and 16 values; the last of a row is cut short
// One stream a row and no second array: the memory system sees as many streams as there are rows in work.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/features.h"
#include "kernels/contract.h"

namespace rarefy::matvec {

enum class Format : int { bitmask = 0, fixed = 1, dense = 2, index = 3 };
enum class Stored : int { fp32 = 0, bf16 = 1, int8 = 2 };

constexpr int size_of(Stored s) { return s == Stored::fp32 ? 4 : s == Stored::bf16 ? 2 : 1; }

inline constexpr int chunk_columns = 64, unit_columns = 16;
inline constexpr int overread = 256;     // bytes that may be read (not used) behind the end of the streams
inline constexpr int most_tokens = 8;    // in one pass over a row
inline constexpr int longest_sum = 1024; // chunks whose 8-bit products fit a 32-bit sum

struct Rows {
  const unsigned char* bytes;
  const std::size_t* starts;     // (out + 1): where a row's stream begins
  const std::uint32_t* entries;  // (out): stored values of a row
  const float* scales;           // (out) of int8 values, else null
  const std::int32_t* sums;      // (out): the sum of a row's int8 values, else null
  int chunks;                    // of a row
  int per_unit;                  // fixed: values in every unit
};

// Inputs as floats, in the columns of the stream: `stride` floats a token, a multiple of 64.
struct Inputs {
  const float* x;
  std::ptrdiff_t stride;
  int tokens;
};

// Inputs as bytes: x[t][k] = scale[t * step] * (values[t * stride + k] - zero[t * step]).
struct Inputs8 {
  const std::uint8_t* values;
  std::ptrdiff_t stride;
  const float* scale;
  const std::int32_t* zero;
  std::ptrdiff_t step;
  int tokens;
};

struct Kernel {
  const char* name;
  Isa isa;
  Format format;
  Stored stored;
  // Rows [first, last) of y. One of the two is null: the other says what the activations are.
  void (*multiply)(const Rows&, int first, int last, const Inputs&, const RowOutput&) noexcept;
  void (*multiply8)(const Rows&, int first, int last, const Inputs8&, const RowOutput&) noexcept;
};

// The column (of a chunk) that stands at a place (of a chunk): interleaved where the kernel expands bytes or words.
constexpr int column_at(const Kernel& kernel, int place) {
  if (kernel.isa != Isa::vbmi2 || kernel.format != Format::bitmask || kernel.multiply == nullptr) return place;
  const int g = 4 / size_of(kernel.stored), block = 16 * g, within = place % block;
  return place / block * block + 16 * (within % g) + within / g;
}

struct Table {
  const Kernel* const* first;
  std::size_t size;
  const Kernel* const* begin() const noexcept { return first; }
  const Kernel* const* end() const noexcept { return first + size; }
};
Table kernels() noexcept;

}  // namespace rarefy::matvec
