// Every line of columns.inc, as one table.
#include "core/where.h"
#include "kernels/columns/contract.h"
#include "kernels/columns/names.h"

namespace rarefy::columns {

#define RAREFY_COLUMNS(isa, ...) RAREFY_WHERE_##isa(extern const Kernel RAREFY_COLUMNS_ID(isa, __VA_ARGS__);)
#include "kernels/columns/columns.inc"
#undef RAREFY_COLUMNS

namespace {
const Kernel* const table[] = {
#define RAREFY_COLUMNS(isa, ...) RAREFY_WHERE_##isa(&RAREFY_COLUMNS_ID(isa, __VA_ARGS__), )
#include "kernels/columns/columns.inc"
};
}  // namespace

Table kernels() noexcept { return {table, sizeof table / sizeof *table}; }

}  // namespace rarefy::columns
