// The sums of cells and of strips, written once over the simd operations and compiled for each instruction set.

// Pins an address in a register: indexed operands would split every load and dot product into two micro-operations.
inline void pin(const std::uint8_t*& address) {
#if defined(__x86_64__)
  __asm__("" : "+r"(address));
#endif
}

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

template <int rows, int tokens>
inline void load_sums(const std::uint16_t* group, const std::int32_t* acc, bool first, Ints (&sums)[rows][tokens / width]) {
#pragma GCC unroll 16
  for (int r = 0; r < rows; ++r) {
    const std::int32_t* at = acc + static_cast<std::size_t>(group[1 + r]) * tokens;
#pragma GCC unroll 16
    for (int v = 0; v < tokens / width; ++v) sums[r][v] = first ? ints_zero() : load_ints(at + v * width);
  }
}

template <int rows, int tokens>
inline void store_sums(const std::uint16_t* group, std::int32_t* acc, const Ints (&sums)[rows][tokens / width]) {
#pragma GCC unroll 16
  for (int r = 0; r < rows; ++r) {
    std::int32_t* at = acc + static_cast<std::size_t>(group[1 + r]) * tokens;
#pragma GCC unroll 16
    for (int v = 0; v < tokens / width; ++v) store_ints(at + v * width, sums[r][v]);
  }
}

// The hardware stops looking ahead at every page: the weights of the next group are asked for during this one.
inline void ask_ahead(const std::int8_t* values, std::size_t bytes, const std::uint16_t* offsets, std::size_t count) {
  for (std::size_t i = 0; i < bytes; i += 64) __builtin_prefetch(values + bytes + i, 0, 2);
  for (std::size_t i = 0; i < count; i += 32) __builtin_prefetch(offsets + count + i, 0, 2);
}

template <int rows, int tokens>
void accumulate_cells(const block8::Segment& segment, const std::uint8_t* panel, std::int32_t* acc, bool first) noexcept {
  constexpr int vectors = tokens / width;
  constexpr int scale = tokens * 4 / block8::offset_unit;
  const std::uint16_t *group = segment.groups, *offsets = segment.offsets;
  const std::int8_t* values = segment.values;
  for (std::size_t left = segment.count; left > 0; --left, group += 1 + rows) {
    Ints sums[rows][vectors];
    load_sums<rows, tokens>(group, acc, first, sums);
    ask_ahead(values, static_cast<std::size_t>(group[0]) * rows * 4, offsets, static_cast<std::size_t>(group[0]) * rows);
    for (int steps = group[0]; steps > 0; --steps, offsets += rows, values += 4 * rows) {
#pragma GCC unroll 16
      for (int r = 0; r < rows; ++r) {
        const std::uint8_t* x = panel + offset_of<rows>(offsets, r) * scale;
        pin(x);
        const Ints weights = four_weights(values + 4 * r);
#pragma GCC unroll 16
        for (int v = 0; v < vectors; ++v) sums[r][v] = dot4(sums[r][v], load_ints(x + v * width * 4), weights);
      }
    }
    store_sums<rows, tokens>(group, acc, sums);
  }
}

// Four vectors of tokens a step: bytes of 4 * width tokens fill one vector.
template <int rows>
void accumulate_strips(const block8::Segment& segment, const std::uint8_t* panel, std::int32_t* acc, bool first) noexcept {
  constexpr int tokens = 4 * width;
  constexpr int scale = tokens / block8::offset_unit;
  const std::uint16_t *group = segment.groups, *offsets = segment.offsets;
  const std::int8_t* values = segment.values;
  for (std::size_t left = segment.count; left > 0; --left, group += 1 + rows) {
    Ints sums[rows][4];
    load_sums<rows, tokens>(group, acc, first, sums);
    ask_ahead(values, static_cast<std::size_t>(group[0]) * rows * 4, offsets, static_cast<std::size_t>(group[0]) * 4);
    for (int steps = group[0]; steps > 0; --steps, offsets += 4, values += 4 * rows) {
      Ints x[4];
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) x[i] = load_ints(panel + offset_of<4>(offsets, i) * scale);
      interleave4(x[0], x[1], x[2], x[3]);
#pragma GCC unroll 16
      for (int r = 0; r < rows; ++r) {
        const Ints weights = four_weights(values + 4 * r);
#pragma GCC unroll 4
        for (int v = 0; v < 4; ++v) sums[r][v] = dot4(sums[r][v], x[v], weights);
      }
    }
    store_sums<rows, tokens>(group, acc, sums);
  }
}

template <block8::Shape shape, int rows, int widest, int depth>
constexpr block8::Kernel make_block8(const char* name, Isa isa) {
  static_assert(depth <= block8::max_depth && depth % 4 == 0 && widest % block8::narrowest == 0 && widest <= 128);
  block8::Kernel kernel{name, isa, shape, rows, widest, depth, exact_pairs, {}, nullptr, finish};
  if constexpr (shape == block8::Shape::strip) {
    static_assert(widest == 4 * width);
    kernel.accumulate[widest <= 16 ? 0 : widest <= 32 ? 1 : 2] = accumulate_strips<rows>;
    kernel.load_panel = load_bytes;
  } else {
    kernel.accumulate[0] = accumulate_cells<rows, 16>;
    if constexpr (widest >= 32) kernel.accumulate[1] = accumulate_cells<rows, 32>;
    if constexpr (widest >= 64) kernel.accumulate[2] = accumulate_cells<rows, 64>;
    if constexpr (widest >= 128) kernel.accumulate[3] = accumulate_cells<rows, 128>;
    kernel.load_panel = load_words;
  }
  return kernel;
}
