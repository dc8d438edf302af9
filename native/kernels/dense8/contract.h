// 8-bit inputs times an 8-bit dense weight: Y(tokens, out) = act(scale_t * scale_o * (X(tokens, in) - zero_t) W^T + bias).
//
// The weight is read in lines of 64 bytes, 16 rows x 4 consecutive inputs: what one vpdpbusd, or one row of an AMX tile,
// multiplies with 4 bytes of a token. 16 rows over all inputs are a block, whose lines are contiguous. The sums are exact
// 32-bit integers: one function makes them, another turns them into floats or bytes.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/features.h"
#include "kernels/contract.h"

namespace rarefy::dense8 {

inline constexpr int line_bytes = 64, block_rows = 16, inputs_of_line = 4;
inline constexpr int max_blocks = 4;    // in one call of Product
inline constexpr int max_in = 1 << 16;  // 255 * 127 * in stays within 31 bits

// x: token t at x + t * stride, readable for 4 * lines bytes; weight: block b at weight + b * block_bytes.
struct Product {
  const std::uint8_t* x;
  std::ptrdiff_t stride;
  int tokens;  // at most the kernel's
  const std::int8_t* weight;
  std::ptrdiff_t block_bytes;
  int blocks;  // at most max_blocks
  int lines;   // of a block; a multiple of the kernel's
  std::int32_t* sums;  // (tokens, sums_stride), written: 16 columns a block
  std::ptrdiff_t sums_stride;
};

// What turns the sums of some tokens and outputs into results. Arrays over outputs hold a multiple of 16 but for bias.
struct Finish {
  const std::int32_t* sums;
  std::ptrdiff_t sums_stride;
  int tokens, outputs;
  const float* weight_scale;        // (outputs)
  const std::int32_t* weight_sums;  // (outputs): of the codes of a row
  const float* input_scale;         // of token t: [t * step]
  const std::int32_t* input_zero;
  std::ptrdiff_t step;
  const float* bias;  // (outputs) or null
  Activation activation;
  float* y;             // (tokens, y_stride), or null: then
  std::uint8_t* bytes;  // the same, saturated round(value * per_step) + zero
  std::ptrdiff_t y_stride;
  float per_step;
  std::int32_t zero;
};

// `features` floats to bytes of this scale and zero point, then zero bytes up to `padded`.
using QuantiseRow = void (*)(const float* x, int features, int padded, float scale, std::int32_t zero,
                             std::uint8_t* to) noexcept;
// The scale and the zero point (0..255) that spread a row's range, zero included, over 256 steps.
using RangeOfRow = void (*)(const float* x, int features, float* scale, std::int32_t* zero) noexcept;

struct Kernel {
  const char* name;  // after "dense8-" and "expand8-"
  Isa isa;
  int tokens;  // most in one Product
  int lines;   // a block holds a multiple of so many
  void (*multiply)(const Product&) noexcept;
  void (*finish)(const Finish&) noexcept;
  QuantiseRow quantise_row;
  RangeOfRow range_of_row;
  void (*end)() noexcept;  // after a thread's calls of multiply: gives its tile registers back; null: nothing to do
};

// Every instance that is compiled in, best first.
struct Table {
  const Kernel* const* first;
  std::size_t size;
  const Kernel* const* begin() const noexcept { return first; }
  const Kernel* const* end() const noexcept { return first + size; }
};
Table kernels() noexcept;

}  // namespace rarefy::dense8
