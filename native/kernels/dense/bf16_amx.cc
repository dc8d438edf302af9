// The AMX instance of the bfloat16 product: inputs are rounded to bfloat16, sums are floats.
#if defined(__x86_64__)
#include <immintrin.h>

#include "core/regions.h"
#include "kernels/dense/contract.h"

RAREFY_BEGIN_AMX
namespace rarefy::amx {
namespace {
#include "simd/avx512.h"
#include "kernels/activation.h"
#include "kernels/dense/float_rows.h"
#define RAREFY_TILE_DOT _tile_dpbf16ps
#include "kernels/dense/tiles.h"

void round_row(const float* x, int features, int padded, float, std::int32_t, std::uint8_t* to) noexcept {
  for (int k = 0; k < features; k += width, to += width * 2) {
    const int used = features - k < width ? features - k : width;
    const __m256i rounded = (__m256i)_mm512_cvtneps_pbh(load_n(x + k, used));
    _mm256_mask_storeu_epi16(to, first_lanes(used), rounded);
  }
  to += 2 * (features - (features + width - 1) / width * width);
  for (int byte = 2 * features; byte < padded; ++byte) *to++ = 0;
}

}  // namespace
}  // namespace rarefy::amx
RAREFY_END_REGION

namespace rarefy::dense {
extern const Kernel bf16_amx = {"amx", Isa::amx, Type::bf16, 32, amx::lines_of_tile, 192, 64, 256, amx::multiply_tiles,
                                amx::finish, amx::round_row, nullptr, amx::end};
}  // namespace rarefy::dense
#endif
