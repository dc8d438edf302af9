#include "ops/block8.h"

#include <algorithm>
#include <stdexcept>

#include "ops/from_blob.h"
#include "ops/parallel.h"
#include "ops/quantise.h"
#include "ops/split.h"
#include "pack/block8.h"

namespace rarefy::block8 {
namespace {

// Sums of one task stay within this many (256 KiB): they share the L2 cache with the weights of the same rows.
constexpr std::size_t max_sums = std::size_t{1} << 16;

struct Call {
  const Packed& weight;
  const Rows8& x;
  const float* bias;
  Activation activation;
  const Output8& to;
};

struct Bands {
  int first, last;  // [first, last)
};

// Consecutive bands, about equal in stored entries, at least `parts` of them if there are so many bands.
std::vector<Bands> split(const Packed& weight, int parts, int widest) {
  const int most = weight.tiles() == 1 ? weight.bands() + 1
                                       : std::max<int>(1, static_cast<int>(max_sums / (static_cast<std::size_t>(band_rows) * widest)));
  parts = std::max(parts, (weight.bands() + most - 1) / most);
  std::size_t total = 0;
  for (int b = 0; b < weight.bands(); ++b) total += weight.values_of(b);
  std::vector<Bands> out;
  std::size_t seen = 0;
  for (int b = 0, first = 0; b < weight.bands(); ++b) {
    seen += weight.values_of(b);
    const bool share_full = seen * parts >= total * (out.size() + 1);
    if (share_full || b + 1 - first >= most || b + 1 == weight.bands()) {
      out.push_back({first, b + 1});
      first = b + 1;
    }
  }
  return out;
}

int which(int tile) { return tile <= 16 ? 0 : tile <= 32 ? 1 : tile <= 64 ? 2 : 3; }

// The narrowest tile of the kernel that holds the tokens, or its widest.
int tile_for(const Kernel& kernel, std::ptrdiff_t tokens) {
  int tile = narrowest;
  while (tile < kernel.tokens && (tile < tokens || kernel.accumulate[which(tile)] == nullptr)) tile *= 2;
  return tile;
}

// The scales and zero points of a tile's tokens, as Epilogue has them.
struct Tokens {
  alignas(64) float scale[128];
  alignas(64) std::int32_t zero[128];
};

void fill(Tokens& tokens, const Rows8& x, std::ptrdiff_t token, int tile) {
  for (int t = 0; t < tile; ++t) {
    const std::ptrdiff_t at = std::min(token + t, x.tokens - 1) * x.step;
    tokens.scale[t] = x.scale[at];
    const auto minus = static_cast<std::uint32_t>(-x.zero[at]);
    tokens.zero[t] = static_cast<std::int32_t>(minus * 128 << 16 | (minus & 0xffffu));
  }
}

void finish_band(const Call& call, const Tokens& tokens, int band, std::ptrdiff_t token, int valid, const std::int32_t* sums) {
  const Packed& weight = call.weight;
  const int row = band * band_rows;
  const std::ptrdiff_t at = token * weight.out + row;
  const Epilogue epilogue{weight.scale.data() + row, weight.sums.data() + row, call.bias == nullptr ? nullptr : call.bias + row,
                          call.activation,           tokens.scale,             tokens.zero};
  const Destination to{call.to.y == nullptr ? nullptr : call.to.y + at, call.to.values == nullptr ? nullptr : call.to.values + at,
                       weight.out, call.to.inverse, call.to.inverses == nullptr ? nullptr : call.to.inverses + row, call.to.zero};
  weight.kernel->finish(sums, weight.rows_of(band), valid, epilogue, to);
}

// Outputs of fewer bytes are likely still in a cache from the call before.
constexpr std::ptrdiff_t cached_output = std::ptrdiff_t{1} << 20;

// The outputs of a band, to be asked for while its last sums are made.
Ahead outputs_of(const Call& call, int band, std::ptrdiff_t token, int valid, std::size_t groups) {
  const Packed& weight = call.weight;
  const bool floats = call.to.y != nullptr;
  const std::ptrdiff_t size = floats ? 4 : 1;
  if (call.x.tokens * weight.out * size < cached_output) return {nullptr, 0, 0, 0, 0};
  const char* const y = floats ? reinterpret_cast<const char*>(call.to.y) : reinterpret_cast<const char*>(call.to.values);
  const int each = (valid + static_cast<int>(groups)) / static_cast<int>(groups + 1);
  return {y + (token * weight.out + band * band_rows) * size, weight.out * size, valid,
          (weight.rows_of(band) * static_cast<int>(size) + 63) / 64, each};
}

void run_tile(const Call& call, const Bands& bands, std::ptrdiff_t token, int tile) {
  static thread_local Scratch scratch;  // counted in 32-bit words, as its floats are
  const Packed& weight = call.weight;
  const Kernel& kernel = *weight.kernel;
  const int valid = static_cast<int>(std::min<std::ptrdiff_t>(tile, call.x.tokens - token));
  const Accumulate accumulate = kernel.accumulate[which(tile)];
  const std::size_t band_sums = static_cast<std::size_t>(band_rows) * kernel.tokens;
  const std::size_t panel_words = static_cast<std::size_t>(kernel.depth) / 4 * tile;
  const bool finish_at_once = weight.tiles() == 1;  // then every band uses the same sums, which stay in the L1 cache
  float* const block = scratch.at_least(panel_words + band_sums * (finish_at_once ? 1 : bands.last - bands.first));
  auto* const panel = reinterpret_cast<std::uint8_t*>(block);
  auto* const sums = reinterpret_cast<std::int32_t*>(block + panel_words);
  Tokens tokens;
  fill(tokens, call.x, token, tile);
  for (int t = 0; t < weight.tiles(); ++t) {
    const int first = t * kernel.depth, features = std::min(kernel.depth, weight.in - first);
    kernel.load_panel(call.x.values + token * call.x.stride + first, call.x.stride, valid, features, tile, panel);
    for (int b = bands.first; b < bands.last; ++b) {
      std::int32_t* const to = sums + (finish_at_once ? 0 : band_sums * (b - bands.first));
      const Segment segment = weight.segment(b, t);
      const bool last = t + 1 == weight.tiles();
      Ahead ahead = last ? outputs_of(call, b, token, valid, segment.count) : Ahead{nullptr, 0, 0, 0, 0};
      accumulate(segment, panel, to, t == 0, ahead);
      if (last) finish_band(call, tokens, b, token, valid, to);
    }
  }
}

class Held : public Layout {
 public:
  Held(const WeightSource& w, const Kernel& kernel)
      : Layout(w.out, w.in), packed_(packed_from<Packed>(w, kernel, [&] { return pack(w.codes, w.scales, w.out, w.in, kernel); })), scale_(w.input_scale), zero_(w.input_zero) {}
  std::size_t nnz() const override { return packed_.nnz; }
  std::size_t bytes() const override { return packed_.bytes(); }
  void unpack(float* weight) const override { block8::unpack(packed_, weight); }
  void save(BlobWriter& to) const override { to(packed_); }
  void multiply(const float* x, std::ptrdiff_t tokens, const float* bias, Activation activation, float* y,
                int threads) const override {
    if (tokens == 0) return;
    multiply8(quantise::to_scratch(x, tokens, in(), scale_, zero_, threads), bias, activation, {y, nullptr, 0.0f, nullptr, 0}, threads);
  }
  void multiply8(const Rows8& x, const float* bias, Activation activation, const Output8& to, int threads) const override;

