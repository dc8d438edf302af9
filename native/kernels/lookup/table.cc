// Every line of lookup.inc, as one table.
#include "core/where.h"
#include "kernels/lookup/contract.h"
#include "kernels/lookup/names.h"

namespace rarefy::lookup {

#define RAREFY_LOOKUP(isa, ...) RAREFY_WHERE_##isa(extern const Kernel RAREFY_LOOKUP_ID(isa, __VA_ARGS__);)
#include "kernels/lookup/lookup.inc"
#undef RAREFY_LOOKUP

namespace {
const Kernel* const table[] = {
#define RAREFY_LOOKUP(isa, ...) RAREFY_WHERE_##isa(&RAREFY_LOOKUP_ID(isa, __VA_ARGS__), )
#include "kernels/lookup/lookup.inc"
};
}  // namespace

Table kernels() noexcept { return {table, sizeof table / sizeof *table}; }

}  // namespace rarefy::lookup
