#include "ops/neurons.h"

#include <algorithm>
#include <numeric>

#include "core/aligned.h"
#include "kernels/elementwise/contract.h"
#include "ops/from_blob.h"
#include "ops/parallel.h"
#include "pack/neurons.h"

namespace rarefy::neurons {
namespace {

class Held : public Layout {
 public:
  Held(const WeightSource& w, const Kernel& kernel) : Layout(w.out, w.in), packed_(packed_from<Packed>(w, kernel, [&] { return pack(w, kernel); })) {}
  std::size_t nnz() const override { return packed_.nnz; }
  std::size_t bytes() const override { return packed_.size(); }
  void unpack(float* weight) const override { neurons::unpack(packed_, weight); }
  void save(BlobWriter& to) const override { to(packed_); }

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
    parallel_for(static_cast<std::size_t>(parts), threads, [&](std::size_t part) {
      const auto bound = [&](std::size_t p) { return static_cast<int>(static_cast<std::size_t>(count) * p / static_cast<std::size_t>(parts)); };
      packed_.kernel->multiply(view, list + bound(part), bound(part + 1) - bound(part), x, tokens, bias, y, out());
    });
  }

 private:
  Packed packed_;
};

const char* stored_name(Stored s) {
  constexpr const char* names[] = {"fp32", "bf16", "int8", "int4"};
  return names[static_cast<int>(s)];
}

}  // namespace

std::vector<KernelEntry> entries() {
  std::vector<KernelEntry> out;
  for (const Kernel* k : kernels()) out.push_back({k->name, "neurons", k->isa, stored_name(k->stored), "fp32", 1, 4, run_inputs});
  return out;
}

std::unique_ptr<Layout> make(const WeightSource& weight, const std::string& name) {
  for (const Kernel* k : kernels())
    if (name == k->name) return std::make_unique<Held>(weight, *k);
  return nullptr;
}

}  // namespace rarefy::neurons
