#include "ops/csr.h"

#include <algorithm>
#include <stdexcept>
#include <string>

#include "core/aligned.h"
#include "ops/parallel.h"
#include "ops/split.h"

namespace rarefy::csr {
namespace {

[[noreturn]] void refuse(const std::string& what) {
  throw std::invalid_argument("compressed rows: " + what + "; build the three tensors with torch.Tensor.to_sparse_csr");
}

int tile_of(std::ptrdiff_t tokens, std::ptrdiff_t token) {
  return static_cast<int>(std::min<std::ptrdiff_t>(tile_tokens, tokens - token));
}

// A block of rows whose sums stay in the L2 cache.
constexpr int block_rows = 512;

void multiply_rows(const Kernel& kernel, const Matrix& m, int first, int last, const float* panel, float* acc, int valid,
                   const float* bias, float* y) {
  for (int row = first; row < last; row += block_rows) {
    const int end = std::min(last, row + block_rows);
    kernel.multiply(m, row, end, panel, acc);
    kernel.finish(acc, end - row, tile_tokens, valid, bias == nullptr ? nullptr : bias + row, Activation::none, y + row,
                  m.rows);
  }
}

struct Transposed {
  std::vector<std::int64_t> offsets;
  std::vector<std::int32_t> columns;
  std::vector<float> values;
};

Transposed transpose(const Matrix& m) {
  const std::int64_t entries = m.offsets[m.rows];
  Transposed out{std::vector<std::int64_t>(m.width + 1), std::vector<std::int32_t>(entries), std::vector<float>(entries)};
  for (std::int64_t e = 0; e < entries; ++e) ++out.offsets[m.columns[e] + 1];
  for (int k = 0; k < m.width; ++k) out.offsets[k + 1] += out.offsets[k];
  std::vector<std::int64_t> next(out.offsets.begin(), out.offsets.end() - 1);
  for (int row = 0; row < m.rows; ++row)
    for (std::int64_t e = m.offsets[row]; e < m.offsets[row + 1]; ++e) {
      const std::int64_t at = next[m.columns[e]]++;
      out.columns[at] = row;
      out.values[at] = m.values[e];
    }
  return out;
}

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
  const Kernel& kernel = csr::kernel(allowed_isa());
  threads = threads_for(static_cast<double>(m.offsets[m.rows] + m.rows) * static_cast<double>(tokens), threads);
  const std::size_t tiles = (tokens + tile_tokens - 1) / tile_tokens;
  const std::vector<int> bounds = split_rows(m.offsets, m.rows, tiles % threads == 0 ? 1 : 2 * threads);
  const std::size_t parts = bounds.size() - 1;
  parallel_for(tiles * parts, threads, [&](std::size_t task) {
    static thread_local Scratch scratch;
    const std::ptrdiff_t token = static_cast<std::ptrdiff_t>(task / parts) * tile_tokens;
    const int valid = tile_of(tokens, token);
    float* const panel = scratch.at_least((static_cast<std::size_t>(m.width) + 1 + block_rows + 16) * tile_tokens);
    kernel.load_panel(x + token * m.width, m.width, valid, m.width, m.width, tile_tokens, panel);
    multiply_rows(kernel, m, bounds[task % parts], bounds[task % parts + 1], panel,
                  panel + (static_cast<std::size_t>(m.width) + 1) * tile_tokens, valid, bias, y + token * m.rows);
  });
}

void multiply_transposed(const Matrix& m, const float* dy, std::ptrdiff_t tokens, float* dx, int threads) {
  const Transposed t = transpose(m);
  multiply({m.width, m.rows, t.offsets.data(), t.columns.data(), t.values.data()}, dy, tokens, nullptr, dx, threads);
}

void sample(const Matrix& m, const float* dy, const float* x, std::ptrdiff_t tokens, float* dvalues, int threads) {
  const Kernel& kernel = csr::kernel(allowed_isa());
  std::fill(dvalues, dvalues + m.offsets[m.rows], 0.0f);
  threads = threads_for(static_cast<double>(m.offsets[m.rows] + m.rows) * static_cast<double>(tokens), threads);
  const std::vector<int> bounds = split_rows(m.offsets, m.rows, threads);
  parallel_for(bounds.size() - 1, threads, [&](std::size_t part) {
    static thread_local Scratch scratch;
    const int first = bounds[part], last = bounds[part + 1];
    const std::size_t right_floats = (static_cast<std::size_t>(m.width) + 1) * tile_tokens;
    float* const right = scratch.at_least(right_floats + (static_cast<std::size_t>(last - first) + 1) * tile_tokens);
    for (std::ptrdiff_t token = 0; token < tokens; token += tile_tokens) {
      const int valid = tile_of(tokens, token), rows = last - first;
      kernel.load_panel(x + token * m.width, m.width, valid, m.width, m.width, tile_tokens, right);
      kernel.load_panel(dy + token * m.rows + first, m.rows, valid, rows, rows, tile_tokens, right + right_floats);
      kernel.sample(m, first, last, right + right_floats, right, dvalues);
    }
  });
}

}  // namespace rarefy::csr
