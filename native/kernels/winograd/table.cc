// Every line of winograd.inc, as one table.
#include "core/where.h"
#include "kernels/winograd/contract.h"
#include "kernels/winograd/names.h"

namespace rarefy::winograd {

#define RAREFY_WINOGRAD(isa, outputs, taps, together) RAREFY_WHERE_##isa(extern const Kernel RAREFY_WINOGRAD_ID(isa, outputs, taps);)
#include "kernels/winograd/winograd.inc"
#undef RAREFY_WINOGRAD

namespace {
const Kernel* const table[] = {
#define RAREFY_WINOGRAD(isa, outputs, taps, together) RAREFY_WHERE_##isa(&RAREFY_WINOGRAD_ID(isa, outputs, taps), )
#include "kernels/winograd/winograd.inc"
};
}  // namespace

Table kernels() noexcept { return {table, sizeof table / sizeof *table}; }

}  // namespace rarefy::winograd
