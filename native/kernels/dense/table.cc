#include "kernels/dense/contract.h"

namespace rarefy::dense {

extern const Kernel int8_scalar, float_scalar;
#if defined(__x86_64__)
extern const Kernel int8_avx2, int8_avx512, int8_vnni, int8_amx, bf16_amx, float_avx2, float_avx512;
#endif

namespace {
const Kernel* const table[] = {
#if defined(__x86_64__)
    &int8_amx, &int8_vnni, &int8_avx512, &int8_avx2,
#endif
    &int8_scalar,
#if defined(__x86_64__)
    &bf16_amx, &float_avx512, &float_avx2,
#endif
    &float_scalar,
};
}  // namespace

Table kernels() noexcept { return {table, sizeof table / sizeof *table}; }

}  // namespace rarefy::dense
