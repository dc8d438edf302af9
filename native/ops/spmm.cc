#include "ops/spmm.h"

#include <algorithm>

#include "ops/from_blob.h"
#include "ops/parallel.h"
#include "ops/split.h"

namespace rarefy::spmm {
namespace {

// Sums of one task stay within this many floats (256 KiB): they are read and written once a panel, and share the L2 cache
// with the weights of the same rows.
constexpr std::size_t max_sums = std::size_t{1} << 16;

// Outputs of fewer floats (1 MiB) are likely still in a cache from the call before.
constexpr std::size_t cached_output = std::size_t{1} << 18;

struct Call {
  const Tiled& weight;
  const float* x;
  std::ptrdiff_t tokens;
  const float* bias;
  Activation activation;
  float* y;
};

struct Bands {
  int first, last;  // [first, last)
};

// Consecutive bands, about equal in stored entries, at least `parts` of them if there are so many bands.
std::vector<Bands> split(const Tiled& weight, int parts, int widest) {
  const int most = std::max<int>(1, static_cast<int>(max_sums / (static_cast<std::size_t>(band_rows) * widest)));
  parts = std::max(parts, (weight.bands() + most - 1) / most);
  std::size_t total = 0;
  for (int b = 0; b < weight.bands(); ++b) total += weight.entries_of(b);
  std::vector<Bands> out;
  std::size_t seen = 0;
  for (int b = 0, first = 0; b < weight.bands(); ++b) {
    seen += weight.entries_of(b);
    const bool share_full = seen * parts >= total * (out.size() + 1);
    if (share_full || b + 1 - first >= most || b + 1 == weight.bands()) {
      out.push_back({first, b + 1});
      first = b + 1;
    }
  }
  return out;
}

// Whether tiles of tokens alone keep every thread at work.
bool busy_to_the_end(std::ptrdiff_t tokens, int tile, int threads) {
  const std::ptrdiff_t tiles = (tokens + tile - 1) / tile;
  return tiles >= 4 * static_cast<std::ptrdiff_t>(threads) || threads == 1 || tiles % threads == 0;
}

int tile_for(std::ptrdiff_t tokens, int widest) {
  int tile = narrowest;
  while (tile < tokens && tile < widest) tile *= 2;
  return tile;
}

std::size_t groups_of(const Tiled& weight, const Bands& bands, int tile) {
  std::size_t groups = 1;
  for (int b = bands.first; b < bands.last; ++b) groups += weight.segment(b, tile).count;
  return groups;
}

// More stored entries (4 MB) than stay in a core's caches, and near it, from call to call: their first tiles of tokens wait for
// memory. To ask for weights that are near costs 1 to 2 % (measured on Zen 4).
constexpr std::size_t most_weights = std::size_t{5} << 17;

Ahead rows_ahead(const float* at, int row_floats, int rows, int floats, std::size_t groups, bool to_write) {
  const int lines = (floats + 15) / 16;
  const int each = static_cast<int>((static_cast<std::size_t>(rows) * lines + groups - 1) / groups);
  return {reinterpret_cast<const char*>(at), static_cast<std::ptrdiff_t>(sizeof(float)) * row_floats, rows, lines, each, to_write, false};
}

// What these tokens need next: their values for the next panel, or, during the last, the outputs' cache lines.
Ahead next_memory(const Call& call, const Bands& bands, std::ptrdiff_t token, int valid, int tile) {
  const Tiled& weight = call.weight;
  const std::size_t groups = groups_of(weight, bands, tile);
  const int first = (tile + 1) * weight.kernel->depth, row = bands.first * band_rows;
  if (first < weight.in)
    return rows_ahead(call.x + token * weight.in + first, weight.in, valid, std::min(weight.kernel->depth, weight.in - first),
                      groups, false);
  if (static_cast<std::size_t>(call.tokens) * weight.out < cached_output) return {nullptr, 0, 0, 0, 0, false, false};
  return rows_ahead(call.y + token * weight.out + row, weight.out, valid, std::min(bands.last * band_rows, weight.out) - row,
                    groups, true);
}

Accumulate accumulate_of(const Kernel& kernel, int tile) {
  return kernel.accumulate[tile <= 16 ? 0 : tile <= 32 ? 1 : tile <= 64 ? 2 : 3];
}

// sums (rows of the bands, tile) = the products of all panels; fill(t, first, features) fills the panel with those inputs,
// ahead(t) says what is needed after it.
template <class Fill, class Next>
void add_panels(const Tiled& weight, const Bands& bands, int tile, const float* panel, float* sums, Fill fill, Next next) {
  const Kernel& kernel = *weight.kernel;
  const Accumulate accumulate = accumulate_of(kernel, tile);
  const std::size_t band_sums = static_cast<std::size_t>(band_rows) * tile;
  for (int t = 0; t < weight.tiles(); ++t) {
    const int first = t * kernel.depth;
    fill(first, std::min(kernel.depth, weight.in - first));
    Ahead ahead = next(t);
    for (int b = bands.first; b < bands.last; ++b)
      accumulate(weight.segment(b, t), panel, sums + band_sums * (b - bands.first), t == 0, ahead);
  }
}

void finish_bands(const Call& call, const Bands& bands, std::ptrdiff_t token, int valid, int tile, const float* sums) {
  const Tiled& weight = call.weight;
  for (int b = bands.first; b < bands.last; ++b, sums += static_cast<std::size_t>(band_rows) * tile) {
    const int row = b * band_rows;
    weight.kernel->finish(sums, weight.rows_of(b), tile, valid, call.bias == nullptr ? nullptr : call.bias + row,
                          call.activation, call.y + token * weight.out + row, weight.out);
  }
}

std::size_t panel_floats(const Tiled& weight, int tile) { return static_cast<std::size_t>(weight.kernel->depth + 1) * tile; }

int valid_of(const Call& call, std::ptrdiff_t token, int tile) {
  return static_cast<int>(std::min<std::ptrdiff_t>(tile, call.tokens - token));
}

Scratch& scratch_of_thread() {
  static thread_local Scratch scratch;
  return scratch;
}

// far: the weights come from memory.
void run_tile(const Call& call, const Bands& bands, std::ptrdiff_t token, int tile, bool far) {
  const Tiled& weight = call.weight;
  const int valid = valid_of(call, token, tile);
  const std::size_t band_sums = static_cast<std::size_t>(band_rows) * tile;
  float* const panel = scratch_of_thread().at_least(panel_floats(weight, tile) + band_sums * (bands.last - bands.first));
  float* const sums = panel + panel_floats(weight, tile);
  const auto fill = [&](int first, int features) {
    weight.kernel->load_panel(call.x + token * weight.in + first, weight.in, valid, features, weight.kernel->depth, tile, panel);
  };
  add_panels(weight, bands, tile, panel, sums, fill, [&](int t) {
    Ahead ahead = next_memory(call, bands, token, valid, t);
    ahead.weights = far;
    return ahead;
  });
  finish_bands(call, bands, token, valid, tile, sums);
}

constexpr Ahead nothing_ahead{nullptr, 0, 0, 0, 0, false, false};

// The outputs of a tile of tokens of the first product become the panels of the second, where they are.
void run_tile_through(const Call& one, const Call& other, std::ptrdiff_t token, int tile) {
  const Tiled &first = one.weight, &second = other.weight;
  const int valid = valid_of(one, token, tile);
  const std::size_t band_sums = static_cast<std::size_t>(band_rows) * tile;
  const Bands all{0, first.bands()}, last{0, second.bands()};
  const std::size_t panels = std::max(panel_floats(first, tile), panel_floats(second, tile));
  float* const panel = scratch_of_thread().at_least(panels + band_sums * (all.last + last.last));
  float* const between = panel + panels;
  float* const sums = between + band_sums * all.last;
  const auto load = [&](int from, int features) {
    first.kernel->load_panel(one.x + token * first.in + from, first.in, valid, features, first.kernel->depth, tile, panel);
  };
  add_panels(first, all, tile, panel, between, load, [&](int t) {
    return t + 1 < first.tiles() ? next_memory(one, all, token, valid, t) : nothing_ahead;
  });
  const auto refill = [&](int from, int features) {
    first.kernel->refill(between + static_cast<std::size_t>(from) * tile, features, tile,
                          one.bias == nullptr ? nullptr : one.bias + from, one.activation, second.kernel->depth, panel);
  };
  add_panels(second, last, tile, panel, sums, refill, [&](int t) {
    return t + 1 < second.tiles() ? nothing_ahead : next_memory(other, last, token, valid, t);
  });
  finish_bands(other, last, token, valid, tile, sums);
}

// Tokens a tile, where all sums of both products are to stay in a core's caches; 0 where they do not. All weights pass by for
// each tile: where there are more of them (4 MB), to pass by all tokens band by band is faster (measured on Zen 4).
int tile_through(const Tiled& first, const Tiled& second, std::ptrdiff_t tokens) {
  constexpr std::size_t cached = std::size_t{1} << 17;  // floats: 512 KiB
  if (first.values.size() + second.values.size() > most_weights) return 0;
  const std::size_t rows = static_cast<std::size_t>(band_rows) * (first.bands() + second.bands());
  int tile = tile_for(tokens, std::min(first.kernel->tokens, second.kernel->tokens));
  while (tile > 32 && rows * tile > cached) tile /= 2;
  return tile >= 32 && rows * tile <= cached ? tile : 0;
}

}  // namespace

void multiply(const Tiled& weight, const float* x, std::ptrdiff_t tokens, const float* bias, Activation activation,
              float* y, int threads) {
  if (tokens == 0) return;
  threads = threads_for(static_cast<double>(weight.values.size()) * static_cast<double>(tokens), threads);
  const Call call{weight, x, tokens, bias, activation, y};
  const int widest = tile_for(tokens, weight.kernel->tokens);
  const std::size_t token_tiles = (tokens + widest - 1) / widest;
  // Rows are split only when there are too few token tiles to keep every thread busy to the end.
  const int parts = busy_to_the_end(tokens, widest, threads) ? 1 : threads * 2;
  const std::vector<Bands> bands = split(weight, parts, widest);
  // All tokens pass by some rows before the next rows' turn: those rows' weights stay in the L2 cache meanwhile.
  parallel_for(token_tiles * bands.size(), threads, [&](std::size_t task) {
    const std::ptrdiff_t token = static_cast<std::ptrdiff_t>(task % token_tiles) * widest;
    const bool far = task % token_tiles < static_cast<std::size_t>(threads) && weight.values.size() > most_weights;
    run_tile(call, bands[task / token_tiles], token, tile_for(tokens - token, widest), far);
  });
}

bool multiply_through(const Tiled& first, const Tiled& second, const float* x, std::ptrdiff_t tokens, const Ending& between,
                      const Ending& last, float* y, int threads) {
  const double work = static_cast<double>(first.values.size() + second.values.size()) * static_cast<double>(tokens);
  threads = threads_for(work, threads);
  int tile = second.in == first.out ? tile_through(first, second, tokens) : 0;
  while (tile >= 32 && !busy_to_the_end(tokens, tile, threads)) tile /= 2;
  if (tile < 32) return false;
  const std::size_t tiles = (tokens + tile - 1) / tile;
  const Call one{first, x, tokens, between.bias, between.activation, nullptr};
  const Call other{second, nullptr, tokens, last.bias, last.activation, y};
  parallel_for(tiles, threads, [&](std::size_t task) {
    const std::ptrdiff_t token = static_cast<std::ptrdiff_t>(task) * tile;
    run_tile_through(one, other, token, tile_for(tokens - token, tile));
  });
  return true;
}

namespace {

class Held : public Layout {
 public:
  Held(const WeightSource& w, const Kernel& kernel) : Layout(w.out, w.in), packed_(packed_from<Tiled>(w, kernel, [&] { return pack(w.values, w.out, w.in, kernel); })) {}
  std::size_t nnz() const override { return packed_.nnz; }
  std::size_t bytes() const override { return packed_.bytes(); }
  void unpack(float* weight) const override { spmm::unpack(packed_, weight); }
  void save(BlobWriter& to) const override { to(packed_); }
  void multiply(const float* x, std::ptrdiff_t tokens, const float* bias, Activation activation, float* y,
                int threads) const override {
    spmm::multiply(packed_, x, tokens, bias, activation, y, threads);
  }
  bool multiply_through(const Layout& next, const float* x, std::ptrdiff_t tokens, const Ending& between, const Ending& last,
                        float* y, int threads) const override {
    const auto* other = dynamic_cast<const Held*>(&next);
    return other != nullptr && spmm::multiply_through(packed_, other->packed_, x, tokens, between, last, y, threads);
  }

 private:
  Tiled packed_;
};

}  // namespace

std::vector<KernelEntry> entries() {
  std::vector<KernelEntry> out;
  for (const Kernel* k : kernels()) out.push_back({k->name, "spmm", k->isa, "fp32", "fp32", k->rows, k->tokens, k->depth});
  return out;
}

std::unique_ptr<Layout> make(const WeightSource& weight, const std::string& name) {
  for (const Kernel* k : kernels())
    if (name == k->name) return std::make_unique<Held>(weight, *k);
  return nullptr;
}

}  // namespace rarefy::spmm
