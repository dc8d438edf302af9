// The sparse convolution of images across the lanes whose inputs are read in place: shares tiles out and runs one kernel.
#pragma once

#include <memory>
#include <mutex>
#include <vector>

#include "ops/conv_across.h"
#include "pack/conv_direct.h"

namespace rarefy::conv_direct {

// Where a weight's values find their inputs in images of one size: worked out at the first call, kept for the next.
class Places {
 public:
  using Offsets = std::vector<std::uint32_t>;
  // Throws std::invalid_argument where an image has more vectors than 32 bits name. Safe from any thread.
  std::shared_ptr<const Offsets> of(const Packed& weight, int height, int width);

 private:
  std::mutex guard_;
  int height_ = 0, width_ = 0;
  std::shared_ptr<const Offsets> offsets_;
};

// As conv::convolve_across, but for the weight, which is not turned.
void convolve_across(const Packed& weight, Places& places, const conv::Across& problem, int threads);

}  // namespace rarefy::conv_direct
