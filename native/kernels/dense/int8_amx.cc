// The AMX instance of the 8-bit product: tiles of 16 tokens x 64 inputs times tiles of 64 inputs x 16 rows.
#if defined(__x86_64__)
#include <immintrin.h>

#include "core/regions.h"
#include "kernels/dense/contract.h"

RAREFY_BEGIN_AMX
namespace rarefy::amx {
namespace {
#include "simd/avx512.h"
#include "kernels/activation.h"
#include "kernels/dense/int8_avx512.h"
#include "kernels/dense/int8_rows.h"
#include "kernels/dense/int8_dots.h"
#define RAREFY_TILE_DOT _tile_dpbusd
#include "kernels/dense/tiles.h"

// Of few tokens a tile costs nearly as much as of 16, and the vector instructions are faster.
void multiply(const dense::Product& p) noexcept { p.tokens <= 4 ? multiply_dots(p) : multiply_tiles(p); }
}  // namespace
}  // namespace rarefy::amx
RAREFY_END_REGION

namespace rarefy::dense {
extern const Kernel int8_amx = {"amx", Isa::amx, Type::int8, 32, amx::lines_of_tile, 192, 64, 256,
                               amx::multiply, amx::finish,
                                  amx::quantise_row, amx::range_of_row, amx::end};
}  // namespace rarefy::dense
#endif
