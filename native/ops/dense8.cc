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

// Lines of a Product and sums under way at once: products that are cut keep the sums of all tokens, else of two pieces.
struct Cut {
  int together;  // blocks
  int depth, parts;
  std::size_t piece(const Kernel& kernel) const { return static_cast<std::size_t>(kernel.tokens) * together * block_rows; }
  std::size_t sums(const Kernel& kernel, std::ptrdiff_t tokens) const {
    return piece(kernel) * (parts == 1 ? 2 : (tokens + kernel.tokens - 1) / kernel.tokens);
  }
};

// With few tokens more rows go side by side, and the weight is read once: cutting brings nothing. With many, the lines of
// two blocks shall stay in the first-level cache.
Cut cut_for(const Weight& w, std::ptrdiff_t tokens) {
  const int lines = w.lines.lines(), depth = w.kernel->depth, together = tokens <= 16 ? max_blocks : 2;
  if (depth == 0 || tokens <= 16 || lines <= depth * 4 / 3) return {together, lines, 1};
  const int parts = (lines + depth - 1) / depth, steps = lines / w.kernel->lines;
  const int each = (steps + parts - 1) / parts * w.kernel->lines;
  return {together, each, (lines + each - 1) / each};
}

// Some tokens and all inputs of a few blocks of rows, and where their results go.
class Piece {
 public:
  Piece(const Weight& w, const Bytes& x, std::ptrdiff_t token, const Results& results)
      : w_(w), x_(x), token_(token), results_(results) {}

  Finish finish(std::ptrdiff_t t, int tokens, int block, int blocks, const std::int32_t* sums) const {
    const int row = block * block_rows;
    const std::ptrdiff_t at = (token_ + t) * w_.lines.out + row;
    const Output8& to = results_.to;
    return {sums, blocks * block_rows, tokens, std::min(blocks * block_rows, w_.lines.out - row), w_.scale.data() + row,
            w_.sums.data() + row, x_.scale + t * x_.step, x_.zero + t * x_.step, x_.step,
            results_.bias == nullptr ? nullptr : results_.bias + row, results_.activation,
            to.values == nullptr ? to.y + at : nullptr, to.values == nullptr ? nullptr : to.values + at, w_.lines.out,
            to.values == nullptr ? 1.0f : 1.0f / to.scale, to.zero};
  }

  void finish_now(Finish& behind) const {
    w_.kernel->finish(behind);
    behind.tokens = 0;
  }

  // All tokens of x; `lines` are the blocks'. Leaves the last results to `behind`.
  void multiply(const std::int8_t* lines, int block, int blocks, const Cut& cut, std::int32_t* sums, Finish& behind,
                int& turn) const {
    const Kernel& kernel = *w_.kernel;
    if (cut.parts > 1 && behind.tokens > 0) finish_now(behind);  // its sums are about to be written
    for (int part = 0; part < cut.parts; ++part) {
      const int first = part * cut.depth, depth = std::min(cut.depth, w_.lines.lines() - first);
      for (std::ptrdiff_t t = 0; t < x_.tokens; t += kernel.tokens, ++turn) {
        const int tokens = static_cast<int>(std::min<std::ptrdiff_t>(kernel.tokens, x_.tokens - t));
        std::int32_t* const to = sums + cut.piece(kernel) * (cut.parts == 1 ? turn % 2 : t / kernel.tokens);
        const Product product{x_.values + t * x_.stride + first * inputs_of_line, x_.stride, tokens,
                              lines + static_cast<std::ptrdiff_t>(first) * line_bytes, w_.block_bytes(), blocks, depth, to,
                              blocks * block_rows, part > 0};
        kernel.multiply(product, behind.tokens > 0 ? &behind : nullptr);
        if (behind.tokens > 0) finish_now(behind);
        if (part + 1 == cut.parts) behind = finish(t, tokens, block, blocks, to);
      }
    }
  }

 private:
  const Weight& w_;
  const Bytes& x_;
  std::ptrdiff_t token_;
  const Results& results_;
};

void multiply_range(const Weight& w, const Bytes& x, std::ptrdiff_t token, int first, int last, const Results& results) {
  static thread_local Scratch scratch;
  const Cut cut = cut_for(w, x.tokens);
  const std::size_t expanded = w.expand == nullptr ? 0 : static_cast<std::size_t>(cut.together) * w.block_bytes() / sizeof(float);
  float* const floats = scratch.at_least(expanded + cut.sums(*w.kernel, x.tokens));
  const Piece piece(w, x, token, results);
  Finish behind{};
  int turn = 0;
  for (int block = first; block < last; block += cut.together) {
    const int blocks = std::min(cut.together, last - block);
    const std::int8_t* lines = lines_of(w, block, blocks, reinterpret_cast<std::uint8_t*>(floats));
    piece.multiply(lines, block, blocks, cut, reinterpret_cast<std::int32_t*>(floats + expanded), behind, turn);
  }
  if (behind.tokens > 0) piece.finish_now(behind);
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
