// The AMX instance of the 8-bit product: tiles of 16 tokens x 64 inputs times tiles of 64 inputs x 16 rows.
#if defined(__x86_64__)
#include <immintrin.h>

#include "core/regions.h"
#include "kernels/dense8/contract.h"

RAREFY_BEGIN_AMX
namespace rarefy::amx {
namespace {
#include "simd/avx512.h"
#include "kernels/activation.h"
#include "kernels/dense8/ints_avx512.h"
#include "kernels/dense8/rows.h"
#include "kernels/dense8/dots.h"
#include "kernels/dense8/tiles.h"
}  // namespace
}  // namespace rarefy::amx
RAREFY_END_REGION

namespace rarefy::dense8 {
extern const Kernel kernel_amx = {"amx", Isa::amx, 32, amx::lines_of_tile, amx::multiply_tiles, amx::finish,
                                  amx::quantise_row, amx::range_of_row, amx::end};
}  // namespace rarefy::dense8
#endif
