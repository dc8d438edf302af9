// Every line of neurons.inc, as one table.
#include "core/where.h"
#include "kernels/neurons/contract.h"
#include "kernels/neurons/names.h"

namespace rarefy::neurons {

#define RAREFY_NEURONS(isa, ...) RAREFY_WHERE_##isa(extern const Kernel RAREFY_NEURONS_ID(isa, __VA_ARGS__);)
#include "kernels/neurons/neurons.inc"
#undef RAREFY_NEURONS

namespace {
const Kernel* const table[] = {
#define RAREFY_NEURONS(isa, ...) RAREFY_WHERE_##isa(&RAREFY_NEURONS_ID(isa, __VA_ARGS__), )
#include "kernels/neurons/neurons.inc"
};
}  // namespace

Table kernels() noexcept { return {table, sizeof table / sizeof *table}; }

}  // namespace rarefy::neurons
