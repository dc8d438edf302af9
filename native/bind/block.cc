#include "bind/block.h"

#include "bind/packed.h"
#include "ops/attention.h"
#include "ops/norm.h"

namespace rarefy {
namespace {

attention::Strides strides(const Stride3& at) { return {std::get<0>(at), std::get<1>(at), std::get<2>(at)}; }

}  // namespace

void add_layer_norm(std::uintptr_t x, std::uintptr_t residual, std::int64_t residual_rows, std::uintptr_t weight,
                    std::uintptr_t bias, std::uintptr_t y, std::int64_t rows, int features, float eps, int threads) {
  const norm::Rows r{at<float>(x),    at<float>(residual), residual_rows, at<float>(weight),
                     at<float>(bias), at<float>(y),        features,      eps};
  norm::add_layer_norm(r, rows, threads);
}

void attend(std::uintptr_t q, const Stride3& q_at, std::uintptr_t k, const Stride3& k_at, std::uintptr_t v,
            const Stride3& v_at, std::uintptr_t mask, bool mask_is_bytes, const Stride3& mask_at, std::uintptr_t y,
            const Stride3& y_at, const std::tuple<std::int64_t, int, int, int, int>& sizes, float scale,
            bool eight, int threads) {
  const auto& [batch, heads, queries, keys, depth] = sizes;
  const attention::Problem problem{at<float>(q),
                                   at<float>(k),
                                   at<float>(v),
                                   mask_is_bytes ? nullptr : at<float>(mask),
                                   mask_is_bytes ? at<unsigned char>(mask) : nullptr,
                                   at<float>(y),
                                   strides(q_at),
                                   strides(k_at),
                                   strides(v_at),
                                   strides(mask_at),
                                   strides(y_at),
                                   batch,
                                   heads,
                                   queries,
                                   keys,
                                   depth,
                                   scale};
  if (eight) attention::attend8(problem, threads);
  else attention::attend(problem, threads);
}

}  // namespace rarefy
