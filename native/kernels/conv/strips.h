// From an image to the panel of a tile, 32-bit words at a time: a word is a float, or the bytes of four channels.

// Any distance between the columns: lane by lane.
template <int strip>
inline void copy_any(const float* from, int stride, unsigned keep, float outside, float* to) {
  for (int lane = 0; lane < strip; ++lane)
    __builtin_memcpy(to + lane, keep >> lane & 1u ? from + lane * static_cast<std::ptrdiff_t>(stride) : &outside, sizeof(float));
}

template <int strip, int fixed>
inline void copy_row(const float* from, int stride, unsigned keep, float outside, float* to) {
  if constexpr (fixed == 1) copy_strip<strip>(from, keep, outside, to);
  else if constexpr (fixed == 2) copy_even<strip>(from, keep, outside, to);
  else copy_any<strip>(from, stride, keep, outside, to);
}

template <int strip>
inline void fill_rows(float* to, int rows, float outside) {
  for (int r = 0; r < rows; ++r, to += width) fill_strip<strip>(to, outside);
}

// One channel and kernel column of one strip: `panel_rows` rows of `strip` lanes, a vector apart.
template <int strip, int fixed>
inline void load_column(const conv::Input& input, const conv::Strip& s, const float* channel, int tap, float* to) {
  const conv::Lanes16 inside = s.inside[tap];
  const int above = s.top < 0 ? (-s.top < input.panel_rows ? -s.top : input.panel_rows) : 0;
  const int end = input.height - s.top < input.panel_rows ? input.height - s.top : input.panel_rows;  // rows of the image
  const bool last = s.top + end == input.height && end > above;
  const float* from = channel + (s.top + above) * input.row + s.left + static_cast<std::ptrdiff_t>(tap) * input.dilation;
  fill_rows<strip>(to, above, s.outside);
  to += above * width;
  int r = above;
  for (; r < end - last; ++r, to += width, from += input.row) copy_row<strip, fixed>(from, input.stride, inside.all, s.outside, to);
  if (last) {
    copy_row<strip, fixed>(from, input.stride, inside.last, s.outside, to);
    ++r;
    to += width;
  }
  fill_rows<strip>(to, input.panel_rows - r, s.outside);
}

template <int strip, int fixed>
void load_strips(const conv::Input& input, const conv::Strip* strips, int first, int channels, float* panel) {
  const std::size_t column = static_cast<std::size_t>(input.panel_rows) * width;
  for (int c = first; c < first + channels; ++c)
    for (int tap = 0; tap < input.taps; ++tap, panel += column)
      for (int part = 0; part < width / strip; ++part)
        load_column<strip, fixed>(input, strips[part], strips[part].x + c * input.channel, tap, panel + part * strip);
}

template <int strip>
void load_parts(const conv::Input& input, const conv::Strip* strips, int first, int channels, float* panel) {
  if (input.stride == 1) load_strips<strip, 1>(input, strips, first, channels, panel);
  else if (input.stride == 2) load_strips<strip, 2>(input, strips, first, channels, panel);
  else load_strips<strip, 0>(input, strips, first, channels, panel);
}

inline void load_image(const conv::Input& input, const conv::Strip* strips, int parts, int first, int channels,
                       float* panel) noexcept {
  if (parts == 1) return load_parts<width>(input, strips, first, channels, panel);
  if constexpr (width >= 8)
    if (parts == 2) return load_parts<width / 2>(input, strips, first, channels, panel);
  if constexpr (width >= 16) load_parts<width / 4>(input, strips, first, channels, panel);
}
