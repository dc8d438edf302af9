// A layout's data from either kind of source: packed from the entries, or seen in a blob that was written before.
#pragma once

#include <stdexcept>
#include <utility>

#include "core/blob.h"
#include "ops/layout.h"

namespace rarefy {

// Packed: a struct with out, in, kernel and fields; pack: makes it of the entries.
template <class Packed, class Kernel, class Pack>
Packed packed_from(const WeightSource& w, const Kernel& kernel, Pack pack) {
  if (w.blob == nullptr) return pack();
  Packed packed;
  packed.kernel = &kernel;
  (*w.blob)(packed);
  require_size(w, packed.out, packed.in);
  return packed;
}

}  // namespace rarefy
