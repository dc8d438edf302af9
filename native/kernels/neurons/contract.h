// Chosen rows of a weight times few tokens: y[t][row] = x[t] . W[row] + bias[row] for the rows of a list, and nothing else
// is read or written. The SIMD axis is the input features. A row is whole cache lines, so that a row that is left out
// costs no memory traffic; 4-bit rows are runs of 128 inputs, 64 bytes of values (simd/packed4) and 8 scales of 16 bits.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/columns/contract.h"

namespace rarefy::neurons {

using columns::Stored;

inline constexpr int run_inputs = 128, run_bytes = 64 + 16;

// Bytes from one row to the next.
constexpr std::size_t row_bytes(Stored s, int in) {
  const std::size_t used = s == Stored::int4 ? std::size_t((in + run_inputs - 1) / run_inputs) * run_bytes : std::size_t(in) * columns::size_of(s);
  return (used + 63) / 64 * 64;
}

struct Rows {
  int in;
  const unsigned char* bytes;
  std::size_t stride;
  const float* scales;  // (out) of int8, and of int4 over 65535; else null
};

// Bytes of a token's inputs as kernels of bytes take them, whole lines: what they were divided by and what their sum puts
// into a dot product; then the inputs, of 4-bit kernels in the order of a run and with a start for each of its sums.
constexpr std::size_t rounded_bytes(Stored s, int in) {
  return 64 + (s == Stored::int4 ? std::size_t((in + run_inputs - 1) / run_inputs) * 256 : std::size_t((in + 63) / 64) * 64);
}

// list: `count` rows. One of the pairs is null: the other says what the activations are.
struct Kernel {
  const char* name;
  Isa isa;
  Stored stored;
  // x: (tokens, in).
  void (*multiply)(const Rows&, const std::int32_t* list, int count, const float* x, std::ptrdiff_t tokens, const float* bias,
                   float* y, std::ptrdiff_t stride) noexcept;
  // One token's inputs, to an address of a cache line.
  void (*round)(const float* x, int in, unsigned char* to) noexcept;
  // x: (tokens, rounded_bytes).
  void (*multiply8)(const Rows&, const std::int32_t* list, int count, const unsigned char* x, std::ptrdiff_t tokens,
                    const float* bias, float* y, std::ptrdiff_t stride) noexcept;
};

struct Table {
  const Kernel* const* first;
  std::size_t size;
  const Kernel* const* begin() const noexcept { return first; }
  const Kernel* const* end() const noexcept { return first + size; }
};
Table kernels() noexcept;

}  // namespace rarefy::neurons
