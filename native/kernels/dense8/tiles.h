// The product with AMX tiles. Included inside a target region, after dots.h.

constexpr int tile_rows = 16, lines_of_tile = 16;
constexpr int few_tokens = 4;  // up to so many the vector instructions are faster: a tile of few rows costs nearly as much

struct TileShape {  // the operand of ldtilecfg
  std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
  std::uint16_t bytes_of_row[16] = {};
  std::uint8_t rows[16] = {};
};

inline thread_local int configured = 0;  // for how many tokens; 0: the tiles are released

// Tiles 0-3 hold sums, 4 and 5 tokens, 6 and 7 weights. Up to 16 tokens: four blocks beside each other; else 2 x 2.
inline void configure(int tokens) {
  if (configured == tokens) return;
  TileShape shape;
  const int first = tokens < tile_rows ? tokens : tile_rows, second = tokens - first;
  for (int tile = 0; tile < 8; ++tile) {
    const bool of_second = tile == 5 || (second > 0 && (tile == 2 || tile == 3));
    const int rows = tile >= 6 ? tile_rows : of_second ? second : first;
    if (rows == 0) continue;
    shape.rows[tile] = static_cast<std::uint8_t>(rows);
    shape.bytes_of_row[tile] = 64;
  }
  __asm__ volatile("ldtilecfg %0" ::"m"(shape) : "memory");
  configured = tokens;
}

inline void end() noexcept {
  if (configured != 0) _tile_release();
  configured = 0;
}

// 32 tokens (or 17 to 31) x 2 blocks.
inline void two_by_two(const dense8::Product& p, const std::uint8_t* x, const std::int8_t* weight, std::int32_t* sums) {
  const std::int8_t* const next = weight + p.block_bytes;
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (int l = 0; l < p.lines; l += lines_of_tile) {
    const std::uint8_t* const from = x + l * dense8::inputs_of_line;
    const std::ptrdiff_t at = static_cast<std::ptrdiff_t>(l) * dense8::line_bytes;
    _tile_loadd(6, weight + at, dense8::line_bytes);
    _tile_loadd(4, from, p.stride);
    _tile_dpbusd(0, 4, 6);
    _tile_loadd(7, next + at, dense8::line_bytes);
    _tile_dpbusd(1, 4, 7);
    _tile_loadd(5, from + tile_rows * p.stride, p.stride);
    _tile_dpbusd(2, 5, 6);
    _tile_dpbusd(3, 5, 7);
  }
  const std::ptrdiff_t row = p.sums_stride * static_cast<std::ptrdiff_t>(sizeof *sums);
  _tile_stored(0, sums, row);
  _tile_stored(1, sums + dense8::block_rows, row);
  _tile_stored(2, sums + tile_rows * p.sums_stride, row);
  _tile_stored(3, sums + tile_rows * p.sums_stride + dense8::block_rows, row);
}

// 17 to 32 tokens x 1 block.
inline void two_by_one(const dense8::Product& p, const std::uint8_t* x, const std::int8_t* weight, std::int32_t* sums) {
  _tile_zero(0);
  _tile_zero(2);
  for (int l = 0; l < p.lines; l += lines_of_tile) {
    const std::uint8_t* const from = x + l * dense8::inputs_of_line;
    _tile_loadd(6, weight + static_cast<std::ptrdiff_t>(l) * dense8::line_bytes, dense8::line_bytes);
    _tile_loadd(4, from, p.stride);
    _tile_dpbusd(0, 4, 6);
    _tile_loadd(5, from + tile_rows * p.stride, p.stride);
    _tile_dpbusd(2, 5, 6);
  }
  const std::ptrdiff_t row = p.sums_stride * static_cast<std::ptrdiff_t>(sizeof *sums);
  _tile_stored(0, sums, row);
  _tile_stored(2, sums + tile_rows * p.sums_stride, row);
}

// Up to 16 tokens x 4 blocks (blocks below 4: the last ones are computed again, and stored once).
inline void one_by_four(const dense8::Product& p, const std::uint8_t* x, const std::int8_t* weight, std::int32_t* sums) {
  const int last = p.blocks - 1;
  const std::int8_t* const w0 = weight;
  const std::int8_t* const w1 = weight + (last < 1 ? last : 1) * p.block_bytes;
  const std::int8_t* const w2 = weight + (last < 2 ? last : 2) * p.block_bytes;
  const std::int8_t* const w3 = weight + (last < 3 ? last : 3) * p.block_bytes;
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (int l = 0; l < p.lines; l += lines_of_tile) {
    const std::ptrdiff_t at = static_cast<std::ptrdiff_t>(l) * dense8::line_bytes;
    _tile_loadd(4, x + l * dense8::inputs_of_line, p.stride);
    _tile_loadd(6, w0 + at, dense8::line_bytes);
    _tile_dpbusd(0, 4, 6);
    _tile_loadd(7, w1 + at, dense8::line_bytes);
    _tile_dpbusd(1, 4, 7);
    _tile_loadd(6, w2 + at, dense8::line_bytes);
    _tile_dpbusd(2, 4, 6);
    _tile_loadd(7, w3 + at, dense8::line_bytes);
    _tile_dpbusd(3, 4, 7);
  }
  const std::ptrdiff_t row = p.sums_stride * static_cast<std::ptrdiff_t>(sizeof *sums);
  _tile_stored(0, sums, row);
  if (last >= 1) _tile_stored(1, sums + dense8::block_rows, row);
  if (last >= 2) _tile_stored(2, sums + 2 * dense8::block_rows, row);
  if (last >= 3) _tile_stored(3, sums + 3 * dense8::block_rows, row);
}

inline void multiply_tiles(const dense8::Product& p) noexcept {
  if (p.tokens <= few_tokens) return multiply_dots(p);
  configure(p.tokens);
  if (p.tokens <= tile_rows) return one_by_four(p, p.x, p.weight, p.sums);
  int b = 0;
  for (; b + 2 <= p.blocks; b += 2)
    two_by_two(p, p.x, p.weight + b * p.block_bytes, p.sums + b * dense8::block_rows);
  if (b < p.blocks) two_by_one(p, p.x, p.weight + b * p.block_bytes, p.sums + b * dense8::block_rows);
}
