// Every line of block8.inc, as one table.
#include "core/where.h"
#include "kernels/block8/contract.h"
#include "kernels/block8/names.h"

namespace rarefy::block8 {

#define RAREFY_BLOCK8(isa, shape, rows, tokens, depth) \
  RAREFY_WHERE_##isa(extern const Kernel RAREFY_BLOCK8_ID(isa, shape, rows, tokens, depth);)
#include "kernels/block8/block8.inc"
#undef RAREFY_BLOCK8

namespace {
const Kernel* const table[] = {
#define RAREFY_BLOCK8(isa, shape, rows, tokens, depth) RAREFY_WHERE_##isa(&RAREFY_BLOCK8_ID(isa, shape, rows, tokens, depth), )
#include "kernels/block8/block8.inc"
};
}  // namespace

Table kernels() noexcept { return {table, sizeof table / sizeof *table}; }

}  // namespace rarefy::block8
