// Every line of conv8.inc, as one table, and the operations on words of each instruction set.
#include "core/where.h"
#include "kernels/conv8/contract.h"
#include "kernels/conv8/names.h"

namespace rarefy::conv8 {

#define RAREFY_CONV8(isa, kind, rows, pixels) \
  RAREFY_WHERE_##isa(extern const Kernel RAREFY_CONV8_ID(isa, kind, rows, pixels);)
#include "kernels/conv8/conv8.inc"
#undef RAREFY_CONV8

extern const Words words_scalar;
RAREFY_WHERE_avx2(extern const Words words_avx2;)
RAREFY_WHERE_avx512(extern const Words words_avx512;)

namespace {
const Kernel* const table[] = {
#define RAREFY_CONV8(isa, kind, rows, pixels) RAREFY_WHERE_##isa(&RAREFY_CONV8_ID(isa, kind, rows, pixels), )
#include "kernels/conv8/conv8.inc"
};
}  // namespace

Table kernels() noexcept { return {table, sizeof table / sizeof *table}; }

const Words& words([[maybe_unused]] Isa isa) noexcept {
  RAREFY_WHERE_avx512(if (isa >= Isa::avx512) return words_avx512;)
  RAREFY_WHERE_avx2(if (isa >= Isa::avx2) return words_avx2;)
  return words_scalar;
}

}  // namespace rarefy::conv8
