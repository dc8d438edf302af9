// The sparse x dense tile, written once over the simd operations and compiled for each instruction set.

// Pins an address in a register: indexed operands would split every multiply-add into two micro-operations.
inline void pin([[maybe_unused]] const char*& address) {
#if defined(__x86_64__)
  __asm__("" : "+r"(address));
#endif
}

// The offset of row r in a step of `rows`; whole words are read and shifted, for loads are what this loop is short of.
template <int rows>
inline std::size_t offset_of(const std::uint16_t* step, int r) {
  if constexpr (rows % 4 == 0) {
    std::uint64_t word;
    __builtin_memcpy(&word, step + r / 4 * 4, sizeof word);
    return static_cast<std::uint16_t>(word >> (r % 4 * 16));
  } else if constexpr (rows % 2 == 0) {
    std::uint32_t word;
    __builtin_memcpy(&word, step + r / 2 * 2, sizeof word);
    return static_cast<std::uint16_t>(word >> (r % 2 * 16));
  } else {
    return step[r];
  }
}

inline void ask_ahead(spmm::Ahead& ahead) {
  for (int n = ahead.each; n > 0 && ahead.rows > 0; --ahead.rows, ahead.at += ahead.stride)
    for (int line = 0; line < ahead.lines; ++line, --n)
      if (ahead.to_write) __builtin_prefetch(ahead.at + line * 64, 1, 3);
      else __builtin_prefetch(ahead.at + line * 64, 0, 2);
}

template <spmm::Weights how, int rows>
using Step =
    std::conditional_t<how == spmm::Weights::s || how == spmm::Weights::p, ByShuffles<rows>, ByLoads<rows>>;

// Where the panel row of row r of this step begins.
template <int rows, int vectors>
inline const float* panel_row(const char* base, const std::uint16_t* offsets, int r) {
  const char* at = base + offset_of<rows>(offsets, r) * (vectors * width * static_cast<int>(sizeof(float)) / spmm::offset_unit);
  pin(at);
  return reinterpret_cast<const float*>(at);
}

// A step whose rows each have a feature of their own.
template <spmm::Weights how, int rows, int vectors>
inline void add_step(const char* base, const std::uint16_t* offsets, const float* values, Vec (&sums)[rows][vectors]) {
  const Step<how, rows> step(values);
#pragma GCC unroll 16
  for (int r = 0; r < rows; ++r) {
    const float* x = panel_row<rows, vectors>(base, offsets, r);
    const Vec weight = step.in_all_lanes(r);
#pragma GCC unroll 16
    for (int v = 0; v < vectors; ++v) sums[r][v] = fma(load(x + v * width), weight, sums[r][v]);
  }
}

// A step in which rows r and r ^ apart have a feature in common: half the loads.
template <spmm::Weights how, int apart, int vectors>
inline void add_shared(const char* base, const std::uint16_t* offsets, const float* values, Vec (&sums)[spmm::quad][vectors]) {
  const Step<how, spmm::quad> step(values);
#pragma GCC unroll 4
  for (int r = 0; r < spmm::quad; ++r) {
    const int partner = r ^ apart;
    if (partner < r) continue;
    const float* x = panel_row<spmm::quad, vectors>(base, offsets, r);
    const Vec one = step.in_all_lanes(r), other = step.in_all_lanes(partner);
#pragma GCC unroll 16
    for (int v = 0; v < vectors; ++v) {
      const Vec tokens = on_its_own(load(x + v * width));
      sums[r][v] = fma(tokens, one, sums[r][v]);
      sums[partner][v] = fma(tokens, other, sums[partner][v]);
    }
  }
}

// The steps of a group of four, and where the next group's entries begin.
template <spmm::Weights how, int vectors>
class Runs {
 public:
  Runs(const char* base, const std::uint16_t*& offsets, const float*& values) : base_(base), offsets_(offsets), values_(values) {}

  void own(int count, Vec (&sums)[spmm::quad][vectors]) {
    for (; count > 0; --count, next()) add_step<how, spmm::quad, vectors>(base_, offsets_, values_, sums);
  }
  template <int apart>
  void shared(int count, Vec (&sums)[spmm::quad][vectors]) {
    for (; count > 0; --count, next()) add_shared<how, apart, vectors>(base_, offsets_, values_, sums);
  }
  template <int apart>
  void mixed(int count, Vec (&sums)[spmm::quad][vectors]) {
    for (; count > 0; --count, next(), next()) {
      add_shared<how, apart, vectors>(base_, offsets_, values_, sums);
      add_step<how, spmm::quad, vectors>(base_, offsets_ + spmm::quad, values_ + spmm::quad, sums);
    }
  }

