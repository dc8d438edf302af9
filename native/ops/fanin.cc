#include "ops/fanin.h"

#include <algorithm>

#include "ops/few_tokens.h"
#include "ops/from_blob.h"
#include "pack/fanin.h"

namespace rarefy::fanin {
namespace {

class Held : public Layout {
 public:
  Held(const WeightSource& w, const Kernel& kernel) : Layout(w.out, w.in), packed_(packed_from<Packed>(w, kernel, [&] { return pack(w, kernel); })) {}
  std::size_t nnz() const override { return packed_.nnz; }
  std::size_t bytes() const override { return packed_.size(); }
  void unpack(float* weight) const override { fanin::unpack(packed_, weight); }
  void save(BlobWriter& to) const override { to(packed_); }

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

 private:
  Packed packed_;
};

}  // namespace

std::vector<KernelEntry> entries() {
  std::vector<KernelEntry> out;
  for (const Kernel* k : kernels())
    out.push_back({k->name, "fanin", k->isa, k->stored == Stored::int8 ? "int8" : "fp32", "fp32", band, k->width, 0});
  return out;
}

std::unique_ptr<Layout> make(const WeightSource& weight, const std::string& name) {
  for (const Kernel* k : kernels())
    if (name == k->name) return std::make_unique<Held>(weight, *k);
  return nullptr;
}

}  // namespace rarefy::fanin
