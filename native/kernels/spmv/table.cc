// Every line of spmv.inc, as one table.
#include "core/where.h"
#include "kernels/spmv/contract.h"
#include "kernels/spmv/names.h"

namespace rarefy::spmv {

#define RAREFY_SPMV(isa, format) RAREFY_WHERE_##isa(extern const Kernel RAREFY_SPMV_ID(isa, format);)
#include "kernels/spmv/spmv.inc"
#undef RAREFY_SPMV

namespace {
const Kernel* const table[] = {
#define RAREFY_SPMV(isa, format) RAREFY_WHERE_##isa(&RAREFY_SPMV_ID(isa, format), )
#include "kernels/spmv/spmv.inc"
};
}  // namespace

Table kernels() noexcept { return {table, sizeof table / sizeof *table}; }

}  // namespace rarefy::spmv
