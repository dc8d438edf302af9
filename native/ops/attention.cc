#include "ops/attention.h"

#include <algorithm>

#include "core/aligned.h"
#include "kernels/attention8/contract.h"
#include "ops/parallel.h"
#include "ops/split.h"

namespace rarefy::attention {
namespace {

Head head_of(const Problem& p, std::ptrdiff_t b, std::ptrdiff_t h) {
  const auto at = [&](const Strides& s) { return b * s.batch + h * s.head; };
  return {p.q + at(p.q_at),
          p.k + at(p.k_at),
          p.v + at(p.v_at),
          p.q_at.token,
          p.k_at.token,
          p.v_at.token,
          p.y + at(p.y_at),
          p.y_at.token,
          p.added == nullptr ? nullptr : p.added + at(p.mask_at),
          p.allowed == nullptr ? nullptr : p.allowed + at(p.mask_at),
          p.mask_at.token,
          p.queries,
          p.keys,
          p.depth,
          p.scale};
}

// Parts of a head's queries: only where heads alone leave threads idle, for every part lays out keys and values again.
int parts_of(const Problem& p, int threads) {
  const int blocks = (p.queries + block_queries - 1) / block_queries;
  const std::ptrdiff_t heads = p.batch * p.heads;
  if (heads % threads == 0 || heads >= 4 * threads) return 1;
  return static_cast<int>(std::min<std::ptrdiff_t>(blocks, (2 * threads + heads - 1) / heads));
}

// run(head, first query, last query) over all heads and parts of their queries.
template <class Run>
void each_part(const Problem& p, double cost, int block, int threads, Run&& run) {
  const std::ptrdiff_t heads = p.batch * p.heads;
  if (heads <= 0 || p.queries <= 0 || p.depth <= 0) return;
  threads = threads_for(static_cast<double>(heads) * p.queries * p.keys * (p.depth + 16.0) * cost, threads);
  const int parts = parts_of(p, threads);
  const int share = round_up((p.queries + parts - 1) / parts, block);
  parallel_for(static_cast<std::size_t>(heads) * parts, threads, [&](std::size_t task) {
    const std::ptrdiff_t which = static_cast<std::ptrdiff_t>(task) / parts;
    const int first = static_cast<int>(task % parts) * share, last = std::min(p.queries, first + share);
    if (first < last) run(head_of(p, which / p.heads, which % p.heads), first, last);
  });
}

}  // namespace

void attend(const Problem& p, int threads) {
  const Kernel& kernel = attention::kernel(allowed_isa());
  const Layout layout(p.keys, p.depth);
  each_part(p, 1.0 / 8, block_queries, threads, [&](const Head& head, int first, int last) {
    static thread_local Scratch scratch;
    float* const memory = scratch.at_least(layout.size);
    kernel.prepare(head, memory);
    kernel.attend(head, first, last, memory);
  });
}

bool attend8(const Problem& p, int threads) {
  const attention8::Kernel* kernel = attention8::kernel(allowed_isa());
  if (kernel == nullptr || !attention8::takes(head_of(p, 0, 0))) {
    attend(p, threads);
    return false;
  }
  const attention8::Layout layout(p.keys, p.depth);
  each_part(p, 1.0 / 16, attention8::block_queries, threads, [&](const Head& head, int first, int last) {
    static thread_local Scratch scratch;
    auto* const memory = reinterpret_cast<std::uint8_t*>(scratch.at_least(layout.size / sizeof(float)));
    kernel->prepare(head, memory);
    kernel->attend(head, first, last, memory);
  });
  return true;
}

}  // namespace rarefy::attention
