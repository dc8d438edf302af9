// Checked operations on a weight in compressed rows, forward and backward.
#pragma once

#include <cstddef>
#include <cstdint>

namespace rarefy::csr {

struct Matrix {
  int rows, width;
  const std::int64_t* offsets;  // (rows + 1)
  const std::int32_t* columns;
  const float* values;
};

// Throws std::invalid_argument unless the offsets start at 0, never fall, end at `entries`, and every column is in
// [0, width). Every call below is made on a matrix that has passed.
void check(const Matrix& m, std::int64_t entries);

// y (tokens, rows) = x (tokens, width) M^T + bias (rows) or nothing.
void multiply(const Matrix& m, const float* x, std::ptrdiff_t tokens, const float* bias, float* y, int threads);

// dx (tokens, width) = dy (tokens, rows) M.
void multiply_transposed(const Matrix& m, const float* dy, std::ptrdiff_t tokens, float* dx, int threads);

// dvalues[e] = sum over tokens of dy[t][row of e] x[t][column of e]: the gradient on the support only.
void sample(const Matrix& m, const float* dy, const float* x, std::ptrdiff_t tokens, float* dvalues, int threads);

}  // namespace rarefy::csr
