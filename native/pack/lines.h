// A weight in lines: 16 rows x a few consecutive inputs, which are 64 bytes once they are expanded. 16 rows over all
// inputs are a block. Stored whole, or as a bit for every entry and the entries that are not zero.
// Source: the bitmap and packed non-zeros of arXiv:2502.12444 (SparAMX), in the order of its tiles.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/blob.h"

namespace rarefy::lines {

inline constexpr int block_rows = 16;

// How the entries of a type lie in a line.
struct Shape {
  int item;          // bytes of an entry
  int interleave;    // consecutive inputs of a row that lie side by side: 16 * interleave entries are a line
  int multiple = 1;  // a block holds a multiple of so many lines
};

struct Lines {
  int out = 0, in = 0;
  Shape shape{1, 1};
  bool bitmap = false;
  std::size_t nnz = 0;
  Array<std::uint8_t> values;  // entries: all of them, or those not zero
  Array<std::uint8_t> masks;   // with a bitmap: 2 * interleave bytes a line
  Array<std::uint64_t> starts;   // with a bitmap: (blocks + 1), where a block's values begin, in bytes

  template <class Self, class Archive>
  static void fields(Self& self, Archive& archive) {
    auto& [out, in, shape, bitmap, nnz, values, masks, starts] = self;
    archive(out, in, shape, bitmap, nnz, values, masks, starts);
  }

  int blocks() const { return (out + block_rows - 1) / block_rows; }
  int line_entries() const { return block_rows * shape.interleave; }
  int lines() const {  // of a block
    const int needed = (in + shape.interleave - 1) / shape.interleave;
    return (needed + shape.multiple - 1) / shape.multiple * shape.multiple;
  }
  // Exactly what the format needs: entries / 8 + nnz * item + 8 (blocks + 1) with a bitmap, entries * item without, where
  // `entries` counts whole lines. (Readers of whole vectors also find `slack` bytes behind the values.)
  std::size_t bytes() const;
};

inline constexpr std::size_t slack = 64;

// entries: (out, in), row-major, of `shape.item` bytes; an entry whose bits are all zero is not stored in a bitmap.
Lines pack(const void* entries, int out, int in, Shape shape, bool bitmap);

// The inverse: (out, in), row-major.
void unpack(const Lines& packed, void* entries);

}  // namespace rarefy::lines
