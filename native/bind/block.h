// The dense operations of a transformer block, as Python calls them: addresses, strides in elements, sizes.
#pragma once

#include <cstdint>
#include <tuple>

namespace rarefy {

using Stride3 = std::tuple<std::int64_t, std::int64_t, std::int64_t>;  // batch, head, token

void add_layer_norm(std::uintptr_t x, std::uintptr_t residual, std::int64_t residual_rows, std::uintptr_t weight,
                    std::uintptr_t bias, std::uintptr_t y, std::int64_t rows, int features, float eps, int threads);

// mask: 0, or the address of float32 (mask_is_bytes false) or bytes; sizes: batch, heads, queries, keys, depth.
void attend(std::uintptr_t q, const Stride3& q_at, std::uintptr_t k, const Stride3& k_at, std::uintptr_t v,
            const Stride3& v_at, std::uintptr_t mask, bool mask_is_bytes, const Stride3& mask_at, std::uintptr_t y,
            const Stride3& y_at, const std::tuple<std::int64_t, int, int, int, int>& sizes, float scale, bool eight,
            int threads);

}  // namespace rarefy
