#include "ops/csr.h"

#include <stdexcept>
#include <string>

#include "ops/train.h"

namespace rarefy::csr {
namespace {

[[noreturn]] void refuse(const std::string& what) {
  throw std::invalid_argument("compressed rows: " + what + "; build the three tensors with torch.Tensor.to_sparse_csr");
}

// A linear layer: every image is one pixel.
train::Geometry pixels(const Matrix& m) { return {{m.width, 1, 1}, m.rows, 1, {1, 1}, {1, 1}, {0, 0}, {1, 1}}; }

}  // namespace

void check(const Matrix& m, std::int64_t entries) {
  if (m.offsets[0] != 0) refuse("the first row offset is " + std::to_string(m.offsets[0]) + ", not 0");
  for (int row = 0; row < m.rows; ++row)
    if (m.offsets[row + 1] < m.offsets[row])
      refuse("row offsets fall from " + std::to_string(m.offsets[row]) + " to " + std::to_string(m.offsets[row + 1]) +
             " at row " + std::to_string(row));
  if (m.offsets[m.rows] != entries)
    refuse("the last row offset is " + std::to_string(m.offsets[m.rows]) + " for " + std::to_string(entries) + " values");
  for (std::int64_t e = 0; e < entries; ++e)
    if (m.columns[e] < 0 || m.columns[e] >= m.width)
      refuse("column " + std::to_string(m.columns[e]) + " of entry " + std::to_string(e) + " is not in [0, " +
             std::to_string(m.width) + ")");
}

void multiply(const Matrix& m, const float* x, std::ptrdiff_t tokens, const float* bias, float* y, int threads) {
  train::multiply(train::forward_side(pixels(m), m.offsets, m.columns), m.values, x, tokens, bias, y, threads);
}

void multiply_transposed(const Matrix& m, const float* dy, std::ptrdiff_t tokens, float* dx, int threads) {
  train::multiply_ordered(train::backward_side(pixels(m), m.offsets, m.columns), m.values, dy, tokens, dx, threads);
}

void sample(const Matrix& m, const float* dy, const float* x, std::ptrdiff_t tokens, float* dvalues, int threads) {
  train::sample(train::forward_side(pixels(m), m.offsets, m.columns), dy, x, tokens, dvalues, threads);
}

}  // namespace rarefy::csr
