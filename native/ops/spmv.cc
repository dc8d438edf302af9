#include "ops/spmv.h"

#include <algorithm>

#include "ops/from_blob.h"
#include "ops/parallel.h"
#include "ops/split.h"

namespace rarefy::spmv {

void multiply(const Packed& weight, const float* x, std::ptrdiff_t tokens, const float* bias, Activation activation,
              float* y, int threads) {
  const double work = static_cast<double>(weight.nnz() + static_cast<std::size_t>(weight.out)) * static_cast<double>(tokens);
  threads = threads_for(work * 4, threads);  // a value here costs about four of the tiled kernel's
  const Rows rows = weight.rows();
  const std::vector<int> bounds = split_rows(rows.starts, weight.out, threads == 1 ? 1 : 4 * threads);
  parallel_for(bounds.size() - 1, threads, [&](std::size_t part) {
    for (std::ptrdiff_t token = 0; token < tokens; token += most_tokens) {
      const int count = static_cast<int>(std::min<std::ptrdiff_t>(most_tokens, tokens - token));
      weight.kernel->multiply(rows, bounds[part], bounds[part + 1], x + token * weight.in, count,
                              {bias, activation, y + token * weight.out, weight.out});
    }
  });
}

namespace {

class Held : public Layout {
 public:
  Held(const WeightSource& w, const Kernel& kernel) : Layout(w.out, w.in), packed_(packed_from<Packed>(w, kernel, [&] { return pack(w.values, w.out, w.in, kernel); })) {}
  std::size_t nnz() const override { return packed_.nnz(); }
  std::size_t bytes() const override { return packed_.bytes(); }
  void unpack(float* weight) const override { spmv::unpack(packed_, weight); }
  void save(BlobWriter& to) const override { to(packed_); }
  void multiply(const float* x, std::ptrdiff_t tokens, const float* bias, Activation activation, float* y,
                int threads) const override {
    spmv::multiply(packed_, x, tokens, bias, activation, y, threads);
  }

 private:
  Packed packed_;
};

}  // namespace

std::vector<KernelEntry> entries() {
  std::vector<KernelEntry> out;
  for (const Kernel* k : kernels()) out.push_back({k->name, "spmv", k->isa, "fp32", "fp32", 1, most_tokens, 0});
  return out;
}

std::unique_ptr<Layout> make(const WeightSource& weight, const std::string& name) {
  for (const Kernel* k : kernels())
    if (name == k->name) return std::make_unique<Held>(weight, *k);
  return nullptr;
}

}  // namespace rarefy::spmv
