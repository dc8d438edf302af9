// The three steps of minimal filtering, written once over the simd operations. Included after kernels/conv/endings.h and
// a file with `larger`.

// B^T d: six inputs to their values at the points.
inline void to_points(const Vec (&d)[6], Vec (&v)[6]) {
  const Vec p = sub(d[4], d[2]), q = sub(d[3], d[1]), more = set1(1.5f);
  v[0] = fma(q, more, add(sub(d[0], d[2]), p));
  v[1] = fma(add(d[2], d[3]), more, add(p, q));
  v[2] = fma(sub(d[3], d[2]), more, sub(p, q));
  v[3] = fma(q, set1(2.0f), p);
  v[4] = fma(q, set1(-0.5f), p);
  v[5] = fma(p, more, sub(sub(d[5], d[3]), q));
}

// A^T m: the outputs of six products.
template <int outputs>
inline void from_points(const Vec (&m)[6], Vec (&y)[outputs]) {
  const Vec a = add(m[1], m[2]), b = sub(m[1], m[2]);
  y[0] = add(add(m[0], a), add(m[3], m[4]));
  y[1] = fma(m[4], set1(-2.0f), fma(m[3], set1(0.5f), b));
  const Vec square = fma(m[4], set1(4.0f), fma(m[3], set1(0.25f), a));
  if constexpr (outputs == 3) {
    y[2] = add(square, m[5]);
  } else {
    y[2] = square;
    y[3] = add(fma(m[4], set1(-8.0f), fma(m[3], set1(0.125f), b)), m[5]);
  }
}

template <bool whole>
inline void transform_phase(const winograd::Input& in, const float* x, int top, int left, float* v, std::ptrdiff_t row) {
  alignas(64) float half[36 * width];  // down first, then across
#pragma GCC unroll 6
  for (int j = 0; j < 6; ++j) {
    const int column = left + j * in.step_x;
    Vec d[6], t[6];
#pragma GCC unroll 6
    for (int i = 0; i < 6; ++i) {
      const int line = top + i * in.step_y;
      const bool inside = whole || (line >= 0 && line < in.height && column >= 0 && column < in.width);
      d[i] = inside ? load(x + line * in.row + static_cast<std::ptrdiff_t>(column) * width) : zero();
    }
    to_points(d, t);
#pragma GCC unroll 6
    for (int i = 0; i < 6; ++i) store(half + (i * 6 + j) * width, t[i]);
  }
#pragma GCC unroll 6
  for (int i = 0; i < 6; ++i) {
    Vec d[6], t[6];
#pragma GCC unroll 6
    for (int j = 0; j < 6; ++j) d[j] = load(half + (i * 6 + j) * width);
    to_points(d, t);
#pragma GCC unroll 6
    for (int j = 0; j < 6; ++j) store(v + i * row + j * width, t[j]);
  }
}

inline void transform_tile(const winograd::Input& in, float* v) noexcept {
  const std::ptrdiff_t row = std::ptrdiff_t{6} * width * in.channels * in.step_y * in.step_x;
  for (int y = 0; y < in.step_y; ++y)
    for (int x = 0; x < in.step_x; ++x) {
      const int top = in.top + y, left = in.left + x;
      const bool whole = top >= 0 && left >= 0 && top + 5 * in.step_y < in.height && left + 5 * in.step_x < in.width;
      for (int c = 0; c < in.channels; ++c, v += 6 * width) {
        if (whole) transform_phase<true>(in, in.x + c * in.channel, top, left, v, row);
        else transform_phase<false>(in, in.x + c * in.channel, top, left, v, row);
      }
    }
}

// The products of one row of points for `together` output channels, and A^T of their sums.
template <int outputs, int together>
inline void multiply_row(const float* v, const float* u, int phases, float* z) {
  Vec sums[together][6];
#pragma GCC unroll 4
  for (int n = 0; n < together; ++n)
#pragma GCC unroll 6
    for (int j = 0; j < 6; ++j) sums[n][j] = zero();
  for (int c = 0; c < phases; ++c, v += 6 * width, u += 6 * together) {
#pragma GCC unroll 6
    for (int j = 0; j < 6; ++j) {
      const Vec x = load(v + j * width);
#pragma GCC unroll 4
      for (int n = 0; n < together; ++n) sums[n][j] = fma(x, set1(u[j * together + n]), sums[n][j]);
    }
  }
#pragma GCC unroll 4
  for (int n = 0; n < together; ++n) {
    Vec y[outputs];
    from_points<outputs>(sums[n], y);
#pragma GCC unroll 4
    for (int j = 0; j < outputs; ++j) store(z + (n * 6 * outputs + j) * width, y[j]);
  }
}

inline constexpr int strip_columns = winograd::most_tiles * winograd::most_outputs;

