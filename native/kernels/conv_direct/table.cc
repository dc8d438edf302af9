// Every line of direct.inc, as one table.
#include "core/where.h"
#include "kernels/conv_direct/contract.h"
#include "kernels/conv_direct/names.h"

namespace rarefy::conv_direct {

#define RAREFY_DIRECT(isa, pixels) RAREFY_WHERE_##isa(extern const Kernel RAREFY_DIRECT_ID(isa, pixels);)
#include "kernels/conv_direct/direct.inc"
#undef RAREFY_DIRECT

namespace {
const Kernel* const table[] = {
#define RAREFY_DIRECT(isa, pixels) RAREFY_WHERE_##isa(&RAREFY_DIRECT_ID(isa, pixels), )
#include "kernels/conv_direct/direct.inc"
};
}  // namespace

Table kernels() noexcept { return {table, sizeof table / sizeof *table}; }

}  // namespace rarefy::conv_direct
