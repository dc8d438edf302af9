// The product with AMX tiles. Included inside a target region, after RAREFY_TILE_DOT(sums, tokens, weights) was defined.

constexpr int tile_rows = 16, lines_of_tile = 16;

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

// Tiles (rows of 16 tokens, 16 columns) of the sums, numbered as in `configure`.
struct Sums {
  std::int32_t* at;
  std::ptrdiff_t stride;

  std::int32_t* tile(int down, int right) const { return at + down * tile_rows * stride + right * dense::block_rows; }
  std::ptrdiff_t bytes() const { return stride * static_cast<std::ptrdiff_t>(sizeof *at); }
};

#define RAREFY_START_TILE(number, down, right) \
  if (p.add) _tile_loadd(number, sums.tile(down, right), sums.bytes()); \
  else _tile_zero(number)

// 17 to 32 tokens x 2 blocks.
inline void two_by_two(const dense::Product& p, int block) {
  const Sums sums{p.sums + block * dense::block_rows, p.sums_stride};
  const std::uint8_t* const weight = p.weight + block * p.block_bytes;
  RAREFY_START_TILE(0, 0, 0);
  RAREFY_START_TILE(1, 0, 1);
  RAREFY_START_TILE(2, 1, 0);
  RAREFY_START_TILE(3, 1, 1);
  for (int l = 0; l < p.lines; l += lines_of_tile) {
    const std::uint8_t* const from = p.x + l * dense::token_bytes;
    const std::uint8_t* const line = weight + static_cast<std::ptrdiff_t>(l) * dense::line_bytes;
    _tile_loadd(6, line, dense::line_bytes);
    _tile_loadd(4, from, p.stride);
    RAREFY_TILE_DOT(0, 4, 6);
    _tile_loadd(7, line + p.block_bytes, dense::line_bytes);
    RAREFY_TILE_DOT(1, 4, 7);
    _tile_loadd(5, from + tile_rows * p.stride, p.stride);
    RAREFY_TILE_DOT(2, 5, 6);
    RAREFY_TILE_DOT(3, 5, 7);
  }
  _tile_stored(0, sums.tile(0, 0), sums.bytes());
  _tile_stored(1, sums.tile(0, 1), sums.bytes());
  _tile_stored(2, sums.tile(1, 0), sums.bytes());
  _tile_stored(3, sums.tile(1, 1), sums.bytes());
}

// 17 to 32 tokens x 1 block.
inline void two_by_one(const dense::Product& p, int block) {
  const Sums sums{p.sums + block * dense::block_rows, p.sums_stride};
  const std::uint8_t* const weight = p.weight + block * p.block_bytes;
  RAREFY_START_TILE(0, 0, 0);
  RAREFY_START_TILE(2, 1, 0);
  for (int l = 0; l < p.lines; l += lines_of_tile) {
    const std::uint8_t* const from = p.x + l * dense::token_bytes;
    _tile_loadd(6, weight + static_cast<std::ptrdiff_t>(l) * dense::line_bytes, dense::line_bytes);
    _tile_loadd(4, from, p.stride);
    RAREFY_TILE_DOT(0, 4, 6);
    _tile_loadd(5, from + tile_rows * p.stride, p.stride);
    RAREFY_TILE_DOT(2, 5, 6);
  }
  _tile_stored(0, sums.tile(0, 0), sums.bytes());
  _tile_stored(2, sums.tile(1, 0), sums.bytes());
}

// Up to 16 tokens x 4 blocks: four sums are under way, to hide the latency. Of fewer blocks the last is repeated.
inline void one_by_four(const dense::Product& p) {
  const Sums sums{p.sums, p.sums_stride};
  const int last = p.blocks - 1;
  const std::ptrdiff_t second = (last < 1 ? last : 1) * p.block_bytes, third = (last < 2 ? last : 2) * p.block_bytes,
                       fourth = last * p.block_bytes;
  RAREFY_START_TILE(0, 0, 0);
  RAREFY_START_TILE(1, 0, last < 1 ? last : 1);
  RAREFY_START_TILE(2, 0, last < 2 ? last : 2);
  RAREFY_START_TILE(3, 0, last);
  for (int l = 0; l < p.lines; l += lines_of_tile) {
    const std::uint8_t* const line = p.weight + static_cast<std::ptrdiff_t>(l) * dense::line_bytes;
    _tile_loadd(4, p.x + l * dense::token_bytes, p.stride);
    _tile_loadd(6, line, dense::line_bytes);
    RAREFY_TILE_DOT(0, 4, 6);
    _tile_loadd(7, line + second, dense::line_bytes);
    RAREFY_TILE_DOT(1, 4, 7);
    _tile_loadd(6, line + third, dense::line_bytes);
    RAREFY_TILE_DOT(2, 4, 6);
    _tile_loadd(7, line + fourth, dense::line_bytes);
    RAREFY_TILE_DOT(3, 4, 7);
  }
  _tile_stored(0, sums.tile(0, 0), sums.bytes());
  if (last >= 1) _tile_stored(1, sums.tile(0, 1), sums.bytes());
  if (last >= 2) _tile_stored(2, sums.tile(0, 2), sums.bytes());
  if (last >= 3) _tile_stored(3, sums.tile(0, 3), sums.bytes());
}
#undef RAREFY_START_TILE

inline void multiply_tiles(const dense::Product& p) noexcept {
  configure(p.tokens);
  if (p.tokens <= tile_rows) return one_by_four(p);
  int b = 0;
  for (; b + 2 <= p.blocks; b += 2) two_by_two(p, b);
  if (b < p.blocks) two_by_one(p, b);
}
