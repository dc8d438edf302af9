#include "ops/lookup.h"

#include <algorithm>

#include "ops/few_tokens.h"
#include "ops/holds.h"
#include "pack/lookup.h"

namespace rarefy::lookup {
namespace {

// x (tokens, in) as (tokens, blocks, block + 1): behind each block, and behind the last feature, zeros. This thread's scratch.
const float* in_blocks(const float* x, std::ptrdiff_t tokens, int in, int block, int blocks) {
  static thread_local AlignedVector<float> scratch;
  const std::size_t size = static_cast<std::size_t>(tokens) * blocks * (block + 1);
  if (scratch.size() < size) scratch.resize(size);
  float* to = scratch.data();
  for (std::ptrdiff_t t = 0; t < tokens; ++t, x += in)
    for (int first = 0; first < blocks * block; first += block, to += block + 1) {
      const int used = std::min(block, in - first);
      std::copy_n(x + first, used, to);
      std::fill(to + used, to + block + 1, 0.0f);
    }
  return scratch.data();
}

class Held : public Holds<Packed> {
 public:
  using Holds::Holds;

  void multiply(const float* x, std::ptrdiff_t tokens, const float* bias, Activation activation, float* y,
                int threads) const override {
    const Kernel& kernel = *packed_.kernel;
    const Bands w = packed_.view();
    for (std::ptrdiff_t token = 0; token < tokens; token += most_tokens) {
      const auto count = static_cast<int>(std::min<std::ptrdiff_t>(most_tokens, tokens - token));
      const float* const inputs = in_blocks(x + token * in(), count, in(), kernel.block(), w.blocks);
      const RowOutput output{bias, activation, y + token * out(), out()};
      share_rows(packed_.starts, packed_.bands(), count, threads,
                 [&](int first, int last) { kernel.multiply(w, first, last, inputs, count, output); });
    }
  }
};

}  // namespace

std::vector<KernelEntry> entries() {
  std::vector<KernelEntry> out;
  for (const Kernel* k : kernels()) {
    const char* const stored = k->stored == Stored::int8 ? "int8" : k->stored == Stored::bf16 ? "bf16" : "fp32";
    out.push_back({k->name, "lookup", k->isa, stored, "fp32", k->width, most_tokens, k->block()});
  }
  return out;
}

std::unique_ptr<Layout> make(const WeightSource& weight, const std::string& name) {
  return make_named<Held>(kernels(), weight, name);
}

}  // namespace rarefy::lookup
