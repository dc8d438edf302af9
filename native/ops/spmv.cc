#include "ops/spmv.h"

#include <algorithm>

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

}  // namespace rarefy::spmv
