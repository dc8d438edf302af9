// Depthwise convolution of floats, written once over the simd operations.

constexpr int rows_at_once = 4;

// Outputs [row, row + rows_at_once) of a vector of columns, before bias and what follows.
template <int stride, bool whole>
inline void sum_rows(const depthwise::Plane& p, const Columns<stride>& columns, int row, const Vec (&weight)[9],
                     Vec (&sums)[rows_at_once]) {
#pragma GCC unroll 16
  for (int i = 0; i < (rows_at_once - 1) * stride + 3; ++i) {
    const int y = row * stride - p.place.top + i;
    if (y < 0 || y >= p.place.height) continue;
    Vec x[3];
    columns.template load<whole>(p.x + static_cast<std::ptrdiff_t>(y) * p.place.width, 0.0f, x);
#pragma GCC unroll 3
    for (int k = 0; k < 3; ++k) {
      const int r = (i - k) / stride;
      if (i < k || (i - k) % stride != 0 || r >= rows_at_once) continue;
#pragma GCC unroll 3
      for (int j = 0; j < 3; ++j) sums[r] = fma(x[j], weight[3 * k + j], sums[r]);
    }
  }
}

template <int stride, conv::Activation activation>
void convolve_plane(const depthwise::Plane& p) {
  Vec weight[9];
  for (int i = 0; i < 9; ++i) weight[i] = set1(p.weight[i]);
  for (int c = 0; c < p.place.out_width; c += width) {
    const Columns<stride> columns(p.place, c);
    const int count = p.place.out_width - c < width ? p.place.out_width - c : width;
    for (int row = 0; row < p.place.out_height; row += rows_at_once) {
      Vec sums[rows_at_once];
      for (int r = 0; r < rows_at_once; ++r) sums[r] = set1(p.bias);
      if (columns.inner) sum_rows<stride, true>(p, columns, row, weight, sums);
      else sum_rows<stride, false>(p, columns, row, weight, sums);
      for (int r = 0; r < rows_at_once && row + r < p.place.out_height; ++r) {
        const std::ptrdiff_t at = static_cast<std::ptrdiff_t>(row + r) * p.place.out_width + c;
        if (p.residual != nullptr) sums[r] = add(sums[r], load_n(p.residual + at, count));
        store_n(p.y + at, ending<activation>(sums[r]), count);
      }
    }
  }
}

template <int stride>
void convolve_floats(const depthwise::Plane& p) noexcept {
  using A = conv::Activation;
  switch (p.activation) {
    case A::none: return convolve_plane<stride, A::none>(p);
    case A::relu: return convolve_plane<stride, A::relu>(p);
    case A::relu6: return convolve_plane<stride, A::relu6>(p);
    case A::silu: return convolve_plane<stride, A::silu>(p);
    case A::hardswish: return convolve_plane<stride, A::hardswish>(p);
    case A::gelu: return convolve_plane<stride, A::gelu>(p);
  }
}