 private:
  Packed packed_;
  float scale_;
  std::int32_t zero_;
};

void Held::multiply8(const Rows8& x, const float* bias, Activation activation, const Output8& to, int threads) const {
  if (x.tokens == 0) return;
  threads = threads_for(static_cast<double>(packed_.values.size()) / 4 * static_cast<double>(x.tokens), threads);
  const Call call{packed_, x, bias, activation, to};
  const Kernel& kernel = *packed_.kernel;
  const int widest = tile_for(kernel, x.tokens);
  const std::size_t token_tiles = (x.tokens + widest - 1) / widest;
  // Rows are split only when there are too few token tiles to keep every thread busy to the end.
  const bool even = token_tiles >= 4 * static_cast<std::size_t>(threads) || threads == 1 || token_tiles % threads == 0;
  const std::vector<Bands> bands = split(packed_, even ? 1 : threads * 2, widest);
  // All tokens pass by some rows before the next rows' turn: those rows' weights stay in the L2 cache meanwhile.
  parallel_for(token_tiles * bands.size(), threads, [&](std::size_t task) {
    const std::ptrdiff_t token = static_cast<std::ptrdiff_t>(task % token_tiles) * widest;
    run_tile(call, bands[task / token_tiles], token, tile_for(kernel, x.tokens - token));
  });
}

}  // namespace

std::vector<KernelEntry> entries() {
  std::vector<KernelEntry> out;
  for (const Kernel* k : kernels()) out.push_back({k->name, "block8", k->isa, "int8", "int8", k->rows, k->tokens, k->depth});
  return out;
}

std::unique_ptr<Layout> make(const WeightSource& weight, const std::string& name) {
  for (const Kernel* k : kernels()) {
    if (name != k->name) continue;
    if (weight.groups != 1)
      throw std::invalid_argument("pack: kernel " + name + " takes one scale a row, but got " + std::to_string(weight.groups) +
                                  "; quantize_weight(weight) without `group` gives one");
    return std::make_unique<Held>(weight, *k);
  }
  return nullptr;
}

}  // namespace rarefy::block8
