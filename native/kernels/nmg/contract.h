// Grouped N:M: every row uses each of the C(m, n) ways to keep n of m inputs equally often.
// Y(tokens, out) = act(X(tokens, in) W^T + bias).
//
// Bands of 16 outputs, transposed. A band goes through the ways in their order, and through `per_way` groups of each: a
// step holds the first column of the group of each output (16 bits), then n times the values of the 16 outputs. Which
// input a value meets is known from the way: one column a group, nothing a value, no counts and no remainders.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/features.h"
#include "kernels/contract.h"
#include "kernels/matvec/contract.h"

namespace rarefy::nmg {

using matvec::Stored;

inline constexpr int band = 16;       // outputs
inline constexpr int widest = 65536;  // inputs
inline constexpr int most_kept = 8;   // n
inline constexpr int overread = 256;  // bytes that may be read (not used) behind the end

constexpr int step_bytes(Stored s, int kept) { return band * (2 + kept * matvec::size_of(s)); }

struct Bands {
  const unsigned char* bytes;
  const float* scales;          // (out, rounded up to whole bands) of int8 values, else null
  const std::int32_t* offsets;  // (ways, kept): the inputs of a way, from the first of its group
  int ways, kept, per_way;
};

struct Kernel {
  const char* name;
  Isa isa;
  Stored stored;
  int width;  // tokens side by side
  // Rows [first, last), first a multiple of `band`, of one token: x (in).
  void (*one)(const Bands&, int first, int last, const float* x, const RowOutput&) noexcept;
  // The same of `tokens` <= width tokens: x (in, width), token by token beside each other.
  void (*some)(const Bands&, int first, int last, const float* x, int tokens, const RowOutput&) noexcept;
};

struct Table {
  const Kernel* const* first;
  std::size_t size;
  const Kernel* const* begin() const noexcept { return first; }
  const Kernel* const* end() const noexcept { return first + size; }
};
Table kernels() noexcept;

}  // namespace rarefy::nmg
