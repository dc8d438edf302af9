// Where a product reads the lines of a few blocks of rows.
#pragma once

#include <algorithm>

#include "ops/dense_run.h"

namespace rarefy::dense {

// Lines of a few blocks: where they lie, or expanded a part at a time. A part is expanded while its forerunner has not
// been used yet: its values are fetched meanwhile, and no tile is loaded from lines still on their way to the cache.
class Source {
 public:
  Source(const Weight& w, int block, int blocks, int depth, std::uint8_t* scratch)
      : w_(w), block_(block), blocks_(blocks), depth_(depth), scratch_(scratch) {
    if (w.expand == nullptr) return;
    for (int b = 0; b < blocks; ++b) next_[b] = w.lines.values.data() + w.lines.starts[block + b];
    expand(0);
  }

  // Lines of part `number`, each block's `stride()` bytes behind the one before. Parts are asked for in order.
  const std::uint8_t* part(int number) {
    if (w_.expand == nullptr)
      return w_.lines.values.data() + block_ * stride() + static_cast<std::ptrdiff_t>(number) * depth_ * line_bytes;
    expand(number + 1);
    return half(number);
  }
  std::ptrdiff_t stride() const {
    return w_.expand == nullptr ? w_.block_bytes() : static_cast<std::ptrdiff_t>(depth_) * line_bytes;
  }

 private:
  std::uint8_t* half(int number) const { return scratch_ + number % 2 * blocks_ * stride(); }

  void expand(int number) {
    const std::ptrdiff_t mask_bytes = w_.lines.line_entries() / 8, lines = w_.lines.lines();
    const std::ptrdiff_t first = static_cast<std::ptrdiff_t>(number) * depth_;
    const int count = static_cast<int>(std::min<std::ptrdiff_t>(depth_, lines - first));
    const std::uint8_t* masks = w_.lines.masks.data() + (block_ * lines + first) * mask_bytes;
    for (int b = 0; count > 0 && b < blocks_; ++b, masks += lines * mask_bytes)
      next_[b] = w_.expand(masks, next_[b], count, half(number) + b * stride());
  }

  const Weight& w_;
  int block_, blocks_, depth_;
  std::uint8_t* scratch_;
  const std::uint8_t* next_[max_blocks] = {};
};

}  // namespace rarefy::dense
