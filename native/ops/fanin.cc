#include "ops/fanin.h"

#include <algorithm>

#include "core/aligned.h"
#include "ops/parallel.h"
#include "ops/split.h"
#include "pack/fanin.h"

namespace rarefy::fanin {
namespace {

// x (tokens, in) as (in + 1, width): tokens beside each other, and the column of zeros.
const float* turned(const float* x, std::ptrdiff_t tokens, int in, int width) {
  static thread_local AlignedVector<float> scratch;
  const std::size_t size = (static_cast<std::size_t>(in) + 1) * width;
  if (scratch.size() < size) scratch.resize(size);
  float* const to = scratch.data();
  for (int k = 0; k <= in; ++k)
    for (int t = 0; t < width; ++t) to[static_cast<std::size_t>(k) * width + t] = t < tokens && k < in ? x[t * in + k] : 0.0f;
  return to;
}

class Held : public Layout {
 public:
  Held(const WeightSource& w, const Kernel& kernel) : Layout(w.out, w.in), packed_(pack(w, kernel)) {}
  std::size_t nnz() const override { return packed_.nnz; }
  std::size_t bytes() const override { return packed_.size(); }
  void unpack(float* weight) const override { fanin::unpack(packed_, weight); }

  void multiply(const float* x, std::ptrdiff_t tokens, const float* bias, Activation activation, float* y,
                int threads) const override {
    const Kernel& kernel = *packed_.kernel;
    const Bands w = packed_.bands();
    for (std::ptrdiff_t token = 0; token < tokens;) {
      const auto count = static_cast<int>(std::min<std::ptrdiff_t>(tokens - token, kernel.width));
      const float* const inputs = turned(x + token * in(), count, in(), count == 1 ? 1 : kernel.width);
      const RowOutput output{bias, activation, y + token * out(), out()};
      share(count, threads, [&](int first, int last) {
        if (count == 1) kernel.one(w, first, last, inputs, output);
        else kernel.some(w, first, last, inputs, count, output);
      });
      token += count;
    }
  }

 private:
  // Whole bands, several shares a thread.
  template <class Function>
  void share(int tokens, int threads, Function f) const {
    const int bands = (out() + band - 1) / band;
    threads = threads_for(2.0 * packed_.steps * out() * (1 + tokens), threads);
    const int parts = std::min(bands, threads == 1 ? 1 : 4 * threads);
    parallel_for(static_cast<std::size_t>(parts), threads, [&](std::size_t part) {
      const auto bound = [&](std::size_t p) { return std::min(out(), static_cast<int>(bands * p / parts) * band); };
      if (bound(part) < bound(part + 1)) f(bound(part), bound(part + 1));
    });
  }

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
