#include "ops/fanin.h"

#include <algorithm>

#include "ops/few_tokens.h"
#include "ops/holds.h"
#include "pack/fanin.h"

namespace rarefy::fanin {
namespace {

class Held : public Holds<Packed> {
 public:
  using Holds::Holds;

  void multiply(const float* x, std::ptrdiff_t tokens, const float* bias, Activation activation, float* y,
                int threads) const override {
    const Kernel& kernel = *packed_.kernel;
    const Bands w = packed_.bands();
    for (std::ptrdiff_t token = 0; token < tokens;) {
      const auto count = static_cast<int>(std::min<std::ptrdiff_t>(tokens - token, kernel.width));
      const float* const inputs = side_by_side(x + token * in(), count, in(), count == 1 ? 1 : kernel.width);
      const RowOutput output{bias, activation, y + token * out(), out()};
      share_bands(out(), packed_.bytes.size(), count, threads, [&](int first, int last) {
        if (count == 1) kernel.one(w, first, last, inputs, output);
        else kernel.some(w, first, last, inputs, count, output);
      });
      token += count;
    }
  }
};

}  // namespace

std::vector<KernelEntry> entries() {
  std::vector<KernelEntry> out;
  for (const Kernel* k : kernels())
    out.push_back({k->name, "fanin", k->isa, k->stored == Stored::int8 ? "int8" : "fp32", "fp32", band, k->width, 0});
  return out;
}

std::unique_ptr<Layout> make(const WeightSource& weight, const std::string& name) {
  return make_named<Held>(kernels(), weight, name);
}

}  // namespace rarefy::fanin
