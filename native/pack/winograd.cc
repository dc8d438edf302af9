#include "pack/winograd.h"

#include <algorithm>

#include "pack/keep.h"

namespace rarefy::winograd {
namespace {

// G: weights of 4 taps to their values at the points; of 3 taps with the last column left out.
constexpr double at_points[points][4] = {
    {1.0, 0.0, 0.0, 0.0},
    {1.0 / 3, 1.0 / 3, 1.0 / 3, 1.0 / 3},
    {-1.0 / 3, 1.0 / 3, -1.0 / 3, 1.0 / 3},
    {-16.0 / 15, -8.0 / 15, -4.0 / 15, -2.0 / 15},
    {1.0 / 15, -2.0 / 15, 4.0 / 15, -8.0 / 15},
};

double value(int point, int tap, int taps) {
  return point + 1 == points ? (tap + 1 == taps ? 1.0 : 0.0) : at_points[point][tap];
}

// G g G^T of the weights of one phase: every stride-th row and column from (y, x) on.
void transform(const float* weight, const conv::Window& w, int y, int x, int taps, double (&u)[points][points]) {
  std::fill(&u[0][0], &u[0][0] + points * points, 0.0);
  for (int i = 0; y + i * w.stride_y < w.height; ++i)
    for (int j = 0; x + j * w.stride_x < w.width; ++j) {
      const double g = weight[(y + i * w.stride_y) * w.width + x + j * w.stride_x];
      for (int p = 0; p < points; ++p)
        for (int q = 0; q < points; ++q) u[p][q] += value(p, i, taps) * g * value(q, j, taps);
    }
}

}  // namespace

std::size_t Packed::nnz() const {
  return weight.size() - static_cast<std::size_t>(std::count(weight.begin(), weight.end(), 0.0f));
}

const char* why_not(const conv::Window& w, int groups, const Kernel& kernel) {
  const auto taps = [](int size, int stride) { return (size + stride - 1) / stride; };
  if (groups != 1) return "it has groups";
  if (w.dilation_y != 1 || w.dilation_x != 1) return "it is dilated";
  if (taps(w.height, w.stride_y) != kernel.taps || taps(w.width, w.stride_x) != kernel.taps)
    return "its height or width over its stride is another number of taps than the kernel's";
  return nullptr;
}

Packed pack(const float* weight, int out, int in, const conv::Window& window, const Kernel& kernel) {
  Packed p;
  p.out = out;
  p.in = in;
  p.window = window;
  p.kernel = &kernel;
  const std::size_t taps = static_cast<std::size_t>(window.height) * window.width, size = taps * in * out;
  p.weight.resize(size);
  for (std::size_t i = 0; i < size; ++i) p.weight[i] = kept(weight[i]) ? weight[i] : 0.0f;
  const std::size_t phases = p.phases(), together = kernel.together;
  p.factors.resize(p.blocks() * together * phases * points * points);
  double u[points][points];
  for (int o = 0; o < out; ++o) {
    std::size_t phase = 0;
    for (int y = 0; y < window.stride_y; ++y)
      for (int x = 0; x < window.stride_x; ++x)
        for (int c = 0; c < in; ++c, ++phase) {
          transform(p.weight.data() + (static_cast<std::size_t>(o) * in + c) * taps, window, y, x, kernel.taps, u);
          for (int i = 0; i < points; ++i)
            for (int j = 0; j < points; ++j) {
              const std::size_t row = (o / together * points + i) * phases + phase;
              p.factors[(row * points + j) * together + o % together] = static_cast<float>(u[i][j]);
            }
        }
  }
  return p;
}

}  // namespace rarefy::winograd
