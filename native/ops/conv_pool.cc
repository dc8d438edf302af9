#include "ops/conv_pool.h"

#include <algorithm>

#include "core/aligned.h"
#include "ops/parallel.h"
#include "ops/split.h"

namespace rarefy::conv_pool {

void max_pool(const Problem& problem, std::ptrdiff_t planes, int threads) {
  if (planes <= 0 || problem.out_height <= 0 || problem.out_width <= 0) return;
  const Kernel& kernel = conv_pool::kernel(allowed_isa());
  const double work = static_cast<double>(planes) * problem.height * problem.width;
  threads = threads_for(work, threads);
  const std::ptrdiff_t parts = std::min<std::ptrdiff_t>(planes, threads <= 1 ? 1 : 4 * threads);
  parallel_for(static_cast<std::size_t>(parts), threads, [&](std::size_t part) {
    static thread_local Scratch scratch;
    const std::ptrdiff_t first = planes * static_cast<std::ptrdiff_t>(part) / parts;
    const std::ptrdiff_t last = planes * static_cast<std::ptrdiff_t>(part + 1) / parts;
    kernel.max_pool(problem, first, last, scratch.at_least(problem.scratch()));
  });
}

}  // namespace rarefy::conv_pool
