// The sparse convolution tile of floats.

template <bool together, int rows, int pixels>
constexpr conv::Kernel make_conv(const char* name, Isa isa) {
  return {make_tile<FloatProducts, together, rows, pixels>(name, isa), finish_image, load_lines, finish_lines, to_across, from_across};
}