// The pixels (rows, strip_columns) of one output channel go where the strip says.
inline void put_pixels(const winograd::Strip& strip, const float* pixels, float* y, const float* residual) {
  const bool simple = strip.activation == conv::Activation::none || strip.activation == conv::Activation::relu;
  const Vec least = set1(strip.activation == conv::Activation::relu ? 0.0f : -__builtin_inff());
  for (int i = 0; i < strip.rows; ++i)
    for (int j = 0; j < strip.columns; ++j) {
      const std::ptrdiff_t at = i * strip.row + j * width;
      Vec sum = load(pixels + (i * strip_columns + j) * width);
      if (residual != nullptr) sum = add(sum, load(residual + at));
      store(y + at, simple ? max(least, sum) : ended(strip.activation, sum));
    }
}

// The largest of each window, as far as it lies in this strip.
inline void pool_pixels(const winograd::Strip& strip, float* pixels, float* y) {
  for (int i = 0; i < strip.rows; ++i)
    for (int j = 0; j < strip.columns; ++j) {
      float* const at = pixels + (i * strip_columns + j) * width;
      store(at, strip.activation == conv::Activation::relu ? relu(load(at)) : ended(strip.activation, load(at)));
    }
  const winograd::Pooling& pooling = *strip.pooling;
  alignas(64) float line[strip_columns * width];
  for (int r = 0; r < pooling.row_count; ++r) {
    const winograd::Reach& rows = pooling.rows[r];
    for (int j = 0; j < strip.columns; ++j) {
      const float* const at = pixels + (rows.first * strip_columns + j) * width;
      Vec best = load(at);
      for (int i = 1; i < rows.last - rows.first; ++i) best = larger(best, load(at + i * strip_columns * width));
      store(line + j * width, best);
    }
    for (int c = 0; c < pooling.column_count; ++c) {
      const winograd::Reach& columns = pooling.columns[c];
      float* const at = y + rows.at * strip.row + static_cast<std::ptrdiff_t>(columns.at) * width;
      Vec best = load(line + columns.first * width);
      for (int j = columns.first + 1; j < columns.last; ++j) best = larger(best, load(line + j * width));
      store(at, rows.fresh && columns.fresh ? best : larger(load(at), best));
    }
  }
}

// One tile's sums for `together` output channels: pixels (together, most_outputs, strip_columns), bias added.
template <int outputs, int together>
inline void multiply_tile(const float* v, const float* u, int phases, const float* bias, int channels, float* pixels) {
  alignas(64) float z[together * 6 * outputs * width];
  for (int i = 0; i < 6; ++i) multiply_row<outputs, together>(v + i * 6 * phases * width, u + i * 6 * phases * together, phases, z + i * outputs * width);
  for (int n = 0; n < channels; ++n, pixels += winograd::most_outputs * strip_columns * width) {
    const Vec shift = bias == nullptr ? zero() : set1(bias[n]);
#pragma GCC unroll 4
    for (int j = 0; j < outputs; ++j) {
      Vec m[6], y[outputs];
#pragma GCC unroll 6
      for (int i = 0; i < 6; ++i) m[i] = load(z + ((n * 6 + i) * outputs + j) * width);
      from_points<outputs>(m, y);
#pragma GCC unroll 4
      for (int i = 0; i < outputs; ++i) store(pixels + (i * strip_columns + j) * width, add(y[i], shift));
    }
  }
}

template <int outputs, int together>
void convolve_strip(const winograd::Weights& weights, const winograd::Strip& strip, int first, int last) noexcept {
  const std::ptrdiff_t points = std::ptrdiff_t{36} * weights.phases, channel = winograd::most_outputs * strip_columns * width;
  alignas(64) float pixels[together * channel];
  for (int block = first; block < last; ++block) {
    const int o = block * together, channels = weights.out - o < together ? weights.out - o : together;
    for (int t = 0; t < strip.tiles; ++t)
      multiply_tile<outputs, together>(strip.v + t * points * width, weights.factors + block * points * together, weights.phases,
                                       strip.bias == nullptr ? nullptr : strip.bias + o, channels, pixels + t * outputs * width);
    for (int n = 0; n < channels; ++n) {
      float* const y = strip.y + (o + n) * strip.channel;
      if (strip.pooling != nullptr) pool_pixels(strip, pixels + n * channel, y);
      else put_pixels(strip, pixels + n * channel, y, strip.residual == nullptr ? nullptr : strip.residual + (o + n) * strip.channel);
    }
  }
}

template <int outputs, int together>
constexpr winograd::Kernel make_winograd(const char* name, Isa isa) {
  static_assert(outputs <= winograd::most_outputs);
  return {name, isa, outputs, winograd::points + 1 - outputs, together, width, transform_tile, convolve_strip<outputs, together>};
}
