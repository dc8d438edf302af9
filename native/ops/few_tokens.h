// What the operations that stream a weight through once for a few tokens have in common.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "core/aligned.h"
#include "core/array.h"
#include "ops/layout.h"
#include "ops/parallel.h"
#include "ops/split.h"

namespace rarefy {

// Calls f(first, last) for rows in about equal shares of bytes (starts: of `rows` + 1 streams); several a thread, for a
// thread that is held up takes fewer. A thread reads 64 KiB in about the time that it costs to wake one.
template <class Function>
void share_rows(const Array<std::size_t>& starts, int rows, std::ptrdiff_t tokens, int threads, Function f) {
  constexpr double bytes_a_thread = 1 << 16;
  const double work = static_cast<double>(starts.back()) * (1.0 + static_cast<double>(tokens) / 4.0);
  threads = static_cast<int>(std::min<double>(threads, 1 + work / bytes_a_thread));
  const std::vector<int> bounds = split_rows(starts.data(), rows, threads == 1 ? 1 : 4 * threads);
  parallel_for(bounds.size() - 1, threads, [&](std::size_t part) {
    if (bounds[part] < bounds[part + 1]) f(bounds[part], bounds[part + 1]);
  });
}

// The same in bands of 16 rows, for a weight of `bytes` whose rows are equally long.
template <class Function>
void share_bands(int rows, std::size_t bytes, std::ptrdiff_t tokens, int threads, Function f) {
  constexpr double bytes_a_thread = 1 << 16;
  constexpr int band = 16;
  const std::size_t bands = static_cast<std::size_t>((rows + band - 1) / band);
  const double work = static_cast<double>(bytes) * (1.0 + static_cast<double>(tokens) / 4.0);
  threads = static_cast<int>(std::min<double>(threads, 1 + work / bytes_a_thread));
  const std::size_t parts = std::min<std::size_t>(bands, threads == 1 ? 1 : 4 * threads);
  parallel_for(parts, threads, [&](std::size_t part) {
    const auto bound = [&](std::size_t p) { return std::min(rows, static_cast<int>(bands * p / parts) * band); };
    if (bound(part) < bound(part + 1)) f(bound(part), bound(part + 1));
  });
}

// x (tokens, in) as (in + 1, width): tokens beside each other, and behind the last feature zeros. This thread's scratch.
inline const float* side_by_side(const float* x, std::ptrdiff_t tokens, int in, int width) {
  static thread_local AlignedVector<float> scratch;
  const std::size_t size = (static_cast<std::size_t>(in) + 1) * width;
  if (scratch.size() < size) scratch.resize(size);
  float* const to = scratch.data();
  for (int k = 0; k <= in; ++k)
    for (int t = 0; t < width; ++t) to[static_cast<std::size_t>(k) * width + t] = t < tokens && k < in ? x[t * in + k] : 0.0f;
  return to;
}

// Inputs in a stream's columns: every `columns` features take 16 places, the rest of `places` a token is zero. Gives x
// itself where it is so already, else this thread's scratch, and the stride.
template <class T>
const T* in_places(const T* x, std::ptrdiff_t& stride, std::ptrdiff_t tokens, int in, int columns, std::ptrdiff_t places) {
  static thread_local AlignedVector<T> scratch;
  constexpr int unit = 16;
  if (columns == unit && stride >= places) return x;
  if (scratch.size() < static_cast<std::size_t>(places * tokens)) scratch.resize(static_cast<std::size_t>(places * tokens));
  const std::size_t most = static_cast<std::size_t>(std::clamp(columns, 1, unit));  // features in a group
  T* to = scratch.data();
  for (std::ptrdiff_t t = 0; t < tokens; ++t, x += stride, to += places) {
    const T* from = x;
    std::size_t left = static_cast<std::size_t>(in);
    for (std::ptrdiff_t at = 0; at < places; at += unit) {  // counts without a sign: none can be taken for a huge one
      const std::size_t used = std::min(left, most);
      std::copy_n(from, used, to + at);
      std::fill(to + at + used, to + at + unit, T{0});
      from += used;
      left -= used;
    }
  }
  stride = places;
  return scratch.data();
}

// Floats (tokens, out) for a result that is wanted as bytes: this thread's scratch; else where it is wanted.
inline float* floats_of(const Output8& to, std::ptrdiff_t tokens, int out) {
  static thread_local AlignedVector<float> scratch;
  if (to.y != nullptr) return to.y;
  if (scratch.size() < static_cast<std::size_t>(tokens * out)) scratch.resize(static_cast<std::size_t>(tokens * out));
  return scratch.data();
}

// Rows [first, last) of y as bytes; nothing where floats are wanted.
inline void put_bytes(const float* y, std::ptrdiff_t tokens, int out, int first, int last, const Output8& to) {
  if (to.values == nullptr) return;
  for (std::ptrdiff_t t = 0; t < tokens; ++t)
    for (int o = first; o < last; ++o) {
      const float steps = y[t * out + o] * (to.inverses == nullptr ? to.inverse : to.inverses[o]);
      const float value = std::nearbyintf(steps) + static_cast<float>(to.zero);
      to.values[t * out + o] = static_cast<std::uint8_t>(std::clamp(value, 0.0f, 255.0f));
    }
}

}  // namespace rarefy
