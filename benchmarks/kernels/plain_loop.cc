// The loop that anybody would write, as the yardstick: compressed rows per tile of 128 features, 64 tokens across,
// four AVX-512 sums a row, no tuning. The panel's transposition and the epilogue are the library's own, so that the
// comparison is between loops.
#include <immintrin.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#include "core/aligned.h"
#include "kernels/csr/contract.h"
#include "ops/parallel.h"

namespace {

constexpr int depth = 128, across = 64;

struct Plain {
  int out, in;
  std::vector<std::uint32_t> starts{0};  // (tiles, out) + 1
  std::vector<std::uint16_t> columns;    // within the tile
  std::vector<float> values;
  int tiles() const { return (in + depth - 1) / depth; }
};

__attribute__((target("avx512f"))) void multiply_tile(const Plain& w, int tile, const float* panel, float* acc) {
  for (int row = 0; row < w.out; ++row, acc += across) {
    const std::size_t at = static_cast<std::size_t>(tile) * w.out + row;
    __m512 sums[4];
    for (int v = 0; v < 4; ++v) sums[v] = tile == 0 ? _mm512_setzero_ps() : _mm512_load_ps(acc + 16 * v);
    for (std::uint32_t e = w.starts[at]; e < w.starts[at + 1]; ++e) {
      const __m512 weight = _mm512_set1_ps(w.values[e]);
      const float* x = panel + w.columns[e] * across;
      for (int v = 0; v < 4; ++v) sums[v] = _mm512_fmadd_ps(_mm512_load_ps(x + 16 * v), weight, sums[v]);
    }
    for (int v = 0; v < 4; ++v) _mm512_store_ps(acc + 16 * v, sums[v]);
  }
}

}  // namespace

extern "C" {

__attribute__((visibility("default"))) void* plain_pack(const float* weight, int out, int in) {
  auto* packed = new Plain{out, in};
  for (int tile = 0; tile < packed->tiles(); ++tile)
    for (int row = 0; row < out; ++row) {
      for (int k = tile * depth; k < std::min(in, (tile + 1) * depth); ++k)
        if (const float value = weight[static_cast<std::size_t>(row) * in + k]; value != 0.0f) {
          packed->columns.push_back(static_cast<std::uint16_t>(k - tile * depth));
          packed->values.push_back(value);
        }
      packed->starts.push_back(static_cast<std::uint32_t>(packed->values.size()));
    }
  return packed;
}

__attribute__((visibility("default"))) void plain_free(void* packed) { delete static_cast<Plain*>(packed); }

__attribute__((visibility("default"))) void plain_multiply(void* packed, const float* x, int tokens, float* y, int threads) {
  const Plain& w = *static_cast<Plain*>(packed);
  const rarefy::csr::Kernel& helper = rarefy::csr::kernel(rarefy::Isa::avx512);
  rarefy::parallel_for((tokens + across - 1) / across, threads, [&](std::size_t task) {
    static thread_local rarefy::Scratch scratch;
    const int token = static_cast<int>(task) * across, valid = std::min(across, tokens - token);
    float* const panel = scratch.at_least(static_cast<std::size_t>(depth + 1 + w.out + 16) * across);
    float* const acc = panel + static_cast<std::size_t>(depth + 1) * across;
    for (int tile = 0; tile < w.tiles(); ++tile) {
      const int first = tile * depth;
      helper.load_panel(x + static_cast<std::size_t>(token) * w.in + first, w.in, valid, std::min(depth, w.in - first),
                        depth, across, panel);
      multiply_tile(w, tile, panel, acc);
    }
    helper.finish(acc, w.out, across, valid, nullptr, rarefy::Activation::none, y + static_cast<std::size_t>(token) * w.out,
                  w.out);
  });
}
}
