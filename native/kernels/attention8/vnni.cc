// The instance of 8-bit attention for 8-bit dot products on 512-bit vectors.
#if defined(__x86_64__)
#include <immintrin.h>

#include "core/regions.h"
#include "kernels/attention8/contract.h"

RAREFY_BEGIN_VNNI
namespace rarefy::vnni {
namespace {
#include "kernels/attention8/body.h"
}  // namespace
}  // namespace rarefy::vnni
RAREFY_END_REGION

namespace rarefy::attention8 {
extern const Kernel kernel_vnni = {Isa::vnni, vnni::attention8_prepare, vnni::attention8_attend};
}  // namespace rarefy::attention8
#endif
