#include "ops/neurons.h"

#include <algorithm>
#include <numeric>

#include "core/aligned.h"
#include "kernels/elementwise/contract.h"
#include "ops/holds.h"
#include "ops/parallel.h"
#include "pack/neurons.h"

namespace rarefy::neurons {
namespace {

class Held : public Holds<Packed> {
 public:
  using Holds::Holds;

  void multiply(const float* x, std::ptrdiff_t tokens, const float* bias, Activation activation, float* y,
                int threads) const override {
    static thread_local AlignedVector<std::int32_t> all;
    if (all.size() < static_cast<std::size_t>(out())) all.resize(static_cast<std::size_t>(out()));
    std::iota(all.begin(), all.end(), 0);
    multiply_rows(x, tokens, all.data(), out(), bias, y, threads);
    if (activation != Activation::none) elementwise::kernel(allowed_isa()).activate(activation, y, tokens * out(), y);
  }

  bool picks_rows() const override { return true; }

  void multiply_rows(const float* x, std::ptrdiff_t tokens, const std::int32_t* list, int count, const float* bias, float* y,
                     int threads) const override {
    if (tokens == 0 || count == 0) return;
    constexpr double bytes_a_thread = 1 << 16;
    const double read = static_cast<double>(packed_.stride()) * count * (1.0 + static_cast<double>(tokens) / 4.0);
    threads = static_cast<int>(std::min<double>(threads, 1 + read / bytes_a_thread));
    const int parts = threads == 1 ? 1 : std::min(count, 4 * threads);
    const Rows view = packed_.view();
    const unsigned char* const rounded = packed_.kernel->round == nullptr ? nullptr : round(x, tokens);
    parallel_for(static_cast<std::size_t>(parts), threads, [&](std::size_t part) {
      const auto bound = [&](std::size_t p) { return static_cast<int>(static_cast<std::size_t>(count) * p / static_cast<std::size_t>(parts)); };
      const std::int32_t* const own = list + bound(part);
      const int rows = bound(part + 1) - bound(part);
      if (rounded != nullptr) packed_.kernel->multiply8(view, own, rows, rounded, tokens, bias, y, out());
      else packed_.kernel->multiply(view, own, rows, x, tokens, bias, y, out());
    });
  }

 private:
  // All tokens' inputs as bytes: this thread's scratch.
  const unsigned char* round(const float* x, std::ptrdiff_t tokens) const {
    static thread_local AlignedVector<unsigned char> room;
    const std::size_t each = rounded_bytes(packed_.kernel->stored, in()), size = each * static_cast<std::size_t>(tokens);
    if (room.size() < size) room.resize(size);
    for (std::ptrdiff_t t = 0; t < tokens; ++t) packed_.kernel->round(x + t * in(), in(), room.data() + t * each);
    return room.data();
  }
};

}  // namespace

std::vector<KernelEntry> entries() {
  std::vector<KernelEntry> out;
  for (const Kernel* k : kernels()) {
    const char* const activations = k->round == nullptr ? "fp32" : "int8";
    out.push_back({k->name, "neurons", k->isa, columns::name_of(k->stored), activations, 1, 4, run_inputs});
  }
  return out;
}

std::unique_ptr<Layout> make(const WeightSource& weight, const std::string& name) {
  return make_named<Held>(kernels(), weight, name);
}

}  // namespace rarefy::neurons
