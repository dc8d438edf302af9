#include "ops/dense8.h"

#include <algorithm>
#include <stdexcept>

#include "core/aligned.h"
#include "core/features.h"
#include "kernels/dense8/contract.h"
#include "kernels/expand/contract.h"
#include "ops/inputs8.h"
#include "ops/parallel.h"
#include "ops/split.h"
#include "pack/lines.h"

namespace rarefy::dense8 {
namespace {

struct Variant {
  std::string name, op;
  Isa isa;
  const Kernel* kernel;
  expand::Expand expand;  // null: the weight is stored whole
};

// A CPU with VNNI may have the expanding instruction for bytes (Ice Lake, Zen 4) or not (Cascade Lake); with AMX it has.
std::vector<Variant> variants() {
  std::vector<Variant> out;
  for (const Kernel* k : kernels()) out.push_back({std::string("dense8-") + k->name, "dense8", k->isa, k, nullptr});
  for (const Kernel* k : kernels()) {
    const bool amx = k->isa == Isa::amx, vnni = k->isa == Isa::vnni;
    if (vnni && features().avx512_vbmi2)
      out.push_back({"expand8-vbmi2", "expand8", k->isa, k, expand::named("vbmi2").bytes});
    const char* name = amx ? "vbmi2" : vnni ? "avx512" : k->name;
    out.push_back({std::string("expand8-") + k->name, "expand8", k->isa, k, expand::named(name).bytes});
  }
  return out;
}

struct Weight {
  lines::Lines lines;
  AlignedVector<float> scale;        // a multiple of 16 rows
  AlignedVector<std::int32_t> sums;  // of a row's codes
  const Kernel* kernel;
  expand::Expand expand;

