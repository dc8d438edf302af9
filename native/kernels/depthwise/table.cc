// The instances by name and by instruction set.
#include <cstring>

#include "core/where.h"
#include "kernels/depthwise/contract.h"

namespace rarefy::depthwise {

extern const Kernel kernel_scalar;
RAREFY_WHERE_avx2(extern const Kernel kernel_avx2;)
RAREFY_WHERE_avx512(extern const Kernel kernel_avx512;)
extern const Kernel8 kernel8_scalar;
RAREFY_WHERE_avx2(extern const Kernel8 kernel8_avx2;)
RAREFY_WHERE_avx512(extern const Kernel8 kernel8_avx512;)
RAREFY_WHERE_vnni(extern const Kernel8 kernel8_vnni;)

namespace {

const Kernel* const floats[] = {RAREFY_WHERE_avx512(&kernel_avx512, ) RAREFY_WHERE_avx2(&kernel_avx2, ) &kernel_scalar};
const Kernel8* const words[] = {RAREFY_WHERE_vnni(&kernel8_vnni, ) RAREFY_WHERE_avx512(&kernel8_avx512, )
                                    RAREFY_WHERE_avx2(&kernel8_avx2, ) & kernel8_scalar};

template <class K, std::size_t n>
const K* named(const K* const (&all)[n], const char* name) noexcept {
  for (const K* k : all)
    if (std::strcmp(k->name, name) == 0) return k;
  return nullptr;
}

template <class K, std::size_t n>
const K& best_of(const K* const (&all)[n], Isa isa) noexcept {  // from the widest on; the last one is always there
  for (const K* k : all)
    if (k->isa <= isa) return *k;
  return *all[n - 1];
}

}  // namespace

const Kernel* kernel(const char* name) noexcept { return named(floats, name); }
const Kernel8* kernel8(const char* name) noexcept { return named(words, name); }
const Kernel& best(Isa isa) noexcept { return best_of(floats, isa); }
const Kernel8& best8(Isa isa) noexcept { return best_of(words, isa); }

}  // namespace rarefy::depthwise
