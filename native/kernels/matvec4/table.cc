// Every line of matvec4.inc, as one table.
#include "core/where.h"
#include "kernels/matvec4/contract.h"
#include "kernels/matvec4/names.h"

namespace rarefy::matvec4 {

#define RAREFY_MATVEC4(isa, ...) RAREFY_WHERE_##isa(extern const Kernel RAREFY_MATVEC4_ID(isa, __VA_ARGS__);)
#include "kernels/matvec4/matvec4.inc"
#undef RAREFY_MATVEC4

namespace {
const Kernel* const table[] = {
#define RAREFY_MATVEC4(isa, ...) RAREFY_WHERE_##isa(&RAREFY_MATVEC4_ID(isa, __VA_ARGS__), )
#include "kernels/matvec4/matvec4.inc"
};
}  // namespace

Table kernels() noexcept { return {table, sizeof table / sizeof *table}; }

}  // namespace rarefy::matvec4
