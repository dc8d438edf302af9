// The sums of cells and of strips, written once over the simd operations and compiled for each instruction set.

// The i-th of a step's n offsets; whole words are read and shifted, for loads are what this loop is short of.
template <int n>
inline std::size_t offset_of(const std::uint16_t* step, int i) {
  if constexpr (n % 4 == 0) {
    std::uint64_t word;
    __builtin_memcpy(&word, step + i / 4 * 4, sizeof word);
    return static_cast<std::uint16_t>(word >> (i % 4 * 16));
  } else if constexpr (n % 2 == 0) {
    std::uint32_t word;
    __builtin_memcpy(&word, step + i / 2 * 2, sizeof word);
    return static_cast<std::uint16_t>(word >> (i % 2 * 16));
  } else {
    return step[i];
  }
}

inline Ints four_weights(const std::int8_t* values) {
  std::int32_t word;
  __builtin_memcpy(&word, values, sizeof word);
  return set_ints(word);
}

// Sums are `stride` tokens apart, the widest tile's, also for narrower ones.
template <int rows, int tokens, int stride>
inline void load_sums(const std::uint16_t* numbers, const std::int32_t* acc, bool first, Ints (&sums)[rows][tokens / width]) {
#pragma GCC unroll 16
  for (int r = 0; r < rows; ++r) {
    const std::int32_t* at = acc + static_cast<std::size_t>(numbers[r]) * stride;
#pragma GCC unroll 16
    for (int v = 0; v < tokens / width; ++v) sums[r][v] = first ? ints_zero() : load_ints(at + v * width);
  }
}

template <int rows, int tokens, int stride>
inline void store_sums(const std::uint16_t* numbers, std::int32_t* acc, const Ints (&sums)[rows][tokens / width]) {
#pragma GCC unroll 16
  for (int r = 0; r < rows; ++r) {
    std::int32_t* at = acc + static_cast<std::size_t>(numbers[r]) * stride;
#pragma GCC unroll 16
    for (int v = 0; v < tokens / width; ++v) store_ints(at + v * width, sums[r][v]);
  }
}

inline void ask_ahead(block8::Ahead& ahead) {
  for (int n = ahead.each; n > 0 && ahead.rows > 0; --n, --ahead.rows, ahead.at += ahead.stride)
    for (int line = 0; line < ahead.lines; ++line) __builtin_prefetch(ahead.at + line * 64, 1, 3);
}

template <int rows, int tokens, int stride>
void accumulate_cells(const block8::Segment& segment, const std::uint8_t* panel, std::int32_t* acc, bool first,
                      block8::Ahead& ahead) noexcept {
  constexpr int vectors = tokens / width;
  constexpr int scale = tokens * 4 / block8::offset_unit;
  const std::uint16_t *group = segment.groups, *offsets = segment.offsets;
  const std::int8_t* values = segment.values;
  for (std::size_t left = segment.count; left > 0; --left, group += 1 + rows) {
    Ints sums[rows][vectors];
    load_sums<rows, tokens, stride>(group + 1, acc, first, sums);
    ask_ahead(ahead);
    for (int steps = group[0]; steps > 0; --steps, offsets += rows, values += 4 * rows) {
#pragma GCC unroll 16
      for (int r = 0; r < rows; ++r) {
        const std::uint8_t* x = panel + offset_of<rows>(offsets, r) * scale;
        pin(x);  // else operands are indexed, and split into two micro-operations
        const Ints weights = four_weights(values + 4 * r);
#pragma GCC unroll 16
        for (int v = 0; v < vectors; ++v) sums[r][v] = dot4(sums[r][v], load_ints(x + v * width * 4), weights);
      }
    }
    store_sums<rows, tokens, stride>(group + 1, acc, sums);
  }
}

// Four inputs' bytes of 4 * width tokens, as four vectors of words.
inline void interleaved(const std::uint8_t* panel, const std::uint16_t* offsets, Ints (&x)[4]) {
  constexpr int scale = 4 * width / block8::offset_unit;
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) x[i] = load_ints(panel + offset_of<4>(offsets, i) * scale);
  interleave4(x[0], x[1], x[2], x[3]);
}

