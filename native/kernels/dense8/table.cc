#include "kernels/dense8/contract.h"

namespace rarefy::dense8 {

extern const Kernel kernel_scalar;
#if defined(__x86_64__)
extern const Kernel kernel_avx2, kernel_avx512, kernel_vnni, kernel_amx;
#endif

namespace {
const Kernel* const table[] = {
#if defined(__x86_64__)
    &kernel_amx, &kernel_vnni, &kernel_avx512, &kernel_avx2,
#endif
    &kernel_scalar,
};
}  // namespace

Table kernels() noexcept { return {table, sizeof table / sizeof *table}; }

}  // namespace rarefy::dense8
