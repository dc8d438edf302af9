#include "core/where.h"
#include "kernels/attention8/contract.h"

namespace rarefy::attention8 {

RAREFY_WHERE_vnni(extern const Kernel kernel_vnni;)

const Kernel* kernel(Isa isa) noexcept {
  RAREFY_WHERE_vnni(if (isa >= Isa::vnni) return &kernel_vnni;)
  static_cast<void>(isa);
  return nullptr;
}

}  // namespace rarefy::attention8
