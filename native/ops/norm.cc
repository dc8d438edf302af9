#include "ops/norm.h"

#include <algorithm>

#include "ops/parallel.h"
#include "ops/split.h"

namespace rarefy::norm {

void add_layer_norm(const Rows& rows, std::ptrdiff_t count, int threads) {
  if (count <= 0 || rows.features <= 0) return;
  const Kernel& kernel = norm::kernel(allowed_isa());
  threads = threads_for(8.0 * static_cast<double>(count) * rows.features, threads);
  const std::ptrdiff_t parts = threads <= 1 ? 1 : 4 * threads, share = (count + parts - 1) / parts;
  parallel_for(static_cast<std::size_t>((count + share - 1) / share), threads, [&](std::size_t part) {
    const std::ptrdiff_t first = static_cast<std::ptrdiff_t>(part) * share;
    kernel.add_layer_norm(rows, first, std::min(count, first + share));
  });
}

}  // namespace rarefy::norm
