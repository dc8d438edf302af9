// Every line of fanin.inc, as one table.
#include "core/where.h"
#include "kernels/fanin/contract.h"
#include "kernels/fanin/names.h"

namespace rarefy::fanin {

#define RAREFY_FANIN(isa, ...) RAREFY_WHERE_##isa(extern const Kernel RAREFY_FANIN_ID(isa, __VA_ARGS__);)
#include "kernels/fanin/fanin.inc"
#undef RAREFY_FANIN

namespace {
const Kernel* const table[] = {
#define RAREFY_FANIN(isa, ...) RAREFY_WHERE_##isa(&RAREFY_FANIN_ID(isa, __VA_ARGS__), )
#include "kernels/fanin/fanin.inc"
};
}  // namespace

Table kernels() noexcept { return {table, sizeof table / sizeof *table}; }

}  // namespace rarefy::fanin
