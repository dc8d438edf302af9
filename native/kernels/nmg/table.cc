// Every line of nmg.inc, as one table.
#include "core/where.h"
#include "kernels/nmg/contract.h"
#include "kernels/nmg/names.h"

namespace rarefy::nmg {

#define RAREFY_NMG(isa, ...) RAREFY_WHERE_##isa(extern const Kernel RAREFY_NMG_ID(isa, __VA_ARGS__);)
#include "kernels/nmg/nmg.inc"
#undef RAREFY_NMG

namespace {
const Kernel* const table[] = {
#define RAREFY_NMG(isa, ...) RAREFY_WHERE_##isa(&RAREFY_NMG_ID(isa, __VA_ARGS__), )
#include "kernels/nmg/nmg.inc"
};
}  // namespace

Table kernels() noexcept { return {table, sizeof table / sizeof *table}; }

}  // namespace rarefy::nmg