template <int rows>
inline void multiply_step(const Ints (&x)[4], const std::int8_t* values, Ints (&sums)[rows][4]) {
#pragma GCC unroll 16
  for (int r = 0; r < rows; ++r) {
    const Ints weights = four_weights(values + 4 * r);
#pragma GCC unroll 4
    for (int v = 0; v < 4; ++v) sums[r][v] = dot4(sums[r][v], x[v], weights);
  }
}

template <int rows>
void accumulate_strips(const block8::Segment& segment, const std::uint8_t* panel, std::int32_t* acc, bool first,
                       block8::Ahead& ahead) noexcept {
  constexpr int tokens = 4 * width;
  const std::uint16_t *group = segment.groups, *offsets = segment.offsets;
  const std::int8_t* values = segment.values;
  for (std::size_t left = segment.count; left > 0; --left, group += 1 + rows) {
    Ints sums[rows][4];
    load_sums<rows, tokens, tokens>(group + 1, acc, first, sums);
    ask_ahead(ahead);
    for (int steps = group[0]; steps > 0; --steps, offsets += 4, values += 4 * rows) {
      Ints x[4];
      interleaved(panel, offsets, x);
      multiply_step(x, values, sums);
    }
    store_sums<rows, tokens, tokens>(group + 1, acc, sums);
  }
}

// Strips of more rows than there are registers for: the interleaved inputs of some steps are kept, and all rows pass by,
// four at a time.
template <int rows>
void accumulate_tall_strips(const block8::Segment& segment, const std::uint8_t* panel, std::int32_t* acc, bool first,
                            block8::Ahead& ahead) noexcept {
  constexpr int tokens = 4 * width, together = 4, most = 24;
  alignas(64) std::uint8_t kept[most][4][4 * width];
  const std::uint16_t *group = segment.groups, *offsets = segment.offsets;
  const std::int8_t* values = segment.values;
  for (std::size_t left = segment.count; left > 0; --left, group += 1 + rows) {
    ask_ahead(ahead);
    for (int done = 0; done < group[0] || (done == 0 && first); done += most) {
      const int steps = group[0] - done < most ? group[0] - done : most;
      for (int s = 0; s < steps; ++s, offsets += 4) {
        Ints x[4];
        interleaved(panel, offsets, x);
        for (int v = 0; v < 4; ++v) store_ints(kept[s][v], x[v]);
      }
      for (int r = 0; r < rows; r += together) {
        Ints sums[together][4];
        load_sums<together, tokens, tokens>(group + 1 + r, acc, first && done == 0, sums);
        for (int s = 0; s < steps; ++s) {
          const Ints x[4] = {load_ints(kept[s][0]), load_ints(kept[s][1]), load_ints(kept[s][2]), load_ints(kept[s][3])};
          multiply_step(x, values + 4 * (s * rows + r), sums);
        }
        store_sums<together, tokens, tokens>(group + 1 + r, acc, sums);
      }
      values += 4 * rows * steps;
    }
  }
}

template <block8::Shape shape, int rows, int widest, int depth>
constexpr block8::Kernel make_block8(const char* name, Isa isa) {
  static_assert(depth <= block8::max_depth && depth % 4 == 0 && widest % block8::narrowest == 0 && widest <= 128);
  block8::Kernel kernel{name, isa, shape, rows, widest, depth, exact_pairs, {}, nullptr, finish<widest>};
  if constexpr (shape == block8::Shape::strip) {
    static_assert(widest == 4 * width);
    constexpr int tile = widest <= 16 ? 0 : widest <= 32 ? 1 : 2;
    if constexpr (rows > 4) kernel.accumulate[tile] = accumulate_tall_strips<rows>;
    else kernel.accumulate[tile] = accumulate_strips<rows>;
    kernel.load_panel = load_bytes;
  } else {
    kernel.accumulate[0] = accumulate_cells<rows, 16, widest>;
    if constexpr (widest >= 32) kernel.accumulate[1] = accumulate_cells<rows, 32, widest>;
    if constexpr (widest >= 64) kernel.accumulate[2] = accumulate_cells<rows, 64, widest>;
    if constexpr (widest >= 128) kernel.accumulate[3] = accumulate_cells<rows, 128, widest>;
    kernel.load_panel = load_words;
  }
  return kernel;
}
