// Every line of conv.inc, as one table.
#include "core/where.h"
#include "kernels/conv/contract.h"
#include "kernels/conv/names.h"

namespace rarefy::conv {

#define RAREFY_CONV(isa, kind, rows, pixels) \
  RAREFY_WHERE_##isa(extern const Kernel RAREFY_CONV_ID(isa, kind, rows, pixels);)
#include "kernels/conv/conv.inc"
#undef RAREFY_CONV

namespace {
const Kernel* const table[] = {
#define RAREFY_CONV(isa, kind, rows, pixels) RAREFY_WHERE_##isa(&RAREFY_CONV_ID(isa, kind, rows, pixels), )
#include "kernels/conv/conv.inc"
};
}  // namespace

Table kernels() noexcept { return {table, sizeof table / sizeof *table}; }

}  // namespace rarefy::conv