  std::ptrdiff_t block_bytes() const { return static_cast<std::ptrdiff_t>(lines.lines()) * line_bytes; }
};

struct Results {
  const float* bias;
  Activation activation;
  Output8 to;
};

// The lines of blocks [block, block + count), where they lie or expanded into scratch.
const std::int8_t* lines_of(const Weight& w, int block, int count, std::uint8_t* scratch) {
  if (w.expand == nullptr) return reinterpret_cast<const std::int8_t*>(w.lines.values.data()) + block * w.block_bytes();
  const std::ptrdiff_t mask_bytes = static_cast<std::ptrdiff_t>(w.lines.lines()) * w.lines.line_entries() / 8;
  for (int b = block; b < block + count; ++b)
    w.expand(w.lines.masks.data() + b * mask_bytes, w.lines.values.data() + w.lines.starts[b], w.lines.lines(),
             scratch + (b - block) * w.block_bytes());
  return reinterpret_cast<const std::int8_t*>(scratch);
}

// Rows of 16 * blocks outputs from `block` on, for all tokens of x; `token` is the first one's number in the results.
void multiply_blocks(const Weight& w, const Bytes& x, std::ptrdiff_t token, const std::int8_t* lines, int block, int blocks,
                     std::int32_t* sums, const Results& results) {
  const int row = block * block_rows, outputs = std::min(blocks * block_rows, w.lines.out - row);
  const std::ptrdiff_t at = token * w.lines.out + row;
  for (std::ptrdiff_t t = 0; t < x.tokens; t += w.kernel->tokens) {
    const int tokens = static_cast<int>(std::min<std::ptrdiff_t>(w.kernel->tokens, x.tokens - t));
    w.kernel->multiply({x.values + t * x.stride, x.stride, tokens, lines, w.block_bytes(), blocks, w.lines.lines(), sums,
                        blocks * block_rows});
    const std::ptrdiff_t to = at + t * w.lines.out;
    w.kernel->finish({sums, blocks * block_rows, tokens, outputs, w.scale.data() + row, w.sums.data() + row,
                      x.scale + t * x.step, x.zero + t * x.step, x.step,
                      results.bias == nullptr ? nullptr : results.bias + row, results.activation,
                      results.to.y == nullptr ? nullptr : results.to.y + to,
                      results.to.values == nullptr ? nullptr : results.to.values + to, w.lines.out,
                      results.to.values == nullptr ? 1.0f : 1.0f / results.to.scale, results.to.zero});
  }
}

// With few tokens more rows go side by side; with many, the lines of two blocks shall stay in the first-level cache.
void multiply_range(const Weight& w, const Bytes& x, std::ptrdiff_t token, int first, int last, const Results& results) {
  static thread_local Scratch scratch;
  const int together = x.tokens <= 16 ? max_blocks : 2;
  const std::size_t expanded = w.expand == nullptr ? 0 : static_cast<std::size_t>(together) * w.block_bytes() / sizeof(float);
  float* const floats = scratch.at_least(expanded + static_cast<std::size_t>(w.kernel->tokens) * together * block_rows);
  for (int block = first; block < last; block += together) {
    const int blocks = std::min(together, last - block);
    const std::int8_t* lines = lines_of(w, block, blocks, reinterpret_cast<std::uint8_t*>(floats));
    multiply_blocks(w, x, token, lines, block, blocks, reinterpret_cast<std::int32_t*>(floats + expanded), results);
  }
  if (w.kernel->end != nullptr) w.kernel->end();
}

// Tokens in a task. A bitmap is expanded once a task, so its tasks are larger.
std::ptrdiff_t tile_for(const Weight& w, std::ptrdiff_t tokens, int threads) {
  const std::ptrdiff_t most = w.expand == nullptr ? 128 : 512, share = (tokens + threads - 1) / threads;
  return std::clamp<std::ptrdiff_t>((share + 31) / 32 * 32, 32, most);
}

int threads_worth(const Weight& w, std::ptrdiff_t tokens, int threads) {
  const double faster = w.kernel->isa == Isa::amx && tokens > 4 ? 32 : 8;  // than the float products that the rule is for
  return threads_for(static_cast<double>(w.lines.out) * w.lines.in * static_cast<double>(tokens) / faster, threads);
}

void multiply(const Weight& w, const Inputs8& inputs, const Results& results, int threads) {
  if (inputs.tokens == 0 || w.lines.out == 0) return;
  threads = threads_worth(w, inputs.tokens, threads);
  const std::ptrdiff_t tile = tile_for(w, inputs.tokens, threads), tiles = (inputs.tokens + tile - 1) / tile;
  const int padded = w.lines.lines() * inputs_of_line;
  if (tiles >= threads) {
    parallel_for(tiles, threads, [&](std::size_t task) {
      static thread_local Scratch scratch;
      const std::ptrdiff_t token = static_cast<std::ptrdiff_t>(task) * tile;
      const Bytes x = bytes_of(inputs, *w.kernel, padded, token, std::min(tile, inputs.tokens - token), scratch);
      multiply_range(w, x, token, 0, w.lines.blocks(), results);
    });
    return;
  }
  static thread_local Scratch scratch;
  const Bytes x = bytes_of(inputs, *w.kernel, padded, 0, inputs.tokens, scratch);
  const int quads = (w.lines.blocks() + max_blocks - 1) / max_blocks, parts = std::min(quads, threads);
  parallel_for(parts, threads, [&](std::size_t part) {
    const auto bound = [&](std::size_t p) { return std::min<int>(w.lines.blocks(), static_cast<int>(quads * p / parts) * max_blocks); };
    multiply_range(w, x, 0, bound(part), bound(part + 1), results);
  });
}

class Held : public Layout {
 public:
  Held(const WeightSource& w, const Variant& variant) : Layout(w.out, w.in), input_{w.input_scale, w.input_zero} {
    weight_.kernel = variant.kernel;
    weight_.expand = variant.expand;
    weight_.lines = lines::pack(w.codes, w.out, w.in, {1, inputs_of_line, variant.kernel->lines}, variant.expand != nullptr);
    weight_.scale.resize(static_cast<std::size_t>(weight_.lines.blocks()) * block_rows);
    weight_.sums.resize(weight_.scale.size());
    for (int r = 0; r < w.out; ++r) {
      weight_.scale[r] = w.scales[r];
      const std::int8_t* row = w.codes + static_cast<std::size_t>(r) * w.in;
      for (int k = 0; k < w.in; ++k) weight_.sums[r] += row[k];
    }
  }
  std::size_t nnz() const override { return weight_.lines.nnz; }
  std::size_t bytes() const override {  // of the rows there are: the last block's missing ones hold nothing
    return weight_.lines.bytes() + static_cast<std::size_t>(out()) * (sizeof(float) + sizeof(std::int32_t));
  }
  void unpack(float* to) const override {
    std::vector<std::int8_t> codes(static_cast<std::size_t>(out()) * in());
    lines::unpack(weight_.lines, codes.data());
    for (std::size_t i = 0; i < codes.size(); ++i) to[i] = weight_.scale[i / in()] * static_cast<float>(codes[i]);
  }
  void multiply(const float* x, std::ptrdiff_t tokens, const float* bias, Activation activation, float* y,
                int threads) const override {
    static constexpr float nothing = 0.0f;  // rows of no inputs have no address
    const Inputs8 inputs{tokens, in(), in() == 0 ? &nothing : x, {}, input_.scale == 0.0f ? nullptr : &input_};
    dense8::multiply(weight_, inputs, {bias, activation, {y, nullptr, 0.0f, 0}}, threads);
  }
  void multiply8(const Rows8& x, const float* bias, Activation activation, const Output8& to, int threads) const override {
    dense8::multiply(weight_, {x.tokens, in(), nullptr, x, nullptr}, {bias, activation, to}, threads);
  }

 private:
  Weight weight_;
  Step input_;
};

void require_fitting(const WeightSource& w, const std::string& name) {
  if (w.groups != 1)
    throw std::invalid_argument("pack: kernel " + name + " takes one scale a row, but the weight has " +
                                std::to_string(w.groups) + "; quantize_weight() without a group");
  if (w.in > max_in)
    throw std::invalid_argument("pack: kernel " + name + " sums at most " + std::to_string(max_in) + " inputs exactly, but the weight has " +
                                std::to_string(w.in) + "; leave the layer in floats");
}

}  // namespace

std::vector<KernelEntry> entries() {
  std::vector<KernelEntry> out;
  for (const Variant& v : variants())
    out.push_back({v.name, v.op, v.isa, "int8", "int8", block_rows, v.kernel->tokens, v.kernel->lines * inputs_of_line});
  return out;
}

std::unique_ptr<Layout> make(const WeightSource& weight, const std::string& name) {
  for (const Variant& v : variants())
    if (name == v.name) {
      require_fitting(weight, name);
      return std::make_unique<Held>(weight, v);
    }
  return nullptr;
}

}  // namespace rarefy::dense8
