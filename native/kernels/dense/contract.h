// Inputs times a dense weight, 8-bit, bfloat16 or float: Y(tokens, out) = act(X(tokens, in) W^T + bias).
//
// The weight is read in lines of 64 bytes, 16 rows x as many consecutive inputs as fit 4 bytes (4, 2 or 1): what one
// vpdpbusd, one multiply-add, or one row of an AMX tile multiplies with 4 bytes of a token. 16 rows over all inputs are a
// block, whose lines are contiguous. One function makes sums, exact 32-bit integers or floats; another makes results of
// them, of 8-bit inputs as act(scale_t * scale_o * (sum - zero_t * weight_sum_o) + bias).
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/features.h"
#include "kernels/contract.h"

namespace rarefy::dense {

enum class Type { int8, bf16, fp32 };

inline constexpr int line_bytes = 64, block_rows = 16;
inline constexpr int token_bytes = 4;   // of a line
inline constexpr int max_blocks = 4;    // in one call of Product
inline constexpr int max_in = 1 << 16;  // of 8-bit weights: 255 * 127 * in stays within 31 bits

// x: token t at x + t * stride, readable for 4 * lines bytes; weight: block b at weight + b * block_bytes.
struct Product {
  const std::uint8_t* x;
  std::ptrdiff_t stride;
  int tokens;  // at most the kernel's
  const std::uint8_t* weight;
  std::ptrdiff_t block_bytes;
  int blocks;  // at most max_blocks
  int lines;   // to be multiplied; a multiple of the kernel's
  std::int32_t* sums;  // (tokens, sums_stride), aligned: 16 columns a block; floats unless the inputs are 8-bit
  std::ptrdiff_t sums_stride;
  bool add;  // to the sums, which else are written
};

// What turns the sums of some tokens and outputs into results. Arrays over outputs hold a multiple of 16 but for bias.
// Scales, zero points and weight sums are of 8-bit inputs only, and so are results in bytes.
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
  const float* per_steps;  // (outputs), one each, or null: per_step for all
  std::int32_t zero;
};

// `features` floats to the inputs' type (bytes of this scale and zero point), then zeros up to `padded` bytes.
using QuantiseRow = void (*)(const float* x, int features, int padded, float scale, std::int32_t zero,
                             std::uint8_t* to) noexcept;
// The scale and the zero point (0..255) that spread a row's range, zero included, over 256 steps.
using RangeOfRow = void (*)(const float* x, int features, float* scale, std::int32_t* zero) noexcept;

struct Kernel {
  const char* name;  // without the type: "vnni"
  Isa isa;
  Type type;
  int tokens;  // most in one Product
  int lines;   // a block holds a multiple of so many
  int depth;   // most lines in one Product where several are better than one; 0: as many as there are
  int at_once;  // tokens whose results are completed before the next ones' turn: outputs side by side are written in time
  int in_task;  // tokens for which a group of weights is fetched into the second-level cache
  void (*multiply)(const Product&) noexcept;
  void (*finish)(const Finish&) noexcept;
  QuantiseRow quantise_row;  // null: inputs are read where they lie
  RangeOfRow range_of_row;   // null: the inputs' type has no scale
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

}  // namespace rarefy::dense