 private:
  void next() { offsets_ += spmm::quad, values_ += spmm::quad; }

  const char* base_;
  const std::uint16_t*& offsets_;
  const float*& values_;
};

template <spmm::Weights how, int rows, int tokens>
void accumulate(const spmm::Segment& segment, const float* panel, float* acc, bool first, spmm::Ahead& ahead) noexcept {
  constexpr int vectors = tokens / width, counts = spmm::has_pairs(how) ? spmm::quad_counts : 1;
  const std::uint16_t* group = segment.groups;
  const std::uint16_t* offsets = segment.offsets;
  const float* values = segment.values;
  const char* base = reinterpret_cast<const char*>(panel);
  for (std::size_t left = segment.count; left > 0; --left, group += counts + rows) {
    Vec sums[rows][vectors];
#pragma GCC unroll 16
    for (int r = 0; r < rows; ++r) {
      const float* at = acc + static_cast<std::size_t>(group[counts + r]) * tokens;
#pragma GCC unroll 16
      for (int v = 0; v < vectors; ++v) sums[r][v] = first ? zero() : load(at + v * width);
    }
    if (!spmm::has_pairs(how) && left > 1 && !first) {  // the next group's sums are anywhere in the band: ask for them now
#pragma GCC unroll 16
      for (int r = 0; r < rows; ++r) {
        const float* at = acc + static_cast<std::size_t>(group[2 * counts + rows + r]) * tokens;
        for (int t = 0; t < tokens; t += 16) __builtin_prefetch(at + t, 1);
      }
    }
    if (ahead.weights) {  // the hardware stops looking ahead at every page
      const int entries = group[0] * rows;
      for (int e = 0; e < entries; e += 16) __builtin_prefetch(values + entries + e, 0, 2);
      for (int e = 0; e < entries; e += 32) __builtin_prefetch(offsets + entries + e, 0, 2);
    }
    ask_ahead(ahead);
    if constexpr (spmm::has_pairs(how)) {
      Runs<how, vectors> runs(base, offsets, values);
      runs.template mixed<1>(group[1], sums);
      runs.own(group[2], sums);
      runs.template mixed<2>(group[3], sums);
      runs.template mixed<3>(group[4], sums);
      runs.template shared<1>(group[5], sums);
    } else {
      for (int steps = group[0]; steps > 0; --steps, offsets += rows, values += rows)
        add_step<how, rows, vectors>(base, offsets, values, sums);
    }
#pragma GCC unroll 16
    for (int r = 0; r < rows; ++r) {
      float* at = acc + static_cast<std::size_t>(group[counts + r]) * tokens;
#pragma GCC unroll 16
      for (int v = 0; v < vectors; ++v) store(at + v * width, sums[r][v]);
    }
  }
}

template <Activation activation>
void refill_as(const float* acc, int rows, int tokens, const float* bias, float* panel) {
  for (int row = 0; row < rows; ++row) {
    const Vec shift = bias == nullptr ? zero() : set1(bias[row]);
#pragma GCC unroll 2
    for (int t = 0; t < tokens; t += width, acc += width, panel += width)
      store(panel, activate<activation>(add(load(acc), shift)));
  }
}

inline void refill(const float* acc, int rows, int tokens, const float* bias, Activation activation, int depth,
                   float* panel) noexcept {
  with_activation(activation, [&]<Activation a>() { refill_as<a>(acc, rows, tokens, bias, panel); });
  for (int t = 0; t < tokens; t += width) store(panel + static_cast<std::size_t>(depth) * tokens + t, zero());
}

template <spmm::Weights how, int rows, int widest, int depth>
constexpr spmm::Kernel make_spmm(const char* name, Isa isa) {
  static_assert(depth <= spmm::max_depth && widest % spmm::narrowest == 0 && widest <= 128);
  static_assert(!spmm::has_pairs(how) || rows == spmm::quad);
  spmm::Kernel kernel{name, isa, rows, widest, depth, spmm::has_pairs(how), {}, load_panel, refill, finish};
  kernel.accumulate[0] = accumulate<how, rows, 16>;
  if constexpr (widest >= 32) kernel.accumulate[1] = accumulate<how, rows, 32>;
  if constexpr (widest >= 64) kernel.accumulate[2] = accumulate<how, rows, 64>;
  if constexpr (widest >= 128) kernel.accumulate[3] = accumulate<how, rows, 128>;
  return kernel;
}
