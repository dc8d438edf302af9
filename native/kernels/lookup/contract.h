// Sparse weight x few tokens, inputs picked out of registers: Y(tokens, out) = act(X(tokens, in) W^T + bias).
//
// A band is as many outputs as a vector has lanes, a block as many inputs as two vectors hold but one, whose place has a
// zero. Step j of a (band, block) holds each output's j-th entry in the block: where its input is among the block's (a byte),
// then the values. One permutation of the block's two vectors gives all lanes their inputs; nothing is gathered from memory,
// which costs a cycle and more an entry on many CPUs. An output with fewer entries than the fullest one points at the zero.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/features.h"
#include "kernels/contract.h"
#include "kernels/matvec/contract.h"

namespace rarefy::lookup {

using matvec::Stored;

inline constexpr int most_tokens = 8;  // in one pass over the weights

struct Bands {
  const unsigned char* bytes;
  const std::size_t* starts;    // (bands + 1): where a band's steps begin
  const unsigned char* counts;  // (bands, blocks): steps
  const float* scales;          // (out, rounded up to whole bands) of int8 values, else null
  int out, blocks;
};

struct Kernel {
  const char* name;
  Isa isa;
  Stored stored;
  int width;  // outputs of a band; a block is 2 width - 1 inputs
  // Bands [first, last): x (tokens, blocks, 2 width), the last of each block 0.
  void (*multiply)(const Bands&, int first, int last, const float* x, int tokens, const RowOutput&) noexcept;
  int block() const { return 2 * width - 1; }
  int step_bytes() const { return width * (1 + matvec::size_of(stored)); }
};

struct Table {
  const Kernel* const* first;
  std::size_t size;
  const Kernel* const* begin() const noexcept { return first; }
  const Kernel* const* end() const noexcept { return first + size; }
};
Table kernels() noexcept;

}  // namespace rarefy::lookup
