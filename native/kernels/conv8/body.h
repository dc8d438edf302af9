// The sparse 8-bit convolution tile: kernels/conv/sums.h with products of the bytes of words.

struct ByteProducts {
  using Sum = Ints;
  using Weight = Ints;
  static Sum none() { return ints_zero(); }
  static Sum load_sum(const float* p) { return load_ints(p); }
  static void store_sum(float* p, Sum s) { store_ints(p, s); }
  static Weight weight(const std::uint32_t* word) { return set_ints(static_cast<std::int32_t>(*word)); }
  static Ints input(const float* x) { return load_ints(x); }
  static Sum plus(Sum sum, Ints x, Weight w) { return dot4(sum, x, w); }
};

template <bool together, int rows, int pixels>
constexpr conv8::Kernel make_conv8(const char* name, Isa isa) {
  static_assert(4 % rows == 0);  // bands of channels hold whole words and whole groups
  return {make_tile<ByteProducts, together, rows, pixels>(name, isa), exact_pairs, finish_image8};
}
