// What layouts of one struct of packed weights have in common, and how a family makes them by a kernel's name.
#pragma once

#include <memory>
#include <string>

#include "core/blob.h"
#include "ops/from_blob.h"
#include "ops/layout.h"

namespace rarefy {
namespace holds {

// Outside the class, where the family's function is found and not the member of the same name.
template <class Packed>
void unpack_into(const Packed& packed, float* weight) {
  unpack(packed, weight);
}

}  // namespace holds

// Packed: a struct with kernel, fields, nnz (or nnz()) and size(), and beside it pack(weight, kernel) and unpack(packed, to).
template <class Packed>
class Holds : public Layout {
 public:
  template <class Kernel>
  Holds(const WeightSource& w, const Kernel& kernel)
      : Layout(w.out, w.in), packed_(packed_from<Packed>(w, kernel, [&] { return pack(w, kernel); })) {}

  std::size_t nnz() const override {
    if constexpr (requires { packed_.nnz(); }) return packed_.nnz();
    else return packed_.nnz;
  }
  std::size_t bytes() const override { return packed_.size(); }
  void unpack(float* weight) const override { holds::unpack_into(packed_, weight); }
  void save(BlobWriter& to) const override { to(packed_); }

 protected:
  const Packed packed_;
};

// The layout of the kernel that has the name; null where none has.
template <class Held, class Table>
std::unique_ptr<Layout> make_named(const Table& kernels, const WeightSource& weight, const std::string& name) {
  for (const auto* kernel : kernels)
    if (name == kernel->name) return std::make_unique<Held>(weight, *kernel);
  return nullptr;
}

}  // namespace rarefy
