#include "kernels/expand/contract.h"

namespace rarefy::expand {

extern const Kernel kernel_scalar;
#if defined(__x86_64__)
extern const Kernel kernel_avx2, kernel_avx512, kernel_vbmi2;
#endif

namespace {
const Kernel* const table[] = {
#if defined(__x86_64__)
    &kernel_vbmi2, &kernel_avx512, &kernel_avx2,
#endif
    &kernel_scalar,
};
}  // namespace

Table kernels() noexcept { return {table, sizeof table / sizeof *table}; }

const Kernel& named(const char* name) noexcept {
  for (const Kernel* k : kernels())
    if (__builtin_strcmp(k->name, name) == 0) return *k;
  return kernel_scalar;
}

}  // namespace rarefy::expand
