// Every line of matvec.inc, as one table.
#include "core/where.h"
#include "kernels/matvec/contract.h"
#include "kernels/matvec/names.h"

namespace rarefy::matvec {

#define RAREFY_MATVEC(isa, ...) RAREFY_WHERE_##isa(extern const Kernel RAREFY_MATVEC_ID(isa, __VA_ARGS__);)
#include "kernels/matvec/matvec.inc"
#undef RAREFY_MATVEC

namespace {
const Kernel* const table[] = {
#define RAREFY_MATVEC(isa, ...) RAREFY_WHERE_##isa(&RAREFY_MATVEC_ID(isa, __VA_ARGS__), )
#include "kernels/matvec/matvec.inc"
};
}  // namespace

Table kernels() noexcept { return {table, sizeof table / sizeof *table}; }

}  // namespace rarefy::matvec
