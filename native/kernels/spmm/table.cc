// Every line of spmm.inc, as one table.
#include "core/where.h"
#include "kernels/spmm/contract.h"
#include "kernels/spmm/names.h"

namespace rarefy::spmm {

#define RAREFY_SPMM(isa, how, rows, tokens, depth) \
  RAREFY_WHERE_##isa(extern const Kernel RAREFY_SPMM_ID(isa, how, rows, tokens, depth);)
#include "kernels/spmm/spmm.inc"
#undef RAREFY_SPMM

namespace {
const Kernel* const table[] = {
#define RAREFY_SPMM(isa, how, rows, tokens, depth) RAREFY_WHERE_##isa(&RAREFY_SPMM_ID(isa, how, rows, tokens, depth), )
#include "kernels/spmm/spmm.inc"
};
}  // namespace

Table kernels() noexcept { return {table, sizeof table / sizeof *table}; }

}  // namespace rarefy::spmm
