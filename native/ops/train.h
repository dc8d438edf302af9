// Forward and backward products with a sparse weight in training, for linear layers and convolutions.
#pragma once

#include <cstdint>
#include <vector>

#include "pack/train.h"

namespace rarefy::train {

// y (images, out of the side) from x (images, in of the side), plus bias (rows) or nothing. values: in the side's order.
void multiply(const Side&, const float* values, const float* x, std::int64_t images, const float* bias, float* y,
              int threads);
// The same by values as the weight has them, for a side of another order.
void multiply_ordered(const Side&, const float* values, const float* x, std::int64_t images, float* y, int threads);
// dvalues (entries): the sums over images and places of dy (images, out) and what each entry reads of x (images, in).
void sample(const Side& forward, const float* dy, const float* x, std::int64_t images, float* dvalues, int threads);

// The checked index of one weight for one size of image. Entries are in the order of rows; their values are the caller's.
class Index {
 public:
  // Throws std::invalid_argument unless offsets (outputs + 1) and columns are compressed rows of the geometry's weight.
  Index(const Geometry&, const std::int64_t* offsets, const std::int32_t* columns, std::int64_t entries);

  // y (images, out) = the convolution of x (images, in), plus bias (outputs) or nothing.
  void forward(const float* values, const float* x, std::int64_t images, const float* bias, float* y, int threads) const;
  // dx (images, in) from dy (images, out).
  void input_grad(const float* values, const float* dy, std::int64_t images, float* dx, int threads) const;
  // dvalues (entries): the gradient of the kept entries only.
  void weight_grad(const float* dy, const float* x, std::int64_t images, float* dvalues, int threads) const;

  std::int64_t entries() const { return static_cast<std::int64_t>(forward_.at.size()); }
  std::size_t bytes() const;

 private:
  Side forward_, backward_;
};

}  // namespace rarefy::train
